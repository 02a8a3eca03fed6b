"""The alignment tax: what a tuned model lost of the skills that its tuning never touched
(InstructGPT, section 4.2).

Two measures on which model and reference are paired: the loss on each block of held-out pretraining
text, and each fact question right or wrong. A difference whose interval includes zero is reported
as such.
"""

from typing import NamedTuple

import numpy as np

from podium.statistics import Estimate, paired_difference


class Tax(NamedTuple):
    """How much a model is worse than its reference; positive = the tax was paid."""

    loss_increase: Estimate  # share of the reference's loss, 0.02 = 2 %
    accuracy_drop: Estimate | None  # share of questions, None when no questions were asked


def alignment_tax(
    losses: np.ndarray,
    reference_losses: np.ndarray,
    correct: np.ndarray | None = None,
    reference_correct: np.ndarray | None = None,
) -> Tax:
    """Tax of a model with `losses` (N) by block and `correct` (Q) by question, against the same of
    its reference.
    """
    increase = paired_difference(losses, reference_losses, range(len(losses)))
    scale = float(reference_losses.mean())
    ends = (None if end is None else end / scale for end in (increase.low, increase.high))
    drop = None
    if correct is not None and reference_correct is not None:
        drop = paired_difference(reference_correct, correct, range(len(correct)), (-1.0, 1.0))
    return Tax(Estimate(increase.value / scale, *ends), drop)
