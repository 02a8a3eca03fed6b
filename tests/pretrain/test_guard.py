"""Pretraining that diverges recovers by itself, says so, and resumes to the bit."""

import json
from itertools import pairwise

import pytest

from podium.errors import DivergenceError
from pretrain.train import first_window
from tests.pretrain.test_train import assert_same_weights, metrics, timeless, train
from tests.stopping import stopped_every

# A rate that is far too high once it is warm: the loss falls, then rises.
WILD = {
    "learning_rate": 0.5,
    "tokens": 32 * 4 * 40,
    "warmup_tokens": 32 * 4 * 30,
    "save_steps": 5,
    "guard": {"window": 4, "max_loss_rise": 0.2, "max_grad_norm": None},
}


def test_a_rate_that_is_too_high_is_lowered_from_the_last_healthy_checkpoint(make_recipe, tmp_path):
    """Mutations seen red: the engine not put back; the rate not lowered; the newest checkpoint
    taken though the loss was on its way up in it; the log kept beyond the checkpoint.
    """
    folder = train(make_recipe(**WILD), tmp_path / "runs")
    said = [line for line in (folder / "logbook.md").read_text().splitlines() if "guard:" in line]
    assert said and "guard.max_loss_rise" in said[0] and "back to the state after update" in said[0]
    log = metrics(folder)
    assert [line["step"] for line in log] == list(range(1, 41))
    losses = [line["loss"] for line in log]
    assert losses[-1] < losses[0] - 0.5  # without the guard it ends above its start
    ratio = [line["learning_rate"] / line["step"] for line in log[:30]]  # of the warm-up: constant
    falls = [later / earlier for earlier, later in pairwise(ratio) if later < 0.99 * earlier]
    assert falls and all(fall == pytest.approx(0.3) or fall < 0.3 for fall in falls)
    record = json.loads((folder / "final" / "stage.json").read_text())
    assert record["metrics"]["rollbacks"] == len(said)


@pytest.mark.slow
def test_a_run_that_went_back_resumes_to_the_bit(make_recipe, tmp_path, monkeypatch):
    """Stopped at every place at which it can be, one after the other. Mutations seen red: the
    guard's state left out of checkpoints; the windows of the update before read again; the random
    numbers of after the checkpoint.
    """
    recipe = make_recipe(**WILD)
    unbroken = train(recipe, tmp_path / "unbroken")
    broken, stops = stopped_every(7, monkeypatch, lambda: train(recipe, tmp_path / "broken"))
    assert stops > 3
    assert_same_weights(unbroken, broken)
    assert timeless(unbroken) == timeless(broken)


def test_without_a_checkpoint_it_begins_again_at_its_start(make_recipe, tmp_path):
    """Mutation seen red: the guard's state not kept for the start, which gives up after coming to
    the same breach four times.
    """
    folder = train(make_recipe(**WILD | {"save_steps": 100}), tmp_path / "runs")
    said = [line for line in (folder / "logbook.md").read_text().splitlines() if "guard:" in line]
    assert said and all("back to the start" in line for line in said)
    log = metrics(folder)
    assert [line["step"] for line in log] == list(range(1, 41))
    rate = WILD["learning_rate"] * 0.09 ** len(said)  # twice 0.3 each time
    assert log[0]["learning_rate"] == pytest.approx(rate / 30)  # the first of thirty of the warm-up


def test_a_guard_that_is_told_to_stop_says_what_it_saw(make_recipe, tmp_path):
    stopping = WILD | {"guard": WILD["guard"] | {"on_breach": "stop"}}
    with pytest.raises(DivergenceError, match=r"guard\.max_loss_rise") as error:
        train(make_recipe(**stopping), tmp_path / "runs")
    assert "thresholds are in pretrain.guard" in error.value.fix
    assert not (tmp_path / "runs/run/pretrain/checkpoints/0").exists()  # there is no way back


def test_a_batch_that_is_left_out_gives_way_to_one_that_nobody_reads():
    """Mutations seen red: its own windows; the first of the ones after the run for both."""
    read_before = [0, 2, 4, 8, 12]
    assert [first_window(n, read_before, []) for n in (1, 2, 3, 4)] == [0, 2, 4, 8]
    assert [first_window(n, read_before, [3, 1]) for n in (1, 2, 3, 4)] == [16, 2, 12, 8]
    assert first_window(3, read_before, [3, 1, 3]) == 20
