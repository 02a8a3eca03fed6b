"""README and docs cannot rot: every command is one that the command line has, every path is there,
every link leads somewhere, and the generated pages are what the code says today.
"""

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import typer

from app.labeling.cli import app as label_app
from podium.cli.main import app as podium_app
from podium.cli.prepare import app as data_app
from podium.run.recipe import RECIPES, load_recipe

ROOT = Path(__file__).resolve().parents[1]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *(ROOT / "docs").rglob("*.md")])
GENERATED = ("recipe-reference.md", "cli-reference.md")
WRITTEN = [page for page in PAGES if page.name not in GENERATED]
IDS = [str(page.relative_to(ROOT)) for page in WRITTEN]

# Commands that cost nothing are run; of the others it is checked that they exist.
RUN = [
    "podium doctor",
    "podium config schema willowbrook",
    "podium label --help",
    "podium world --out village/ --set documents=40 --set demonstrations=9 --set prompts=9",
    "podium config validate willowbrook",
]


def code_lines(page: Path) -> list[str]:
    """The lines of a page's shell blocks, without comments and continuation."""
    blocks = re.findall(r"```(?:bash|sh|)?\n(.*?)```", page.read_text(), flags=re.DOTALL)
    lines = "\n".join(blocks).replace("\\\n", " ").splitlines()
    return [re.split(r"\s#", line)[0].strip() for line in lines if line.strip() and line[0] != "#"]


def commands(page: Path) -> list[str]:
    """Every command of ours: in shell blocks, and whole ones between backticks."""
    inline = re.findall(r"`((?:podium|python -m|make|torchrun|deepspeed) [^`]+)`", page.read_text())
    pattern = r"^(?:\w+=\S+ )*(podium|python|torchrun|deepspeed|make)\b"
    return [line for line in [*code_lines(page), *inline] if re.match(pattern, line)]


def all_commands() -> list[str]:
    return sorted({command for page in WRITTEN for command in commands(page)})


def resolved(words: list[str]) -> object:
    """The command that `podium ...` names; AssertionError for an unknown one or unknown option."""
    apps = {"label": label_app, "data": data_app}
    app = apps.get(words[0]) if words else None
    found = typer.main.get_command(app or podium_app)
    rest = words[1:] if app else words
    while hasattr(found, "commands") and rest and rest[0] in found.commands:
        found, rest = found.commands[rest[0]], rest[1:]
    if hasattr(found, "commands") and "train" in found.commands:
        found = found.commands["train"]  # `podium reward RECIPE`
    assert not hasattr(found, "commands") or not rest or rest[0] in ("--help", "..."), rest
    known = {option for param in found.params for option in param.opts} | {"--help", "--debug"}
    unknown = [word for word in rest if word.startswith("--") and word.split("=")[0] not in known]
    assert not unknown, f"{' '.join(words)}: there is no option {unknown[0]}"
    return found


@pytest.mark.parametrize("command", all_commands())
def test_every_command_is_one_that_there_is(command):
    """Seen red with `podium config schemas willowbrook` and with an option that is none."""
    words = [word for word in shlex.split(command) if not re.match(r"^[A-Z_]+=", word)]
    words = [word.rstrip(",.;:") for word in words]
    program, rest = words[0], words[1:]
    if program == "podium":
        resolved(rest)
        for word in rest:
            if (RECIPES / f"{word}.yaml").is_file():
                load_recipe_by_name(word)
    elif program == "make":
        targets = re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), flags=re.MULTILINE)
        assert next(word for word in rest if "=" not in word) in targets
    else:
        place = next((i for i, w in enumerate(rest) if w in ("-m", "--module")), None)
        if place is not None and rest[place + 1] not in ("venv", "pip", "pytest"):
            module = ROOT.joinpath(*rest[place + 1].split("."))
            assert module.with_suffix(".py").is_file() or (module / "__main__.py").is_file()


def load_recipe_by_name(name: str) -> None:
    """Recipes on real files need their variable to be set, not their files to be there."""
    os.environ.setdefault("PODIUM_REAL_DATA", "/nowhere")
    load_recipe(name)


@pytest.mark.parametrize("command", RUN)
def test_what_costs_nothing_is_run(command, tmp_path):
    words = shlex.split(command)[1:]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-m", "podium.cli", *words],
        cwd=tmp_path,
        env=environment,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_the_readme_shows_the_commands_that_are_run_here():
    shown = " ".join(commands(ROOT / "README.md"))
    for command in RUN[:3]:
        assert command in shown, command


@pytest.mark.parametrize("page", WRITTEN, ids=IDS)
def test_every_path_is_there(page):
    """Paths in backticks, as a reader would open them: from the root of the checkout."""
    named = re.findall(
        r"`((?:[\w.-]+/)+[\w.-]*\.(?:py|md|yaml|toml|jinja|css|js)|[\w-]+/)`", page.read_text()
    )
    ours = {path.name for path in ROOT.iterdir()}
    missing = [name for name in named if name.split("/")[0] in ours and not (ROOT / name).exists()]
    assert not missing


def where_is() -> list[tuple[str, str]]:
    """(file, name) of every row of docs/use/where-is.md."""
    page = (ROOT / "docs/use/where-is.md").read_text()
    return re.findall(r"^\|.*\| `([\w/]+\.py)` \| `(\w+)` \|$", page, flags=re.MULTILINE)


@pytest.mark.parametrize(("file", "name"), where_is())
def test_what_is_looked_for_is_there(file, name):
    """Seen red with a function that had moved to another file."""
    code = (ROOT / file).read_text()
    assert re.search(rf"^(?: {{4}})?(?:def|class) {name}\b|^{name}\b.* = ", code, re.MULTILINE)


def test_the_answers_are_read_from_the_page():
    assert len(where_is()) > 40


@pytest.mark.parametrize("page", WRITTEN, ids=IDS)
def test_every_link_leads_to_a_page(page):
    for link in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", page.read_text()):
        if not link.startswith("http"):
            assert (page.parent / link).exists(), f"{page.name}: {link}"


@pytest.mark.parametrize("page", GENERATED)
def test_generated_pages_are_what_the_code_says(page):
    """Red after a key or an option was changed: run `make docs`."""
    code = (
        "import runpy; made = runpy.run_path('docs/generate.py', run_name='made'); "
        f"print(made['{page.removesuffix('.md').replace('-', '_')}'](), end='')"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    made = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    assert made.returncode == 0, made.stderr
    assert made.stdout == (ROOT / "docs" / "use" / page).read_text(), "run `make docs`"


def test_pages_for_users_hold_no_throwaway_figures():
    """Measurements lie in docs/lab, beside their command."""
    for page in WRITTEN:
        if page.parent.name == "use":
            assert "throwaway" not in page.read_text(), page.name
