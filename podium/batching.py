"""Rows of token ids made into batches: padded on either side, grouped by length, shared out."""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from torch import Tensor

from podium.engine import world_size

__all__ = [
    "batches_by_length",
    "pad_left",
    "pad_right",
    "passes_by_length",
    "share_of",
]

# Tokens of a pass from which on a shorter pass is no slower a token: seen on a CPU, a guess for a
# GPU.
CPU_TOKENS, GPU_TOKENS = 256, 16384


def batches_by_length(lengths: Sequence[int], max_tokens: int | None) -> list[list[int]]:
    """Indices of rows, the longest first, cut so that no padded batch holds more than `max_tokens`
    (one row longer than that stands alone). None: all in one batch.
    """
    if max_tokens is None:
        max_tokens = max(lengths, default=0) * len(lengths)
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        widest = lengths[batches[-1][0]] if batches else 0
        if batches and widest * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def share_of(count: int, processes: int, rank: int) -> tuple[list[int], int]:
    """Which of `count` rows process `rank` takes, and how many of these count.

    Every process takes equally many neighbouring rows, so that all make the same passes: one that
    made fewer would leave the others waiting for ever wherever weights or gradients are gathered.
    Where rows run out the last one is repeated, and must be read at weight 0: of the indices, only
    the first `counting` count.

    Returns:
        (indices, counting); every row counts on exactly one process.
    """
    size = -(-count // processes)
    first = rank * size
    indices = [min(row, count - 1) for row in range(first, first + size)]
    counting = max(0, min(size, count - first))
    return indices, counting


def pad_left(rows: Sequence[Sequence[int]], pad: int, device: Any = "cpu") -> tuple[Tensor, Tensor]:
    """Token lists -> ids and attention mask (1 = token), (B, longest) long, padded on the left."""
    width = max(map(len, rows))
    ids = torch.tensor([[*[pad] * (width - len(row)), *row] for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def pad_right(
    rows: Sequence[Sequence[int]], pad: int, device: Any = "cpu"
) -> tuple[Tensor, Tensor]:
    """Token lists -> ids and attention mask (1 = token), (B, longest) long, padded on the right."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[pad] * (width - len(row))] for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask


def passes_by_length(attention_mask: Tensor, rows_per_pass: int) -> Iterator[Tensor]:
    """Row indices (b,) in order of length, the longest first, at most `rows_per_pass` at a time.

    In a lone process a pass that holds tokens enough to keep the device busy ends before a row that
    would be a fifth padding: of 16 geometric lengths, passes of 8 are a third padding. Several
    processes must make equal numbers of passes (ZeRO-3 gathers in each), so there the count alone
    decides.
    """
    lengths, order = attention_mask.sum(1).sort(descending=True, stable=True)
    if world_size() > 1:
        return iter(order.split(rows_per_pass))
    enough = GPU_TOKENS if attention_mask.is_cuda else CPU_TOKENS
    sizes: list[int] = []
    longest = 0
    for length in lengths.tolist():
        short = length < 0.8 * longest and sizes[-1] * longest >= enough
        if not sizes or sizes[-1] == rows_per_pass or short:
            sizes.append(0)
            longest = length
        sizes[-1] += 1
    return iter(order.split(sizes))
