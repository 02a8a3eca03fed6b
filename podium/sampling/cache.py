"""A key-value cache whose rows leave and arrive.

At the size of a laptop's model a decode step is bound by memory traffic and Python, so the cache is
written in place (Hugging Face's DynamicCache copies all of it at every step) and is read as views.
"""

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor
from transformers.cache_utils import Cache, CacheLayerMixin


@dataclass
class Aim:
    """Which rows and columns ([start, start + seen)) of the buffers the next pass sees, which it
    writes; their size.
    """

    slots: int
    columns: int
    dtype: torch.dtype | None = None
    fixed: bool = False
    rows: slice = field(default_factory=lambda: slice(0, 0))
    start: int = 0
    # A length and not the last column: where heads are shared, torch.compile fails at sizes that
    # are differences.
    seen: int = 0
    write: slice | Tensor = field(default_factory=lambda: slice(0, 0))
    new: int = 0  # columns that `write` names


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer in buffers (slots, heads, columns, head size) that are written
    in place.
    """

    def __init__(self, aim: Aim) -> None:
        super().__init__()
        # The aim and not the cache, which holds this layer: in a ring of references the buffers
        # would outlive their use.
        self.aim = aim

    def lazy_initialization(self, key_states: Tensor, value_states: Tensor) -> None:
        slots, columns = self.aim.slots, self.aim.columns
        dtype = self.aim.dtype or key_states.dtype
        self.keys = key_states.new_zeros(
            slots, key_states.shape[1], columns, key_states.shape[3], dtype=dtype
        )
        self.values = value_states.new_zeros(
            slots, value_states.shape[1], columns, value_states.shape[3], dtype=dtype
        )
        if self.aim.fixed:
            for buffer in (self.keys, self.values):
                torch._dynamo.mark_static_address(buffer)
        self.is_initialized = True

    def update(
        self, key_states: Tensor, value_states: Tensor, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        if not self.is_initialized:
            self.lazy_initialization(key_states, value_states)
        assert self.keys is not None and self.values is not None
        rows, start, seen = self.aim.rows, self.aim.start, self.aim.seen
        self.keys[rows, :, self.aim.write] = key_states
        self.values[rows, :, self.aim.write] = value_states
        return self.keys[rows].narrow(2, start, seen), self.values[rows].narrow(2, start, seen)

    def get_mask_sizes(self, query_length: int) -> tuple[int, int]:
        return self.aim.seen, 0

    def get_seq_length(self) -> int:
        return self.aim.seen - self.aim.new

    def get_max_length(self) -> int:
        return -1


class SlotCache(Cache):
    """A Hugging Face cache over `slots` rows whose newest token always lies in the same column.

    `aim` says which rows and columns the next forward pass writes and sees; `move` copies rows into
    free slots; `shift` moves columns, over what is no longer used. Because every row ends in the
    same column, a row admitted late is only a row with more padding on its left, which every model
    supports through its attention mask and position ids. Keys and values are kept in `dtype`, cast
    once when written; None: as they come. `fixed` promises torch.compile that the buffers stay: a
    CUDA graph that writes to them can be played back.
    """

    def __init__(
        self,
        layers: int,
        slots: int,
        columns: int,
        dtype: torch.dtype | None = None,
        fixed: bool = False,
    ) -> None:
        self.aimed = Aim(slots, columns, dtype, fixed)
        self.slot_layers = [SlotLayer(self.aimed) for _ in range(layers)]
        super().__init__(layers=[*self.slot_layers])

    def aim(self, rows: slice, start: int, end: int, write: slice | Tensor) -> None:
        """The next pass attends to columns [start, end) of `rows` and writes a slice of them, or
        one, given as (1,).
        """
        aimed = self.aimed
        aimed.rows, aimed.start, aimed.seen, aimed.write = rows, start, end - start, write
        aimed.new = write.stop - write.start if isinstance(write, slice) else 1

    def move(self, source: Tensor, target: Tensor, columns: slice) -> None:
        """Copy rows `source` over rows `target` (1-D index tensors) within `columns`."""
        for buffer in self._buffers():
            buffer[target, :, columns] = buffer[source, :, columns]

    def shift(self, columns: slice, to: int = 0) -> None:
        """Move `columns` of every buffer so that they begin at column `to`."""
        for buffer in self._buffers():
            buffer[:, :, to : to + columns.stop - columns.start] = buffer[:, :, columns].clone()

    def _buffers(self) -> list[Tensor]:
        return [
            buffer
            for layer in self.slot_layers
            for buffer in (layer.keys, layer.values)
            if buffer is not None
        ]
