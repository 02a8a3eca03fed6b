"""Calibration figures against pairs whose truth is known."""

import numpy as np
import pytest
from scipy.special import expit

from reward.calibration import (
    accuracy_by,
    expected_calibration_error,
    fitted_temperature,
    negative_log_likelihood,
    reference_ece,
    reliability,
)


def simulated_gaps(pairs: int = 20_000, seed: int = 0) -> np.ndarray:
    """Gaps of a perfectly calibrated model: the call is right with probability sigmoid(|gap|)."""
    rng = np.random.default_rng(seed)
    size = np.abs(rng.normal(0, 1.5, pairs))
    return np.where(rng.random(pairs) < expit(size), size, -size)


def test_a_calibrated_model_has_no_calibration_error():
    """Red when confidence is sigmoid(gap) instead of sigmoid(|gap|)."""
    gaps = simulated_gaps()
    assert expected_calibration_error(gaps) < 0.01
    assert fitted_temperature(gaps) == pytest.approx(1, abs=0.05)


def test_scores_three_times_too_large_are_seen():
    """The design notes' check: inflated threefold gives an ECE near 0.15 and a temperature near 3.
    Red when fitted_temperature multiplies by T.
    """
    gaps = 3 * simulated_gaps()
    assert 0.1 < expected_calibration_error(gaps) < 0.2
    assert fitted_temperature(gaps) == pytest.approx(3, rel=0.05)


def test_few_pairs_look_miscalibrated_by_chance():
    """Red when reference_ece draws right calls with probability 1/2."""
    few = simulated_gaps(100)
    mean, high = reference_ece(few)
    assert 0.03 < mean < 0.15
    assert expected_calibration_error(few) < high
    assert reference_ece(simulated_gaps())[0] < 0.01


def test_reliability_by_hand():
    """Two pairs of confidence 0.73, one right; one of confidence 0.5 exactly, which counts half."""
    table = reliability(np.array([1.0, -1.0, 0.0]))
    np.testing.assert_allclose(table.confidence, [0.5, expit(1.0)])
    np.testing.assert_allclose(table.accuracy, [0.5, 0.5])
    assert table.pairs.tolist() == [1, 2]


def test_knowing_nothing_costs_log_two():
    np.testing.assert_allclose(negative_log_likelihood(np.zeros(3)), np.log(2))


def test_accuracy_by_score_bins_hold_all_pairs():
    values, right, count = accuracy_by(
        np.arange(10.0), np.where(np.arange(10) < 5, 1.0, -1.0), bins=2
    )
    assert values.tolist() == [2, 7]
    assert right.tolist() == [1, 0]
    assert count.tolist() == [5, 5]
