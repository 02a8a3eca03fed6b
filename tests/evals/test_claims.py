"""The table of claims: nothing in it is called reproduced that no page shows."""

import re
import shlex
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from evals.claims import CLAIMS, Claim, reproduce, table
from podium.errors import PodiumError
from podium.run.recipe import load_recipe

ROOT = Path(__file__).parents[2]


def anchors(page: str) -> set[str]:
    heads = re.findall(r"^#+ (.*)$", (ROOT / "docs" / "lab" / page).read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", head).lower().replace(" ", "-") for head in heads}


@pytest.mark.parametrize("name", CLAIMS)
def test_a_claim_has_what_its_state_promises(name):
    """Mutations seen red: a claim held without a page; one not built that has commands."""
    claim = CLAIMS[name]
    if claim.state in ("held", "partly held", "not held", "begun"):
        assert claim.page and claim.commands
    assert (claim.state == "not built") == (not claim.commands)
    page, _, anchor = claim.page.partition("#")
    if page:
        assert not anchor or anchor in anchors(page)


@pytest.mark.parametrize("name", [name for name, claim in CLAIMS.items() if claim.commands])
def test_every_command_is_one_that_there_is(name, podium):
    """Its module is there, its recipe is valid with what is set. Seen red with a key that no recipe
    has.
    """
    for command in CLAIMS[name].commands:
        module, *words = shlex.split(command.format(runs="runs"))
        assert (ROOT / (module.replace(".", "/") + ".py")).is_file() or module == "podium.cli"
        if words[:1] == ["run"]:
            sets = [words[i + 1] for i, word in enumerate(words) if word == "--set"]
            load_recipe(words[1], sets)
        elif module == "podium.cli":
            assert podium(words[0], "--help").exit_code == 0


def test_the_table_names_every_claim_with_its_state(podium):
    told = podium("reproduce", "--list").output
    assert all(f"{name}: {claim.state}." in told for name, claim in CLAIMS.items())
    assert told.strip() == table().strip() == podium("reproduce").output.strip()


def test_a_claim_is_run_by_its_commands_and_stops_at_the_first_that_fails(monkeypatch, tmp_path):
    """And what it comes to is told after the last. Mutations seen red: the exit status not looked
    at; what comes after it, or the page, not told, or told where there is none.
    """
    (tmp_path / "my runs").mkdir()
    two = ("json.tool {runs}/a.json {runs}/b.json", "json.tool {runs}/none.json")
    (tmp_path / "my runs" / "a.json").write_text("[1]")
    claim = Claim("s", "s", "not run", "f", two, after=lambda runs: "never")
    monkeypatch.setitem(CLAIMS, "tried", claim)
    said: list[str] = []
    with pytest.raises(PodiumError, match="ended with"):
        reproduce("tried", tmp_path / "my runs", said.append)
    assert (tmp_path / "my runs" / "b.json").is_file() and "never" not in "".join(said)
    assert sys.executable
    whole = replace(claim, commands=two[:1], after=lambda runs: f"after {runs.name}", page="a.md")
    for done, end in ((whole, "a.md"), (replace(whole, page="", after=None), "")):
        monkeypatch.setitem(CLAIMS, "tried", done)
        said.clear()
        reproduce("tried", tmp_path / "my runs", said.append)
        assert ("\nafter my runs" in said) == bool(end)
        assert said[-1].strip() == (f"what came out here before: docs/lab/{end}" if end else "")
    with pytest.raises(PodiumError, match="there is no claim 'x'"):
        reproduce("x", tmp_path, said.append)
    monkeypatch.setitem(CLAIMS, "tried", Claim("s", "s", "not built", "f"))
    with pytest.raises(PodiumError, match="is not built"):
        reproduce("tried", tmp_path, said.append)
