"""What a recipe may say of a reward: names and numbers, nothing that loads anything."""

from __future__ import annotations

from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag, field_validator

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


class EndpointSpec(BaseModel):
    """A model served over HTTP, asked in OpenAI's chat completions. Its key is in no file."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    endpoint: str = Field(
        description="URL before /chat/completions, such as http://localhost:8000/v1"
    )
    model: str = Field(min_length=1, description="the model's name on that server")
    template: str | None = Field(
        None,
        description="what is asked: {prompt} and {response} for a score, {prompt}, {first} and "
        "{second} for a judge of pairs; null: Podium's words",
    )
    key_env: str | None = Field(
        None, description="environment variable that holds the key; null: no key is sent"
    )
    temperature: float = Field(0.0, ge=0, description="of its replies")
    max_tokens: int = Field(256, gt=0, description="longest reply")
    concurrency: int = Field(8, gt=0, le=256, description="questions under way at a time")
    timeout: float = Field(60.0, gt=0, description="seconds to wait for a reply")

    @field_validator("endpoint")
    @classmethod
    def _without_secrets(cls, url: str) -> str:
        parts = urlsplit(url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError("give a whole URL, such as http://localhost:8000/v1")
        if parts.username or parts.password or parts.query:
            raise ValueError(
                "a recipe is kept and shown, so no key may stand in it: put it into an environment "
                "variable and name that by key_env"
            )
        return url


def _shape(value: Any) -> str:
    """Which member of the unions below a value of the recipe is meant to be, so that a mistake in
    it is told as that member's own. (Brackets: such names are not shown to people.)
    """
    if isinstance(value, list):
        return "[sum]"
    if isinstance(value, EndpointSpec) or (isinstance(value, dict) and "endpoint" in value):
        return "[endpoint]"
    return "[model]" if isinstance(value, dict | ModelSpec) else "[text]"


_Text = Annotated[str, Field(min_length=1), Tag("[text]")]
_Model = Annotated[ModelSpec, Tag("[model]")]
_Endpoint = Annotated[EndpointSpec, Tag("[endpoint]")]
Ref = Annotated[_Text | _Model | _Endpoint, Discriminator(_shape)]


class Weighted(BaseModel):
    """One part of a sum."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    reward: Ref = Field(description="a reward model or module:function, or a section of its own")
    weight: float = Field(1.0, allow_inf_nan=False, description="its scores are multiplied by it")


_Sum = Annotated[list[Weighted], Field(min_length=1), Tag("[sum]")]
# What a recipe says.
RewardSpec = Annotated[_Text | _Model | _Endpoint | _Sum, Discriminator(_shape)]
