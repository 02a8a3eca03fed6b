"""Rows shared out over processes."""

import pytest

from podium.batching import share_of


@pytest.mark.parametrize("count", range(13))
@pytest.mark.parametrize("processes", range(1, 6))
def test_rows_are_shared_out_so_that_each_counts_once_and_all_take_as_many(count, processes):
    """In order, too. Mutations seen red: as `torch.chunk` does it (5 windows on 4 processes: three
    shares), as `rows[rank::processes]` does it (shares of different sizes).
    """
    shares = [share_of(count, processes, rank) for rank in range(processes)]
    assert len({len(indices) for indices, _ in shares}) == 1
    counted = [row for indices, counting in shares for row in indices[:counting]]
    assert counted == list(range(count))
    assert all(0 <= row < count for indices, _ in shares for row in indices)
