"""The guard of a supervised stage: training that diverges goes back to its last healthy checkpoint
and on more slowly, and the logbook says why.

OPT's authors did it by hand (Zhang et al. 2022, section 2.5): when the loss diverged they restarted
from an earlier checkpoint where it was still healthy, with a lower learning rate, and once lowered
the gradient clipping from 1.0 to 0.3. PPO has a guard of its own (`ppo.guard`), whose signs are
others.

Two things are watched. A loss that rises is seen in medians over a window of updates, compared with
the lowest such median so far: one hard batch moves no median. A gradient that explodes is seen at
once, against the median of its norms, unless it is one that clipping leaves as it is: where a model
has learned its data by heart norms are next to nothing, and any hard batch is many times that.

In 126 healthy runs of the four stages on the village the median loss rose by 0.17 nats at the most,
and no gradient norm was above 5 times its median, in reward models 11 times.
"""

import math
from collections import deque
from statistics import median
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field

from podium.metrics import metric_text

__all__ = [
    "GuardConfig",
    "SpikeGuard",
]


class GuardConfig(BaseModel):
    """Thresholds (null switches one off) and what to do when one is crossed."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    window: int = Field(
        20, gt=0, description="updates whose median is judged, so that one hard batch is no breach"
    )
    max_loss_rise: float | None = Field(
        0.3, gt=0, description="nats of the median loss above the lowest median before"
    )
    max_grad_norm: float | None = Field(
        50.0, gt=1, description="a gradient norm, as a multiple of its median"
    )
    on_breach: Literal["rollback", "stop"] = Field(
        "rollback", description="go back and go on slower, or stop"
    )
    max_rollbacks: int = Field(4, ge=0, description="then stop with the reason")
    lr_factor: float = Field(
        0.3,
        gt=0,
        lt=1,
        description="the learning rate is multiplied by it at a rollback, and twice where the run "
        "begins anew, since no checkpoint was healthy",
    )
    clip_factor: float = Field(
        1.0,
        gt=0,
        le=1,
        description="gradient clipping is multiplied by it at a rollback; OPT: once 0.3",
    )


class SpikeGuard:
    """Watches one run. Its state goes into every checkpoint, so that a resumed run judges as the
    unbroken one does.

    Args:
        config: thresholds, and what to do.
        clipping: the norm that gradients are cut to; 0 where they are not.

    Attributes:
        rollbacks: how often the run went back.
        lr_factor, clip_factor: what learning rate and clipping are multiplied by from now on.
        skipped: the updates whose batches are left out, in the order of the breaches.
        back_to: the updates done where it last went back to; None before.
    """

    def __init__(self, config: GuardConfig, clipping: float = 0.0) -> None:
        self.config, self.clipping = config, clipping
        self.losses: deque[float] = deque(maxlen=config.window)
        self.norms: deque[float] = deque(maxlen=config.window)
        self.lowest: float | None = None  # of the medians of full windows
        self.rollbacks = 0
        self.lr_factor = self.clip_factor = 1.0
        self.skipped: list[int] = []
        self.back_to: int | None = None

    def breach(self, loss: float, grad_norm: float | None = None) -> str | None:
        """What is wrong with an update, in words; None when all is well, and then it is remembered.
        A trainer that clips nothing knows no gradient norm.

        A number that is not finite is always a breach.
        """
        for name, value in (("loss", loss), ("gradient norm", grad_norm)):
            if value is not None and not math.isfinite(value):
                return f"{name} is {value}"
        full = len(self.norms) == self.config.window
        usual, most = median(self.norms) if full else math.inf, self.config.max_grad_norm
        limit = math.inf if most is None else max(most * usual, self.clipping)
        if grad_norm is not None and grad_norm > limit:
            return (
                f"gradient norm {metric_text(grad_norm)} is above {most:g} times its median "
                f"{metric_text(usual)} (guard.max_grad_norm)"
            )
        self.losses.append(loss)
        if grad_norm is not None:
            self.norms.append(grad_norm)
        if len(self.losses) < self.config.window:
            return None
        now, rise = median(self.losses), self.config.max_loss_rise
        if self.lowest is None:
            self.lowest = now
        if rise is not None and now > self.lowest + rise:
            return (
                f"loss {metric_text(now)}, the median of {self.config.window} updates, is more "
                f"than {rise:g} above {metric_text(self.lowest)}, its lowest (guard.max_loss_rise)"
            )
        self.lowest = min(self.lowest, now)
        return None

    def doubts(self, step: int, number: int) -> bool:
        """Whether the state after `step` updates, which was gone back to already, led to the breach
        of update `number` at once: an update's loss is that of the state before it, so that a
        checkpoint may hold a state that nobody had seen the loss of.
        """
        return step == self.back_to and number - step <= self.config.window

    @property
    def healthy(self) -> bool:
        """Whether a checkpoint of now is worth going back to: the loss is not on its way up."""
        rise = self.config.max_loss_rise
        if rise is None or self.lowest is None:
            return True
        return median(self.losses) <= self.lowest + rise / 3

    def slow_down(
        self, before: dict[str, Any], skip: int, back_to: int, anew: bool = False
    ) -> None:
        """Judge again as of the state `before`, after `back_to` updates, but go on more slowly, and
        without the batch of update `skip`.

        anew: the run begins again from its start. Then no stretch of it was healthy: not a moment
        was bad but the rate itself, and `lr_factor` counts twice. A rate that is merely somewhat
        too high crosses no threshold, and costs loss to the end.
        """
        rollbacks, lr_factor, clip_factor = self.rollbacks, self.lr_factor, self.clip_factor
        skipped = self.skipped
        self.load_state_dict(before)
        self.rollbacks = rollbacks + 1
        self.lr_factor = lr_factor * self.config.lr_factor ** (2 if anew else 1)
        self.clip_factor = clip_factor * self.config.clip_factor
        self.skipped, self.back_to = [*skipped, skip], back_to

    def state_dict(self) -> dict[str, Any]:
        """All that a resumed run needs."""
        return {
            "healthy": self.healthy,
            "losses": list(self.losses),
            "norms": list(self.norms),
            "lowest": self.lowest,
            "rollbacks": self.rollbacks,
            "lr_factor": self.lr_factor,
            "clip_factor": self.clip_factor,
            "skipped": self.skipped,
            "back_to": self.back_to,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Put back what `state_dict` gave."""
        self.losses = deque(state["losses"], maxlen=self.config.window)
        self.norms = deque(state["norms"], maxlen=self.config.window)
        self.lowest, self.rollbacks = state["lowest"], state["rollbacks"]
        self.lr_factor, self.clip_factor = state["lr_factor"], state["clip_factor"]
        self.skipped, self.back_to = list(state["skipped"]), state.get("back_to")
