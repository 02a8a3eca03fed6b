"""Log-probabilities on target tokens only: sampler, trainer, reference and evals share these."""

import inspect
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from podium.models import inside_peft
from podium.output_head import last_states, output_head
from podium.sampling.choice import tempered

__all__ = [
    "head_logits",
    "head_logprobs",
    "hidden_before",
    "position_ids",
    "takes_position_ids",
    "token_logprobs",
]

CHUNK_ELEMENTS = 1 << 26  # logits of one chunk: 256 MiB in fp32


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
    target_mask: Tensor,
    temperature: float = 1.0,
    positions: Tensor | None = None,
) -> Tensor:
    """log p(token | the tokens before it) at the target tokens; the LM head runs on those positions
    only.

    Args:
        model: a Hugging Face causal LM, with gradients if they are enabled.
        input_ids, attention_mask: (B, T), padded on either side.
        target_mask: (B, T) bool, True at tokens whose log-probability is wanted; never the first
            column.
        positions: (B, T), of full rows that hold several documents; then the mask is theirs
            (`data.packing.packed_inputs`).

    Returns:
        (N,) fp32, N = target_mask.sum(), row by row.
    """
    hidden = hidden_before(model, input_ids, attention_mask, target_mask, positions)
    return head_logprobs(model, hidden, input_ids[target_mask], temperature)


def hidden_before(
    model: nn.Module,
    input_ids: Tensor,
    attention_mask: Tensor,
    target_mask: Tensor,
    positions: Tensor | None = None,
) -> Tensor:
    """Last hidden states (N, d) at the position before each target token: the states that predict
    them. Of a model whose head is no product (`podium.output_head`), its logits.
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
    hidden = last_states(lm, **inputs)  # (B, T, d)
    return hidden[:, :-1][target_mask[:, 1:]]


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

    vocabulary = inside_peft(model).config.get_text_config().vocab_size
    size = max(1, CHUNK_ELEMENTS // int(vocabulary))
    if len(targets) <= size:
        return chunk(hidden, targets)
    pieces = zip(hidden.split(size), targets.split(size), strict=True)
    if torch.is_grad_enabled():
        return torch.cat(
            [checkpoint(chunk, states, tokens, use_reentrant=False) for states, tokens in pieces]
        )
    return torch.cat([chunk(states, tokens) for states, tokens in pieces])


def head_logits(model: nn.Module, hidden: Tensor) -> Tensor:
    """Logits (N, V) of hidden states (N, d), scaled and capped as the model's own forward does."""
    lm = inside_peft(model)
    return output_head(lm).logits(lm.get_output_embeddings(), hidden)
