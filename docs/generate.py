"""Writes the two reference pages from the code they describe: `python docs/generate.py`.

A test compares the pages with what this makes, so they cannot go stale.
"""

import sys
from pathlib import Path
from typing import Any

import typer

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))

from podium.run.reference import as_markdown, keys_of  # noqa: E402

USE = ROOT / "docs" / "use"
NOTE = "This page is generated: `make docs` writes it anew.\n"


def recipe_reference() -> str:
    """Every key of every stage."""
    return (
        f"# Recipe reference\n\n{NOTE}\n"
        "`podium config schema RECIPE` prints the same for one recipe, with what it says in place "
        "of the defaults; `--json` is for programs.\n\n" + as_markdown(keys_of())
    )


def cli_reference() -> str:
    """Every command with its arguments and options."""
    from app.labeling.cli import app as label
    from podium.cli.main import app as podium
    from podium.cli.prepare import app as data

    parts = [f"# Command reference\n\n{NOTE}"]
    parts += _commands(typer.main.get_command(podium), "podium", frozenset({"label", "data"}))
    parts += _commands(typer.main.get_command(label), "podium label")
    parts += _commands(typer.main.get_command(data), "podium data")
    return "\n".join(parts)


def _commands(command: Any, name: str, skip: frozenset[str] = frozenset()) -> list[str]:
    """A part for each command of a group, the group's own help first."""
    if not hasattr(command, "commands"):
        return [_one(command, name)]
    parts = [f"## {name}\n\n{_words(command.help)}\n"]
    for sub, inner in sorted(command.commands.items()):
        if sub not in skip:
            parts += _commands(inner, f"{name} {sub}")
    return parts


def _one(command: Any, name: str) -> str:
    arguments = [p for p in command.params if p.param_type_name == "argument"]
    options = [p for p in command.params if p.param_type_name == "option" and not p.hidden]
    usage = " ".join([name, *(_metavar(p) for p in arguments)])
    lines = [f"### {name}\n", f"{_words(command.help)}\n", f"    {usage}\n"]
    rows = [(_metavar(p), getattr(p, "help", "")) for p in arguments]
    rows += [(", ".join(p.opts), p.help) for p in options if p.name != "help"]
    if rows:
        lines += ["| argument or option | meaning |", "|---|---|"]
        lines += [f"| `{names}` | {_words(text)} |" for names, text in rows]
        lines.append("")
    return "\n".join(lines)


def _metavar(argument: Any) -> str:
    return str(argument.metavar or argument.name.upper())


def _words(text: str | None) -> str:
    return " ".join((text or "").split()).replace("|", "\\|")


def main() -> None:
    """Write both pages anew."""
    (USE / "recipe-reference.md").write_text(recipe_reference(), encoding="utf-8")
    (USE / "cli-reference.md").write_text(cli_reference(), encoding="utf-8")


if __name__ == "__main__":
    main()
