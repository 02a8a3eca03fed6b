"""The command answers at once, teaches, and refuses to run beside a package of the same name."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from podium.cli import doctor
from podium.errors import PlatformError

ROOT = Path(__file__).parents[3]
COMMANDS = [
    "run",
    "pretrain",
    "sft",
    "rankings",
    "reward",
    "rl-init",
    "ppo",
    "evals",
    "world",
    "best-of",
    "chat",
    "label",
    "show",
    "config",
    "fetch",
    "plan",
    "doctor",
]


def test_help_is_quick_because_it_imports_nothing_heavy():
    """Within half a second of processor time, which a busy machine does not change."""
    code = (
        "import sys, time, resource\n"
        "from podium.cli.main import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'numpy', 'pydantic', 'deepspeed', 'datasets'} & "
        "set(sys.modules)\n"
        "print(heavy or 'light', resource.getrusage(resource.RUSAGE_SELF).ru_utime, "
        "file=sys.stderr)\n"
    )
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, env=environment, capture_output=True, text=True
    )
    heavy, seconds = done.stderr.rsplit(maxsplit=1)
    assert heavy == "light", heavy
    assert float(seconds) < 0.5
    assert all(f"\n  {command} " in done.stdout for command in COMMANDS), done.stdout


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "label"])
def test_every_command_has_a_help_that_teaches(podium, command):
    result = podium(command, "--help")
    assert result.exit_code == 0 and len(result.stdout.splitlines()) > 5


@pytest.mark.parametrize("args", [("reward", "nothing.yaml"), ("reward", "train", "nothing.yaml")])
def test_reward_with_a_recipe_trains(podium, args):
    """`podium reward RECIPE` and `podium reward train RECIPE` are the same."""
    result = podium(*args, "--set", "seed=2")
    assert result.exit_code == 2 and "no recipe 'nothing.yaml'" in result.stderr


def test_config_shows_and_validates(podium, demo_stages, write_recipe):
    path = write_recipe(pretrain={}, sft={"model": "pretrain"})
    shown = podium("config", "show", path, "--set", "pretrain.steps=9")
    assert shown.exit_code == 0 and "steps: 9" in shown.stdout
    assert podium("config", "validate", path, path).stdout.count("fine: pretrain -> sft") == 2
    refused = podium("config", "validate", path, "--set", "pretrain.stps=9")
    assert refused.exit_code == 2 and "did you mean 'pretrain.steps'" in refused.stderr


def test_validate_checks_parents_and_fetches_no_hub_id(podium, demo_stages, write_recipe):
    """Seen red: a parent that runs nowhere was "fine"."""
    lost = podium("config", "validate", write_recipe(sft={"model": "pretrain"}))
    assert lost.exit_code == 2 and "sft.model: the parent 'pretrain'" in lost.stderr
    hub = podium("config", "validate", write_recipe(sft={"model": "no/where"}))
    assert hub.exit_code == 0, hub.stderr


def test_show_names_every_stage_and_its_parents(podium, run_demo, tmp_path):
    run_demo(("pretrain", "sft"), pretrain={}, sft={"model": "pretrain"})
    result = podium("show", "demo")
    assert result.exit_code == 0
    assert (
        "no parents" in result.stdout
        and "from pretrain" in result.stdout
        and "runs/demo/sft/final" in result.stdout
    )


def test_show_of_an_unknown_run_lists_the_runs_there_are(podium, run_demo):
    run_demo()
    result = podium("show", "dmeo")
    assert result.exit_code == 2 and "no run 'dmeo'" in result.stderr and "demo" in result.stderr


def test_json_is_one_object_even_of_an_unfinished_run(podium, run_demo):
    run_demo()
    result = podium("show", "demo", "--json")
    assert result.exit_code == 0 and json.loads(result.stdout)["wall_seconds"]["pretrain"] >= 0


def test_an_intruding_package_is_named_and_stops_the_command(tmp_path, monkeypatch):
    (tmp_path / "pretrain").mkdir()
    (tmp_path / "pretrain" / "__init__.py").write_text("")
    environment = os.environ | {"PYTHONPATH": f"{tmp_path}{os.pathsep}{ROOT}"}
    command = [sys.executable, "-m", "podium.cli", "config", "schema"]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 2
    assert (
        f"the package 'pretrain' is found in {tmp_path / 'pretrain'}" in done.stderr
        and "fix:" in done.stderr
    )


def test_this_checkout_has_no_intruder():
    assert doctor.intruders() == {}
    doctor.refuse_intruders()


def test_an_intruder_is_an_error(monkeypatch, tmp_path):
    monkeypatch.setattr(doctor, "ROOT", tmp_path)
    with pytest.raises(PlatformError, match="the package 'podium' is found in"):
        doctor.refuse_intruders()


def test_doctor_examines_everything_and_survives_a_broken_part(monkeypatch):
    def broken():
        raise ImportError("torch is broken")

    monkeypatch.setattr(doctor, "_torch", broken)
    monkeypatch.setattr(doctor, "_deepspeed", lambda: (True, "skipped here"))
    results = {name: (fine, text) for name, fine, text in doctor.examine()}
    assert results["torch"] == (False, "ImportError: torch is broken")
    assert {"Python", "packages", "compiler", "memory", "disk", "libraries"} <= results.keys()


def test_the_schema_is_json(podium, demo_stages):
    result = podium("config", "schema", "--json")
    assert result.exit_code == 0 and "pretrain" in json.loads(result.stdout)["properties"]
