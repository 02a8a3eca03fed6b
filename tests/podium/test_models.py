"""Models in and out of folders: new rows are the mean row, hashes see what matters, parents must
agree.
"""

import json
import shutil

import pytest
import torch

from podium.errors import ParentError
from podium.models import (
    count_parameters,
    load_causal_lm,
    load_tokenizer,
    resize_for,
    save_model,
    template_hash,
    tokenizer_hash,
)


@pytest.fixture
def folder(tiny_llama, tokenizer, tmp_path):
    save_model(tiny_llama, tokenizer, tmp_path / "model")
    return tmp_path / "model"


def test_a_saved_model_loads_to_the_same_logits_and_template(folder, tiny_llama, tokenizer):
    ids = torch.tensor([tokenizer.encode("Ana likes honey.")])
    assert {"model.safetensors", "tokenizer.json", "chat_template.jinja", "config.json"} <= {
        path.name for path in folder.iterdir()
    }
    assert torch.equal(load_causal_lm(folder)(ids).logits, tiny_llama(ids).logits)
    assert load_tokenizer(folder).chat_template == tokenizer.chat_template


def test_only_the_main_process_writes(tiny_llama, tokenizer, tmp_path, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    save_model(tiny_llama, tokenizer, tmp_path / "none")
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("tied", [True, False])
def test_new_rows_start_as_the_mean_row(tokenizer, tied):
    """Seen red: with transformers' default (rows drawn from a normal distribution around
    the mean).
    """
    from transformers import LlamaConfig, LlamaForCausalLM

    rows = len(tokenizer) - 5
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=rows,
            hidden_size=16,
            intermediate_size=16,
            num_hidden_layers=1,
            num_attention_heads=2,
            tie_word_embeddings=tied,
        )
    )
    before = model.get_input_embeddings().weight.detach().clone()
    resize_for(tokenizer, model)
    after = model.get_input_embeddings().weight
    assert (
        torch.equal(after[:rows], before)
        and after.shape[0] == len(tokenizer) == model.config.vocab_size
    )
    for table in (after, model.get_output_embeddings().weight):
        torch.testing.assert_close(table[rows:], table[:rows].mean(dim=0).expand(5, -1))


def test_spare_rows_are_kept(tiny_llama, tokenizer):
    tiny_llama.resize_token_embeddings(len(tokenizer) + 64)
    resize_for(tokenizer, tiny_llama)
    assert tiny_llama.get_input_embeddings().weight.shape[0] == len(tokenizer) + 64


def test_tied_weights_count_once(tiny_llama):
    embedding = tiny_llama.get_input_embeddings().weight
    assert tiny_llama.get_output_embeddings().weight is embedding
    assert count_parameters(tiny_llama) == sum(
        p.numel() for p in {id(p): p for p in tiny_llama.parameters()}.values()
    )


def test_the_tokenizer_hash_sees_tokens_but_not_padding(folder):
    """Training code leaves its padding and truncation in tokenizer.json; they change no id."""
    before = tokenizer_hash(folder)
    path = folder / "tokenizer.json"
    state = json.loads(path.read_text())
    path.write_text(json.dumps(state | {"truncation": {"max_length": 8}, "padding": None}))
    assert tokenizer_hash(folder) == before
    state["model"]["merges"] = state["model"]["merges"][:-1]
    path.write_text(json.dumps(state))
    assert tokenizer_hash(folder) != before


def test_folders_without_tokenizer_or_template_have_no_hash(tmp_path):
    assert tokenizer_hash(tmp_path) is None and template_hash(tmp_path) is None


def test_an_empty_folder_is_no_model(tmp_path):
    with pytest.raises(ParentError, match="no model whose config"):
        load_causal_lm(tmp_path)
    with pytest.raises(ParentError, match="no tokenizer"):
        load_tokenizer(tmp_path)


@pytest.fixture
def stage(demo_stages, write_recipe, tmp_path):
    from podium.run.context import StageContext
    from podium.run.recipe import load_recipe

    opened = StageContext(
        "pretrain", load_recipe(write_recipe(pretrain={})), tmp_path / "runs" / "demo"
    )
    yield opened
    opened.close()


@pytest.mark.parametrize(
    ("file", "what"), [("tokenizer.json", "tokenizer"), ("chat_template.jinja", "chat template")]
)
def test_a_parent_with_another_tokenizer_or_template_is_refused(
    stage, folder, tmp_path, file, what
):
    shutil.copytree(folder, tmp_path / "other")
    assert (
        stage.parent(str(folder)) == folder
        and stage.parent(str(tmp_path / "other")) == tmp_path / "other"
    )
    path = tmp_path / "other" / file
    text = path.read_text()
    path.write_text(
        text.replace("<|user|>", "<|human|>") if file == "tokenizer.json" else text + "{{ 'more' }}"
    )
    with pytest.raises(
        ParentError, match=f"the {what} of parent '.*other' .* differs from that of '{folder}'"
    ):
        stage.parent(str(tmp_path / "other"))
    stage.parent(str(tmp_path / "other"), same_tokenizer=False)


def test_a_parent_that_is_no_model_folder_is_refused(stage, tmp_path):
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParentError, match="neither a finished stage"):
        stage.parent(str(tmp_path / "empty"))


@pytest.mark.parametrize("family", ["gpt_bigcode", "opt", "bert"])
def test_dropout_is_found_under_whatever_name_a_family_keeps_it(family):
    """PPO's first ratio must be 1. Seen red for GPT-BigCode (StarCoder), whose attention keeps a
    number called attn_dropout: ratios were off by 0.6.
    """
    from transformers import AutoModelForCausalLM

    from benchmarks.small_families import small_config
    from podium.models import remove_dropout

    strong = {"gpt_bigcode": {"attn_pdrop": 0.5}, "opt": {"attention_dropout": 0.5}}
    config = small_config(family, **strong.get(family, {"attention_probs_dropout_prob": 0.5}))
    model = AutoModelForCausalLM.from_config(config).train()
    ids = torch.arange(3, 13)[None]
    assert not torch.equal(model(ids).logits, model(ids).logits)
    remove_dropout(model)
    assert torch.equal(model(ids).logits, model(ids).logits)
