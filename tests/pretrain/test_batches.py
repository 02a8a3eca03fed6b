"""The plan of a run: batch ramp and total tokens."""

import numpy as np

from pretrain.batches import BatchRamp, batch_sizes


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
