"""Residual dropout reaches both families, only in training, and leaves the saved configuration
alone.
"""

import pytest
import torch
from transformers import GPT2Config, GPT2LMHeadModel

from podium.errors import RecipeError
from sft.dropout import set_residual_dropout


@pytest.mark.parametrize("family", ["tiny_opt", "tiny_llama"])
def test_both_families_drop_in_training_only(family, request):
    """Seen red with the hooks left out (LLaMA) and with the layers' own field left as it
    was (OPT).
    """
    model = request.getfixturevalue(family)
    before = model.config.to_dict()
    ids = torch.arange(10)[None]
    with torch.no_grad():
        clean = model(ids).logits
        set_residual_dropout(model, 0.2)
        assert torch.equal(model.eval()(ids).logits, clean)
        model.train()
        assert not torch.allclose(model(ids).logits, clean)
    assert model.config.to_dict() == before


def test_the_dropped_share_is_the_asked_one(tiny_llama):
    set_residual_dropout(tiny_llama, 0.3)
    zeros = []
    for layer in tiny_llama.get_decoder().layers:  # these hooks run after ours
        layer.mlp.register_forward_hook(lambda module, inputs, output: zeros.append(output == 0))
        layer.self_attn.register_forward_hook(
            lambda module, inputs, output: zeros.append(output[0] == 0)
        )
    tiny_llama.train()
    tiny_llama(torch.randint(0, 100, (8, 64)))
    assert torch.stack(zeros).float().mean().item() == pytest.approx(0.3, abs=0.02)


@pytest.mark.parametrize("asked", [0.0, 0.3])
def test_a_released_opts_own_dropout_is_replaced(tiny_opt, asked):
    for layer in tiny_opt.get_decoder().layers:
        layer.dropout = 0.1
    set_residual_dropout(tiny_opt, asked)
    assert {layer.dropout for layer in tiny_opt.get_decoder().layers} == {asked}


def test_an_unknown_architecture_is_told():
    model = GPT2LMHeadModel(GPT2Config(vocab_size=50, n_embd=16, n_layer=1, n_head=2))
    set_residual_dropout(model, 0.0)
    with pytest.raises(RecipeError, match="GPT2LMHeadModel"):
        set_residual_dropout(model, 0.2)
