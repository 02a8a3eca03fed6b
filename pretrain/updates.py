"""One update of pretraining: windows of documents in, one optimizer step out, the same however it
is cut.

The engine wraps a `LanguageModel`, whose forward gives the loss and not logits, so that the head is
multiplied out a chunk of tokens at a time: with a vocabulary of 128,000 the logits of 2,048 tokens
and their gradient would take 3 GB.
"""

from typing import Any, Protocol

import torch
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from data.packing import Apart, documents_apart
from podium.batching import share_of
from podium.compilation import compile_whole
from podium.engine import all_reduce_sum, backward, step
from podium.errors import RecipeError
from podium.output_head import last_states
from podium.run.context import StageContext
from podium.sampling.logprobs import head_logits, head_logprobs

__all__ = [
    "Causal",
    "LanguageModel",
    "Objective",
    "compile_reading",
    "evaluate",
    "next_token_nll",
    "shrink_embedding_gradient",
    "update",
]

JUDGED = 1024  # states whose logits are made at once where the likeliest token is asked for


class Objective(Protocol):
    """What a model learns from windows: how they are read, and which tokens are predicted.

    window: tokens of a window.
    """

    window: int

    def batch(self, windows: Tensor, first: int) -> Tensor:
        """The windows (B, T) at places first .. first + B of the stream, as they are shared out:
        (B, ...).
        """

    def targets(self, batch: Tensor) -> int:
        """How many tokens are predicted in a batch of all processes."""

    def apart(self, batch: Tensor, model: Any) -> Apart:
        """How the model is to be called on a piece of a batch."""


class Causal:
    """Every token of a window but the first one is predicted from those before it."""

    def __init__(self, separator_id: int, window: int) -> None:
        self.separator_id, self.window = separator_id, window

    def batch(self, windows: Tensor, first: int) -> Tensor:
        return windows

    def targets(self, batch: Tensor) -> int:
        return batch.shape[0] * (batch.shape[1] - 1)

    def apart(self, batch: Tensor, model: Any) -> Apart:
        return documents_apart(batch, self.separator_id, model)


class LanguageModel(nn.Module):
    """A causal LM as pretraining reads it: how well it predicts the target tokens."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, inputs: dict[str, Any], targets: Tensor, judge: bool = False) -> Any:
        """The sum over targets of -log p(token), in nats, in fp32; with `judge` also which of them
        are the likeliest token, (N,) bool.

        `inputs` and `targets` are of `data.packing.documents_apart`: (R, L) each, targets True at
        the tokens that are predicted.
        """
        hidden = last_states(self.model, **inputs)  # (R, L, d)
        before = hidden[:, :-1][targets[:, 1:]]  # (N, d): the states that predict the targets
        tokens = inputs["input_ids"][targets]
        nll = -head_logprobs(self.model, before, tokens).sum()
        if not judge:
            return nll
        likeliest = [head_logits(self.model, part).argmax(-1) for part in before.split(JUDGED)]
        return nll, torch.cat(likeliest) == tokens


class _Shrunk(torch.autograd.Function):
    """Its input, whose gradient is multiplied by a factor. A hook on the tensor would do the same
    and be left out, without a word, of what torch.compile makes.
    """

    @staticmethod
    def forward(ctx: Any, whole: Tensor, factor: float) -> Tensor:
        ctx.factor = factor
        return whole.view_as(whole)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None]:
        return gradients[0] * ctx.factor, None


def shrink_embedding_gradient(model: Any, factor: float) -> RemovableHandle:
    """Multiply the gradient that reaches the input embedding through what is read by `factor`; what
    the model computes stays (Zeng et al. 2022, section 2.2: e * a + e.detach() * (1 - a)).

    A head that shares the embedding's weights keeps its own part of their gradient whole. It holds
    until the handle that is returned is removed.
    """

    def shrink(_module: nn.Module, _inputs: Any, output: Tensor) -> Tensor:
        shrunk: Tensor = _Shrunk.apply(output, factor)
        return shrunk

    handle: RemovableHandle = model.get_input_embeddings().register_forward_hook(shrink)
    return handle


def compile_reading(reader: LanguageModel, window: Tensor, separator_id: int) -> None:
    """torch.compile for all that training and validation read, but not for writing samples.

    window: (1, T), any of them.

    Raises:
        RecipeError: the model reads documents of such windows in rows of their own, whose lengths
            differ from batch to batch. PlatformError: there is no compiler.
    """
    device = next(reader.parameters()).device
    ids = window.to(device, torch.long)
    if "position_ids" not in documents_apart(ids, separator_id, reader.model).inputs:
        raise RecipeError(
            f"pretrain.compile: {type(reader.model).__name__} reads each document in a row of its "
            f"own, so every batch would be compiled anew",
            "leave out compile",
        )
    compile_whole(reader)


def update(
    engine: Any,
    batch: Tensor,
    objective: Objective,
    learning_rate: float,
    rows_per_pass: int,
    stage: StageContext,
) -> tuple[float, float]:
    """One update on the objective's global batch, (B, ...); returns its mean loss in nats a token
    and the gradient norm.
    """
    target_tokens = max(objective.targets(batch), 1)
    # the plan of batches makes all of them count
    mine, _ = share_of(len(batch), stage.world_size, stage.rank)
    share = batch[mine].to(stage.device, torch.long)  # (B / processes, ...)
    passes = share.split(rows_per_pass)
    summed = torch.zeros((), device=share.device)
    engine.train()
    for i, rows in enumerate(passes):
        inputs, targets, _ = objective.apart(rows, engine.module.model)
        nll = engine(inputs, targets)
        # The engine averages gradients over processes; with this factor the local sums make the
        # global mean.
        backward(engine, nll * (stage.world_size / target_tokens), last=i == len(passes) - 1)
        summed += nll.detach()
    grad_norm = step(engine, learning_rate)
    return all_reduce_sum(summed).item() / target_tokens, grad_norm


def next_token_nll(engine: Any, ids: Tensor, separator_id: int) -> Tensor:
    """Sum over windows (B, T) and positions of -log p(next token), in nats; no document sees
    another. The engine wraps a `LanguageModel`, and autocasts.
    """
    inputs, targets, _ = documents_apart(ids, separator_id, engine.module.model)
    return engine(inputs, targets)


@torch.no_grad()
def evaluate(
    engine: Any, held_out: Tensor, separator_id: int, rows_per_pass: int, stage: StageContext
) -> dict[str, float]:
    """Mean loss a token, in nats, on held-out windows (N, T), shared out over processes."""
    engine.eval()
    summed = torch.zeros((), device=stage.device)
    for group in held_out.split(stage.world_size * rows_per_pass):
        mine, counting = share_of(len(group), stage.world_size, stage.rank)
        ids = group[mine[: max(1, counting)]].to(stage.device, torch.long)
        summed += next_token_nll(engine, ids, separator_id) * (counting > 0)
    return {
        "validation_loss": all_reduce_sum(summed).item() / (len(held_out) * (held_out.shape[1] - 1))
    }
