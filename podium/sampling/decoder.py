"""One `generate` call, step by step: rows are admitted, advanced, and retired when done."""

from collections import deque
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from podium.attention import attends_in_fp32
from podium.batching import pad_left
from podium.models import inside_peft
from podium.sampling.cache import SlotCache
from podium.sampling.compiled import CompiledStep
from podium.sampling.draws import Draws
from podium.sampling.logprobs import position_ids, takes_position_ids
from podium.sampling.protocol import SamplingParams


class Decoder(Draws):
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
        super().__init__(model, prompts, params)
        # The longest come first, so that a prompt admitted later always fits to the left of the
        # newest column.
        self.queue = deque(sorted(range(len(prompts)), key=lambda i: -len(prompts[i])))
        widest, refills = len(prompts[self.queue[0]]), len(prompts) > slots
        # Where slots are refilled, rows of different ages share the columns. Room for twice the
        # longest response lets them decode on for a while before `_shift` drops old columns.
        columns = widest + params.max_new_tokens * (2 if refills else 1)
        self._open(pad, min(slots, len(prompts)), columns, widest, budget, compiled)

    def _open(
        self,
        pad: int,
        slots: int,
        columns: int,
        end: int,
        budget: int,
        compiled: CompiledStep | None = None,
    ) -> None:
        """Empty buffers of `slots` rows and `columns`; the first prompts end before column
        `end`.
        """
        self.pad, self.slots, self.budget, self.compiled = pad, slots, budget, compiled
        self.end = end
        lm = inside_peft(self.model)
        dtype = torch.float32 if attends_in_fp32(lm) else None
        size = lm.config.get_text_config().num_hidden_layers, slots, columns
        self.cache = SlotCache(*size, dtype) if compiled is None else compiled.cache(*size, dtype)
        self.with_positions = takes_position_ids(self.model)
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
        # Admitting costs a pass over whole prompts, so it waits until a quarter of the slots is
        # free and then serves many at once.
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
        ids, mask = pad_left([self.prompts[i] for i in rows], self.pad, self.device)
        first, at = len(self.row), self.end - width
        self.cache.aim(slice(first, first + len(rows)), at, self.end, write=slice(at, self.end))
        inputs = {"position_ids": position_ids(mask)} if self.with_positions else {}
        logits = self._logits(ids, mask, **inputs)
        new = torch.tensor(rows, device=self.device)
        zeros = torch.zeros_like(new)
        drawn, done = self.draw(logits, new, zeros)
        self.row, self.last = torch.cat([self.row, new]), torch.cat([self.last, drawn])
        self.count, self.done = torch.cat([self.count, zeros + 1]), torch.cat([self.done, done])
        self.start = torch.cat([self.start, self.end - mask.sum(-1)])

    def _advance(self) -> None:
        """Feed every live row its newest token and draw the next."""
        if self.end == len(self.columns):
            self._shift()
        newest, self.end = self.end, self.end + 1
        # torch.compile would compile one row apart from many, where one is not rounded up to two.
        lone = len(self.row) == 1
        if self.compiled is not None and (self.compiled.rounded or not lone):
            logits = self._compiled_logits(newest)
        else:
            left = int(self.start.min())
            self.cache.aim(slice(0, len(self.row)), left, self.end, write=slice(newest, self.end))
            mask = self.columns[left : self.end] >= self.start[:, None]  # (live, columns seen)
            inputs = {"position_ids": (newest - self.start)[:, None]} if self.with_positions else {}
            logits = self._logits(self.last[:, None], mask, **inputs)
        self.last, self.done = self.draw(logits, self.row, self.count)
        self.count = self.count + 1

    def _compiled_logits(self, newest: int) -> Tensor:
        """The logits of `_advance` by the compiled step. Its shapes may be rounded up; the idle
        slots that this adds see nothing but their own token, and their logits are dropped.
        """
        assert self.compiled is not None
        live = len(self.row)
        rows, left, right = self.compiled.window(live, int(self.start.min()), self.end, self.cache)
        start = F.pad(self.start, (0, rows - live), value=newest)
        last = F.pad(self.last, (0, rows - live), value=self.pad)
        columns = self.columns[left:right]
        mask = (columns >= start[:, None]) & (columns <= newest)  # (rows, columns seen)
        # The column to write is given as a tensor where shapes are rounded, so that it is no part
        # of the shape and a recorded graph serves every token. A CPU compiles for any shape, and
        # writing by a tensor would make it twice as slow.
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

    def _retire(self) -> None:
        """Free the slots of finished rows: live rows from the tail move into them, so little is
        copied.
        """
        if not self.done.any():
            return
        # The live rows must stay in slots 0..live-1: only those of them that lie beyond move, each
        # into the slot of a finished row.
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

    def _shift(self, end: int | None = None) -> None:
        """Make room on the right by dropping the columns that no live row uses; or move those in
        use so that the newest one lies before column `end`.
        """
        left = int(self.start.min())
        to = 0 if end is None else end - (self.end - left)
        self.cache.shift(slice(left, self.end), to)
        self.start, self.end = self.start - left + to, self.end - left + to
