"""Decoding without a key-value cache: every token reads its whole row again.

For models that keep something else than keys and values (Mamba, RWKV, Qwen3-Next, Jamba), or that
count positions by the length of their cache (BART, Pegasus), where rows of different ages cannot
share columns. It is slower by about the length of a row, and right for every causal model: rows are
padded on the right, where nothing sees the padding.
"""

from collections import deque
from collections.abc import Sequence

import torch
from torch import nn

from podium.batching import batches_by_length, pad_right
from podium.models import inside_peft
from podium.output_head import last_states
from podium.sampling.decoder import Decoder
from podium.sampling.draws import Draws
from podium.sampling.logprobs import head_logits, token_logprobs
from podium.sampling.protocol import SamplingParams

ATTRIBUTE = "podium_reads_from_cache"  # where a model carries what was measured
PROBE = [[3, 4, 5, 6, 7, 8, 9], [10], [11, 12, 13, 14]]  # ids; taken modulo the vocabulary
NEW = 8  # tokens that the probe draws


class UncachedDecoder(Draws):
    """The state of one `generate` call: `live` rows, each with its prompt and what it has said."""

    def __init__(
        self,
        model: nn.Module,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        pad: int,
        slots: int,
        budget: int,
    ) -> None:
        super().__init__(model, prompts, params)
        self.pad, self.slots, self.budget = pad, slots, budget
        self.said = {row: list(prompt) for row, prompt in enumerate(prompts)}
        self.queue = deque(range(len(prompts)))
        self.live: list[int] = []

    @property
    def busy(self) -> bool:
        """Whether any row is unfinished or waiting."""
        return bool(self.queue or self.live)

    def step(self) -> None:
        """One token for every live row; waiting prompts take the place of finished ones."""
        while self.queue and len(self.live) < self.slots:
            self.live.append(self.queue.popleft())
        finished: set[int] = set()
        for part in batches_by_length([len(self.said[row]) for row in self.live], self.budget):
            finished |= self._advance([self.live[i] for i in part])
        self.live = [row for row in self.live if row not in finished]

    def _advance(self, rows: list[int]) -> set[int]:
        """Draw the next token of these rows in one pass; returns the finished ones."""
        lm = inside_peft(self.model)
        ids, mask = pad_right([self.said[row] for row in rows], self.pad, self.device)
        states = last_states(lm, input_ids=ids, use_cache=False)  # (B, T, d)
        last = states[torch.arange(len(rows), device=self.device), mask.sum(-1) - 1]
        index = torch.tensor(rows, device=self.device)
        counts = [len(self.said[row]) - len(self.prompts[row]) for row in rows]
        drawn, done = self.draw(
            head_logits(self.model, last), index, torch.tensor(counts, device=self.device)
        )
        for row, token in zip(rows, drawn.tolist(), strict=True):
            self.said[row].append(token)
        return {row for row, end in zip(rows, done.tolist(), strict=True) if end}


@torch.no_grad()
def reads_from_cache(model: nn.Module) -> bool:
    """Whether the model decodes from `SlotCache` what its own forward gives, measured once by a few
    tokens and noted on the model.
    """
    lm = inside_peft(model)
    found = getattr(lm, ATTRIBUTE, None)
    if found is None:
        found = _agrees(model, int(lm.config.get_text_config().vocab_size))
        setattr(lm, ATTRIBUTE, found)
    return found


def _agrees(model: nn.Module, vocabulary: int) -> bool:
    prompts = [[token % vocabulary for token in row] for row in PROBE]
    # Greedily, with fewer slots than rows, so that the last row is admitted into used columns.
    params = SamplingParams(NEW, temperature=0)
    try:
        decoder = Decoder(model, prompts, params, 0, slots=2, budget=1 << 14)
        while decoder.busy:
            decoder.step()
    except Exception:  # of any kind: a model's own code met a cache that it does not know
        return False
    wide = next(model.parameters()).dtype == torch.float32
    return all(
        torch.allclose(
            torch.tensor(sample.logprobs),
            _read(model, prompt, sample.tokens),
            atol=1e-3 if wide else 0.2,
        )
        for prompt, sample in zip(prompts, decoder.samples(), strict=True)
    )


def _read(model: nn.Module, prompt: list[int], answer: list[int]) -> torch.Tensor:
    ids = torch.tensor([prompt + answer], device=next(model.parameters()).device)
    target_mask = torch.ones_like(ids, dtype=torch.bool)
    target_mask[:, : len(prompt)] = False
    return token_logprobs(model, ids, torch.ones_like(ids), target_mask).cpu()
