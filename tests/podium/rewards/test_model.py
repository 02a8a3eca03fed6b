"""A reward model from elsewhere: its head is kept, named, or refused, and never drawn in silence."""

import json

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForSequenceClassification, GraniteConfig, GraniteForCausalLM

from podium.errors import ParentError
from podium.rewards.folders import brings_head
from podium.rewards.model import (
    head,
    load_reward_model,
    new_reward_model,
    save_reward_model,
    started_reward_model,
)


@pytest.fixture
def language_model(tiny_llama, tokenizer, tmp_path):
    tiny_llama.save_pretrained(tmp_path / "lm")
    tokenizer.save_pretrained(tmp_path / "lm")
    return tmp_path / "lm"


@pytest.fixture
def reward_model(language_model, tokenizer, tmp_path):
    save_reward_model(new_reward_model(language_model, tokenizer, 3), tokenizer, tmp_path / "rm")
    return tmp_path / "rm"


def rename(folder, change):
    weights = load_file(folder / "model.safetensors")
    renamed = {change(name): tensor for name, tensor in weights.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})


@pytest.mark.parametrize("name", ["v_head", "regression_head", "value_head", "rm_head"])
def test_a_head_under_another_name_is_refused_and_named(reward_model, name):
    """Seen red: each load drew another head at random, and PPO optimised it."""
    rename(reward_model, lambda key: key.replace("score.", f"{name}."))
    with pytest.raises(ParentError) as caught:
        load_reward_model(reward_model)
    assert "no weights for score.weight" in caught.value.message
    assert (
        "rename it to 'score.weight'" in caught.value.fix and f"{name}.weight" in caught.value.fix
    )


def test_a_missing_weight_is_refused_where_a_new_head_is_meant(language_model, tokenizer):
    """A fresh head is the one weight that may be missing."""
    rename(language_model, lambda key: key.replace("layers.0.mlp.up_proj", "layers.0.mlp.other"))
    with pytest.raises(ParentError, match=r"no weights for model\.layers\.0\.mlp\.up_proj\.weight"):
        new_reward_model(language_model, tokenizer, 0)


def test_training_that_starts_from_a_reward_model_goes_on_with_its_head(reward_model, tokenizer):
    """Seen red: the body was kept and the head drawn anew, and nothing was said."""
    kept = head(load_reward_model(reward_model)[0]).weight
    assert torch.equal(head(started_reward_model(reward_model, tokenizer)).weight, kept)
    assert not torch.equal(head(new_reward_model(reward_model, tokenizer, 5)).weight, kept)


def strangers(language_model, tokenizer, folder, labels=1):
    """A reward model as TRL saves it: no `reward_bias`."""
    model = AutoModelForSequenceClassification.from_pretrained(language_model, num_labels=labels)
    model.config.pad_token_id = tokenizer.pad_token_id
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return model.score.weight


def test_a_strangers_reward_model_is_trained_on_with_its_head(language_model, tokenizer, tmp_path):
    """Seen red: only Podium's own mark made a reward model, and the head of any other was drawn
    anew in silence.
    """
    kept = strangers(language_model, tokenizer, tmp_path / "trl")
    assert brings_head(tmp_path / "trl") and not brings_head(language_model)
    assert torch.equal(head(started_reward_model(tmp_path / "trl", tokenizer)).weight, kept)


def test_a_classifier_of_two_labels_is_no_reward_model_unless_its_head_is_replaced(
    language_model, tokenizer, tmp_path
):
    """Seen red: "has weights of another shape: score.weight", also where a new head was asked
    for.
    """
    strangers(language_model, tokenizer, tmp_path / "two", labels=2)
    with pytest.raises(ParentError, match="classifier with 2 labels") as caught:
        started_reward_model(tmp_path / "two", tokenizer)
    assert "new_head" in caught.value.fix
    assert head(new_reward_model(tmp_path / "two", tokenizer, 0)).weight.shape == (1, 32)


def test_an_ensemble_is_no_single_start(reward_model, tokenizer):
    config = json.loads((reward_model / "config.json").read_text())
    config["reward_ensemble"] = {"members": 2, "combine": "mean", "bias": 0.0}
    (reward_model / "config.json").write_text(json.dumps(config))
    with pytest.raises(ParentError, match="ensemble"):
        started_reward_model(reward_model, tokenizer)


def test_a_family_without_a_scalar_head_is_named_in_a_sentence(tokenizer, tmp_path):
    config = GraniteConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    GraniteForCausalLM(config).save_pretrained(tmp_path)
    with pytest.raises(ParentError, match="transformers has no reward head for granite") as caught:
        new_reward_model(tmp_path, tokenizer, 0)
    assert len(str(caught.value)) < 500
