"""How the next token is chosen: one uniform number a token, temperature, top-k and top-p."""

from collections.abc import Sequence

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "pick_tokens",
    "row_uniforms",
    "tempered",
]


def row_uniforms(seed: int, rows: Sequence[int], count: int) -> Tensor:
    """Uniform numbers (len(rows), count) in [0, 1), each row from its own stream named by (seed,
    row).

    One draw a token decides it by the inverse of the cumulative distribution, so what a row says
    depends on the seed, its index and its prompt alone: not on who shares its batch, when a row was
    refilled, or the number of ranks.
    """
    draws = [
        np.random.Generator(np.random.Philox(key=[seed, row])).random(count, dtype=np.float32)
        for row in rows
    ]
    return torch.from_numpy(np.stack(draws))


def pick_tokens(
    logits: Tensor,
    uniforms: Tensor,
    temperature: float,
    top_k: int,
    top_p: float,
    absent: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """The next token of every row and its log-probability.

    Args:
        logits: (B, V), any float type. uniforms: (B,) in [0, 1).
        temperature: 0 takes the most likely token; its log-probability is then that of temperature
            1.
        top_k, top_p: 0 and 1.0 switch them off.
        absent: ids (N,) that are never chosen, because the tokenizer has no token for them.

    Returns:
        tokens (B,) and logprobs (B,) fp32: of the whole tempered distribution, before top-k, top-p
        and absent ids cut it, since that is the distribution whose ratio PPO takes. What is sampled
        is that distribution divided by the mass Z of the ids that may be chosen. Trainer and
        reference read the same whole distribution, so that ratios are exactly 1 before any step;
        that Z is left out of them on both sides adds A grad log Z(s) to PPO's gradient, whose mean
        over the tokens of a state is 0, for advantages A measured from that state's value. Of a
        trained model the absent ids hold less than a millionth of the mass, of a random one their
        share of the rows.
    """
    logprobs = F.log_softmax(tempered(logits, temperature or 1.0), dim=-1)  # (B, V)
    choice = logprobs if absent is None else logprobs.index_fill(-1, absent, -torch.inf)
    if temperature == 0:
        tokens = choice.argmax(-1)
    else:
        cumulative = _truncated(choice, top_k, top_p).exp().cumsum(-1)  # (B, V)
        # Uniforms are multiples of 2**-24 below 1, so the product stays below the total in fp32 too
        # and the search never runs off the end.
        target = uniforms[:, None] * cumulative[:, -1:]
        tokens = torch.searchsorted(cumulative, target, right=True).squeeze(-1)
    return tokens, logprobs.gather(-1, tokens[:, None]).squeeze(-1)


def _truncated(logprobs: Tensor, top_k: int, top_p: float) -> Tensor:
    """Log-probabilities (B, V) with -inf outside the top k and outside the smallest set of mass
    top_p.
    """
    if 0 < top_k < logprobs.shape[-1]:
        kth = logprobs.topk(top_k, dim=-1).values[:, -1:]
        logprobs = logprobs.masked_fill(logprobs < kth, -torch.inf)
    if top_p < 1.0:
        ordered, index = logprobs.sort(dim=-1, descending=True)
        probabilities = ordered.softmax(-1)
        # mass of the tokens more likely than this one
        before = probabilities.cumsum(-1) - probabilities
        ordered = ordered.masked_fill(before >= top_p, -torch.inf)
        logprobs = torch.full_like(logprobs, -torch.inf).scatter(-1, index, ordered)
    return logprobs


def tempered(logits: Tensor, temperature: float) -> Tensor:
    """Logits (N, V) in fp32 at a temperature; at 1 without another pass over them."""
    return logits.float() if temperature == 1.0 else logits.float() / temperature
