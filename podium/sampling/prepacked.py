"""Decoding on a CPU: large weights laid out for oneDNN, for as long as they do not change.

A decode step multiplies a few rows by every weight, and torch's own product (MKL) then reads a
large fp32 matrix at a quarter of the memory's speed, a large bf16 one at half. Laid out once, 16
rows take 0.25 ms instead of 0.39 at 768 x 768 and 14 instead of 33 at 768 x 50,272 (fp32; bf16:
0.14 for 0.23 and 8 for 14; one thread of an AMD EPYC, a throwaway script). Whoever asks must know
that no weight changes inside; nothing is kept between two calls.
"""

import platform
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeGuard

import torch
from torch import Tensor, nn

# 2 MiB in fp32; smaller ones stay in a core's cache, where the layout decides nothing
FROM_ELEMENTS = 1 << 19


@contextmanager
def prepacked(model: nn.Module) -> Iterator[None]:
    """Inside, the model's large linear layers multiply by a packed copy of their weights, without
    gradients.

    Does nothing where it cannot be had: on other devices and processors, under autocast (whose
    casts the packed product does not know), for a type that this processor does not multiply.
    """
    layers: list[Any] = [module for module in model.modules() if packs(module)]
    for layer in layers:
        layer.forward = _packed_forward(layer)  # the instance's hides the class's
    try:
        yield
    finally:
        for layer in layers:
            del layer.forward


def packs(module: nn.Module) -> TypeGuard[nn.Linear]:
    """Whether this is a large linear layer that does nothing else: no subclass, no forward that a
    library put in.
    """
    if (
        type(module) is not nn.Linear
        or type(module.weight) is not nn.Parameter  # a quantised one multiplies by itself
        or "forward" in vars(module)
        or module.weight.numel() < FROM_ELEMENTS
    ):
        return False
    weight = module.weight
    return (
        weight.device.type == "cpu"
        and weight.dtype in _types()
        and not torch.is_autocast_enabled("cpu")
    )


def _types() -> tuple[torch.dtype, ...]:
    """The types that torch's packed product takes here. Elsewhere than on x86 nobody has measured
    it.
    """
    if platform.machine() not in ("x86_64", "AMD64") or not torch.backends.mkldnn.is_available():
        return ()
    return (
        (torch.float32, torch.bfloat16)
        if torch.ops.mkldnn._is_mkldnn_bf16_supported()
        else (torch.float32,)
    )


def _packed_forward(layer: nn.Linear) -> Any:
    # The two operators that torch.compile itself puts into compiled CPU models; there is no public
    # name for them.
    weight, bias = torch.ops.mkldnn._reorder_linear_weight(layer.weight.detach(), None), layer.bias

    def forward(input: Tensor) -> Tensor:
        return torch.ops.mkldnn._linear_pointwise(input, weight, bias, "none", [], "")

    return forward
