"""What is not Python but needed travels with the package: templates, static files, migrations."""

import tomllib
from pathlib import Path

ROOT = Path(__file__).parents[2]


def test_every_file_of_the_app_is_in_a_package_or_its_data():
    """Seen red with `package-data` taken out of pyproject.toml: only an editable install had the
    pages then.
    """
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    shipped = {
        path
        for name in settings["packages"]
        for path in (ROOT / name.replace(".", "/")).glob("*.py")
    }
    for name, patterns in settings["package-data"].items():
        shipped |= {
            path for pattern in patterns for path in (ROOT / name.replace(".", "/")).glob(pattern)
        }
    files = {
        path
        for path in (ROOT / "app").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= shipped
