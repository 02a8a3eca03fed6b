"""Sampling behind one small protocol: PPO's rollouts, candidates to rank, best-of-n, evaluation and
chat use it.

`EmbeddedSampler` needs nothing but the model: batched, with a key-value cache, finished rows leave
at once, and waiting prompts take their place (continuous batching). Log-probabilities come with the
samples, of the distribution that was sampled: at the sampling temperature, before top-k and top-p
cut it.
"""

import copy
from collections import deque
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from podium.attention import attend_in_fp32, attends_in_fp32
from podium.compiled import CompiledStep
from podium.decoding import SlotCache, pick_tokens, position_ids, row_uniforms, takes_position_ids
from podium.decoding import token_logprobs as chosen_logprobs
from podium.errors import PodiumError
from podium.models import inside_peft
from podium.prepacked import prepacked


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. The same parameters and prompts give the same text, however the batch is
    split.

    temperature 0 is greedy; top_k 0 and top_p 1.0 are off; stop_token_id None never stops before
    max_new_tokens. Prompt i draws from the stream (seed, first_row + i): a rank that holds rows
    64..127 of a batch sets first_row 64.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_token_id: int | None = None
    seed: int = 0
    first_row: int = 0


@dataclass(frozen=True)
class Sample:
    """One response. `tokens` ends with the stop token when `finished`; `logprobs` has one entry a
    token.
    """

    tokens: list[int]
    logprobs: list[float]
    finished: bool


