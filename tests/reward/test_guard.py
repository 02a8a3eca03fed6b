"""A reward model whose training diverges goes back, more slowly, and resumes to the bit."""

import re

import pytest

from tests.reward.test_train import metrics, same_weights, train
from tests.stopping import stopped_every

# Two members of 24 updates; the rate is far too high once it is warm.
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


def test_each_model_goes_back_to_a_state_of_its_own(make_recipe, tmp_path):
    """The second member neither inherits the first one's lower rate nor goes back into it, and a
    checkpoint that led to the next breach at once is passed over. Mutations seen red: one guard for
    both members; `doubts` always False; the rate not lowered.
    """
    folder = train(make_recipe(**WILD), tmp_path / "runs")
    log = metrics(folder)
    assert [line["step"] for line in log] == list(range(1, 49))
    said = breaches(folder)
    first, second = ([b for b in said if b[0] <= 24], [b for b in said if b[0] > 24])
    assert first and second and first[0][2] == second[0][2] == "0.3"
    places = [int(where.split()[-1]) for _, where, _ in second]
    assert min(places) > 24 and len(set(places)) == len(places)
    warm = [log[24 + 11]["learning_rate"], float(second[-1][2])]
    assert warm[0] == pytest.approx(warm[1])  # the rate after the warm-up of 12, 1.0 but for that


def test_without_a_checkpoint_a_model_begins_again(make_recipe, tmp_path):
    """Mutation seen red: the engine of the breach kept."""
    wild = WILD | {"save_steps": 100}
    folder = train(make_recipe(**wild), tmp_path / "runs")
    assert {where for _, where, _ in breaches(folder)} == {"the start"}
    log = metrics(folder)
    calm = WILD | {"save_steps": 100, "learning_rate": 0.001, "guard": {"on_breach": "stop"}}
    fresh = metrics(train(make_recipe("calm", **calm), tmp_path / "runs"))
    # The same batches into the same fresh models: an update's loss is from before it.
    assert [log[i]["loss"] for i in (0, 24)] == [fresh[i]["loss"] for i in (0, 24)]


def test_a_run_that_went_back_resumes_to_the_bit(make_recipe, tmp_path, monkeypatch):
    """Stopped again and again. Mutation seen red: the guard's state left out of checkpoints."""
    recipe = make_recipe(**WILD)
    unbroken = train(recipe, tmp_path / "unbroken")
    broken, stops = stopped_every(13, monkeypatch, lambda: train(recipe, tmp_path / "broken"))
    assert stops > 2
    assert same_weights(unbroken, broken)
    assert metrics(unbroken) == metrics(broken)
