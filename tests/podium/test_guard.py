"""The guard of a supervised stage on planted losses and gradient norms."""

import math

import pytest

from podium.guard import GuardConfig, SpikeGuard

WINDOW = 5


def watched(losses: list[float], norms: list[float] | None = None, **keys) -> list[str | None]:
    """What a guard says to each update."""
    guard = SpikeGuard(GuardConfig(window=WINDOW, **keys))
    return [guard.breach(*pair) for pair in zip(losses, norms or [1.0] * len(losses), strict=True)]


def test_a_loss_that_falls_or_has_one_hard_batch_is_healthy():
    """Mutation seen red: the newest loss judged in place of the median."""
    losses = [5 - 0.1 * i for i in range(20)]
    losses[12] = 9.0
    assert watched(losses) == [None] * 20


def test_a_loss_that_rises_is_a_breach_once_the_median_has_risen():
    """The medians of five are 2.0 until three of the five are 2.5, more than 0.3 above.

    Mutations seen red: the lowest median forgotten, so that a slow rise is never one; the mean in
    place of the median; the breach counted from the first loss.
    """
    said = watched([2.0] * 8 + [2.5] * 3)
    assert said[:10] == [None] * 10
    assert said[10] == (
        "loss 2.5, the median of 5 updates, is more than 0.3 above 2, its lowest "
        "(guard.max_loss_rise)"
    )
    slowly = watched([2.0 + 0.02 * i for i in range(30)])
    # The first median is 2.04, and 2.36 is the first one more than 0.3 above it: of 2.32 to 2.40.
    assert next(i for i, text in enumerate(slowly) if text) == 20
    assert watched([2.0] * 8 + [9.0] * 8, max_loss_rise=None) == [None] * 16


def test_a_gradient_that_explodes_is_a_breach_at_once():
    """Mutation seen red: its own norm in the median."""
    norms = [1.0, 2.0, 1.5, 1.0, 2.0, 74.0, 76.0]
    said = watched([2.0] * 7, norms)
    assert said == [None] * 7  # the median is 1.5, and then 2
    assert watched([2.0] * 6, [*norms[:5], 76.0])[5] == (
        "gradient norm 76 is above 50 times its median 1.5 (guard.max_grad_norm)"
    )
    assert watched([2.0] * 6, [*norms[:5], 76.0], max_grad_norm=None) == [None] * 6
    calm = SpikeGuard(GuardConfig(window=WINDOW), clipping=1.0)
    assert [calm.breach(0.0, norm) for norm in [1e-4] * 5 + [0.9]] == [None] * 6  # by heart
    assert "gradient norm 1.1 is above 50 times" in (calm.breach(0.0, 1.1) or "")
    assert watched([2.0] * 2, [1.0, 1e6]) == [None, None]  # no window yet: nothing to compare with


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_always_a_breach(value):
    assert watched([value], max_loss_rise=None, max_grad_norm=None) == [f"loss is {value}"]
    said = watched([1.0], [value], max_loss_rise=None, max_grad_norm=None)
    assert said == [f"gradient norm is {value}"]


def test_a_state_on_its_way_up_is_not_gone_back_to():
    """A third of the rise that would be a breach. Mutation seen red: always healthy."""
    guard = SpikeGuard(GuardConfig(window=WINDOW))
    for loss in [2.0] * 8 + [2.2] * 3:
        assert guard.breach(loss, 1.0) is None
    assert not guard.healthy
    for _ in range(5):
        assert guard.breach(2.05, 1.0) is None
    assert guard.healthy


def test_a_run_that_begins_anew_slows_down_twice():
    """No stretch of it was healthy: the rate is wrong, and not a moment. Mutations seen red: the
    factor once; the clipping cut twice as well; twice wherever it goes back to.
    """
    guard = SpikeGuard(GuardConfig(window=WINDOW, lr_factor=0.5, clip_factor=0.3))
    start = guard.state_dict()
    guard.slow_down(start, skip=4, back_to=0, anew=True)
    assert (guard.lr_factor, guard.clip_factor) == (0.25, 0.3)
    guard.slow_down(start, skip=9, back_to=8)
    assert guard.lr_factor == 0.125


def test_going_back_slows_down_and_forgets_what_came_after():
    """Twice. Mutations seen red: factors of the state that is put back, which would try the same
    rate for ever; the window of after the checkpoint kept.
    """
    guard = SpikeGuard(GuardConfig(window=WINDOW, lr_factor=0.5, clip_factor=0.3))
    for _ in range(8):
        guard.breach(2.0, 1.0)
    before = guard.state_dict()
    for skip in (11, 12):
        for loss in (2.1, 2.2):
            guard.breach(loss, 3.0)
        guard.slow_down(before, skip, back_to=8)
        assert (list(guard.losses), list(guard.norms)) == ([2.0] * 5, [1.0] * 5)
    assert (guard.rollbacks, guard.lr_factor, guard.skipped) == (2, 0.25, [11, 12])
    assert guard.clip_factor == pytest.approx(0.09)
    # The same state led to a breach within a window: it is passed over from now on.
    assert [guard.doubts(8, number) for number in (9, 13, 14)] == [True, True, False]
    assert not guard.doubts(5, 9)
    other = SpikeGuard(guard.config)
    other.load_state_dict(guard.state_dict())
    assert other.state_dict() == guard.state_dict()
