"""How many windows each update reads and which: pure functions of the recipe, so its number is the
whole position.
"""

from functools import lru_cache

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

from data.packing import epoch_order

__all__ = [
    "BatchRamp",
    "batch_sizes",
    "rows_at",
]


class BatchRamp(BaseModel):
    """A batch that grows linearly: many cheap steps early, when the gradient is far from noisy
    (GPT-3 section 2.3).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: int = Field(
        gt=0, description="sequences in the first batch; GPT-3: 32k tokens, 16 sequences of 2,048"
    )
    tokens: int = Field(
        gt=0, description="tokens over which it grows to batch_size; GPT-3: the first 4-12 billion"
    )


def batch_sizes(
    tokens: int, *, context: int, batch_size: int, ramp: BatchRamp | None = None, multiple: int = 1
) -> list[int]:
    """Sequences of every step until `tokens` are read; at least one step.

    With a ramp, sizes grow linearly in tokens, rounded down to a multiple of `multiple`, the number
    of processes.
    """
    sizes: list[int] = []
    read = 0
    while read < tokens or not sizes:
        size = batch_size
        if ramp is not None and read < ramp.tokens:
            size = ramp.start + int((batch_size - ramp.start) * read / ramp.tokens)
            size = max(size // multiple, 1) * multiple
        sizes.append(size)
        read += size * context
    return sizes


def rows_at(start: int, count: int, total_rows: int, seed: int) -> np.ndarray:
    """The row indices, (count,), at positions start .. start + count of an endless stream of
    shuffled epochs.

    Every row appears once an epoch; each epoch has its own order, fixed by (seed, epoch).
    """
    positions = np.arange(start, start + count)
    epochs, within = np.divmod(positions, total_rows)
    rows = np.empty(count, dtype=np.int64)
    for epoch in np.unique(epochs):
        here = epochs == epoch
        rows[here] = _order(total_rows, seed, int(epoch))[within[here]]
    return rows


_order = lru_cache(maxsize=2)(epoch_order)  # an update reads from one epoch, or from two