class Sampler(Protocol):
    """What a sampling backend offers; another one (vLLM) needs only these three."""

    def generate(self, prompts: Sequence[list[int]], params: SamplingParams) -> list[Sample]:
        """One sample a prompt, in the prompts' order."""
        ...

    def logprobs(
        self, prompts: Sequence[list[int]], responses: Sequence[list[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """log p of every response token given its prompt, at the temperature."""
        ...

    def update_weights(self, model: nn.Module) -> None:
        """Sample from these weights from now on."""
        ...


class EmbeddedSampler:
    """Samples from a Hugging Face causal LM in this process.

    Args:
        model: shared, not copied: in-place training updates are seen at once. With `dtype` a copy
            is kept in that type, and `update_weights` refreshes it.
        pad_token_id: fills the padding; what it is does not matter, since padding is never attended
            to.
        max_batch: rows decoded together; further prompts wait and take the place of finished ones.
        max_tokens: padded tokens of one prefill or log-probability pass; bounds the memory of long
            prompts.
        compiled: decode through torch.compile where it serves (`podium.compiled`); worth it for
            long runs alone.
    """

    def __init__(
        self,
        model: nn.Module,
        pad_token_id: int,
        max_batch: int = 128,
        max_tokens: int = 16384,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        self.pad_token_id = pad_token_id
        self.max_batch = max_batch
        self.max_tokens = max_tokens
        self.dtype = dtype
        self._step = CompiledStep(_device(model)) if compiled else None
        self._copy: nn.Module | None = None
        self.update_weights(model)

    def update_weights(self, model: nn.Module) -> None:
        """Use `model`: itself, or its weights copied into the sampler's own type."""
        if self.dtype is None:
            self.model = model
            return
        if self._copy is None:
            self._copy = copy.deepcopy(model).eval()
            # not the buffers: rotary frequencies in bf16 would be 0.2 % off
            for parameter in self._copy.parameters():
                parameter.data = parameter.data.to(self.dtype)
            if _device(model).type == "cpu" and self.dtype != torch.float32:
                attend_in_fp32(inside_peft(self._copy))
        self._copy.load_state_dict(model.state_dict())
        self.model = self._copy

    @torch.inference_mode()
    def generate(self, prompts: Sequence[list[int]], params: SamplingParams) -> list[Sample]:
        """One sample a prompt, in the prompts' order. Raises PodiumError when a row cannot fit the
        model's context.
        """
        if not prompts:
            return []
        _check_lengths(self.model, prompts, params.max_new_tokens)
        step = self._step if self._step is not None and self._step.serves(self.model) else None
        with evaluating(self.model), prepacked(self.model):
            decoder = _Decoder(
                self.model,
                prompts,
                params,
                self.pad_token_id,
                self.max_batch,
                self.max_tokens,
                step,
            )
            while decoder.busy:
                decoder.step()
        return decoder.samples()

    @torch.inference_mode()
    def stream(self, prompt: list[int], params: SamplingParams) -> Iterator[int]:
        """The tokens of one response as they are drawn, without the stop token: what `generate`
        gives for [prompt].
        """
        _check_lengths(self.model, [prompt], params.max_new_tokens)
        with evaluating(self.model):
            decoder = _Decoder(self.model, [prompt], params, self.pad_token_id, 1, self.max_tokens)
            while decoder.busy:
                decoder.step()
                token = int(decoder.tokens[0, int(decoder.lengths[0]) - 1])
                if token != params.stop_token_id:
                    yield token

    @torch.inference_mode()
    def logprobs(
        self, prompts: Sequence[list[int]], responses: Sequence[list[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """log p of every response token given its prompt; rows sorted by length, LM head on
        response tokens only.
        """
        total = [
            len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)
        ]
        results: list[list[float]] = [[] for _ in prompts]
        with evaluating(self.model):
            for rows in _batches_by_length(total, self.max_tokens):
                batch = _pad_right(
                    [prompts[i] + responses[i] for i in rows],
                    self.pad_token_id,
                    _device(self.model),
                )
                chosen = torch.zeros_like(batch[0], dtype=torch.bool)
                for place, i in enumerate(rows):
                    chosen[place, len(prompts[i]) : total[i]] = True
                found = chosen_logprobs(self.model, *batch, chosen, temperature or 1.0)
                for i, values in zip(
                    rows, found.cpu().split([len(responses[i]) for i in rows]), strict=True
                ):
                    results[i] = values.tolist()
        return results


class _Decoder:
    """The state of one `generate` call: live rows in slots 0..live-1, each row's newest token in
    column `end - 1`.

    Index tensors are (live,): `row` the prompt in each slot, `count` the tokens it has, `start` its
    first column.
    """

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        pad: int,
        slots: int,
        budget: int,
        compiled: CompiledStep | None = None,
    ) -> None:
        self.compiled = compiled
        self.model = model
        self.prompts = prompts
        self.params = params
        self.pad = pad
        self.budget = budget
        self.device = _device(model)
        self.slots = min(slots, len(prompts))
        # longest first: a prompt that is refilled later always fits to the left of the newest
        # column
        self.queue = deque(sorted(range(len(prompts)), key=lambda i: -len(prompts[i])))
        widest, refills = len(prompts[self.queue[0]]), len(prompts) > self.slots
        columns = widest + params.max_new_tokens * (2 if refills else 1)
        self.end = widest
        dtype = torch.float32 if attends_in_fp32(inside_peft(model)) else None
        size = inside_peft(model).config.num_hidden_layers, self.slots, columns
        self.cache = SlotCache(*size, dtype) if compiled is None else compiled.cache(*size, dtype)
        self.with_positions = takes_position_ids(model)
        rows = range(params.first_row, params.first_row + len(prompts))
        draws = row_uniforms(
            params.seed, rows, params.max_new_tokens if params.temperature > 0 else 1
        )
        self.uniforms = draws.to(self.device)
        shape = (len(prompts), params.max_new_tokens)
        self.tokens = torch.zeros(shape, dtype=torch.long, device=self.device)
        self.token_logprobs = torch.zeros(shape, device=self.device)
        self.lengths = torch.zeros(len(prompts), dtype=torch.long, device=self.device)
        empty = torch.zeros(0, dtype=torch.long, device=self.device)
        self.row = empty
        self.count = empty
        self.start = empty
        self.last = empty
        self.done = empty.bool()
        self.columns = torch.arange(self.cache.aimed.columns, device=self.device)

    @property
    def busy(self) -> bool:
        """Whether any row is unfinished or waiting."""
        return bool(self.queue) or len(self.row) > 0

    def step(self) -> None:
        """One token for every live row; waiting prompts are admitted first when enough slots are
        free.
        """
        free = self.slots - len(self.row)
        if self.queue and (len(self.row) == 0 or free >= max(1, self.slots // 4)):
            self._admit(free)
        else:
            self._advance()
        self._retire()

    def _admit(self, free: int) -> None:
        """Prefill the longest waiting prompts into free slots and draw their first token."""
        width = len(self.prompts[self.queue[0]])
        rows = [
            self.queue.popleft()
            for _ in range(min(free, len(self.queue), max(1, self.budget // width)))
        ]
        ids, mask = _pad_left([self.prompts[i] for i in rows], self.pad, self.device)
        first, at = len(self.row), self.end - width
        self.cache.aim(slice(first, first + len(rows)), at, self.end, write=slice(at, self.end))
        inputs = {"position_ids": position_ids(mask)} if self.with_positions else {}
        logits = self._logits(ids, mask, **inputs)
        new = torch.tensor(rows, device=self.device)
        zeros = torch.zeros_like(new)
        drawn, done = self._draw(logits, new, zeros)
        self.row, self.last = torch.cat([self.row, new]), torch.cat([self.last, drawn])
        self.count, self.done = torch.cat([self.count, zeros + 1]), torch.cat([self.done, done])
        self.start = torch.cat([self.start, self.end - mask.sum(-1)])

    def _advance(self) -> None:
        """Feed every live row its newest token and draw the next."""
        if self.end == len(self.columns):
            self._shift()
        newest, self.end = self.end, self.end + 1
        # which torch.compile would compile apart, if it were not rounded up
        lone = len(self.row) == 1
        if self.compiled is not None and (self.compiled.rounded or not lone):
            logits = self._compiled_logits(newest)
        else:
            left = int(self.start.min())
            self.cache.aim(slice(0, len(self.row)), left, self.end, write=slice(newest, self.end))
            mask = self.columns[left : self.end] >= self.start[:, None]  # (live, columns seen)
            inputs = {"position_ids": (newest - self.start)[:, None]} if self.with_positions else {}
            logits = self._logits(self.last[:, None], mask, **inputs)
        self.last, self.done = self._draw(logits, self.row, self.count)
        self.count = self.count + 1

    def _compiled_logits(self, newest: int) -> Tensor:
        """The same by the compiled step, whose shapes may be rounded up: idle slots see nothing but
        their own token.
        """
        assert self.compiled is not None
        live = len(self.row)
        rows, left, right = self.compiled.window(live, int(self.start.min()), self.end, self.cache)
        start = F.pad(self.start, (0, rows - live), value=newest)
        last = F.pad(self.last, (0, rows - live), value=self.pad)
        columns = self.columns[left:right]
        mask = (columns >= start[:, None]) & (columns <= newest)  # (rows, columns seen)
        # As a tensor it is no part of the shape. A CPU has exact shapes anyway and is twice as slow
        # with it.
        write = (
            self.columns[newest : self.end] if self.compiled.rounded else slice(newest, self.end)
        )
        self.cache.aim(slice(0, rows), left, right, write)
        return self.compiled(
            self.model, last[:, None], mask, (newest - start)[:, None], self.cache
        )[:live]

    def _logits(self, ids: Tensor, mask: Tensor, **inputs: Tensor) -> Tensor:
        output = self.model(
            input_ids=ids,
            attention_mask=mask,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
            **inputs,
        )
        return output.logits[:, -1]

    def _draw(self, logits: Tensor, rows: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Draw and record one token a row; returns the tokens and which rows are finished."""
        params = self.params
        uniforms = self.uniforms[rows, count] if params.temperature > 0 else self.uniforms[rows, 0]
        drawn, found = pick_tokens(logits, uniforms, params.temperature, params.top_k, params.top_p)
        self.tokens[rows, count] = drawn
        self.token_logprobs[rows, count] = found
        self.lengths[rows] = count + 1
        done = count + 1 >= params.max_new_tokens
        return drawn, done if params.stop_token_id is None else done | (
            drawn == params.stop_token_id
        )

    def _retire(self) -> None:
        """Free the slots of finished rows: live rows from the tail move into them, so little is
        copied.
        """
        if not self.done.any():
            return
        alive = ~self.done
        live = int(alive.sum())
        holes = self.done[:live].nonzero().squeeze(-1)
        movers = alive[live:].nonzero().squeeze(-1) + live
        if len(holes):
            self.cache.move(movers, holes, slice(int(self.start.min()), self.end))
        for name in ("row", "count", "start", "last", "done"):
            values = getattr(self, name)
            values[holes] = values[movers]
            setattr(self, name, values[:live])

    def _shift(self) -> None:
        """Make room on the right by dropping the columns that no live row uses."""
        left = int(self.start.min())
        self.cache.shift(slice(left, self.end))
        self.start, self.end = self.start - left, self.end - left

    def samples(self) -> list[Sample]:
        """The finished rows, in the prompts' order."""
        tokens, found = self.tokens.tolist(), self.token_logprobs.tolist()
        stop, lengths = self.params.stop_token_id, self.lengths.tolist()
        return [
            Sample(
                tokens[i][:n], found[i][:n], finished=stop is not None and tokens[i][n - 1] == stop
            )
            for i, n in enumerate(lengths)
        ]


@contextmanager
def evaluating(model: nn.Module) -> Iterator[None]:
    """Dropout off inside, the model's former mode restored after."""
    was_training = model.training
    if was_training:
        model.eval()
    try:
        yield
    finally:
        if was_training:
            model.train()


def _device(model: nn.Module) -> torch.device:
    return next(model.parameters()).device


def _check_lengths(model: nn.Module, prompts: Sequence[list[int]], new_tokens: int) -> None:
    context = getattr(inside_peft(model).config, "max_position_embeddings", None)
    longest, shortest = max(map(len, prompts)), min(map(len, prompts))
    if shortest == 0:
        raise PodiumError(
            "An empty prompt cannot be continued.",
            fix="Begin every prompt with at least one token.",
        )
    if context is not None and longest + new_tokens > context:
        raise PodiumError(
            f"A prompt of {longest} tokens and {new_tokens} new ones exceed the model's "
            f"context of {context}.",
            fix="Shorten or drop long prompts, or lower max_new_tokens.",
        )


def _batches_by_length(lengths: Sequence[int], max_tokens: int) -> list[list[int]]:
    """Indices sorted by length and cut so that no padded batch holds more than max_tokens."""
    batches: list[list[int]] = []
    for i in sorted(range(len(lengths)), key=lambda i: -lengths[i]):
        widest = lengths[batches[-1][0]] if batches else 0
        if batches and widest * (len(batches[-1]) + 1) <= max_tokens:
            batches[-1].append(i)
        else:
            batches.append([i])
    return batches


def _pad_left(rows: list[list[int]], pad: int, device: Any) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([[pad] * (width - len(row)) + row for row in rows], device=device)
    mask = torch.tensor([[0] * (width - len(row)) + [1] * len(row) for row in rows], device=device)
    return ids, mask


def _pad_right(rows: list[list[int]], pad: int, device: Any) -> tuple[Tensor, Tensor]:
    width = max(map(len, rows))
    ids = torch.tensor([row + [pad] * (width - len(row)) for row in rows], device=device)
    mask = torch.tensor([[1] * len(row) + [0] * (width - len(row)) for row in rows], device=device)
    return ids, mask
