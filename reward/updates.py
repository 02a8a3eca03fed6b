"""One update of the reward model: a batch of rankings in, one optimizer step out, the same however
it is cut.

The engine wraps a `ScoringModule`, whose forward turns the chunks of a micro-batch into scores, so
that DeepSpeed's hooks see one forward a backward. The scores come from `podium.rewards.score`, like
everybody else's.
"""

from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from podium.engine import all_reduce_sum, backward, step, world_size
from podium.models import inside_peft
from podium.rewards.score import score, score_shared_prefix
from podium.runtime import Dtype, autocast
from reward.batches import (
    EncodedRanking,
    MicroBatch,
    Sequences,
    SharedPrefix,
    collate,
    micro_batches,
)
from reward.loss import LossName, pairwise_losses, plackett_luce_losses, strict_pairs

# little padding; 512 to 2048 are within 3 % of each other; a GPU takes all that fits
CPU_CHUNK_TOKENS = 1024


class Objective(NamedTuple):
    """What is minimised and how it is cut."""

    loss: LossName
    micro_batch_tokens: int
    shared_prefix: bool
    pad_token_id: int
    dtype: Dtype


class ScoringModule(nn.Module):
    """Chunks of sequences in, their scores out: the forward that the engine wraps.

    `model` is a reward model or a PEFT model around one. With PEFT its low-rank layers sit inside
    the model itself.
    """

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    @property
    def reward_model(self) -> Any:
        return inside_peft(self.model)

    def forward(self, chunks: list[Sequences | SharedPrefix]) -> Tensor:
        """Scores of all sequences, chunk after chunk, (sum of B,) float32."""
        model = self.reward_model
        return torch.cat(
            [
                score(model, *chunk)
                if isinstance(chunk, Sequences)
                else score_shared_prefix(model, *chunk)
                for chunk in chunks
            ]
        )


def update(
    engine: Any, batch: Sequence[EncodedRanking], learning_rate: float, objective: Objective
) -> dict[str, float]:
    """One step on a global batch of rankings. Loss = mean over its rankings of weight times each
    one's mean over its pairs.

    The divisor is the number of rankings, not the batch's sum of weights: a batch that holds mostly
    light rankings takes a small step. Weights of mean 1 over the training set
    (`batches.weights_of_mean_one`) thus keep their share of the gradient at any batch size.

    Every process is given the whole batch and takes its share. Returns loss, accuracy (of untied
    pairs, before the step), score spread, gradient norm before clipping, and the tokens forwarded.
    """
    share = prepare(batch, engine, objective)
    engine.train()
    sums = torch.zeros(6, device=engine.device)
    for i, micro in enumerate(share):
        last = i == len(share) - 1
        # Gradients are averaged over processes, so a sum of local losses is scaled by their number.
        scale = world_size() / len(batch)
        scores = backward_micro_batch(engine, micro, scale, last, objective)
        sums += statistics(scores.detach(), micro, objective)
    grad_norm = step(engine, learning_rate)
    return {**means(sums, len(batch)), "grad_norm": grad_norm, "learning_rate": learning_rate}


@torch.no_grad()
def validate(
    engine: Any, items: Sequence[EncodedRanking], objective: Objective
) -> dict[str, float]:
    """Loss and accuracy on other rankings, shared out over processes."""
    engine.eval()
    sums = torch.zeros(6, device=engine.device)
    for micro in prepare(items, engine, objective):
        sums += statistics(
            forward(engine, micro.chunks, objective)[micro.sequence_of], micro, objective
        )
    found = means(sums, len(items))
    return {f"validation_{name}": found[name] for name in ("loss", "accuracy")}


def prepare(items: Sequence[EncodedRanking], engine: Any, objective: Objective) -> list[MicroBatch]:
    """This process's micro-batches on its device."""
    rank = torch.distributed.get_rank() if world_size() > 1 else 0
    chunk_tokens: int | None = objective.micro_batch_tokens
    if engine.zero_optimization_stage() >= 2:
        # shards meet in every forward or backward: all processes must make the same number
        chunk_tokens = None
    elif engine.device.type == "cpu":
        chunk_tokens = min(CPU_CHUNK_TOKENS, objective.micro_batch_tokens)
    share = micro_batches(items, objective.micro_batch_tokens, world_size())[rank]
    return [
        _to(
            collate(
                piece,
                objective.pad_token_id,
                chunk_tokens=chunk_tokens,
                shared_prefix=objective.shared_prefix,
            ),
            engine.device,
        )
        for piece in share
    ]


