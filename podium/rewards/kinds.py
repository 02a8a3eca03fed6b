"""Which kinds of reward there are, and the only place that makes one.

In a recipe a reward is a text, or a list of texts with weights:

    reward: reward                              # a reward stage of this run, a folder, a hub id
    reward: rewards/length.py:score             # a Python function in a file (or module:function)
    reward:
      - {reward: reward, weight: 1.0}           # the weighted sum
      - {reward: rewards/length.py:score, weight: 0.1}

A further kind (an endpoint, a reward model with a tokenizer of its own) is a subclass of
`podium.rewards.protocol.Reward` and one row of KINDS. Nothing else in Podium knows the kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, NamedTuple, Protocol

from pydantic import BaseModel, ConfigDict, Field

if TYPE_CHECKING:
    from podium.rewards.protocol import Reward


class Weighted(BaseModel):
    """One part of a sum."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reward: str = Field(min_length=1, description="a reward model or module:function")
    weight: float = Field(1.0, allow_inf_nan=False, description="its scores are multiplied by it")


RewardSpec = (
    Annotated[str, Field(min_length=1)] | Annotated[list[Weighted], Field(min_length=1)]
)  # what a recipe says


class Origin(Protocol):
    """Who asks, as far as a reward needs it: a running stage, or `podium.run.place.Place`."""

    def parent(self, ref: str, same_tokenizer: bool = True) -> Path:
        """The folder of a reward model."""
        ...

    def code(self, path: Path) -> None:
        """Note a source file in the lineage."""
        ...


class Kind(NamedTuple):
    """One row.

    recognises: whether a text of the recipe is of this kind; the first row that does has it.
    make: (text, origin, same_tokenizer) -> reward. check: finds what is wrong before anything runs;
    None: the text names a parent, which the chain looks for as it does for every parent.
    """

    recognises: Callable[[str], bool]
    make: Callable[[str, Origin, bool], Reward]
    check: Callable[[str], object] | None


def make_reward(spec: RewardSpec, origin: Origin, same_tokenizer: bool = True) -> Reward:
    """The reward a recipe names, in fp32 on the CPU.

    same_tokenizer: scores will be asked for by ids, so a reward model must share the tokenizer of
    the other parents.

    Raises:
        ParentError: no such reward model. FunctionError: no such function.
    """
    made = [(_make(part.reward, origin, same_tokenizer), part.weight) for part in parts(spec)]
    if isinstance(spec, str):
        return made[0][0]
    from podium.rewards.weighted_sum import WeightedSum

    return WeightedSum(made)


def parts(spec: RewardSpec | None) -> list[Weighted]:
    """The parts of a sum; a text is a sum of one, null of none."""
    if spec is None:
        return []
    return [Weighted(reward=spec)] if isinstance(spec, str) else list(spec)


def parents(spec: RewardSpec | None) -> Iterator[str]:
    """The reward models among the parts: stages, folders and hub ids."""
    return (part.reward for part in parts(spec) if kind_of(part.reward).check is None)


def kind_of(text: str) -> Kind:
    """The row of KINDS that a text of the recipe belongs to."""
    return next(kind for kind in KINDS.values() if kind.recognises(text))


def _make(text: str, origin: Origin, same_tokenizer: bool) -> Reward:
    return kind_of(text).make(text, origin, same_tokenizer)


def _model(text: str, origin: Origin, same_tokenizer: bool) -> Reward:
    from podium.rewards.model import load_reward_model
    from podium.rewards.model_reward import ModelReward

    return ModelReward(*load_reward_model(origin.parent(text, same_tokenizer)))


def _function(text: str, origin: Origin, same_tokenizer: bool) -> Reward:
    from podium.rewards.function import FunctionReward

    reward = FunctionReward(text)
    origin.code(reward.file)
    return reward


def _check_function(text: str) -> None:
    from podium.rewards.function import load_function

    load_function(text)


KINDS: dict[str, Kind] = {
    "function": Kind(lambda text: ":" in text, _function, _check_function),
    "model": Kind(lambda text: True, _model, None),
}
