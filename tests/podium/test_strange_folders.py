"""Folders as they come from elsewhere: each loads to the same model, or is refused in a sentence that
says what it is and what to do.
"""

import json

import pytest
import torch
from safetensors.torch import load_file
from transformers import (
    BartConfig,
    BertConfig,
    Gemma3Config,
    LlamaConfig,
    LlamaForCausalLM,
    Phi3Config,
    Phi3ForCausalLM,
    T5Config,
)

from podium.errors import ParentError
from podium.models import context_of, load_causal_lm, load_tokenizer
from podium.run.parents import find_parent
from podium.run.recipe import Recipe
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.protocol import SamplingParams

IDS = torch.tensor([[5, 6, 7, 8]])


@pytest.fixture
def untied():
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=64,
            hidden_size=32,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=4,
            tie_word_embeddings=False,
        )
    ).eval()


def edit(folder, **changes):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | changes))


def test_a_tied_head_need_not_lie_in_the_file(tiny_llama, tmp_path):
    tiny_llama.save_pretrained(tmp_path)
    assert "lm_head.weight" not in load_file(tmp_path / "model.safetensors")
    assert torch.equal(load_causal_lm(tmp_path)(IDS).logits, tiny_llama(IDS).logits)


def test_a_model_saved_without_its_head_is_refused_by_the_weights_name(untied, tmp_path):
    """Before: the head was drawn at random."""
    untied.model.save_pretrained(tmp_path)
    with pytest.raises(ParentError, match=r"no weights for lm_head\.weight"):
        load_causal_lm(tmp_path)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_weights_are_read_in_full(untied, tmp_path, dtype):
    half = untied.to(dtype)
    half.save_pretrained(tmp_path)
    loaded = load_causal_lm(tmp_path)
    assert loaded.dtype == torch.float32
    assert torch.equal(loaded.lm_head.weight, half.lm_head.weight.float())


def test_a_pickled_checkpoint_is_read(untied, tmp_path):
    untied.config.save_pretrained(tmp_path)
    torch.save(untied.state_dict(), tmp_path / "pytorch_model.bin")
    assert torch.equal(load_causal_lm(tmp_path)(IDS).logits, untied(IDS).logits)


def test_shards_are_read_and_a_missing_one_is_named(untied, tmp_path):
    untied.save_pretrained(tmp_path, max_shard_size="20KB")
    shards = sorted(tmp_path.glob("model-*.safetensors"))
    assert len(shards) > 2
    assert torch.equal(load_causal_lm(tmp_path)(IDS).logits, untied(IDS).logits)
    shards[1].unlink()
    with pytest.raises(ParentError) as caught:
        load_causal_lm(tmp_path)
    assert shards[1].name in caught.value.message and len(caught.value.message) < 600


def test_a_broken_file_is_named(untied, tmp_path):
    """Before: a traceback of safetensors, as an interrupted download leaves them."""
    untied.save_pretrained(tmp_path)
    path = tmp_path / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(ParentError, match="holds no causal language model that transformers can"):
        load_causal_lm(tmp_path)
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(ParentError, match="whose config transformers can read"):
        load_causal_lm(tmp_path)


@pytest.mark.parametrize("value", [None, 4096.0, "4096"])
def test_a_value_of_another_type_in_the_config_is_named(untied, tokenizer, tmp_path, value):
    """Whoever reads the folder first: the tokenizer's loader reads the config too. Seen red: a
    traceback of huggingface_hub in every stage.
    """
    untied.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    edit(tmp_path, max_position_embeddings=value)
    for load in (load_causal_lm, load_tokenizer):
        with pytest.raises(ParentError, match="'max_position_embeddings' expected int") as caught:
            load(tmp_path)
        assert "value of the type that is asked for" in caught.value.fix


@pytest.mark.parametrize(
    ("config", "said"),
    [
        (T5Config(), "family t5: it is an encoder with a decoder"),
        (BartConfig(), "family bart: it is an encoder with a decoder"),
        (Gemma3Config(), "family gemma3: it reads images or sound as well"),
        (BertConfig(model_type="distilbert"), "no causal language model of this family"),
    ],
)
def test_what_is_no_language_model_is_refused_by_its_family(tmp_path, config, said):
    """Before: 2,300 characters that list every class of transformers."""
    config.save_pretrained(tmp_path)
    if "no causal" in said:
        edit(tmp_path, model_type="distilbert")
    with pytest.raises(ParentError, match=said) as caught:
        load_causal_lm(tmp_path)
    assert len(str(caught.value)) < 400


def test_quantised_weights_are_refused(untied, tmp_path):
    untied.save_pretrained(tmp_path)
    edit(tmp_path, quantization_config={"quant_method": "gptq", "bits": 4})
    with pytest.raises(ParentError, match="its weights are quantised"):
        load_causal_lm(tmp_path)


def test_an_adapter_alone_is_no_parent(tmp_path):
    (tmp_path / "adapter_config.json").write_text('{"base_model_name_or_path": "org/base"}')
    with pytest.raises(ParentError, match="an adapter alone, of the base org/base") as caught:
        find_parent(str(tmp_path), Recipe(name="x"), tmp_path / "runs")
    assert "merge it" in caught.value.fix


def test_positions_that_stretch_with_the_row_are_used_up_to_where_they_begin_to():
    """Phi-3 128k reads a row otherwise once it is longer than 4,096. Mutation: the stated context:
    beyond the original length the sampler's log-probabilities were off by 0.1 and more.
    """
    torch.manual_seed(0)
    rope = {
        "rope_type": "longrope",
        "rope_theta": 10000.0,
        "short_factor": [1.0] * 4,
        "long_factor": [1.0, 4.0, 8.0, 16.0],
        "original_max_position_embeddings": 16,
    }
    config = Phi3Config(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        original_max_position_embeddings=16,
        rope_parameters=rope,
        pad_token_id=0,
        initializer_range=0.3,
    )
    model = Phi3ForCausalLM(config).eval()
    assert context_of(config) == 16
    sampler = EmbeddedSampler(model, 0)
    sample = sampler.generate([[5, 6, 7, 8, 9, 10]], SamplingParams(10, seed=1))[0]
    again = sampler.logprobs([[5, 6, 7, 8, 9, 10]], [sample.tokens])[0]
    assert again == pytest.approx(sample.logprobs, abs=1e-4)
