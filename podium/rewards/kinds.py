"""Which kinds of reward there are, and the only place that makes one.

In a recipe a reward is a text, a section, or a list of them with weights:

    reward: reward                              # a reward stage of this run, a folder, a hub id
    reward: rewards/length.py:score             # a Python function in a file (or module:function)
    reward: {model: org/reward-model}           # read as text, by a tokenizer of its own
    reward: {endpoint: "http://...", model: m}  # asked over HTTP
    reward:
      - {reward: reward, weight: 1.0}           # the weighted sum
      - {reward: rewards/length.py:score, weight: 0.1}

A further kind is a subclass of `podium.rewards.protocol.Reward` and one row of KINDS; where it has
keys of its own, also a class in `podium.rewards.specs`. Nothing else in Podium knows the kinds.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

from podium.rewards.specs import EndpointSpec, ModelSpec, Ref, RewardSpec, Weighted

if TYPE_CHECKING:
    from podium.rewards.endpoint import Endpoint
    from podium.rewards.protocol import Reward

__all__ = [
    "Kind",
    "Origin",
    "kind_of",
    "make_reward",
    "name_of",
    "open_endpoint",
    "parents",
    "parts",
]


class Origin(Protocol):
    """Who asks, as far as a reward needs it: a running stage, or `podium.run.place.Place`."""

    @property
    def run_dir(self) -> Path:
        """The run's folder, where what an endpoint answered is kept."""
        ...

    def parent(self, ref: str, same_tokenizer: bool = True) -> Path:
        """The folder of a reward model."""
        ...

    def code(self, path: Path) -> None:
        """Note a source file in the lineage."""
        ...


class Kind(NamedTuple):
    """One row.

    recognises: whether what the recipe says is of this kind; the first row that does has it.
    make: (what it says, origin, same_tokenizer) -> reward. parent: the reward model that it names,
    which the chain looks for as it does for every parent. check: finds what is wrong before
    anything runs.
    """

    recognises: Callable[[Ref], bool]
    make: Callable[[Any, Origin, bool], Reward]
    parent: Callable[[Any], str] | None = None
    check: Callable[[Any], object] | None = None


def make_reward(spec: RewardSpec, origin: Origin, same_tokenizer: bool = True) -> Reward:
    """The reward a recipe names, on the CPU unless it says where it lives.

    same_tokenizer: scores will be asked for by ids, so a reward model that is read by ids must
    share the tokenizer of the other parents.

    Raises:
        ParentError: no such reward model. FunctionError: no such function. EndpointError: its key
            is not set.
    """
    made = [
        (kind_of(part.reward).make(part.reward, origin, same_tokenizer), part.weight)
        for part in parts(spec)
    ]
    if not isinstance(spec, list):
        return made[0][0]
    from podium.rewards.weighted_sum import WeightedSum

    return WeightedSum(made)


def parts(spec: RewardSpec | None) -> list[Weighted]:
    """The parts of a sum; anything else is a sum of one, null of none."""
    if spec is None:
        return []
    return list(spec) if isinstance(spec, list) else [Weighted(reward=spec)]


def parents(spec: RewardSpec | None) -> Iterator[str]:
    """The reward models that are named by a text alone: stages, folders and hub ids, from which a
    value model can start.
    """
    named = (part.reward for part in parts(spec))
    return (ref for ref in named if isinstance(ref, str) and kind_of(ref) is KINDS["model"])


def kind_of(ref: Ref) -> Kind:
    """The row of KINDS that a part of the recipe's reward belongs to."""
    return next(kind for kind in KINDS.values() if kind.recognises(ref))


def name_of(ref: Ref) -> str:
    """A part of a reward in a few words, for tables and cards."""
    if isinstance(ref, EndpointSpec):
        return f"{ref.model} at {ref.endpoint}"
    return ref if isinstance(ref, str) else ref.model


def _model(text: str, origin: Origin, same_tokenizer: bool) -> Reward:
    """Podium's own by ids; one without Podium's mark as a foreign one, by text."""
    from podium.rewards.foreign import is_foreign
    from podium.rewards.model import load_reward_model
    from podium.rewards.model_reward import ModelReward

    if is_foreign(origin.parent(text, same_tokenizer=False)):
        return _foreign(ModelSpec(model=text), origin, same_tokenizer)
    return ModelReward(*load_reward_model(origin.parent(text, same_tokenizer)))


def _foreign(spec: ModelSpec, origin: Origin, same_tokenizer: bool) -> Reward:
    from podium.rewards.foreign import Placed, load_by_text

    reward = load_by_text(origin.parent(spec.model, same_tokenizer=False), spec)
    if spec.device is None and spec.dtype is None:
        return reward
    return Placed(reward, spec.device)


def _endpoint(spec: EndpointSpec, origin: Origin, same_tokenizer: bool) -> Reward:
    from podium.rewards.endpoint import EndpointReward

    return EndpointReward(open_endpoint(spec, origin))


def open_endpoint(spec: EndpointSpec, origin: Origin) -> Endpoint:
    """A served model whose replies are kept in the run's folder."""
    from podium.rewards.endpoint import Endpoint

    return Endpoint(spec, origin.run_dir / "asked")


def _check_key(spec: EndpointSpec) -> None:
    from podium.rewards.endpoint import read_key

    read_key(spec)


def _function(text: str, origin: Origin, same_tokenizer: bool) -> Reward:
    from podium.rewards.function import FunctionReward

    reward = FunctionReward(text)
    origin.code(reward.file)
    return reward


def _check_function(text: str) -> None:
    from podium.rewards.function import load_function

    load_function(text)


KINDS: dict[str, Kind] = {
    "endpoint": Kind(lambda ref: isinstance(ref, EndpointSpec), _endpoint, check=_check_key),
    "foreign": Kind(lambda ref: isinstance(ref, ModelSpec), _foreign, lambda spec: spec.model),
    "function": Kind(lambda ref: ":" in str(ref), _function, check=_check_function),
    "model": Kind(lambda ref: True, _model, str),
}
