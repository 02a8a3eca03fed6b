"""The guard's judgement, and what hacking looks like to it."""

import pytest

from ppo.guard import LIMITS, GuardConfig, breaches
from ppo.watch import near_identical

GOOD = {
    "objective/kl": 1.0,
    "val/ratio": 1.0,
    "policy/approxkl_avg": 0.01,
    "rollout/eos_rate": 0.9,
    "rollout/length": 20.0,
    "policy/entropy_avg": 1.0,
    "val/explained_variance": 0.5,
    "rollout/near_identical": 0.02,
    "objective/scores": 0.3,
}


def test_a_good_iteration_is_no_breach():
    assert breaches(GOOD, GuardConfig(max_length=60), iteration=10) == []


@pytest.mark.parametrize(
    ("threshold", "metric"), [(threshold, metric) for threshold, metric, _ in LIMITS]
)
def test_every_threshold_strikes_on_its_side_and_can_be_switched_off(threshold, metric):
    """Mutation seen red: `<` and `>` exchanged."""
    worse = 1e6 if threshold.startswith("max") else -1e6
    found = breaches({**GOOD, metric: worse}, GuardConfig(max_length=60), iteration=10)
    assert any(threshold in text for text in found)
    off = GuardConfig(**{name: None for name, _, _ in LIMITS})
    assert breaches({**GOOD, metric: worse}, off, iteration=10) == []


ELSEWHERE = {  # key: where it is shown; the thresholds are above
    "max_first_error": "test_a_sampler_that_rounds_otherwise_is_noticed_and_mended",
    "grace": "test_a_raw_value_model_gets_its_grace",
    "on_breach": "test_a_guard_that_is_told_to_stop_goes_back_never",
    "max_rollbacks": "test_a_reward_that_stays_nan_stops_the_run_with_the_reason",
    "lr_factor": "test_a_fault_in_the_middle_is_taken_back",
}


def test_every_key_is_a_threshold_or_listed():
    """A new key must show what it does. Mutations seen red: a field added to GuardConfig; a
    threshold that no line of LIMITS holds.
    """
    thresholds = {threshold for threshold, _, _ in LIMITS}
    assert thresholds | ELSEWHERE.keys() == GuardConfig.model_fields.keys()
    assert not thresholds & ELSEWHERE.keys()


@pytest.mark.parametrize("threshold", [threshold for threshold, _, _ in LIMITS])
def test_a_threshold_is_crossed_beyond_its_number_and_not_at_it(threshold):
    """Mutations seen red: `>=` for `>`; the limits of a default config whatever was set."""
    metric = next(name for key, name, _ in LIMITS if key == threshold)
    beyond = 0.125 if threshold.startswith("max") else -0.125
    only = {name: None for name, _, _ in LIMITS} | {threshold: 0.5}
    assert breaches({metric: 0.5}, GuardConfig(**only), 10) == []
    assert len(breaches({metric: 0.5 + beyond}, GuardConfig(**only), 10)) == 1
    assert (
        breaches({metric: 0.5 + beyond}, GuardConfig(**only | {threshold: 0.5 + beyond}), 10) == []
    )


@pytest.mark.parametrize("metric", ["objective/scores", "loss/policy_avg", "grad_norm/value"])
@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_what_is_not_finite_is_always_a_breach(metric, value):
    """Mutation seen red: `isnan` for `not isfinite`."""
    assert breaches({**GOOD, metric: value}, GuardConfig(), 10) == [f"{metric} is {value}"]


def test_a_raw_value_model_gets_its_grace():
    """Mutation seen red: `<` for `<=`."""
    poor = {**GOOD, "val/explained_variance": -100.0}
    assert breaches(poor, GuardConfig(grace=3), iteration=3) == []
    assert breaches(poor, GuardConfig(grace=3), iteration=4) != []


def test_metrics_that_are_not_there_yet_are_not_judged():
    assert breaches({"objective/kl": 1.0}, GuardConfig(), 10) == []


def test_near_identical_answers():
    """A loop of one token is the same answer at any length; different answers are not. Mutation
    seen red: `min(n, 3)` left out, so that loops of different lengths differ.
    """
    assert near_identical([[7] * n for n in range(3, 40)]) == 1.0
    assert near_identical([[i, i + 1, i + 2] for i in range(0, 90, 3)]) == 0.0
    assert near_identical([[1, 2, 3, 4, 5]] * 9) == 1.0
    assert near_identical([[1, 2]]) == 0.0
