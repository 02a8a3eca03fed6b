"""Which attention a CPU trains with: the plain formula for short rows, or, in PPO under bf16
autocast, torch's fused kernel given fp32.

torch's fused kernel is slow backwards in bf16 on a CPU, and the plain formula keeps (rows, heads,
T, T) tensors. A cast to fp32 and back is faster than both: training 8 rows of 4 heads of 48 takes
2.8 ms a layer at 64 tokens (plain 3.8, fused in bf16 8.3) and 23 ms at 256 (39, 29), and its
softmax and sums are those of fp32. (One thread of an AMD EPYC, a throwaway script.)
"""

from typing import Any

import torch
from torch import Tensor, nn
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

NAME = "sdpa_fp32"
SHORT = 512  # tokens up to which the plain formula is the faster one on a CPU


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


def attend_for_training(model: PreTrainedModel, device: torch.device, tokens: int) -> None:
    """Choose the attention that trains rows of at most `tokens` tokens fastest, in fp32 and bf16.

    On a CPU the plain formula trains short rows up to 1.4 times faster than torch's fused kernel,
    which is slow backwards there in bf16; on a GPU the model's own choice is right. (PPO leaves the
    choice to the model, and under bf16 takes `attend_in_fp32`.)
    """
    if device.type == "cpu" and tokens <= SHORT:
        model.set_attn_implementation("eager")


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
