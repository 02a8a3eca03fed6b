"""What a fine-tuned model is worth on held-out demonstrations: loss, token accuracy and, if asked,
a reward score.
"""

from collections.abc import Sequence
from typing import Any

import torch
from accelerate.utils import extract_model_from_parallel
from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedTokenizerBase

from data.records import Prompt
from data.template import decode_response, encode_prompt, stop_token_ids
from podium.batching import pad_right, share_of
from podium.engine import all_reduce_sum
from podium.models import absent_token_ids
from podium.rewards.protocol import Reward
from podium.rewards.sampled import read_scores
from podium.run.context import StageContext
from podium.sampling.kinds import make_sampler
from podium.sampling.protocol import Sampler, SamplingParams
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

    Answers are scored as PPO scores them: an ensemble by all its members, an answer that was cut
    off as if it had ended there.
    """

    def __init__(
        self,
        reward: Reward,
        tokenizer: PreTrainedTokenizerBase,
        prompts: Sequence[Prompt],
        max_new_tokens: int,
        rows_per_pass: int,
        stage: StageContext,
    ) -> None:
        self.reward, self.tokenizer = reward.eval(), tokenizer
        self.prompts, self.stage = prompts, stage
        self.max_new_tokens, self.rows_per_pass = max_new_tokens, rows_per_pass
        self.kind = stage.sampler()
        self.sampler: Sampler | None = None

    @torch.no_grad()
    def __call__(self, policy: Any) -> float:
        """Each process answers its share of the prompts, always with the same random draws."""
        indices, counting = share_of(len(self.prompts), self.stage.world_size, self.stage.rank)
        mine = [self.prompts[i] for i in indices[:counting]]
        total = torch.zeros((), device=self.stage.device)
        if mine:
            total += self._scores(policy, mine, indices[0]).sum()
        return all_reduce_sum(total).item() / len(self.prompts)

    def _scores(self, policy: Any, prompts: Sequence[Prompt], first_row: int) -> torch.Tensor:
        """Rewards (B,) of one sampled answer to each prompt."""
        model = extract_model_from_parallel(policy)  # several processes wrap it to train
        pad, stops = self.tokenizer.pad_token_id, stop_token_ids(self.tokenizer, model)
        params = SamplingParams(
            self.max_new_tokens,
            stop_token_ids=stops,
            absent_token_ids=absent_token_ids(self.tokenizer, model.config),
            seed=self.stage.seed,
            first_row=first_row,
        )
        asked = [encode_prompt(self.tokenizer, prompt.messages) for prompt in prompts]
        if self.sampler is None:  # one for all validations: some kinds start a server
            self.sampler = make_sampler(self.kind, model, pad)
        self.sampler.update_weights(model)
        samples = self.sampler.generate(asked, params)
        rows = [ids + sample.tokens for ids, sample in zip(asked, samples, strict=True)]
        ids, attention = pad_right(rows, pad, self.stage.device)
        return read_scores(
            self.reward,
            ids,
            attention.bool(),
            torch.tensor([sample.finished for sample in samples], device=ids.device),
            stops,
            self.rows_per_pass,
            prompts,
            [decode_response(self.tokenizer, sample.tokens) for sample in samples],
        )
