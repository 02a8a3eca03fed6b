"""A decode step through torch.compile: one call a token in place of a few hundred small operators.

At the size of a laptop's model a quarter of a decode step is Python and small operators (4M
parameters, 64 rows). It is compiled once, for any shape. On a GPU torch records it as a CUDA graph
for each shape and plays that back; there, then, shapes are rounded up to few, what changes at every
token is a tensor, and the cache stays where the graphs found it.
"""

from typing import Any

import torch
from torch import Tensor, nn

from podium.models import inside_peft
from podium.output_head import body, output_head
from podium.sampling.cache import SlotCache
from podium.sampling.logprobs import head_logits, takes_position_ids
from podium.sampling.prepacked import packs

COLUMNS = 128  # a GPU's columns are rounded to multiples of this, its rows to powers of two


class CompiledStep:
    """Logits of the next token, for rows of one token whose past lies in a cache.

    The first call compiles, for 20 to 50 s. `rounded` says that shapes are rounded up, as a GPU
    needs it. Decoding so was never run on a GPU; only its numbers were tested, on a CPU.
    """

    def __init__(self, device: torch.device) -> None:
        self.rounded = device.type == "cuda"
        # "reduce-overhead" is torch's name for CUDA graphs.
        self._hidden = torch.compile(
            _hidden, dynamic=True, mode="reduce-overhead" if self.rounded else None
        )
        self._kept: SlotCache | None = None

    def serves(self, model: nn.Module) -> bool:
        """Whether the model can be stepped so, and gains by it.

        It does not serve where weights are packed for decoding: the packed product cannot be
        compiled, and gains more. Nor does it serve a sliding window, which is counted from the last
        column, or a model without position ids (ALiBi).
        """
        lm = inside_peft(model)
        slides = getattr(lm.config, "sliding_window", None) is not None
        return (
            takes_position_ids(model)
            and not slides
            and not output_head(lm).whole
            and not any(packs(module) for module in body(lm).modules())
        )

    def cache(self, layers: int, slots: int, columns: int, dtype: torch.dtype | None) -> SlotCache:
        """A cache of this size; where shapes are rounded, the last one if it is large enough, so it
        is not freed.
        """
        if not self.rounded:
            return SlotCache(layers, slots, columns, dtype)
        kept = self._kept.aimed if self._kept is not None else None
        if kept is None or kept.slots < slots or kept.columns < columns or kept.dtype != dtype:
            self._kept = SlotCache(
                layers, slots, -(-columns // COLUMNS) * COLUMNS, dtype, fixed=True
            )
        assert self._kept is not None
        return self._kept

    def window(self, rows: int, left: int, end: int, cache: SlotCache) -> tuple[int, int, int]:
        """(rows, first column, last column + 1) that a step takes in order to serve `rows` and
        columns [left, end).
        """
        if not self.rounded:
            return rows, left, end
        rows = min(cache.aimed.slots, max(2, 1 << (rows - 1).bit_length()))
        return rows, left - left % COLUMNS, -(-end // COLUMNS) * COLUMNS

    def __call__(
        self, model: nn.Module, ids: Tensor, mask: Tensor, positions: Tensor, cache: SlotCache
    ) -> Tensor:
        """ids, positions (B, 1), mask (B, columns seen) -> logits (B, V). The head stays outside:
        it may be packed.
        """
        return head_logits(model, self._hidden(model, ids, mask, positions, cache))


def _hidden(
    model: nn.Module, ids: Tensor, mask: Tensor, positions: Tensor, cache: SlotCache
) -> Any:
    inputs = {
        "input_ids": ids,
        "attention_mask": mask,
        "position_ids": positions,
        "past_key_values": cache,
    }
    return body(inside_peft(model))(**inputs, use_cache=True).last_hidden_state[:, -1]
