"""Low-rank adapters (LoRA): one config and one way to wrap, for the language models of SFT and PPO
and for the scoring models of the reward stage and of PPO's value function.

peft takes seconds to import, so only the functions that need it do.
"""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Literal, cast

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from podium.errors import RecipeError

if TYPE_CHECKING:
    import peft
    from transformers import PreTrainedModel

__all__ = [
    "LoraConfig",
    "embedding_names",
    "merge_lora",
    "peft_config",
    "with_lora",
]

# What the model is for decides which layers peft trains beside the adapters: a fresh scalar head
# (SEQ_CLS) has to learn, a language model's head (CAUSAL_LM) stays as it is.
Task = Literal["CAUSAL_LM", "SEQ_CLS"]


# Mamba and its kin; peft refuses to wrap these layers of theirs.
READ_PAST_ADAPTERS = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")


class LoraConfig(BaseModel):
    """Low-rank adapters (Hu et al. 2021): W + B A alpha / r, where only A and B train (and a reward
    model's head). `final/` holds the merged model.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    r: int = Field(16, gt=0, description="rank of the update")
    alpha: int = Field(32, gt=0, description="the update is scaled by alpha / r")
    dropout: float = Field(0.0, ge=0, lt=1, description="on the adapters' input")
    target_modules: str | list[str] = Field("all-linear", description="layers that get an adapter")


def peft_config(
    lora: LoraConfig,
    task: Task,
    trained_tokens: list[int] | None = None,
    model: PreTrainedModel | None = None,
) -> peft.LoraConfig:
    """The same in peft's words. `trained_tokens`: ids whose rows in the embedding (and in an output
    head of its own) train too, because `model` did not know them before.

    Raises:
        RecipeError: `target_modules` names a layer that `model` has not, or one of those tables.
    """
    import peft

    tables = embedding_names(model) if model is not None and trained_tokens else []
    if model is not None:
        _check_targets(lora.target_modules, model, tables)
    return peft.LoraConfig(
        task_type=task,
        r=lora.r,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=lora.target_modules,
        exclude_modules=_no_place_for_adapters(model)
        if model is not None and lora.target_modules == "all-linear"
        else None,
        trainable_token_indices={name: list(trained_tokens or []) for name in tables} or None,
    )


def _check_targets(targets: str | list[str], model: PreTrainedModel, tables: list[str]) -> None:
    """Whether every name in `lora.target_modules` (or the pattern that it is) means a layer: peft
    says nothing of a name that fits none as long as another does.
    """
    if targets == "all-linear":
        return
    names = [name for name, _ in model.named_modules() if name]
    if isinstance(targets, str):
        found = {targets: {name for name in names if re.fullmatch(targets, name)}}
    else:
        found = {
            target: {name for name in names if name == target or name.endswith(f".{target}")}
            for target in targets
        }
    lacking = [target for target, layers in found.items() if not layers]
    linear = [name for name, module in model.named_modules() if isinstance(module, nn.Linear)]
    ends = sorted({name.rsplit(".", 1)[-1] for name in linear})
    if lacking:
        raise RecipeError(
            f"lora.target_modules: a {type(model).__name__} has no layer "
            f"{', '.join(repr(target) for target in lacking)}",
            f"name some of {', '.join(ends)}, or say all-linear",
        )
    adapted = {name.rsplit(".", 1)[-1] for layers in found.values() for name in layers}
    if both := sorted(adapted & set(tables)):
        raise RecipeError(
            f"lora.target_modules: '{both[0]}' holds the rows of the tokens that this stage adds, "
            "and they train whole, without an adapter",
            f"leave {both[0]} out of lora.target_modules",
        )


def _no_place_for_adapters(model: PreTrainedModel) -> list[str] | None:
    """Linear layers that take no adapter: those that give more than a product (Llama 4's router),
    and those whose weights a kernel reads past any adapter.
    """
    names = {
        name.rsplit(".", 1)[-1]
        for name, module in model.named_modules()
        if isinstance(module, nn.Linear) and type(module).__name__.endswith("Router")
    }
    if model.config.model_type in READ_PAST_ADAPTERS:
        names |= {"conv1d", "out_proj"}
    return sorted(names) or None


def embedding_names(model: PreTrainedModel) -> list[str]:
    """What the family calls its token embedding (`embed_tokens`, `wte`, `embed_in`, ...), and its
    output head where that has rows of its own.
    """
    words, head = model.get_input_embeddings(), model.get_output_embeddings()
    tables: list[Any] = [words]
    if head is not None and getattr(head, "weight", None) is not getattr(words, "weight", None):
        tables.append(head)
    return [
        name.rsplit(".", 1)[-1]
        for table in tables
        for name, module in model.named_modules()
        if module is table
    ]


def with_lora(model: PreTrainedModel, lora: LoraConfig | None, task: Task, seed: int) -> nn.Module:
    """The model with adapters in its layers and the rest frozen (but a scoring model's head); the
    model itself without `lora`. The seed draws the adapters, and no other random number.
    """
    if lora is None:
        return model
    from peft import get_peft_model

    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return get_peft_model(model, peft_config(lora, task, model=model))


def merge_lora(model: nn.Module) -> PreTrainedModel:
    """Adapters added into the weights and peft gone: the same function as a plain model. A model
    without adapters as it is.
    """
    merge: Any = getattr(model, "merge_and_unload", None)
    return cast("PreTrainedModel", model if merge is None else merge())
