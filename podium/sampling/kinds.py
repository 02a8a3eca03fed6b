"""Which kinds of sampler there are, and the only place that makes one.

A recipe chooses by its section `sampler:`; without it the embedded sampler decodes in this process.
Another backend is a config, a class with the methods of `podium.sampling.protocol.Sampler`, and one
row of KINDS. Nothing else in Podium knows which kind it samples from.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Literal, NamedTuple

from pydantic import BaseModel, ConfigDict, Field

from podium.errors import PodiumError, RecipeError

if TYPE_CHECKING:
    import torch
    from torch import nn

    from podium.sampling.protocol import Sampler, StreamingSampler

__all__ = [
    "KINDS",
    "EmbeddedConfig",
    "Kind",
    "Needs",
    "SamplerConfig",
    "VllmConfig",
    "config_class",
    "make_sampler",
    "make_streaming_sampler",
]


class SamplerConfig(BaseModel):
    """What every kind's section has in common: its name. `exact` is a property of the kind: in fp32
    its log-probabilities are those of a training pass but for the last digits.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    exact: ClassVar[bool] = False

    kind: str = Field(description="a row of podium.sampling.kinds.KINDS")


class EmbeddedConfig(SamplerConfig):
    """Batched decoding in this process, bit-exact on a CPU."""

    exact: ClassVar[bool] = True

    kind: Literal["embedded"] = Field("embedded", description="decode in this process")
    max_tokens: int = Field(
        16384, gt=0, description="padded tokens a prefill pass; lower it where memory is short"
    )


class VllmConfig(SamplerConfig):
    """A vLLM server (`podium sampler install vllm`), which is started and stopped with the stage,
    or one that runs already; for stages of one process.
    """

    kind: Literal["vllm"] = Field("vllm", description="a vLLM server samples")
    python: str | None = Field(
        None,
        description="vLLM's Python; null: $PODIUM_VLLM_PYTHON, or what `podium sampler install "
        "vllm` made",
    )
    url: str | None = Field(
        None, description="a server that runs already (`podium sampler serve`), in place of ours"
    )
    dtype: Literal["auto", "fp32", "bf16"] = Field(
        "auto", description="of the server's weights; auto: as the stage samples"
    )
    cache_gb: float = Field(
        2.0, gt=0, description="GiB of keys and values; what does not fit waits its turn"
    )
    folder: str | None = Field(
        None, description="where weights are handed over; null: shared memory if there is room"
    )
    timeout: float = Field(
        300.0, gt=0, description="seconds of silence after which the server is started again"
    )


@dataclass(frozen=True)
class Needs:
    """What a stage asks of its sampler. A kind that has no use for a field ignores it.

    pad_token_id: fills batches. max_batch: rows decoded together. dtype: sample from a copy of the
    weights in this type, None from the model itself. compiled: the run is long enough for
    compilation to pay.
    """

    pad_token_id: int
    max_batch: int
    dtype: torch.dtype | None
    compiled: bool


class Kind(NamedTuple):
    """One row: the section it takes and the function that makes the sampler."""

    config: type[SamplerConfig]
    make: Callable[[Any, nn.Module, Needs], Sampler]


def make_sampler(
    config: SamplerConfig,
    model: nn.Module,
    pad_token_id: int,
    max_batch: int = 128,
    dtype: torch.dtype | None = None,
    compiled: bool = False,
) -> Sampler:
    """The sampler that `config` names, on the weights of `model`; the other arguments as `Needs`
    says.

    Raises:
        RecipeError: there is no such kind.
    """
    needs = Needs(pad_token_id, max_batch, dtype, compiled)
    return _kind(config.kind).make(config, model, needs)


def make_streaming_sampler(
    config: SamplerConfig, model: nn.Module, pad_token_id: int
) -> StreamingSampler:
    """A sampler that yields tokens as they are drawn, as the chat wants them.

    Raises:
        PodiumError: samplers of this kind cannot stream.
    """
    from podium.sampling.protocol import StreamingSampler

    sampler = make_sampler(config, model, pad_token_id)
    if not isinstance(sampler, StreamingSampler):
        raise PodiumError(
            f"the sampler kind '{config.kind}' cannot stream, and the chat shows answers as they "
            f"are drawn",
            "set sampler.kind to embedded in the run's recipe.yaml; the weights are the same",
        )
    return sampler


def config_class(section: Any) -> type[SamplerConfig]:
    """The config of the kind that a recipe's `sampler:` section names.

    Raises:
        RecipeError: there is no such kind.
    """
    kind = section.get("kind", "embedded") if isinstance(section, dict) else "embedded"
    return _kind(kind).config


def _kind(name: Any) -> Kind:
    if name not in KINDS:
        raise RecipeError(
            f"'sampler.kind': there is no sampler '{name}'", f"one of: {', '.join(KINDS)}"
        )
    return KINDS[name]


def _embedded(config: EmbeddedConfig, model: nn.Module, needs: Needs) -> Sampler:
    from podium.sampling.embedded import EmbeddedSampler

    return EmbeddedSampler(
        model,
        needs.pad_token_id,
        needs.max_batch,
        config.max_tokens,
        dtype=needs.dtype,
        compiled=needs.compiled,
    )


def _vllm(config: VllmConfig, model: nn.Module, needs: Needs) -> Sampler:
    from podium.sampling.vllm.sampler import VllmSampler
    from podium.sampling.vllm.server import Settings

    settings = Settings(**config.model_dump(exclude={"kind"}))
    return VllmSampler(settings, model, needs.max_batch, needs.dtype)


KINDS: dict[str, Kind] = {
    "embedded": Kind(EmbeddedConfig, _embedded),
    "vllm": Kind(VllmConfig, _vllm),
}
