"""What a fine-tuned model is worth on held-out demonstrations: loss, token accuracy and, if asked,
a reward score.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from transformers import (
    AutoModelForSequenceClassification,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from podium.batching import pad_right, share_of
from podium.engine import all_reduce_sum
from podium.errors import ParentError
from podium.run.context import StageContext
from podium.sampling.kinds import make_sampler
from podium.sampling.protocol import SamplingParams
from sft.batches import IGNORED, Row


@torch.no_grad()
def validation_metrics(
    model: nn.Module,
    rows: Sequence[Row],
    *,
    pad_token_id: int,
    batch_size: int,
    stage: StageContext,
) -> dict[str, float]:
    """`validation_loss`, nats a response token, and `token_accuracy` over all response tokens of
    `rows`.

    Exact means over tokens, whatever the batches (the trainer's own evaluation averages the means
    of batches). Every process calls the model the same number of times, as ZeRO-3 needs.
    """
    ordered = sorted(rows, key=lambda row: len(row.input_ids))
    chunks = [ordered[i : i + batch_size] for i in range(0, len(ordered), batch_size)]
    totals = torch.zeros(3, dtype=torch.float64, device=stage.device)  # nll, correct, tokens
    mine, counting = share_of(len(chunks), stage.world_size, stage.rank)
    for number, chunk in enumerate(mine):
        ids, labels, attention = pad_rows(chunks[chunk], pad_token_id, stage.device)
        logits = (
            model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, :-1].float()
        )
        targets = labels[:, 1:]
        nll = F.cross_entropy(
            logits.flatten(0, 1), targets.flatten(), ignore_index=IGNORED, reduction="sum"
        )
        correct = (logits.argmax(-1) == targets).sum()
        totals += torch.stack([nll, correct, (targets != IGNORED).sum()]).double() * (
            number < counting
        )
    nll_sum, correct_sum, tokens = all_reduce_sum(totals).tolist()
    return {"validation_loss": nll_sum / tokens, "token_accuracy": correct_sum / tokens}


def pad_rows(
    rows: Sequence[Row], pad_token_id: int, device: torch.device
) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """ids, labels and attention mask (1 = token), each (B, longest row), padded on the right."""
    ids, attention = pad_right([row.input_ids for row in rows], pad_token_id, device)
    labels, _ = pad_right([row.labels for row in rows], IGNORED, device)
    return ids, labels, attention


class RewardScorer:
    """Mean reward of sampled answers to held-out prompts: InstructGPT chose its SFT checkpoint by
    it (C.1).

    The reward model is read as any Hugging Face sequence classifier with one label; `reward_bias`
    in its configuration is subtracted.
    """

    def __init__(
        self,
        folder: Path,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[list[int]],
        max_new_tokens: int,
        stage: StageContext,
    ) -> None:
        try:
            loaded = AutoModelForSequenceClassification.from_pretrained(folder, dtype=torch.float32)
        except (OSError, ValueError) as error:
            raise ParentError(
                f"{folder} holds no reward model: {error}", fix="name a finished reward stage"
            ) from error
        self.model: PreTrainedModel = loaded.eval().to(stage.device)
        self.tokenizer, self.prompts, self.stage = tokenizer, prompts, stage
        self.max_new_tokens = max_new_tokens
        self.sampler = stage.sampler()

    @torch.no_grad()
    def __call__(self, policy: Any) -> float:
        """Each process answers its share of the prompts, always with the same random draws."""
        indices, counting = share_of(len(self.prompts), self.stage.world_size, self.stage.rank)
        mine = [self.prompts[i] for i in indices[:counting]]
        params = SamplingParams(
            self.max_new_tokens,
            stop_token_id=self.tokenizer.eos_token_id,
            seed=self.stage.seed,
            first_row=indices[0] if indices else 0,
        )
        sampler = make_sampler(self.sampler, policy, self.tokenizer.pad_token_id)
        samples = sampler.generate(mine, params)
        rows = [
            Row([*prompt, *sample.tokens], []) for prompt, sample in zip(mine, samples, strict=True)
        ]
        total = torch.zeros((), device=self.stage.device)
        for row in rows:
            ids = torch.tensor([row.input_ids], device=self.stage.device)
            total += self.model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits.sum()
        bias = getattr(self.model.config, "reward_bias", 0.0)
        return all_reduce_sum(total).item() / len(self.prompts) - bias
