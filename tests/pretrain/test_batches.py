"""The plan of a run: batch ramp, total tokens, and the order in which windows are read."""

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from pretrain.batches import BatchRamp, batch_sizes, rows_at


def test_a_constant_batch_reads_the_asked_tokens():
    assert batch_sizes(1000, context=10, batch_size=8) == [8] * 13  # 12 updates read 960 tokens


def test_the_ramp_grows_linearly_in_tokens_and_then_stays():
    """Seen red with `read` counted in windows instead of tokens."""
    sizes = batch_sizes(40_000, context=10, batch_size=64, ramp=BatchRamp(start=4, tokens=20_000))
    assert sizes[0] == 4
    assert sizes == sorted(sizes)
    read = np.cumsum([0, *sizes[:-1]]) * 10
    expected = np.minimum(4 + 60 * read / 20_000, 64)
    assert np.all(np.abs(np.array(sizes) - expected) <= 1)
    assert sizes[-1] == 64
    assert 40_000 <= sum(sizes) * 10 < 40_000 + 640


def test_ramped_batches_split_evenly_over_processes():
    sizes = batch_sizes(
        9_000, context=10, batch_size=32, ramp=BatchRamp(start=3, tokens=5_000), multiple=4
    )
    assert all(size % 4 == 0 for size in sizes)


@settings(max_examples=30, deadline=None)
@given(total=st.integers(1, 40), start=st.integers(0, 100), count=st.integers(1, 50))
def test_any_piece_of_the_stream_is_the_same_however_it_is_read(total, start, count):
    """So a resumed run, or one with another batch size, reads on where the first one stopped."""
    whole = np.concatenate([rows_at(i, 1, total, seed=5) for i in range(start, start + count)])
    assert np.array_equal(rows_at(start, count, total, seed=5), whole)


def test_every_window_appears_once_an_epoch_in_a_new_order():
    first, second = rows_at(0, 50, 50, seed=1), rows_at(50, 50, 50, seed=1)
    assert sorted(first) == sorted(second) == list(range(50))
    assert not np.array_equal(first, second)
    assert not np.array_equal(first, rows_at(0, 50, 50, seed=2))
