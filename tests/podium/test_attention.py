"""Attention in fp32 under bf16 autocast: the same numbers as transformers' `sdpa`, with fp32's
rounding.
"""

import pytest
import torch
import torch.nn.functional as F
from transformers import Gemma2Config, Gemma2ForCausalLM

from data.packing import packed_inputs
from podium.attention import (
    attend,
    attend_in_fp32,
    attends_in_fp32,
    choose_attention,
)


@pytest.mark.parametrize("family", ["tiny_llama", "tiny_opt"])
@pytest.mark.parametrize("layout", ["right padded", "left padded", "documents"])
def test_a_model_says_what_it_says_with_sdpa(request, family, layout):
    """Seen red with the mask dropped (left padded, documents)."""
    model = request.getfixturevalue(family).eval()
    ids = torch.randint(10, 300, (2, 12), generator=torch.Generator().manual_seed(0))
    if layout == "documents":
        ids[:, [0, 5]] = 3
        inputs = packed_inputs(ids, 3, model.config)
    else:
        mask = torch.ones_like(ids)
        mask[0, 9:] = 0
        inputs = {
            "input_ids": ids,
            "attention_mask": mask if layout == "right padded" else mask.flip(1),
        }
    kept = inputs["attention_mask"].bool() if layout != "documents" else torch.ones_like(ids).bool()
    model.set_attn_implementation("sdpa")
    with torch.no_grad():
        expected = model(**inputs).logits
        attend_in_fp32(model)
        found = model(**inputs).logits
    assert torch.equal(found[kept], expected[kept])


def test_under_autocast_the_kernel_gets_fp32_and_the_layer_its_own_type():
    """Seen red with autocast left on (the kernel then computes in bf16) and without the
    cast back.
    """
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 2, 4, 9, 8, generator=generator).bfloat16()
    module = torch.nn.Module()
    with torch.autocast("cpu", torch.bfloat16):
        output, _ = attend(module, query, key, value, None)
    expected = F.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), is_causal=True
    )
    assert output.dtype == torch.bfloat16
    assert torch.equal(output, expected.transpose(1, 2).bfloat16())


def test_a_mask_of_numbers_is_read_in_fp32_too():
    """torch's kernel refuses a bf16 mask beside an fp32 query. Seen red with the mask left as it
    is.
    """
    generator = torch.Generator().manual_seed(0)
    query, key, value = torch.randn(3, 1, 2, 5, 8, generator=generator).bfloat16()
    mask = torch.zeros(1, 1, 5, 5, dtype=torch.bfloat16).masked_fill(
        torch.ones(5, 5).triu(1).bool(), -torch.inf
    )
    output, _ = attend(torch.nn.Module(), query, key, value, mask)
    expected = F.scaled_dot_product_attention(
        query.float(), key.float(), value.float(), is_causal=True
    )
    torch.testing.assert_close(output, expected.transpose(1, 2).bfloat16())


def test_a_family_without_fused_attention_keeps_the_plain_formula():
    """Gemma 2 caps its attention scores, which no fused kernel does. Seen red with the name set for
    every family.
    """
    model = Gemma2ForCausalLM(
        Gemma2Config(
            vocab_size=64,
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=2,
            num_attention_heads=2,
            num_key_value_heads=1,
            head_dim=8,
        )
    ).eval()
    attend_in_fp32(model)
    assert not attends_in_fp32(model)
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert model(torch.tensor([[5, 6, 7]])).logits.isfinite().all()


def test_a_cpu_trains_with_it_and_a_gpu_with_the_models_own(tiny_llama):
    """Mutations seen red: the device not looked at; nothing done."""
    choose_attention(tiny_llama, torch.device("cuda"))
    assert not attends_in_fp32(tiny_llama)
    choose_attention(tiny_llama, torch.device("cpu"))
    assert attends_in_fp32(tiny_llama)
