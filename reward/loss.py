"""The K-way preference losses: flat scores of many rankings in, one loss a ranking out
(InstructGPT, section 3.5).

A batch of rankings of different K is three flat tensors of the same length N (all responses, one
after the other): `scores`, `ranks` (1 is best, equal ranks are a tie) and `ranking_ids` (which
ranking a response belongs to). Everything is vectorised over the (N, N) table of pairs, of which
only those inside one ranking count; there is no loop over pairs.

Normalisation, in one place: a ranking's loss is the mean over its pairs (or its choices), so a
ranking of nine counts as much as a ranking of two. The caller sums rankings and divides by the
number of rankings of the whole step, over all micro-batches and all processes; that makes the loss
and its gradient independent of how the step was cut.
"""

from typing import Literal

import torch
import torch.nn.functional as F
from torch import Tensor

__all__ = [
    "LossName",
    "pairwise_losses",
    "plackett_luce_losses",
    "strict_pairs",
]

LossName = Literal["pairwise", "plackett_luce"]


def strict_pairs(ranks: Tensor, ranking_ids: Tensor) -> tuple[Tensor, Tensor]:
    """Indices of every pair (better, worse) inside one ranking; tied pairs are dropped
    (InstructGPT, appendix C.2).

    ranks: (N,) 1 is best. ranking_ids: (N,) long. Returns two long tensors of shape (P,).
    """
    same = ranking_ids[:, None] == ranking_ids[None, :]  # (N, N)
    better, worse = torch.nonzero(same & (ranks[:, None] < ranks[None, :]), as_tuple=True)
    return better, worse


def pairwise_losses(
    scores: Tensor,
    ranks: Tensor,
    ranking_ids: Tensor,
    num_rankings: int,
    ratings: Tensor | None = None,
) -> Tensor:
    """-1/P * sum over the P strict pairs of log sigmoid(r_w - r_l - margin), one value a ranking.

    scores: (N,) float, one a response. ranks: (N,). ranking_ids: (N,) long in [0, num_rankings).
    ratings: (N,) or None; the margin of a pair is the amount by which the better response's rating
    exceeds the worse's (never below 0), so a strong preference asks for a wide gap and a slight one
    for a narrow gap. Returns (num_rankings,); a ranking without a strict pair has loss 0 and no
    gradient.
    """
    better, worse = strict_pairs(ranks, ranking_ids)
    gaps = scores[better] - scores[worse]  # (P,)
    if ratings is not None:
        gaps = gaps - (ratings[better] - ratings[worse]).clamp(min=0)
    return _mean_by_ranking(-F.logsigmoid(gaps), ranking_ids[better], num_rankings)


def plackett_luce_losses(
    scores: Tensor, ranks: Tensor, ranking_ids: Tensor, num_rankings: int
) -> Tensor:
    """Negative log-likelihood of the order under Plackett-Luce, a mean over the choices of each
    ranking.

    Each response that beats something is one choice: it was picked from itself and everything
    ranked strictly below it. Tied responses never compete, as in the pairwise loss, and for K = 2
    the two losses are the same number. Shapes as in `pairwise_losses`; returns (num_rankings,).
    """
    same = ranking_ids[:, None] == ranking_ids[None, :]
    below = same & (ranks[:, None] < ranks[None, :])  # (N, N): j is strictly worse than i
    field = below | torch.eye(len(scores), dtype=torch.bool, device=scores.device)
    log_field = torch.where(field, scores[None, :], -torch.inf).logsumexp(dim=1)  # (N,)
    chooses = below.any(dim=1)
    return _mean_by_ranking((log_field - scores)[chooses], ranking_ids[chooses], num_rankings)


def _mean_by_ranking(values: Tensor, ranking_ids: Tensor, num_rankings: int) -> Tensor:
    """Mean of `values` (M,) over each ranking id (M,); 0 where a ranking has none. Returns
    (num_rankings,).
    """
    totals = values.new_zeros(num_rankings).index_add(0, ranking_ids, values)
    counts = values.new_zeros(num_rankings).index_add(0, ranking_ids, torch.ones_like(values))
    return totals / counts.clamp(min=1)
