"""Learning-rate schedules against numbers worked out by hand, and where stages stand in them."""

import pytest

from podium.schedule import constant_with_warmup, cosine_to_fraction


def test_cosine_warms_up_peaks_and_ends_at_the_floor():
    """By hand for 10 of warm-up and 100 of cosine to 0.1: half of the warm-up and its last step,
    the peak, a quarter of the cosine (0.1 + 0.45 (1 + 0.707107)), half, three quarters, the end and
    beyond.

    Seen red: floor left out of the cosine; progress counted from 0 instead of the end of the
    warm-up, or over the total instead of what the warm-up leaves.
    """
    steps = (0, 5, 9, 10, 35, 60, 85, 110, 500)
    values = [cosine_to_fraction(step, 110, warmup=10, floor=0.1) for step in steps]
    expected = [0.0, 0.5, 0.9, 1.0, 0.868198, 0.55, 0.231802, 0.1, 0.1]
    assert values == pytest.approx(expected, abs=1e-6)


def test_cosine_without_warmup_begins_at_the_peak_and_takes_any_floor():
    values = [cosine_to_fraction(step, 4, floor=0.0) for step in (0, 1, 2, 3, 4)]
    assert values == pytest.approx([1.0, 0.853553, 0.5, 0.146447, 0.0], abs=1e-6)


def test_constant_starts_at_a_tenth():
    """InstructGPT C.4: ten iterations from a tenth of the peak, the last of them one tenth below
    it. Seen red: start ignored; one step late.
    """
    assert [constant_with_warmup(step, 10) for step in (0, 1, 5, 9, 10, 99)] == pytest.approx(
        [0.1, 0.19, 0.55, 0.91, 1.0, 1.0]
    )
    assert constant_with_warmup(0, 0) == 1.0
