"""The house stays readable: imports point upstream, and names say what is inside."""

import ast
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
STAGES = {"pretrain", "sft", "reward", "ppo", "evals", "app"}
OURS = STAGES | {"podium", "data"}
ALLOWED = {  # folder -> the other folders its files may import at module level
    "data": {"podium"},  # only podium.errors, see below
    "podium": {"data"},  # stages only inside functions: lazily, by the CLI
    "pretrain": {"data", "podium"},
    "sft": {"data", "podium"},
    "reward": {"data", "podium"},
    "ppo": {"data", "podium", "reward"},
    "evals": {"data", "podium", "reward"},
    "app": {"data", "podium", "reward"},
}
FILES = sorted(path for folder in ALLOWED for path in (ROOT / folder).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
NO_TORCH = [
    "podium/cli.py",
    "podium/errors.py",
    "podium/stages.py",
    "podium/recipe.py",
    "data/records.py",
    "data/readers.py",
    "app/labeling/cli.py",
]


def imports(path: Path, everywhere: bool) -> set[str]:
    """Modules a file imports: at module level (not under TYPE_CHECKING), or everywhere."""
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = ast.walk(tree) if everywhere else iter(tree.body)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module and node.level == 0:
            found |= {f"{node.module}.{alias.name}" for alias in node.names} | {node.module}
    return found


def folders(modules: set[str]) -> set[str]:
    return {module.split(".")[0] for module in modules} & OURS


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_point_upstream(path):
    folder = path.relative_to(ROOT).parts[0]
    assert folders(imports(path, everywhere=False)) <= ALLOWED[folder] | {folder}
    if folder == "podium":
        return  # its commands import stages lazily
    later = folders(imports(path, everywhere=True)) - {folder}
    assert later <= ALLOWED[folder] | ({"evals"} if folder == "app" else set())


@pytest.mark.parametrize("path", [p for p in FILES if p.is_relative_to(ROOT / "data")], ids=str)
def test_data_knows_of_podium_only_its_errors(path):
    used = {module for module in imports(path, everywhere=True) if module.split(".")[0] == "podium"}
    assert all(module.startswith("podium.errors") for module in used) or path.name == "worlds.py", (
        used
    )


def test_only_the_spine_itself_reads_the_command_line():
    for path in FILES:
        if not path.is_relative_to(ROOT / "podium"):
            assert not {
                m
                for m in imports(path, everywhere=True)
                if m.startswith(("podium.cli", "podium.chain"))
            }, path


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_names_say_what_is_inside(path):
    """No utils.py, no file named after a stage, nothing re-exported from a package."""
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}
    assert path.stem not in STAGES | {"rankings", "rl_init"}
    if path.name == "__init__.py":
        assert path.read_text().strip() == ""


@pytest.mark.parametrize("folder", sorted(ALLOWED))
def test_every_folder_of_tests_mirrors_one_of_the_code(folder):
    assert not list((ROOT / folder).rglob("test_*.py")), "tests lie in tests/"


@pytest.mark.parametrize("name", NO_TORCH)
def test_files_that_must_answer_at_once_import_nothing_heavy(name):
    heavy = {
        "torch",
        "transformers",
        "deepspeed",
        "datasets",
        "trl",
        "peft",
        "gradio",
        "matplotlib",
    }
    assert not {module.split(".")[0] for module in imports(ROOT / name, everywhere=False)} & heavy
