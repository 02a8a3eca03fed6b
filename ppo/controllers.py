"""The small states that PPO carries from one iteration to the next; each saves and loads itself as
plain numbers.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import Tensor, nn

__all__ = [
    "EMA",
    "AdaptiveKL",
    "FixedKL",
    "KLController",
    "RunningScale",
]


class KLController(Protocol):
    """Holds the coefficient of the KL penalty."""

    kl_coef: float

    def update(self, kl: float, episodes: int) -> None:
        """Learn the mean KL (nats a response) of `episodes` responses."""
        ...

    def state_dict(self) -> dict[str, float]: ...

    def load_state_dict(self, state: dict[str, float]) -> None: ...


class FixedKL:
    """InstructGPT: the coefficient stays."""

    def __init__(self, kl_coef: float) -> None:
        self.kl_coef = kl_coef

    def update(self, kl: float, episodes: int) -> None:
        pass

    def state_dict(self) -> dict[str, float]:
        return {"kl_coef": self.kl_coef}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.kl_coef = state["kl_coef"]


class AdaptiveKL(FixedKL):
    """Moves the coefficient so that the KL approaches a target. Ziegler et al. 2019, section 2.2.

    coef *= 1 + clip(kl / target - 1, -0.2, 0.2) * episodes / horizon
    """

    def __init__(self, kl_coef: float, target: float, horizon: float) -> None:
        super().__init__(kl_coef)
        self.target, self.horizon = target, horizon

    def update(self, kl: float, episodes: int) -> None:
        error = min(max(kl / self.target - 1, -0.2), 0.2)
        self.kl_coef *= 1 + error * episodes / self.horizon


class RunningScale:
    """Divides scores by the running standard deviation of all scores seen (no shift: the reward
    bias is meant).

    Welford's method over batches, so any split of the scores gives the same state.
    """

    def __init__(self) -> None:
        self.count, self.mean, self.squares = 0, 0.0, 0.0

    def update(self, scores: Tensor) -> None:
        """Take in the scores (B,) of an iteration's whole batch."""
        scores = scores.double()
        count, mean = len(scores), float(scores.mean())
        total, shift = self.count + count, mean - self.mean
        self.squares += float(((scores - mean) ** 2).sum()) + shift**2 * self.count * count / total
        self.mean += shift * count / total
        self.count = total

    @property
    def std(self) -> float:
        """Standard deviation of what was seen; 1 until there is a spread."""
        return (self.squares / self.count) ** 0.5 if self.squares > 0 else 1.0

    def state_dict(self) -> dict[str, float]:
        return {"count": self.count, "mean": self.mean, "squares": self.squares}

    def load_state_dict(self, state: dict[str, float]) -> None:
        self.count, self.mean, self.squares = int(state["count"]), state["mean"], state["squares"]


class EMA:
    """Exponential moving average of the trained weights, in fp32, updated once an iteration
    (InstructGPT: 0.992).

    It spans about 1 / (1 - decay) iterations. Under ZeRO-3 every process averages its own shard.
    """

    def __init__(self, parameters: Iterable[nn.Parameter], decay: float) -> None:
        self.decay = decay
        self.parameters = [parameter for parameter in parameters if parameter.requires_grad]
        self.average = [
            _stored(parameter).detach().float().clone() for parameter in self.parameters
        ]

    @torch.no_grad()
    def update(self) -> None:
        """Move the average towards the weights by 1 - decay."""
        for average, parameter in zip(self.average, self.parameters, strict=True):
            average.lerp_(_stored(parameter).float(), 1 - self.decay)

    @contextmanager
    def swapped_in(self) -> Iterator[None]:
        """The model holds the average inside, its own weights again after."""
        own = [_stored(parameter).detach().clone() for parameter in self.parameters]
        self._write(self.average)
        try:
            yield
        finally:
            self._write(own)

    @torch.no_grad()
    def _write(self, tensors: list[Tensor]) -> None:
        for tensor, parameter in zip(tensors, self.parameters, strict=True):
            _stored(parameter).copy_(tensor)

    def state_dict(self) -> dict[str, Any]:
        return {"average": self.average}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        for average, saved in zip(self.average, state["average"], strict=True):
            average.copy_(saved)


def _stored(parameter: nn.Parameter) -> Tensor:
    """What this process holds of a parameter: its shard under ZeRO-3, else all of it."""
    return getattr(parameter, "ds_tensor", parameter.data)
