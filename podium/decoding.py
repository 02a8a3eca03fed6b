"""Decoding by hand: a cache whose rows leave and arrive, the draw of a token, log-probabilities on
chosen tokens only.

What `podium.sampler` is made of. At the size of a laptop's model a decode step is bound by memory
traffic and Python, so the cache is written in place (Hugging Face's DynamicCache copies all of it
at every step) and is read as views.
"""

import inspect
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint
from transformers.cache_utils import Cache, CacheLayerMixin

from podium.models import inside_peft

CHUNK_ELEMENTS = 1 << 26  # logits of one chunk: 256 MiB in fp32


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
    # not the last column: torch.compile fails at sizes that are differences, where heads are shared
    seen: int = 0
    write: slice | Tensor = field(default_factory=lambda: slice(0, 0))
    new: int = 0  # columns that `write` names


class SlotLayer(CacheLayerMixin):
    """Keys and values of one layer in buffers (slots, heads, columns, head size) that are written
    in place.
    """

    def __init__(self, aim: Aim) -> None:
        super().__init__()
        self.aim = aim  # not the cache: in a ring of references the buffers would outlive their use

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
    free slots; `shift` drops columns on the left. Because every row ends in the same column, a row
    admitted late is only a row with more padding on its left, which every model supports through
    its attention mask and position ids. Keys and values are kept in `dtype`, cast once when
    written; None: as they come. `fixed` promises torch.compile that the buffers stay: a CUDA graph
    that writes to them can be played back.
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

    def shift(self, columns: slice) -> None:
        """Move `columns` to the left edge of every buffer."""
        for buffer in self._buffers():
            buffer[:, :, : columns.stop - columns.start] = buffer[:, :, columns].clone()

    def _buffers(self) -> list[Tensor]:
        return [
            buffer
            for layer in self.slot_layers
            for buffer in (layer.keys, layer.values)
            if buffer is not None
        ]


def row_uniforms(seed: int, rows: Sequence[int], count: int) -> Tensor:
    """Uniform numbers (len(rows), count) in [0, 1), each row from its own stream named by (seed,
    row).

    One draw a token decides it by the inverse of the cumulative distribution, so what a row says
    depends on the seed, its index and its prompt alone: not on who shares its batch, when a row was
    refilled, or the number of ranks.
    """
    draws = [
        np.random.Generator(np.random.Philox(key=[seed, row])).random(count, dtype=np.float32)
        for row in rows
    ]
    return torch.from_numpy(np.stack(draws))


