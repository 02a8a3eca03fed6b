"""The stage with blanks: it resumes, processes share it, and later stages go on from its base."""

import json

import pytest
import torch
from safetensors.torch import load_file

from podium.errors import Interrupted
from podium.models import load_tokenizer
from podium.run.chain import run_chain
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from pretrain.infilling import SENTINELS
from tests.launching import launch


def train(recipe, runs, stage: str = "pretrain"):
    loaded = load_recipe(recipe)
    run_one(loaded, stage, runs)
    return runs / loaded.name / stage


def logged(folder) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{name: line[name] for name in line if name != "tokens_per_second"} for line in lines]


def test_a_stopped_run_fills_the_same_blanks_when_it_goes_on(make_recipe, tmp_path, monkeypatch):
    """To the bit. Its base has the sentinels, its headline the blanks. Mutations seen red: blanks
    drawn from numpy's own generator; the update's number in its place in the stream.
    """
    recipe = make_recipe(infilling={}, tokens=26 * 4 * 6, context=32)
    unbroken = train(recipe, tmp_path / "unbroken")
    asked = {"times": 0}

    def stop_at_the_third(stage):
        asked["times"] += 1
        return asked["times"] == 3

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "stop_requested", property(stop_at_the_third))
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "broken")
    broken = train(recipe, tmp_path / "broken")
    assert logged(unbroken) == logged(broken)
    one, two = (load_file(f / "final" / "model.safetensors") for f in (unbroken, broken))
    assert one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)
    assert set(SENTINELS) <= set(load_tokenizer(broken / "final").all_special_tokens)
    told = json.loads((broken / "final" / "stage.json").read_text())["metrics"]
    last = logged(broken)[-1]
    for name in ("validation_loss", "validation_infill_loss", "validation_infill_accuracy"):
        assert told[name] == last[name]
    assert "fill blanks" in (broken / "final" / "README.md").read_text()


@pytest.mark.slow
def test_two_processes_fill_the_blanks_that_one_does(make_recipe, tmp_path):
    """Mutation seen red: targets counted in a process's own rows."""
    recipe = make_recipe(infilling={"share": 0.7})
    alone = train(recipe, tmp_path / "alone")
    launch("pretrain.train", recipe, "--runs-dir", tmp_path / "pair", processes=2, folder=tmp_path)
    for one, two in zip(logged(alone), logged(tmp_path / "pair/run/pretrain"), strict=True):
        assert two.keys() == one.keys()
        for name in one:
            rough = 1e-3 if name == "grad_norm" else 1e-4
            assert two[name] == pytest.approx(one[name], rel=rough), name


CHAIN = """
name: chain
seed: 7
threads: 1
data:
  world:
    name: willowbrook
    documents: 600
    validation_documents: 40
    demonstrations: 80
    validation_demonstrations: 8
    prompts: 60
    validation_prompts: 8
pretrain: {preset: llama-260k, infilling: {}, vocab_size: 512, tokens: 13000, eval_tokens: 1000}
sft: {batch_size: 16, num_train_epochs: 1}
rankings: {prompts: 20, validation_prompts: 4, max_new_tokens: 12}
reward: {batch_size: 4, eval_rankings: 4}
ppo:
  total_episodes: 16
  batch_size: 8
  rollout_batch_size: 8
  response_length: 12
  guard: {min_eos_rate: null, min_explained_variance: null, max_near_identical: null}
"""


@pytest.mark.slow
def test_the_chain_goes_on_from_a_base_that_fills_blanks(tmp_path):
    """Every model has a row for every token of one tokenizer, and no answer holds a sentinel."""
    (tmp_path / "chain.yaml").write_text(CHAIN)
    run_dir = run_chain(load_recipe(tmp_path / "chain.yaml"), tmp_path / "runs")
    names = ("pretrain", "sft", "reward", "ppo")
    tokenizers = [load_tokenizer(run_dir / name / "final") for name in names]
    for name, tokenizer in zip(names, tokenizers, strict=True):
        assert tokenizer.get_vocab() == tokenizers[0].get_vocab()
        assert tokenizer.chat_template == tokenizers[0].chat_template
        assert set(SENTINELS) <= set(tokenizer.all_special_tokens)
        config = json.loads((run_dir / name / "final" / "config.json").read_text())
        assert config["vocab_size"] == len(tokenizer)
    answers = (run_dir / "rankings" / "final" / "rankings.train.jsonl").read_text()
    assert answers and not any(token in answers for token in SENTINELS)
