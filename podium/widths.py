"""Weights in fewer bits, for models that only answer: bf16, int8, int4.

GLM-130B (Zeng et al. 2022, section 5) kept its weights in 4 bits so that a large model answers on
small cards. As there, the linear layers of the body are narrowed and activations are not; the
embedding, the head and the norms stay in bf16, where errors cost most and tied heads have one copy.
Quantisation itself is torchao's: int8 has one scale a row of a weight, int4 a scale and a zero
point for every 32 weights of a row.

Nothing can be trained in these types: the functions that train never ask for one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import torch
from torch import Tensor, nn

from podium.errors import PlatformError, PodiumError
from podium.models import device_of, load_causal_lm, moved, resize_for

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

__all__ = [
    "Weights",
    "load_to_answer",
    "memory_of",
    "narrow",
]

Weights = Literal["fp32", "bf16", "int8", "int4"]
GROUP = 32  # weights of a row that share a scale in int4; the smallest that torchao has
LEAST_SHARE = 0.5  # of the weights beyond the embeddings must be narrowed, else nothing is won


def load_to_answer(
    path: str | Path,
    weights: Weights,
    device: torch.device,
    tokenizer: PreTrainedTokenizerBase | None = None,
) -> PreTrainedModel:
    """The language model of a folder on `device`, for inference alone, its weights in this width.

    Args:
        tokenizer: the model gets a row for each of its tokens.

    Raises:
        ParentError: as `podium.models.load_causal_lm`. PodiumError, PlatformError: as `narrow`.
    """
    model = load_causal_lm(path)
    if tokenizer is not None:
        resize_for(tokenizer, model)
    return narrow(moved(model, device), weights)


def narrow(model: PreTrainedModel, weights: Weights) -> PreTrainedModel:
    """The model itself, its weights in this width; fp32 leaves it as it is.

    Raises:
        PodiumError: the model's layers cannot be narrowed so, or not on its device.
        PlatformError: the package torchao is missing.
    """
    if weights == "fp32":
        return model
    device = device_of(model)
    model.requires_grad_(False)
    if weights == "int8":  # from fp32, whose rounding it would else inherit twice
        _quantise(model, weights, device)
    # Parameters alone. Among the buffers are rotary frequencies, which would be 0.2 % off in bf16.
    for parameter in model.parameters():
        if type(parameter) is nn.Parameter:
            parameter.data = parameter.data.bfloat16()
    if weights == "int4":  # its scales must have the type of the activations
        _quantise(model, weights, device)
    from podium.attention import choose_attention

    choose_attention(model, device)
    return model


def memory_of(model: nn.Module) -> int:
    """Bytes that the model's parameters and buffers take; shared ones count once."""
    found = {}
    for tensor in (*model.parameters(), *model.buffers()):
        for part in _parts(tensor):
            found[part.untyped_storage().data_ptr()] = part.untyped_storage().nbytes()
    return sum(found.values())


def _parts(tensor: Tensor) -> Iterator[Tensor]:
    """The plain tensors that a quantised one is made of, or the tensor itself."""
    flatten: Any = getattr(tensor, "__tensor_flatten__", None)
    if flatten is None or type(tensor) is nn.Parameter:
        yield tensor
        return
    names, _ = flatten()
    for name in names:
        yield from _parts(getattr(tensor, name))


def _narrowed(
    model: PreTrainedModel, weights: Weights, device: torch.device
) -> Callable[[nn.Module, str], bool]:
    """Which layers are quantised, once it is known that they can be and that they are most of the
    model.
    """
    if weights == "int4" and device.type != "cpu":
        raise PodiumError(
            f"weights in int4 were not tried on a device like this one ({device.type})",
            "take int8 or bf16, or export the model (podium export --gguf ... --width q4_0)",
        )
    head, words = model.get_output_embeddings(), model.get_input_embeddings()

    def chosen(module: nn.Module, _name: str) -> bool:
        if not isinstance(module, nn.Linear) or type(module) is not nn.Linear or module is head:
            return False
        return weights == "int8" or module.in_features % GROUP == 0

    kept = {id(p) for part in (head, words) if part is not None for p in part.parameters()}
    body = sum(p.numel() for p in model.parameters() if id(p) not in kept)
    held = sum(m.get_parameter("weight").numel() for m in model.modules() if chosen(m, ""))
    if held < LEAST_SHARE * body:
        raise PodiumError(
            f"{type(model).__name__}: only {held / max(body, 1):.0%} of its weights lie in linear "
            f"layers that {weights} can hold"
            + (f" (int4 takes rows that {GROUP} divides)" if weights == "int4" else ""),
            "take bf16",
        )
    return chosen


def _quantise(model: PreTrainedModel, weights: Weights, device: torch.device) -> None:
    """Put torchao's tensors, which multiply by themselves, in place of the chosen weights."""
    chosen = _narrowed(model, weights, device)
    try:
        from torchao.prototype.quantization.int4 import PrototypeInt4WeightOnlyConfig
        from torchao.quantization import Int8WeightOnlyConfig, quantize_
    except ImportError as error:
        raise PlatformError(
            f"weights in {weights} need the package torchao", "pip install 'podium-rlhf[quant]'"
        ) from error
    int8 = weights == "int8"
    quantize_(
        model, Int8WeightOnlyConfig() if int8 else PrototypeInt4WeightOnlyConfig(GROUP), chosen
    )
