"""The house stays readable: imports point upstream without circles, and names say what is inside."""

import ast
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from podium.run.registry import packages

ROOT = Path(__file__).parent.parent
FOOT = {"podium"}  # the files that lie directly in podium/: errors, runtime, engine, models, ...
SPINE = FOOT | {"podium/sampling", "podium/rewards", "podium/run"}
ALLOWED = {  # room -> the other rooms its files may import, inside functions too
    "podium": set(),
    "podium/sampling": FOOT,
    "data": FOOT,
    "podium/rewards": FOOT | {"data"},
    "podium/run": FOOT | {"podium/sampling", "podium/rewards", "data"},
    "pretrain": SPINE | {"data"},
    "sft": SPINE | {"data"},
    "reward": SPINE | {"data"},
    "ppo": SPINE | {"data", "reward"},
    "evals": SPINE | {"data", "reward"},
    "app": SPINE | {"data", "reward"},
}
# A stage that the registry has and this table does not is a new one: it stands downstream.
ALLOWED |= {stage: SPINE | {"data", "reward"} for stage in packages() if stage not in ALLOWED}
ALLOWED["podium/cli"] = SPINE | {"data", "app", *packages()}
STAGES = {*packages(), "app"} - {"data"}
TOP = {room.split("/")[0] for room in ALLOWED}
FILES = sorted(path for folder in TOP for path in (ROOT / folder).rglob("*.py"))
NAMES = [str(path.relative_to(ROOT)) for path in FILES]
NO_TORCH = [
    "podium/cli/main.py",
    "podium/errors.py",
    "podium/run/registry.py",
    "podium/run/recipe.py",
    "podium/sampling/kinds.py",
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


def file_of(module: str) -> Path | None:
    """The file of ours that a dotted name is found in; None for other people's modules."""
    path = ROOT.joinpath(*module.split("."))
    return path.with_suffix(".py") if path.with_suffix(".py").is_file() else None


def arrows(path: Path) -> set[Path]:
    """The files of ours that a file imports anywhere, inside functions and for types alone too."""
    return {found for module in imports(path, everywhere=True) if (found := file_of(module))}


def room_of(path: Path) -> str:
    parts = path.relative_to(ROOT).parts
    return "/".join(parts[:2]) if parts[0] == "podium" and len(parts) > 2 else parts[0]


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_imports_point_upstream(path):
    """Seen red with `import ppo.losses` in a function of podium/run, and in one of data."""
    rooms = {room_of(other) for other in arrows(path)}
    assert rooms <= ALLOWED[room_of(path)] | {room_of(path)}


def test_no_files_import_each_other_in_a_circle():
    """Seen red with an import of app.labeling.application inside a function of app/labeling/site."""
    graph = {path: arrows(path) for path in FILES}
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        pytest.fail(" -> ".join(str(path.relative_to(ROOT)) for path in error.args[1]))


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) == "data"], ids=str)
def test_data_knows_of_podium_only_errors_statistics_and_storage(path):
    """So that a script can read, clean and mix records without a run or a model. The statistics are
    numpy alone, and an interval is computed in one place; storage is the standard library alone,
    and a file appears whole in one way.
    """
    used = {m for m in imports(path, everywhere=True) if m.split(".")[0] == "podium"}
    allowed = ("podium.errors", "podium.statistics", "podium.storage")
    assert all(module.startswith(allowed) for module in used), used


@pytest.mark.parametrize("path", FILES, ids=NAMES)
def test_names_say_what_is_inside(path):
    """No utils.py, no file named after a stage, nothing re-exported from a package."""
    assert path.stem not in {"utils", "util", "helpers", "common", "misc"}
    assert path.stem not in STAGES | {"rankings", "rl_init"}
    if path.name == "__init__.py":
        assert path.read_text().strip() == ""


@pytest.mark.parametrize("folder", sorted(TOP))
def test_every_folder_of_tests_mirrors_one_of_the_code(folder):
    assert not list((ROOT / folder).rglob("test_*.py")), "tests lie in tests/"
    for test in (ROOT / "tests" / folder).rglob("test_*.py"):
        place = test.parent.relative_to(ROOT / "tests")
        assert (ROOT / place).is_dir(), f"{place} is no folder of the code"


@pytest.mark.parametrize("path", [p for p in FILES if room_of(p) != "podium/sampling"], ids=str)
def test_samplers_are_made_in_one_place(path):
    """Everything else asks `make_sampler`, so that a recipe's kind serves it. Seen red on the seven
    files that constructed the embedded sampler themselves.
    """
    assert "EmbeddedSampler(" not in path.read_text(encoding="utf-8")


@pytest.mark.parametrize("name", NO_TORCH)
def test_files_that_must_answer_at_once_import_nothing_heavy(name):
    heavy = {"torch", "transformers", "deepspeed", "datasets", "trl", "peft", "gradio"}
    heavy |= {"matplotlib"}
    used = {module.split(".")[0] for module in imports(ROOT / name, everywhere=False)}
    assert not used & heavy