def pick_tokens(
    logits: Tensor, uniforms: Tensor, temperature: float, top_k: int, top_p: float
) -> tuple[Tensor, Tensor]:
    """The next token of every row and its log-probability.

    Args:
        logits: (B, V), any float type. uniforms: (B,) in [0, 1).
        temperature: 0 takes the most likely token; its log-probability is then that of temperature
            1.
        top_k, top_p: 0 and 1.0 switch them off.

    Returns:
        tokens (B,) and logprobs (B,) fp32: of the whole tempered distribution, before top-k and
        top-p cut it, since that is the distribution whose ratio PPO takes.
    """
    logprobs = F.log_softmax(tempered(logits, temperature or 1.0), dim=-1)  # (B, V)
    if temperature == 0:
        tokens = logprobs.argmax(-1)
    else:
        cumulative = _truncated(logprobs, top_k, top_p).exp().cumsum(-1)  # (B, V)
        # < the total in fp32 too: uniforms are multiples of 2**-24
        target = uniforms[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return tokens, logprobs.gather(-1, tokens[:, None]).squeeze(-1)


def _truncated(logprobs: Tensor, top_k: int, top_p: float) -> Tensor:
    """Log-probabilities (B, V) with -inf outside the top k and outside the smallest set of mass
    top_p.
    """
    if 0 < top_k < logprobs.shape[-1]:
        kth = logprobs.topk(top_k, dim=-1).values[:, -1:]
        logprobs = logprobs.masked_fill(logprobs < kth, -torch.inf)
    if top_p < 1.0:
        ordered, index = logprobs.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        # mass of the tokens more likely than this one
        before = probabilities.cumsum(-1) - probabilities
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
        logprobs = torch.full_like(logprobs, -torch.inf).scatter(-1, index, ordered)
    return logprobs


def takes_position_ids(model: nn.Module) -> bool:
    """Whether the model's forward accepts position ids (ALiBi models do not)."""
    return "position_ids" in inspect.signature(inside_peft(model).forward).parameters


def position_ids(attention_mask: Tensor) -> Tensor:
    """Positions (B, T) counted from each row's first attended token, whatever the padding side."""
    return (attention_mask.long().cumsum(-1) - 1).clamp(min=0)


def token_logprobs(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    chosen: Tensor,
    temperature: float = 1.0,
    positions: Tensor | None = None,
) -> Tensor:
    """log p(token | the tokens before it) at the chosen tokens; the LM head runs on those positions
    only.

    Args:
        model: a Hugging Face causal LM, with gradients if they are enabled.
        input_ids, attention_mask: (B, T), padded on either side.
        chosen: (B, T) bool, True at tokens whose log-probability is wanted; never the first column.
        positions: (B, T), of full rows that hold several documents; then the mask is theirs
            (`data.packing.apart`).

    Returns:
        (N,) fp32, N = chosen.sum(), row by row.
    """
    hidden = hidden_before(model, input_ids, attention_mask, chosen, positions)
    return head_logprobs(model, hidden, input_ids[chosen], temperature)


def hidden_before(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    chosen: Tensor,
    positions: Tensor | None = None,
) -> Tensor:
    """Last hidden states (N, d) at the position before each chosen token: the states that predict
    them.
    """
    lm = inside_peft(model)
    inputs: dict[str, Any] = {"input_ids": input_ids, "use_cache": False}
    if positions is not None:
        inputs |= {"position_ids": positions, "attention_mask": attention_mask}
    elif not bool(
        attention_mask[:, 0].all()
    ):  # padded on the right a causal token sees no padding: no mask is needed
        inputs["attention_mask"] = attention_mask
        if takes_position_ids(model):
            inputs["position_ids"] = position_ids(attention_mask)
    hidden = lm.base_model(**inputs).last_hidden_state  # (B, T, d)
    return hidden[:, :-1][chosen[:, 1:]]


def head_logprobs(
    model: nn.Module, hidden: Tensor, targets: Tensor, temperature: float = 1.0
) -> Tensor:
    """Log-probabilities (N,) fp32 of targets (N,) from hidden states (N, d).

    The logits are made in chunks; with gradients each chunk is made again in the backward pass, so
    no tensor of N x vocabulary is ever kept when that is large.
    """

    def chunk(states: Tensor, tokens: Tensor) -> Tensor:
        return -F.cross_entropy(
            tempered(head_logits(model, states), temperature), tokens, reduction="none"
        )

    head = inside_peft(model).get_output_embeddings()
    size = max(1, CHUNK_ELEMENTS // int(head.out_features))
    if len(targets) <= size:
        return chunk(hidden, targets)
    pieces = zip(hidden.split(size), targets.split(size), strict=True)
    if torch.is_grad_enabled():
        return torch.cat(
            [checkpoint(chunk, states, tokens, use_reentrant=False) for states, tokens in pieces]
        )
    return torch.cat([chunk(states, tokens) for states, tokens in pieces])


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits (N, V) in fp32 at a temperature; at 1 without another pass over them."""
    return logits.float() if temperature == 1.0 else logits.float() / temperature


def head_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Logits (N, V) of hidden states (N, d), with the soft cap of the models that have one."""
    lm = inside_peft(model)
    logits = lm.get_output_embeddings()(hidden)
    cap = getattr(lm.config, "final_logit_softcapping", None)
    return logits if cap is None else cap * torch.tanh(logits / cap)
