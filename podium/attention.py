"""Which attention a CPU takes: torch's fused kernel, given fp32 whatever the type is.

The kernel is slow backwards in bf16 on a CPU, and the plain formula keeps (rows, heads, T, T)
tensors. A cast to fp32 and back is at most a hundredth slower than the faster of both at any size
tried, and mostly the fastest; its softmax and sums are those of fp32. docs/lab/pretrain.md has the
figures.
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_fp32"


def attend(
    module: nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **kwargs: Any,
) -> tuple[Tensor, None]:
    """transformers' `sdpa` on (B, heads, T, head size) of any type, computed in fp32, returned in
    the query's type.
    """
    if attention_mask is not None and attention_mask.is_floating_point():
        attention_mask = attention_mask.float()
    with torch.autocast(query.device.type, enabled=False):
        output, _ = sdpa_attention_forward(
            module, query.float(), key.float(), value.float(), attention_mask, **kwargs
        )
    return output.to(query.dtype), None


def choose_attention(model: PreTrainedModel, device: torch.device) -> None:
    """On a CPU `attend_in_fp32`; on a GPU the model's own choice is right."""
    if device.type == "cpu":
        attend_in_fp32(model)


def attend_in_fp32(model: PreTrainedModel) -> None:
    """Make every layer of the model use `attend`; the plain formula in a family that has no fused
    attention.
    """
    AttentionInterface.register(NAME, attend)
    AttentionMaskInterface.register(NAME, sdpa_mask)
    model.set_attn_implementation(NAME if model._supports_sdpa else "eager")


def attends_in_fp32(model: PreTrainedModel) -> bool:
    """Whether `attend_in_fp32` was called on the model (or on what it was copied from)."""
    return model.config._attn_implementation == NAME
