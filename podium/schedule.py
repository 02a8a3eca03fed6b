"""Learning-rate schedules as pure functions: position in, fraction of the peak out."""

import math

__all__ = [
    "constant_with_warmup",
    "cosine_to_fraction",
]


def cosine_to_fraction(step: float, total: float, warmup: float = 0.0, floor: float = 0.1) -> float:
    """Linear warm-up from 0 to 1 over `warmup`, then a cosine from 1 down to `floor` at `total`.

    `step`, `total` and `warmup` share any one unit (steps, tokens). Before an update pass the
    position *after* it (step + 1) so that the first update is not wasted at a rate of zero. Beyond
    `total` the value stays at `floor`. Source: InstructGPT appendix C (cosine to 10 % of the peak);
    GPT-3 appendix B (warm-up counted in tokens).
    """
    if step < warmup:
        return step / warmup
    if step >= total:
        return floor
    progress = (step - warmup) / (total - warmup)
    return floor + (1.0 - floor) * 0.5 * (1.0 + math.cos(math.pi * progress))


def constant_with_warmup(step: float, warmup: float, start: float = 0.1) -> float:
    """Linear from `start` at step 0 to 1 at `warmup`, then constant 1.

    Source: InstructGPT C.4: ten iterations of warm-up that begin at a tenth of the peak.
    """
    if step >= warmup:
        return 1.0
    return start + (1.0 - start) * step / warmup
