"""A preset's whole configuration, and what a new model of it is."""

import pytest
import torch

from podium.errors import RecipeError
from pretrain.architecture import build_config, build_model
from pretrain.presets import PRESETS, Preset, preset

# preset: what its configuration holds beside the vocabulary and the context
EXPECTED = {
    "opt-350m": {
        "model_type": "opt", "vocab_size": 999, "max_position_embeddings": 77,
        "num_hidden_layers": 24, "hidden_size": 1024, "num_attention_heads": 16, "ffn_dim": 4096,
        "word_embed_proj_dim": 512, "do_layer_norm_before": False, "init_std": 0.006,
        "dropout": 0.0, "attention_dropout": 0.0,
    },
    "opt-125m": {
        "ffn_dim": 3072, "word_embed_proj_dim": 768, "do_layer_norm_before": True,
    },
    "llama3-8b": {
        "model_type": "llama", "vocab_size": 999, "max_position_embeddings": 77,
        "num_hidden_layers": 32, "hidden_size": 4096, "num_attention_heads": 32,
        "num_key_value_heads": 8, "intermediate_size": 14336, "tie_word_embeddings": False,
        "rope_parameters": {"rope_type": "default", "rope_theta": 500_000.0},
        "initializer_range": 0.02,
    },
    "llama-7b": {
        "num_key_value_heads": 32, "tie_word_embeddings": False, "intermediate_size": 11008,
        "rope_parameters": {"rope_type": "default", "rope_theta": 10_000.0},
    },
    "llama-tiny": {
        "num_hidden_layers": 3, "hidden_size": 160, "num_attention_heads": 5,
        "intermediate_size": 432, "tie_word_embeddings": True, "initializer_range": 0.05,
    },
    "gpt1-117m": {
        "model_type": "openai-gpt", "vocab_size": 999, "n_positions": 77, "n_layer": 12,
        "n_embd": 768, "n_head": 12, "initializer_range": 0.02, "resid_pdrop": 0.0,
        "embd_pdrop": 0.0, "attn_pdrop": 0.0,
    },
    "gpt2-355m": {
        "model_type": "gpt2", "vocab_size": 999, "n_positions": 77, "n_layer": 24, "n_embd": 1024,
        "n_head": 16, "initializer_range": 0.02, "resid_pdrop": 0.0, "embd_pdrop": 0.0,
        "attn_pdrop": 0.0, "tie_word_embeddings": True,
    },
    "pythia-1b": {
        "model_type": "gpt_neox", "vocab_size": 999, "max_position_embeddings": 77,
        "num_hidden_layers": 16, "hidden_size": 2048, "num_attention_heads": 8,
        "intermediate_size": 8192, "tie_word_embeddings": False, "initializer_range": 0.02,
        "hidden_dropout": 0.0, "attention_dropout": 0.0,
    },
}  # fmt: skip
SPREAD = {"opt": "init_std"}  # the name of it, where it is not initializer_range


@pytest.mark.parametrize("name", EXPECTED)
def test_a_configuration_holds_what_its_preset_says(name):
    """Mutations seen red: one line after the other left out, where the library fills in another
    dropout or size of its own. OPT's and GPT-NeoX's dropouts that it has at 0 too stay unseen.
    """
    found = build_config(name, 999, 77)
    assert {key: getattr(found, key) for key in EXPECTED[name]} == EXPECTED[name]
    wide = build_config(name, 999, 77, initializer_range=0.125)
    assert getattr(wide, SPREAD.get(preset(name).family, "initializer_range")) == 0.125


def test_a_preset_without_an_inner_width_has_four_times_its_own(monkeypatch):
    """In every family, or as many as it says. Mutation seen red: three times."""
    for family in ("opt", "llama", "neox"):
        for inner, expected in ((None, 128), (40, 40)):
            shape = Preset(family, 1, 32, 4, 1e-3, 1000, inner=inner)
            monkeypatch.setitem(PRESETS, "small", shape)
            found = build_config("small", 50, 16)
            assert getattr(found, "ffn_dim" if family == "opt" else "intermediate_size") == expected
    monkeypatch.setitem(PRESETS, "small", Preset("neox", 1, 32, 4, 1e-3, 1000, tied=True))
    assert build_config("small", 50, 16).tie_word_embeddings


@pytest.mark.parametrize(
    ("family", "attention"), [("gpt1", "eager"), ("gpt2", "sdpa"), ("opt", "sdpa")]
)
def test_a_new_model_is_in_fp32_and_attends_as_its_family_can(family, attention, monkeypatch):
    monkeypatch.setitem(PRESETS, "small", Preset(family, 1, 32, 4, 1e-3, 1000))
    config = build_config("small", 50, 16)
    config.dtype = torch.bfloat16
    model = build_model(config)
    assert {p.dtype for p in model.parameters()} == {torch.float32}
    assert model.config._attn_implementation == attention
    assert all(p.requires_grad for p in model.parameters())


def test_short_hands_of_the_table_are_what_the_papers_print():
    assert preset("opt-13b") == Preset("opt", 40, 5120, 40, 1.0e-4, 4_000_000)
    assert preset("llama-33b") == Preset(
        "llama", 60, 6656, 52, 1.5e-4, 4_000_000, inner=17920, tied=False
    )
    assert preset("gpt3-175b") == Preset("gpt2", 96, 12288, 96, 0.6e-4, 3_200_000)
    assert preset("pythia-70m") == Preset("neox", 6, 512, 8, 1.0e-3, 2_097_152, tied=False)
    with pytest.raises(RecipeError) as far:
        preset("zzzzzz")
    assert far.value.fix.startswith("choose one of opt-tiny, opt-125m")
