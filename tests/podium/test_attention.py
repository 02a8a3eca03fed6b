"""Attention in fp32 under bf16 autocast: the same numbers as transformers' `sdpa`, with fp32's rounding."""

import pytest
import torch
import torch.nn.functional as F

from data.packing import apart
from podium.attention import attend, attend_in_fp32


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_opt"])
@pytest.mark.parametrize("layout", ["right padded", "left padded", "documents"])
def test_a_model_says_what_it_says_with_sdpa(request, family, layout):
    """Seen red with the mask dropped (left padded, documents)."""
    model = request.getfixturevalue(family).eval()
    ids = torch.randint(10, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    if layout == "documents":
        ids[:, [0, 5]] = 3
        inputs = apart(ids, 3)
    else:
        mask = torch.ones_like(ids)
        mask[0, 9:] = 0
        inputs = {"input_ids": ids, "attention_mask": mask if layout == "right padded" else mask.flip(1)}
    kept = inputs["attention_mask"].bool() if layout != "documents" else torch.ones_like(ids).bool()
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        expected = model(**inputs).logits
        attend_in_fp32(model)
        found = model(**inputs).logits
    assert torch.equal(found[kept], expected[kept])


def test_under_autocast_the_kernel_gets_fp32_and_the_layer_its_own_type():
    """Seen red with autocast left on (the kernel then computes in bf16) and without the cast back."""
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 9, 8, generator=generator).bfloat16()
    module = torch.nn.Module()
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = attend(module, query, key, value, None)
    expected = F.scaled_dot_product_attention(query.float(), key.float(), value.float(), is_causal=True)
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected.transpose(1, 2).bfloat16())
