"""Fine-tuning that diverges begins again from a healthy checkpoint, more slowly, and resumes to the
bit.
"""

import json
import math
import re

import pytest
from typer.testing import CliRunner

from podium.cli.main import app
from podium.errors import DivergenceError, Interrupted
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from tests.sft.test_train import assert_same_weights, metrics, timeless, train
from tests.stopping import stopped_every

# A rate that is far too high once it is warm: the loss falls, then rises. Forty updates of eight.
WILD = {
    "learning_rate": 1.0,
    "num_train_epochs": 8,
    "warmup_ratio": 0.5,
    "save_steps": 3,
    "guard": {"window": 4, "max_loss_rise": 1.2, "max_grad_norm": None},
}


def guard_lines(folder) -> list[str]:
    return [line for line in (folder / "logbook.md").read_text().splitlines() if "guard:" in line]


def read_at(folder, update: int) -> int:
    """Tokens of an update's batch."""
    tokens = [0, *(line["tokens"] for line in metrics(folder))]
    return tokens[update] - tokens[update - 1]


def test_a_rate_that_is_too_high_is_lowered_from_the_last_healthy_checkpoint(make_recipe, tmp_path):
    """Mutations seen red: the rate of the checkpoint kept (`use_rate` left out); the guard's state
    left out of the checkpoint, which tries the same rate again and again; the batch of the breach
    read again.
    """
    folder = train(make_recipe(**WILD), tmp_path / "runs")
    said = guard_lines(folder)
    assert said and all("guard.max_loss_rise" in line for line in said)
    assert "back to the state after update" in said[0]
    log = metrics(folder)
    assert [line["step"] for line in log] == list(range(1, 41))
    assert log[-1]["loss"] < log[0]["loss"] - 2
    # By hand: the warm-up of twenty updates is linear from nothing.
    back = int(re.search(r"after update (\d+),", said[-1])[1])
    factor = 0.3 ** len(said)
    assert log[back]["learning_rate"] == pytest.approx(factor * back / 20)
    assert log[-1]["learning_rate"] < 0.2 * factor
    record = json.loads((folder / "final/stage.json").read_text())
    assert record["metrics"]["rollbacks"] == len(said)
    calm = train(make_recipe("calm", num_train_epochs=8), tmp_path / "runs")
    number = int(re.search(r"guard: update (\d+):", said[0])[1])  # left out: half a run away
    assert read_at(folder, number) == read_at(calm, (number - 1 + 20) % 40 + 1)
    assert read_at(folder, number) != read_at(calm, number)


@pytest.mark.slow
def test_a_run_that_went_back_resumes_to_the_bit(make_recipe, tmp_path, monkeypatch):
    """Stopped again and again. Mutations seen red: a checkpoint that only the stop made is gone
    back to; the guard's state left out of checkpoints.
    """
    recipe = make_recipe(**WILD)
    unbroken = train(recipe, tmp_path / "unbroken")
    broken, stops = stopped_every(11, monkeypatch, lambda: train(recipe, tmp_path / "broken"))
    assert stops > 2
    assert_same_weights(unbroken, broken)
    assert timeless(unbroken) == timeless(broken)


@pytest.mark.slow
def test_without_a_checkpoint_it_begins_again_at_its_start(make_recipe, tmp_path, capsys):
    """And another recipe does not inherit the lower rate. Mutations seen red: the guard's state
    forgotten at the start, which comes to the same breach until it gives up; the record of the
    start left out, so that the changed recipe begins at a part of its rate.
    """
    wild = WILD | {"save_steps": 40, "eval_steps": 40}
    folder = train(make_recipe(**wild), tmp_path / "runs")
    assert "back to the start" in guard_lines(folder)[0] and len(metrics(folder)) == 40
    assert not (folder / "start.json").exists()  # it is finished

    never = {"max_loss_rise": 0.01, "max_rollbacks": 2, "lr_factor": 0.9}  # it stays too high
    hopeless = wild | {"guard": WILD["guard"] | never}
    with pytest.raises(DivergenceError, match=r"guard\.max_loss_rise"):
        train(make_recipe("other", **hopeless), tmp_path / "runs")
    calm = load_recipe(make_recipe("other", learning_rate=3e-3))
    capsys.readouterr()
    run_one(calm, "sft", tmp_path / "runs")
    assert "made anew, because" in capsys.readouterr().out
    first = metrics(tmp_path / "runs/other/sft")[0]
    assert first["learning_rate"] == pytest.approx(3e-3)


def test_a_rate_that_is_changed_by_hand_holds_from_the_next_update_on(
    make_recipe, tmp_path, monkeypatch
):
    """Mutation seen red: `use_rate` left out, which goes on at the checkpoint's rate."""
    recipe = make_recipe(learning_rate=3e-3)
    asked = {"times": 0}

    def stop_at_the_sixth(stage):
        asked["times"] += 1
        return asked["times"] == 6

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "stop_requested", property(stop_at_the_sixth))
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "runs")
    before = metrics(tmp_path / "runs/run/sft")
    sets = ["--with", "sft.learning_rate=3e-4"]
    done = CliRunner().invoke(app, ["resume", str(tmp_path / "runs/run"), *sets])
    assert done.exit_code == 0, done.output
    log = metrics(tmp_path / "runs/run/sft")
    assert log[:6] == before and len(log) == 15
    # By hand: the cosine from its peak to a tenth of it over fifteen updates, after six of them.
    there = 0.1 + 0.9 * (1 + math.cos(math.pi * 6 / 15)) / 2
    assert log[6]["learning_rate"] == pytest.approx(3e-4 * there)
    assert log[14]["learning_rate"] < 5e-5


def test_a_loss_that_is_no_number_ends_the_run_where_it_may_not_go_back(make_recipe, tmp_path):
    stopping = {"learning_rate": 1e30, "guard": {"on_breach": "stop"}}
    with pytest.raises(DivergenceError, match="diverged at update") as error:
        train(make_recipe(**stopping), tmp_path / "runs")
    assert "thresholds are in sft.guard" in error.value.fix
