"""Decoders whose rows arrive one by one, each with settings of its own: many visitors, one batch.

What a row says depends on its prompt, its seed and its settings, not on who shares the batch, but
for the last digits of products whose size changes with the number of rows.
"""

from collections import deque
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor, nn

from podium.models import device_of
from podium.sampling.choice import pick_tokens, row_uniforms
from podium.sampling.decoder import Decoder
from podium.sampling.draws import Draws
from podium.sampling.protocol import Drawn, SamplingParams, Tell
from podium.sampling.uncached import UncachedDecoder

LEAST_COLUMNS = 1024  # so that a short first request does not keep longer ones waiting


@dataclass(eq=False)
class Request:
    """One response that somebody waits for. `tell` gets every token as it is drawn; `top` is how
    many of the likeliest tokens are told beside each, None where no log-probability is wanted.
    """

    prompt: list[int]
    params: SamplingParams
    tell: Tell
    top: int | None = None
    tokens: list[int] = field(default_factory=list)
    cancelled: bool = False

    @property
    def length(self) -> int:
        """Tokens of the longest row that this can become."""
        return len(self.prompt) + self.params.max_new_tokens

    @cached_property
    def uniforms(self) -> Tensor:
        """One random number a token, of the row's own stream."""
        params = self.params
        count = params.max_new_tokens if params.temperature > 0 else 1
        return row_uniforms(params.seed, [params.first_row], count)[0]

    @cached_property
    def absent(self) -> Tensor | None:
        """The ids that are never drawn."""
        ids = self.params.absent_token_ids
        return torch.tensor(ids) if ids else None

    def draw(self, logits: Tensor) -> tuple[int, bool]:
        """The next token by logits (1, V), and whether it is the last."""
        params, place = self.params, len(self.tokens)
        uniform = self.uniforms[place if params.temperature > 0 else 0]
        absent = None if self.absent is None else self.absent.to(logits.device)
        drawn, _ = pick_tokens(
            logits,
            uniform[None].to(logits.device),
            params.temperature,
            params.top_k,
            params.top_p,
            absent,
        )
        token = int(drawn)
        self.tokens.append(token)
        stopped = token in params.stop_token_ids or (
            params.stop is not None and params.stop.found(self.tokens)
        )
        ended = stopped or len(self.tokens) >= params.max_new_tokens
        logprob, top = self._likelihood(logits, token)
        self.tell(Drawn(token, logprob, top, "stop" if stopped else "length" if ended else ""))
        return token, ended

    def _likelihood(
        self, logits: Tensor, token: int
    ) -> tuple[float, tuple[tuple[int, float], ...]]:
        """The model's own log-probability of a token, at temperature 1, and of the likeliest."""
        if self.top is None:
            return 0.0, ()
        logprobs = logits[0].float().log_softmax(-1)
        best = logprobs.topk(min(self.top, len(logprobs)))
        return float(logprobs[token]), tuple(
            zip(best.indices.tolist(), best.values.tolist(), strict=True)
        )


class Joined(Draws):
    """Rows by number, in the order they came. A subclass says how they are decoded."""

    queue: deque[int]

    def __init__(self, model: nn.Module, pad: int, budget: int) -> None:
        # not Draws' own: that has tables for rows whose number is known
        self.model, self.device = model, device_of(model)
        self.pad, self.budget = pad, budget
        self.prompts: dict[int, list[int]] = {}
        self.requests: dict[int, Request] = {}
        self.queue = deque()
        self.rows = 0

    def fits(self, request: Request) -> bool:
        """Whether there is ever room for this row."""
        raise NotImplementedError

    @property
    def free(self) -> int:
        """How many rows may be admitted now."""
        raise NotImplementedError

    def add(self, requests: list[Request]) -> None:
        """Rows to be admitted by the next step; no more than are `free`."""
        for request in sorted(requests, key=lambda request: -len(request.prompt)):
            self.prompts[self.rows], self.requests[self.rows] = request.prompt, request
            self.queue.append(self.rows)
            self.rows += 1

    def draw(self, logits: Tensor, rows: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """One token a row, by its own settings."""
        said = [
            self.requests[row].draw(logits[place : place + 1])
            for place, row in enumerate(rows.tolist())
        ]
        tokens, done = zip(*said, strict=True)
        for row, ended in zip(rows.tolist(), done, strict=True):
            if ended:
                self._forget(row)
        return torch.tensor(tokens, device=self.device), torch.tensor(done, device=self.device)

    def _forget(self, row: int) -> None:
        del self.prompts[row], self.requests[row]

    def _given_up(self, rows: list[int]) -> list[int]:
        """Those of the live rows that nobody waits for any more; they are forgotten."""
        gone = [row for row in rows if self.requests[row].cancelled]
        for row in gone:
            self._forget(row)
        return gone


class JoinedDecoder(Joined, Decoder):
    """From a key-value cache of `slots` rows of `columns`."""

    def __init__(self, model: nn.Module, pad: int, budget: int, longest: int, slots: int) -> None:
        """`longest`: the row that the buffers must hold; `budget` bounds their size in tokens."""
        super().__init__(model, pad, budget)
        columns = max(2 * longest, LEAST_COLUMNS)
        self._open(pad, max(1, min(slots, budget // columns)), columns, 0, budget)

    def fits(self, request: Request) -> bool:
        """A row needs a column for every token."""
        return request.length <= len(self.columns)

    @property
    def free(self) -> int:
        """Slots without a row."""
        return self.slots - len(self.row) - len(self.queue)

    def step(self) -> None:
        """One token for every live row, or the first of those that wait: they do not wait for
        others, as the rows of a rollout do.
        """
        rows = self.row.tolist()
        gone = self._given_up(rows)
        if gone:
            self.done = torch.tensor([row in gone for row in rows], device=self.device)
            self._retire()
        if self.queue:
            width = len(self.prompts[self.queue[0]])
            if not len(self.row):
                self.end = width
            elif width > self.end:
                self._shift(end=width)
            self._admit(len(self.queue))
        elif len(self.row):
            self._advance()
        self._retire()


class JoinedRows(Joined, UncachedDecoder):
    """Whole rows, of a model that cannot decode from our cache."""

    def __init__(self, model: nn.Module, pad: int, budget: int, slots: int) -> None:
        super().__init__(model, pad, budget)
        self.slots = slots
        self.said: dict[int, list[int]] = {}
        self.live: list[int] = []

    def fits(self, request: Request) -> bool:
        """Nothing is set aside for a row."""
        return True

    @property
    def free(self) -> int:
        """Rows that may be added to those that are read at every step."""
        return self.slots - len(self.live) - len(self.queue)

    def step(self) -> None:
        """One token for every row."""
        gone = self._given_up(self.live)
        self.live = [row for row in self.live if row not in gone]
        self.said |= {row: list(self.prompts[row]) for row in self.queue}
        if self.queue or self.live:
            UncachedDecoder.step(self)
        self.said = {row: self.said[row] for row in self.live}