def forward(engine: Any, chunks: list[Sequences | SharedPrefix], objective: Objective) -> Tensor:
    """Scores of the chunks' sequences (N,), in the objective's precision."""
    with autocast(engine.device, objective.dtype):
        return engine(chunks)


def backward_micro_batch(
    engine: Any, micro: MicroBatch, scale: float, last: bool, objective: Objective
) -> Tensor:
    """Add a micro-batch's gradient; returns its scores (N,).

    A ranking too large for one micro-batch is forwarded twice, in exact pieces: without gradient
    for all its scores, which give the loss's slope in each score, then piece by piece with
    sum(score * slope) as the loss.
    """
    if len(micro.chunks) == 1 or padded_tokens(micro.chunks) <= objective.micro_batch_tokens:
        scores = forward(engine, micro.chunks, objective)[micro.sequence_of]
        backward(
            engine, scale * (ranking_losses(scores, micro, objective) * micro.weights).sum(), last
        )
        return scores
    with torch.no_grad():
        parts = [forward(engine, [chunk], objective) for chunk in micro.chunks]
    leaf = torch.cat(parts).requires_grad_()
    scores = leaf[micro.sequence_of]
    loss = scale * (ranking_losses(scores, micro, objective) * micro.weights).sum()
    slopes = torch.autograd.grad(loss, leaf)[0].split([len(part) for part in parts])
    for i, (chunk, slope) in enumerate(zip(micro.chunks, slopes, strict=True)):
        backward(
            engine,
            (forward(engine, [chunk], objective) * slope).sum(),
            last and i == len(slopes) - 1,
        )
    return scores


def ranking_losses(scores: Tensor, micro: MicroBatch, objective: Objective) -> Tensor:
    """(N,) scores -> (R,) losses."""
    if objective.loss == "plackett_luce":
        return plackett_luce_losses(scores, micro.ranks, micro.ranking_ids, len(micro.weights))
    return pairwise_losses(
        scores, micro.ranks, micro.ranking_ids, len(micro.weights), micro.ratings
    )


def statistics(scores: Tensor, micro: MicroBatch, objective: Objective) -> Tensor:
    """Sums for `means`: loss, right pairs, pairs, scores, squared scores, responses. Repeated items
    count nothing.
    """
    better, worse = strict_pairs(micro.ranks, micro.ranking_ids)
    real = (micro.weights > 0).float()[micro.ranking_ids]  # (N,)
    right = ((scores[better] > scores[worse]).float() * real[better]).sum()
    loss = (ranking_losses(scores, micro, objective) * micro.weights).sum()
    return torch.stack(
        [
            loss,
            right,
            real[better].sum(),
            (scores * real).sum(),
            (scores.square() * real).sum(),
            real.sum(),
        ]
    )


def means(sums: Tensor, rankings: int) -> dict[str, float]:
    """The global means of what `statistics` summed up over all processes, of so many rankings."""
    loss, right, pairs, score_sum, squares, responses = all_reduce_sum(sums.double()).tolist()
    mean = score_sum / responses
    return {
        "loss": loss / rankings,
        "accuracy": right / pairs,
        "score_mean": mean,
        "score_std": max(squares / responses - mean**2, 0.0) ** 0.5,
    }


def padded_tokens(chunks: list[Sequences | SharedPrefix]) -> int:
    """Tokens of the forwards over these chunks, padding included."""
    return sum(
        c.input_ids.numel()
        if isinstance(c, Sequences)
        else c.prompt_ids.numel() + c.response_ids.numel()
        for c in chunks
    )


def _to(micro: MicroBatch, device: torch.device) -> MicroBatch:
    return MicroBatch(
        [type(chunk)(*(tensor.to(device) for tensor in chunk)) for chunk in micro.chunks],
        micro.sequence_of.to(device),
        micro.ranks.to(device),
        micro.ranking_ids.to(device),
        None if micro.ratings is None else micro.ratings.to(device),
        micro.weights.to(device),
    )
