"""PPO's losses: pure functions over the N target tokens of a batch, one number a token.

Normalisation: every loss here is per token. The update adds them up and divides by the number of
action tokens of the whole minibatch, over all processes and micro-batches, so the split changes
nothing. The ptx loss is divided by the number of its own target tokens and multiplied by
`ptx_coef`. So both are means per token: the policy's over advantages of variance 1, ptx's in nats.
The paper's 27.8 multiplies losses whose normalisation it does not give.
"""

import torch
from torch import Tensor

__all__ = [
    "clip_fraction",
    "clipped_policy_loss",
    "clipped_value_loss",
    "explained_variance",
    "k1",
    "k3",
]


def clipped_policy_loss(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float
) -> Tensor:
    """max(-A r, -A clip(r, 1 - c, 1 + c)) with r = pi / pi_old (Schulman et al. 2017, equation 7,
    sign reversed).

    All arguments (N,); returns (N,). Gradients flow through `logprobs` alone.
    """
    _same_shape(logprobs, old_logprobs, advantages)
    ratio = (logprobs - old_logprobs).exp()
    return torch.maximum(
        -advantages * ratio, -advantages * ratio.clamp(1 - clip_range, 1 + clip_range)
    )


def clipped_value_loss(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float
) -> Tensor:
    """max of the squared errors of the new value and of the new value held within +-c of the old,
    halved.

    All arguments (N,); returns (N,). Gradients flow through `values` alone.
    """
    _same_shape(values, old_values, returns)
    held = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum((values - returns) ** 2, (held - returns) ** 2)


def k1(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """log p - log q at samples of p: unbiased for KL(p || q), any sign. Same shape in and out."""
    _same_shape(logprobs, ref_logprobs)
    return logprobs - ref_logprobs


def k3(logprobs: Tensor, ref_logprobs: Tensor) -> Tensor:
    """q/p - 1 - log(q/p) at samples of p: unbiased for KL(p || q), never negative, less variance
    than k1.

    Source: Schulman 2020, "Approximating KL divergence". Same shape in and out.
    """
    _same_shape(logprobs, ref_logprobs)
    log_ratio = ref_logprobs - logprobs
    return torch.expm1(log_ratio) - log_ratio


def clip_fraction(deviation: Tensor, clip_range: float) -> Tensor:
    """Where clipping binds, as 0/1 floats (N,). deviation: (N,), ratio - 1 or value - old value."""
    return (deviation.abs() > clip_range).float()


def explained_variance(values: Tensor, returns: Tensor) -> Tensor:
    """1 - Var(returns - values) / Var(returns): 1 is perfect, 0 no better than a constant. (N,),
    (N,) -> scalar.
    """
    _same_shape(values, returns)
    return 1 - (returns - values).var(correction=0) / returns.var(correction=0).clamp(min=1e-8)


def _same_shape(first: Tensor, *others: Tensor) -> None:
    """Broadcasting [N] against [N, 1] makes an N x N loss that still trains, badly; so shapes must
    be equal.
    """
    for other in others:
        if other.shape != first.shape:
            raise ValueError(f"shapes differ: {tuple(first.shape)} and {tuple(other.shape)}")
