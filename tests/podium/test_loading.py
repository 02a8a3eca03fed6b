"""Loading a stranger's model is never silent: what is missing, left over or foreign is said."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    GenerationConfig,
    MixtralConfig,
    MixtralForCausalLM,
    MptConfig,
)

from podium.errors import ParentError, RecipeError
from podium.lora import LoraConfig, embedding_names, peft_config
from podium.models import UNSTATED_CONTEXT, context_of, load_causal_lm


@pytest.fixture
def folder(tmp_path, tiny_llama):
    """A saved model; `rewrite(change)` changes its weights by name."""
    tiny_llama.save_pretrained(tmp_path)
    return tmp_path


def rewrite(folder, change):
    weights = load_file(folder / "model.safetensors")
    save_file(change(weights), folder / "model.safetensors", metadata={"format": "pt"})


def test_a_whole_model_loads(folder, tiny_llama):
    """A tied head is no missing weight."""
    loaded = load_causal_lm(folder)
    assert torch.equal(loaded.lm_head.weight, tiny_llama.lm_head.weight)


def test_a_checkpoint_saved_inside_a_wrapper_is_refused_by_name(folder):
    """Seen red before the report was read: the model was drawn at random and SFT went on."""
    rewrite(folder, lambda weights: {f"module.{name}": w for name, w in weights.items()})
    with pytest.raises(ParentError) as caught:
        load_causal_lm(folder)
    assert "holds no weights for lm_head.weight, model.embed_tokens.weight" in caught.value.message
    assert "module.model.embed_tokens.weight" in caught.value.message
    assert "more" in caught.value.message, "of many weights a few are named"


def test_one_missing_weight_is_refused(folder):
    rewrite(
        folder, lambda weights: {n: w for n, w in weights.items() if "layers.1.mlp.up" not in n}
    )
    with pytest.raises(ParentError, match=r"no weights for model\.layers\.1\.mlp\.up_proj\.weight"):
        load_causal_lm(folder)


def test_a_weight_of_another_shape_is_refused(folder):
    rewrite(folder, lambda weights: weights | {"model.norm.weight": torch.ones(7)})
    with pytest.raises(ParentError, match=r"another shape: model\.norm\.weight \[7\]"):
        load_causal_lm(folder)


def test_a_reward_model_is_no_language_model(folder):
    """Its scalar head is left over; before, the language model's head was silently its embedding."""
    loaded = AutoModelForSequenceClassification.from_pretrained(folder, num_labels=1)
    loaded.save_pretrained(folder)
    with pytest.raises(ParentError, match=r"holds score\.weight, which a LlamaForCausalLM has not"):
        load_causal_lm(folder)


def test_what_a_model_computes_for_itself_may_lie_in_an_old_checkpoint(folder):
    extra = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(4)}
    rewrite(folder, lambda weights: weights | extra)
    load_causal_lm(folder)


@pytest.mark.parametrize(
    "foreign",
    [
        {"temperature": 0.9, "top_p": 0.6},
        {"do_sample": False, "temperature": 0.3},
        {"do_sample": True, "repetition_penalty": 1.3, "top_k": 5},
    ],
)
def test_of_a_generation_config_only_token_ids_stay(folder, foreign):
    """Seen red: transformers refuses to save the first two once anything in them has changed."""
    ids = {"eos_token_id": [3, 7], "bos_token_id": 1}
    (folder / "generation_config.json").write_text(json.dumps(foreign | ids))
    loaded = load_causal_lm(folder)
    loaded.generation_config.pad_token_id = 5
    loaded.save_pretrained(folder / "again")
    kept = GenerationConfig.from_pretrained(folder / "again").to_diff_dict()
    kept.pop("transformers_version", None)
    assert kept == ids | {"pad_token_id": 5}


def test_a_mixture_of_experts_answers_without_its_router(tmp_path):
    """Seen red: after SFT, which asks for the router's logits, the first decoded token failed."""
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        num_local_experts=4,
        output_router_logits=True,
    )
    MixtralForCausalLM(config).save_pretrained(tmp_path)
    loaded = load_causal_lm(tmp_path)
    assert not loaded.config.output_router_logits
    step = loaded(torch.tensor([[1, 2]]), use_cache=True)
    loaded(torch.tensor([[3]]), past_key_values=step.past_key_values, use_cache=True)


@pytest.mark.parametrize("key", ["return_dict", "output_attentions", "output_hidden_states"])
def test_a_config_does_not_say_what_a_model_gives_out(folder, key):
    """Seen red with attentions asked for (a traceback when SFT saved the config) and with tuples
    ("cannot read a plain row of token ids").
    """
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {key: key != "return_dict"}))
    loaded = load_causal_lm(folder)
    found = loaded(torch.tensor([[1, 2]]))
    assert found.logits.shape[:2] == (1, 2)
    assert found.get("attentions") is None and found.get("hidden_states") is None
    loaded.save_pretrained(folder / "again")


def test_the_context_is_what_the_config_states_under_any_name(tiny_opt):
    assert context_of(tiny_opt.config) == 128
    assert context_of(MptConfig(max_seq_len=77)) == 77
    bloom = BloomConfig(vocab_size=64, hidden_size=32, n_layer=1, n_head=4)
    assert context_of(bloom) is None and UNSTATED_CONTEXT == 2048
    BloomForCausalLM(bloom)  # which has none, since its positions are relative


@pytest.mark.parametrize(
    ("family", "names"),
    [("gpt2", ["wte"]), ("gpt_neox", ["embed_in", "lm_head"]), ("llama", ["embed_tokens"])],
)
def test_new_tokens_train_under_the_familys_own_name(family, names):
    """Seen red with `embed_tokens` for every family: LoRA on GPT-2 and Pythia ended in a traceback."""
    size = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 4}
    config = AutoConfig.for_model(family, **size, tie_word_embeddings=family != "gpt_neox")
    assert embedding_names(AutoModelForCausalLM.from_config(config)) == names


@pytest.mark.parametrize(
    ("targets", "said"),
    [
        (["query", "v_proj"], "LlamaForCausalLM has no layer 'query'"),
        (["q_prj", "v_prj"], "has no layer 'q_prj', 'v_prj'"),
        (".*query.*", "has no layer '.*query.*'"),
        (["q_proj", "embed_tokens"], "'embed_tokens' holds the rows of the tokens that this stage"),
    ],
)
def test_a_target_that_is_no_layer_is_named(tiny_llama, targets, said):
    """Seen red: where none was a layer PEFT's error came as a traceback, and where one was the
    others had no adapter and nothing was said.
    """
    with pytest.raises(RecipeError) as caught:
        peft_config(LoraConfig(target_modules=targets), "CAUSAL_LM", [5], tiny_llama)
    assert said in caught.value.message
    if "layer" in said:
        assert "q_proj" in caught.value.fix and "all-linear" in caught.value.fix


@pytest.mark.parametrize("targets", ["all-linear", ["q_proj", "v_proj"], ".*self_attn.*_proj"])
def test_targets_that_are_layers_are_taken(tiny_llama, targets):
    assert peft_config(LoraConfig(target_modules=targets), "CAUSAL_LM", [5], tiny_llama)
