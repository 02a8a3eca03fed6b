"""What a recipe may say of a reward: names and numbers, nothing that loads anything."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

__all__ = [
    "ModelSpec",
    "Ref",
    "RewardSpec",
    "Weighted",
]


class ModelSpec(BaseModel):
    """A reward model that reads text by its own tokenizer and chat template."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        min_length=1, description="a folder, a hub id or a reward stage; read as text, not ids"
    )
    label: int | str | None = Field(
        None, description="which output is the score, where the model has several"
    )
    chat_template: str | None = Field(
        None, description="a Jinja file to write conversations by; null: the model's own"
    )
    bias: float | None = Field(
        None,
        allow_inf_nan=False,
        description="taken from every score; null: reward_bias of its config.json, or 0",
    )
    device: str | None = Field(
        None, description="where it lives, such as cuda:1; null: with the run's models"
    )
    dtype: Literal["fp32", "bf16", "fp16"] | None = Field(
        None, description="of its weights; null: fp32, autocast as the run is"
    )
    batch_tokens: int = Field(4096, gt=0, description="padded tokens a pass")


def _shape(value: Any) -> str:
    """Which member of the unions below a value of the recipe is meant to be, so that a mistake in
    it is told as that member's own. (Brackets: such names are not shown to people.)
    """
    if isinstance(value, list):
        return "[sum]"
    return "[model]" if isinstance(value, dict | ModelSpec) else "[text]"


_Text = Annotated[str, Field(min_length=1), Tag("[text]")]
_Model = Annotated[ModelSpec, Tag("[model]")]
Ref = Annotated[_Text | _Model, Discriminator(_shape)]


class Weighted(BaseModel):
    """One part of a sum."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reward: Ref = Field(description="a reward model or module:function, or a section of its own")
    weight: float = Field(1.0, allow_inf_nan=False, description="its scores are multiplied by it")


_Sum = Annotated[list[Weighted], Field(min_length=1), Tag("[sum]")]
RewardSpec = Annotated[_Text | _Model | _Sum, Discriminator(_shape)]  # what a recipe says
