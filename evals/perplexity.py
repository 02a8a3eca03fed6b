"""How well a model predicts text it was not trained on: pretraining loss, bits per byte,
perplexities.

The pretraining loss is measured on held-out documents packed and kept apart as in pretraining, so
base, SFT and PPO models are compared on the loss that the alignment tax is about. Models with
different tokenizers are compared by bits per byte.
"""

import re
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.packing import documents_apart
from evals.loglikelihood import Pair, encode_pair, loglikelihoods
from podium.output_head import last_states
from podium.sampling.logprobs import head_logprobs


class Perplexity(NamedTuple):
    """Of whole texts, each read from its start; names and definitions as in lm-eval's
    `loglikelihood_rolling`.
    """

    bits_per_byte: float
    byte_perplexity: float
    word_perplexity: float  # words are what whitespace separates
    token_perplexity: float


@torch.no_grad()
def block_losses(
    model: PreTrainedModel, blocks: np.ndarray, separator_id: int, batch_tokens: int = 4096
) -> np.ndarray:
    """Mean loss in nats per token (N,) of each packed block (N, T); the first token of a block is
    not predicted.

    The mean over blocks is the pretraining loss; the single values pair two models for an interval.
    """
    losses = []
    size = max(1, batch_tokens // blocks.shape[1])
    for start in range(0, len(blocks), size):
        # (B, T)
        ids = torch.as_tensor(blocks[start : start + size], dtype=torch.long, device=model.device)
        inputs, targets, block = documents_apart(ids, separator_id, model)
        before = last_states(model, **inputs)[:, :-1][targets[:, 1:]]  # (S, d), S predicted tokens
        nll = -head_logprobs(model, before, inputs["input_ids"][targets])
        row = block[:, None].expand_as(targets)[targets]  # the block of each of them
        summed = nll.new_zeros(len(ids)).index_add(0, row, nll)
        losses.append((summed / (ids.shape[1] - 1)).cpu().numpy())
    return np.concatenate(losses)


def rolling_windows(ids: list[int], prefix: int, max_length: int) -> list[Pair]:
    """Cut a text into (context, continuation) so that each token is predicted once (lm-eval's
    disjoint windows).

    A window's context is the one token before it; the last window, being shorter, takes as much
    context as fits.
    """
    windows = [([prefix], ids[:max_length])]
    for start in range(max_length, len(ids), max_length):
        end = min(start + max_length, len(ids))
        windows.append((ids[end - max_length - 1 : start], ids[start:end]))
    return windows


def perplexity(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    texts: Sequence[str],
    max_length: int,
) -> Perplexity:
    """Perplexities over all `texts` together: the total negative log-likelihood divided by each
    unit's total count.

    A bos token that the tokenizer adds is context and not predicted (lm-eval predicts it after a
    second one).
    """
    windows = []
    for text in texts:
        (prefix,), ids = encode_pair(tokenizer, "", text)
        windows += rolling_windows(ids, prefix, max_length)
    likelihoods = loglikelihoods(model, windows, max_length)
    nats = -sum(likelihood.total for likelihood in likelihoods)
    byte_count = sum(len(text.encode()) for text in texts)
    return Perplexity(
        bits_per_byte=nats / byte_count / np.log(2),
        byte_perplexity=float(np.exp(nats / byte_count)),
        word_perplexity=float(np.exp(nats / sum(len(re.split(r"\s+", text)) for text in texts))),
        token_perplexity=float(np.exp(nats / sum(likelihood.tokens for likelihood in likelihoods))),
    )
