"""One update of pretraining: windows of documents in, one optimizer step out, the same however it
is cut.

The engine wraps a `LanguageModel`, whose forward gives the loss and not logits, so that the head is
multiplied out a chunk of tokens at a time: with a vocabulary of 128,000 the logits of 2,048 tokens
and their gradient would take 3 GB.
"""

from typing import Any

import torch
from torch import Tensor, nn

from data.packing import documents_apart
from podium.batching import share_of
from podium.engine import all_reduce_sum, backward, step
from podium.output_head import last_states
from podium.run.context import StageContext
from podium.sampling.logprobs import head_logprobs

__all__ = ["LanguageModel", "evaluate", "next_token_nll", "update"]


class LanguageModel(nn.Module):
    """A causal LM as pretraining reads it: how well it predicts the target tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Any], targets: Tensor) -> Tensor:
        """The sum over targets of -log p(token), in nats, in fp32.

        `inputs` and `targets` are of `data.packing.documents_apart`: (R, L) each, targets True at
        the tokens that are predicted.
        """
        hidden = last_states(self.model, **inputs)  # (R, L, d)
        before = hidden[:, :-1][targets[:, 1:]]  # (N, d): the states that predict the targets
        return -head_logprobs(self.model, before, inputs["input_ids"][targets]).sum()


def update(
    engine: Any,
    batch: Tensor,
    bos_id: int,
    learning_rate: float,
    rows_per_pass: int,
    stage: StageContext,
) -> tuple[float, float]:
    """One update on the global batch, (B, T); returns its mean loss in nats a token and the
    gradient norm.
    """
    target_tokens = batch.shape[0] * (batch.shape[1] - 1)
    # the plan of batches makes all of them count
    mine, _ = share_of(len(batch), stage.world_size, stage.rank)
    share = batch[mine].to(stage.device, torch.long)  # (B / processes, T)
    passes = share.split(rows_per_pass)
    summed = torch.zeros((), device=share.device)
    engine.train()
    for i, ids in enumerate(passes):
        nll = next_token_nll(engine, ids, bos_id)
        # The engine averages gradients over processes; with this factor the local sums make the
        # global mean.
        backward(engine, nll * (stage.world_size / target_tokens), last=i == len(passes) - 1)
        summed += nll.detach()
    grad_norm = step(engine, learning_rate)
    return all_reduce_sum(summed).item() / target_tokens, grad_norm


def next_token_nll(engine: Any, ids: Tensor, bos_id: int) -> Tensor:
    """Sum over windows (B, T) and positions of -log p(next token), in nats; no document sees
    another. The engine wraps a `LanguageModel`, and autocasts.
    """
    inputs, targets, _ = documents_apart(ids, bos_id, engine.module.model)
    return engine(inputs, targets)


@torch.no_grad()
def evaluate(
    engine: Any, held_out: Tensor, bos_id: int, rows_per_pass: int, stage: StageContext
) -> dict[str, float]:
    """Mean loss a token, in nats, on held-out windows (N, T), shared out over processes."""
    engine.eval()
    summed = torch.zeros((), device=stage.device)
    for group in held_out.split(stage.world_size * rows_per_pass):
        mine, counting = share_of(len(group), stage.world_size, stage.rank)
        ids = group[mine[: max(1, counting)]].to(stage.device, torch.long)
        summed += next_token_nll(engine, ids, bos_id) * (counting > 0)
    return {
        "validation_loss": all_reduce_sum(summed).item() / (len(held_out) * (held_out.shape[1] - 1))
    }
