"""The cache's buffers by hand: which rows and columns a pass writes and sees, and what moves."""

import pytest
import torch

from podium.sampling.cache import SlotCache


def numbered(rows: int, columns: int, first: int = 1) -> torch.Tensor:
    """Keys of one head of size one: (rows, 1, columns, 1), numbered row by row."""
    return torch.arange(first, first + rows * columns, dtype=torch.float).view(rows, 1, columns, 1)


def shown(buffer: torch.Tensor) -> list[list[float]]:
    return buffer[:, 0, :, 0].tolist()


def filled() -> SlotCache:
    """Three slots of five columns; two rows written into columns 1 to 3."""
    cache = SlotCache(1, 3, 5)
    cache.aim(slice(0, 2), 1, 4, slice(1, 4))
    cache.update(numbered(2, 3), -numbered(2, 3), 0)
    return cache


def test_a_pass_writes_its_columns_and_sees_its_window():
    """Mutations seen red: values written in the keys' place; the window taken from column 0."""
    cache = SlotCache(2, 3, 5)
    cache.aim(slice(0, 2), 1, 4, slice(1, 4))
    keys, values = cache.update(numbered(2, 3), -numbered(2, 3), 1)
    assert torch.equal(keys, numbered(2, 3)) and torch.equal(values, -numbered(2, 3))
    layer = cache.slot_layers[1]
    assert shown(layer.keys) == [[0, 1, 2, 3, 0], [0, 4, 5, 6, 0], [0, 0, 0, 0, 0]]
    assert shown(layer.values) == [[0, -1, -2, -3, 0], [0, -4, -5, -6, 0], [0, 0, 0, 0, 0]]
    assert not cache.slot_layers[0].is_initialized
    assert (layer.get_mask_sizes(3), layer.get_seq_length()) == ((3, 0), 0)
    # One more token of the second row and one of the third, seen from column 2.
    cache.aim(slice(1, 3), 2, 5, slice(4, 5))
    keys, values = cache.update(numbered(2, 1, 7), -numbered(2, 1, 7), 1)
    assert shown(keys) == [[5, 6, 7], [0, 0, 8]] and shown(values) == [[-5, -6, -7], [0, 0, -8]]
    assert (layer.get_mask_sizes(1), layer.get_seq_length()) == ((3, 0), 2)
    # The column as a tensor, as a recorded graph wants it.
    cache.aim(slice(0, 1), 0, 5, torch.tensor([4]))
    keys, _ = cache.update(numbered(1, 1, 9), numbered(1, 1, 9), 1)
    assert shown(keys) == [[0, 1, 2, 3, 9]] and layer.get_seq_length() == 4
    assert layer.get_max_length() == -1, "no end of its own"


def test_rows_move_into_free_slots_within_the_columns_in_use():
    """Keys and values. Mutation seen red: source and target exchanged."""
    cache = filled()
    cache.move(torch.tensor([1]), torch.tensor([2]), slice(2, 4))
    layer = cache.slot_layers[0]
    assert shown(layer.keys) == [[0, 1, 2, 3, 0], [0, 4, 5, 6, 0], [0, 0, 5, 6, 0]]
    assert shown(layer.values)[2] == [0, 0, -5, -6, 0]


@pytest.mark.parametrize(
    ("to", "first"), [(0, [1, 2, 3, 3, 0]), (2, [0, 1, 1, 2, 3])], ids=["left", "right"]
)
def test_columns_shift_over_what_is_no_longer_used(to, first):
    """To the left and, overlapping themselves, to the right. Mutation seen red: copied without a
    clone in between.
    """
    cache = filled()
    cache.shift(slice(1, 4), to)
    assert shown(cache.slot_layers[0].keys)[0] == first
    assert shown(cache.slot_layers[0].values)[0] == [-x for x in first]


def test_keys_are_cast_once_to_the_buffers_type_and_layers_without_any_are_passed_over():
    """Mutation seen red: the buffers in the type of the keys that came."""
    cache = SlotCache(2, 1, 2, torch.bfloat16)
    cache.aim(slice(0, 1), 0, 2, slice(0, 2))
    keys, values = cache.update(numbered(1, 2), numbered(1, 2), 0)
    assert keys.dtype == values.dtype == torch.bfloat16
    assert len(cache._buffers()) == 2
    plain = filled().slot_layers[0]
    assert plain.keys.dtype == torch.float and plain.keys.shape == plain.values.shape == (
        3,
        1,
        5,
        1,
    )
