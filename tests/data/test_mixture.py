"""Sources mixed by weight: the shares are the weights whatever the sizes, and nothing repeats
before a pass is over.
"""

from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.mixture import mix


@given(
    small=st.integers(1, 20),
    large=st.integers(1, 200),
    weight=st.floats(0.05, 0.95),
    seed=st.integers(0, 3),
)
def test_shares_follow_weights_and_passes_are_whole(small, large, weight, seed):
    """Seen red with shares by size (`held[name]` for `total * weight`), and with draws with
    replacement.
    """
    sources = {"small": [f"s{i}" for i in range(small)], "large": [f"l{i}" for i in range(large)]}
    mixed = mix(sources, {"small": weight, "large": 1 - weight}, seed=seed)
    for name, share in (("small", weight), ("large", 1 - weight)):
        counts = Counter(item for item in mixed.items if item[0] == name[0])
        assert abs(sum(counts.values()) - share * (small + large)) <= 0.5 + 1e-6
        if counts:
            unseen = len(sources[name]) - len(counts)
            assert max(counts.values()) - min([0] * bool(unseen) + list(counts.values())) <= 1
        assert mixed.report[name].epochs == pytest.approx(sum(counts.values()) / len(sources[name]))


def test_sizes_count_rather_than_records():
    """One novel weighs as much as a thousand notes of its length together."""
    sources = {"novel": ["x" * 1000], "notes": ["y"] * 1000}
    mixed = mix(sources, {"novel": 1, "notes": 1}, size=len)
    assert (
        mixed.report["novel"].share == pytest.approx(0.5) and mixed.report["notes"].records == 1000
    )


def test_the_order_is_shuffled_and_fixed_by_the_seed():
    sources, weights = {"a": ["a"] * 20, "b": ["b"] * 20}, {"a": 1, "b": 1}
    assert mix(sources, weights, seed=1).items == mix(sources, weights, seed=1).items
    assert mix(sources, weights, seed=1).items != sorted(mix(sources, weights, seed=1).items)


def test_a_second_pass_reads_on_into_what_was_not_read():
    """A quarter's weight of a large source: the fourth pass still meets new records. Seen red with
    `passes` ignored, when the first draw was all that was ever read.
    """
    sources = {"small": [f"s{i}" for i in range(100)], "large": [f"l{i}" for i in range(100)]}
    weights = {"small": 0.875, "large": 0.125}
    seen = []
    for passes in (1, 2, 4, 5):
        mixed = mix(sources, weights, passes=passes, seed=3)
        large = [item for item in mixed.items if item[0] == "l"]
        assert len(large) == 25 * passes
        assert mixed.report["large"].epochs == pytest.approx(0.25 * passes)
        seen.append(set(large))
    assert [len(items) for items in seen] == [25, 50, 100, 100]
    assert seen[0] < seen[1] < seen[2], "what the first pass read is read in the longer ones too"
