"""What callers may import: `__all__` says it, docs/use/from-python.md lists the modules, and what
pages and examples import is among it.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PAGE = ROOT / "docs" / "use" / "from-python.md"
FOLDERS = ("podium", "data", "pretrain", "sft", "reward", "dpo", "ppo", "evals", "app")


def module(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


def public_names(path: Path) -> list[str] | None:
    """A file's `__all__`; None without one."""
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__all__":
            return ast.literal_eval(node.value)
    return None


def defined(path: Path) -> set[str]:
    """The names that a file defines itself, at its top level."""
    found = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef | ast.ClassDef):
            found.add(node.name)
        targets = node.targets if isinstance(node, ast.Assign) else [getattr(node, "target", None)]
        found |= {target.id for target in targets if isinstance(target, ast.Name)}
    return found


FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
# A stage's train.py names what the registry asks it for, and its config lies beside it.
PUBLIC = [p for p in FILES if public_names(p) is not None and p.name != "train.py"]


def shown() -> list[tuple[str, str, str]]:
    """(place, module, name) of every import of ours in Python blocks of pages and in examples."""
    pages = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")]
    codes = {
        page.name: "\n".join(re.findall(r"```python\n(.*?)```", page.read_text(), re.DOTALL))
        for page in pages
    }
    codes |= {path.name: path.read_text() for path in (ROOT / "examples").glob("*.py")}
    return [
        (place, node.module, alias.name)
        for place, code in codes.items()
        for node in ast.walk(ast.parse(code))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] in FOLDERS
        for alias in node.names
    ]


@pytest.mark.parametrize("path", PUBLIC, ids=module)
def test_every_public_name_is_defined_there(path):
    """Seen red with a name that is none, and with one that is imported from elsewhere."""
    assert set(public_names(path)) <= defined(path)


@pytest.mark.parametrize(("place", "named", "name"), shown())
def test_what_pages_and_examples_import_is_public(place, named, name):
    """Seen red with `decode_response` left out of `data.template`'s names."""
    path = ROOT.joinpath(*named.split(".")).with_suffix(".py")
    assert name in (public_names(path) or []), f"{place} imports it"


def test_the_page_lists_the_public_modules():
    """Seen red with a module that is not on the page."""
    listed = set(re.findall(r"^\| `([\w.]+)`", PAGE.read_text(), re.MULTILINE))
    assert listed == {module(path) for path in PUBLIC}
