"""DPO's loss: a pure function of four log-probabilities, as TRL trains with it and as validation
reports it.
"""

import torch.nn.functional as F
from torch import Tensor


def dpo_margin(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """beta (log pi(y_w) / ref(y_w) - log pi(y_l) / ref(y_l)): by how much the reward that the
    policy implies prefers the chosen response. Rafailov et al. 2023, equation 5 and section 4.

    Args:
        chosen, rejected, ref_chosen, ref_rejected: (N,) log-probabilities of whole responses.

    Returns:
        (N,) in units of reward.

    Raises:
        ValueError: shapes that would broadcast silently.
    """
    for other in (rejected, ref_chosen, ref_rejected):
        if other.shape != chosen.shape:
            raise ValueError(f"shapes differ: {tuple(chosen.shape)} and {tuple(other.shape)}")
    return beta * ((chosen - ref_chosen) - (rejected - ref_rejected))


def dpo_loss(
    chosen: Tensor, rejected: Tensor, ref_chosen: Tensor, ref_rejected: Tensor, beta: float
) -> Tensor:
    """-log sigmoid of the margin: equation 7 of Rafailov et al. 2023. (N,) each; log 2 where policy
    and reference are equal.
    """
    return -F.logsigmoid(dpo_margin(chosen, rejected, ref_chosen, ref_rejected, beta))
