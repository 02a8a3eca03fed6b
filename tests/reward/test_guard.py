"""A reward model whose training diverges goes back, more slowly, and resumes to the bit."""

import itertools
import math
import re

import pytest

import reward.train
from tests.reward.test_train import metrics, same_weights, train
from tests.stopping import stopped_every

# Two members of 24 updates.
TWO = {"members": 2, "num_train_epochs": 4, "warmup_steps": 12, "save_steps": 3}
# The rate is far too high once it is warm.
WILD = {
    "members": 2,
    "learning_rate": 1.0,
    "num_train_epochs": 4,
    "warmup_steps": 12,
    "save_steps": 3,
    "guard": {"window": 3, "max_loss_rise": 0.3, "max_grad_norm": None, "max_rollbacks": 8},
}


def breaches(folder) -> list[tuple[int, str, str]]:
    """Update, where to, and the factor of the rate, of every time it went back."""
    found = re.compile(r"guard: update (\d+): .*back to (.*?), from .*rate x ([\d.]+),")
    lines = (folder / "logbook.md").read_text().splitlines()
    return [(int(m[1]), m[2], m[3]) for m in map(found.search, lines) if m]


def spike(monkeypatch, *updates: int) -> None:
    """The loss of these updates, counted in the order they are made, is read as no number. Whether
    and where a rate that is too high diverges is another thing on every processor.
    """
    real, made = reward.train.one_update, itertools.count(1)

    def one_update(*arguments):
        metrics = real(*arguments)
        return metrics | {"loss": math.nan} if next(made) in updates else metrics

    monkeypatch.setattr(reward.train, "one_update", one_update)


def test_each_model_goes_back_to_a_state_of_its_own(make_recipe, tmp_path, monkeypatch):
    """The second member neither inherits the first one's lower rate nor goes back into it, and a
    checkpoint that led to the next breach at once is passed over. Mutations seen red: one guard for
    both members; `doubts` always False; the rate not lowered.
    """
    # Update 8 goes back to 6, so the second member's first is the 27th made; there update 32 goes
    # back to 30, and 31, which is made next, farther.
    spike(monkeypatch, 8, 34, 35)
    folder = train(make_recipe(**TWO), tmp_path / "runs")
    log = metrics(folder)
    assert [line["step"] for line in log] == list(range(1, 49))
    state = "the state after update"
    assert breaches(folder) == [
        (8, f"{state} 6", "0.3"),
        (32, f"{state} 30", "0.3"),
        (31, f"{state} 27", "0.09"),
    ]
    rates = [log[number - 1]["learning_rate"] for number in (12, 36)]  # warm, in both
    assert rates == pytest.approx([0.3 * 3e-3, 0.09 * 3e-3])


def test_without_a_checkpoint_a_model_begins_again(make_recipe, tmp_path, monkeypatch):
    """Mutation seen red: the engine of the breach kept."""
    unsaved = TWO | {"save_steps": 100}
    spike(monkeypatch, 5, 36)  # the second member's first update is the 30th made
    folder = train(make_recipe(**unsaved), tmp_path / "runs")
    assert breaches(folder) == [(5, "the start", "0.09"), (31, "the start", "0.09")]
    log = metrics(folder)
    monkeypatch.undo()
    fresh = metrics(train(make_recipe("calm", **unsaved), tmp_path / "runs"))
    # The same batches into the same fresh models: an update's loss is from before it.
    assert [log[i]["loss"] for i in (0, 24)] == [fresh[i]["loss"] for i in (0, 24)]


@pytest.mark.slow
def test_a_run_that_went_back_resumes_to_the_bit(make_recipe, tmp_path, monkeypatch):
    """Stopped again and again. Mutation seen red: the guard's state left out of checkpoints."""
    recipe = make_recipe(**WILD)
    unbroken = train(recipe, tmp_path / "unbroken")
    broken, stops = stopped_every(13, monkeypatch, lambda: train(recipe, tmp_path / "broken"))
    assert stops > 2
    assert same_weights(unbroken, broken)
    assert metrics(unbroken) == metrics(broken)
