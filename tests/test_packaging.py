"""What is installed: every package, what is not Python but needed, and the marker of our types."""

import tomllib
from fnmatch import fnmatchcase
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
SETTINGS = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
INCLUDED = SETTINGS["packages"]["find"]["include"]
EXCLUDED = SETTINGS["packages"]["find"]["exclude"]
NOT_INSTALLED = {"docs", "examples", "tests"}
FOLDERS = sorted(
    folder
    for top in ROOT.iterdir()
    if (top / "__init__.py").is_file() and top.name not in NOT_INSTALLED
    for folder in [top, *top.rglob("*")]
    if folder.is_dir() and (any(folder.glob("*.py")) or (folder / "__init__.py").is_file())
)


def package(folder: Path) -> str:
    return ".".join(folder.relative_to(ROOT).parts)


def installed(folder: Path) -> bool:
    """As setuptools finds packages: a pattern fits, and all folders down to it are packages."""
    parts = folder.relative_to(ROOT).parts
    chain = [ROOT.joinpath(*parts[:depth]) for depth in range(1, len(parts) + 1)]
    return (
        all((part / "__init__.py").is_file() for part in chain)
        and any(fnmatchcase(package(folder), pattern) for pattern in INCLUDED)
        and not any(fnmatchcase(package(folder), pattern) for pattern in EXCLUDED)
    )


@pytest.mark.parametrize("folder", FOLDERS, ids=package)
def test_every_folder_of_code_is_a_package_that_is_installed(folder):
    """Alembic reads its migrations as files, so they are data. Nothing is named one by one, so a
    new stage is installed too. Mutations seen red: the packages of the day listed in `include`, and
    a folder added; `include` without "app.*".
    """
    assert installed(folder) or package(folder).startswith("app.labeling.migrations")


def test_every_pattern_installs_something():
    """Seen red with the name of a folder that there is no more."""
    found = {package(folder) for folder in FOLDERS}
    for pattern in INCLUDED:
        assert any(fnmatchcase(name, pattern) for name in found), pattern


def test_every_file_of_the_app_is_in_a_package_or_its_data():
    """Seen red with `package-data` taken out of pyproject.toml: only an editable install had the
    pages then.
    """
    shipped = {path for folder in FOLDERS if installed(folder) for path in folder.glob("*.py")}
    for name, patterns in SETTINGS["package-data"].items():
        folders = FOLDERS if name == "*" else [ROOT / name.replace(".", "/")]
        shipped |= {path for f in folders for pattern in patterns for path in f.glob(pattern)}
    files = {
        path
        for path in (ROOT / "app").rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert files <= shipped


def test_our_types_are_read_by_those_who_import_us():
    """PEP 561. Seen red without the markers, and without their line in `package-data`."""
    assert "py.typed" in SETTINGS["package-data"]["*"]
    typed = {folder for folder in FOLDERS if folder.parent == ROOT} - {
        ROOT / name for name in ("benchmarks", "recipes")
    }
    assert [folder.name for folder in typed if not (folder / "py.typed").is_file()] == []
