"""The stage end to end on tiny models: what it writes, and that its keys reach it."""

import itertools
import json

import pytest
import torch
from safetensors.torch import load_file

from podium.errors import DataError, ParentError
from ppo.learner import Learner
from tests.ppo.runs import assert_same_weights, metrics, timeless, train, weights


def test_it_writes_policy_value_model_log_and_samples(make_recipe, tmp_path):
    folder = train(make_recipe(), tmp_path / "runs")
    from podium.models import load_causal_lm, load_tokenizer
    from podium.rewards.model import load_reward_model

    load_causal_lm(folder / "final")
    assert load_tokenizer(folder / "final").chat_template
    assert load_reward_model(folder / "final/value")[0].config.reward_bias == 0.25
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    expected = {
        "objective/kl",
        "objective/scores",
        "objective/rlhf_reward",
        "objective/non_score_reward",
        "objective/entropy",
        "policy/clipfrac_avg",
        "policy/approxkl_avg",
        "policy/entropy_avg",
        "loss/policy_avg",
        "loss/value_avg",
        "val/clipfrac_avg",
        "val/ratio",
        "val/ratio_var",
        "val/num_eos_tokens",
        "val/explained_variance",
        "lr",
        "episode",
        "ptx/loss",
        "rollout/eos_rate",
        "time/generate",
        "time/update_policy",
        "time/ptx",
    }
    assert all(expected <= line.keys() for line in lines)
    measured = ["grad_norm/cosine" in line for line in lines]
    assert measured == [True, False, True, False]
    assert lines[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert (folder / "samples/00002.jsonl").is_file() and (folder / "samples/00004.jsonl").is_file()


def test_another_kind_of_sampler_serves_by_a_recipe_key(make_recipe, counting_sampler, tmp_path):
    """Seen red with the embedded sampler constructed in the learner, and with `sampler` left out of
    the lineage: the second call then had nothing to do.
    """
    # by default what an unknown kind says is recomputed, which rounds in the last digit
    recipe = make_recipe(old_logprobs="sampled")
    folder = train(recipe, tmp_path / "runs", "sampler.kind=counting", "sampler.most=8")
    assert counting_sampler == [8, 8, 2, 8, 8, 2]  # four rollouts and, at two of them, samples
    assert json.loads((folder / "final/stage.json").read_text())["sampler"]["most"] == 8
    train(recipe, tmp_path / "runs", "sampler.kind=counting", "sampler.most=8")
    assert len(counting_sampler) == 6
    embedded = train(recipe, tmp_path / "runs")
    assert len(counting_sampler) == 6 and (tmp_path / "runs/run/replaced/ppo-1").is_dir()
    assert_same_weights(embedded, tmp_path / "runs/run/replaced/ppo-1")


def test_final_holds_the_average_or_the_last_weights(make_recipe, tmp_path):
    """Mutation seen red: `swapped_in` left out of `save_final`."""
    average = weights(train(make_recipe("average", ema_decay=0.5), tmp_path / "runs"))
    last = weights(train(make_recipe("last", final_weights="last"), tmp_path / "runs"))
    start = load_file(tmp_path / "policy/model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert 0 < (average[name] - start[name]).norm() < (last[name] - start[name]).norm()


def test_value_model_is_read_where_it_is_named(make_recipe, tmp_path, tokenizer):
    """Mutation seen red: the value model always a copy of the reward model."""
    from podium.rewards.model import load_reward_model, save_reward_model

    make_recipe()
    model = load_reward_model(tmp_path / "reward")[0]
    model.config.reward_bias = -7.0
    save_reward_model(model, tokenizer, tmp_path / "other")
    folder = train(
        make_recipe(value_model=str(tmp_path / "other"), total_episodes=8), tmp_path / "runs"
    )
    assert load_reward_model(folder / "final/value")[0].config.reward_bias == -7.0


def test_every_window_is_as_long_as_the_key_says(make_recipe, tmp_path, monkeypatch):
    """And every iteration asks prompts of its own. Mutations seen red: windows of 16 whatever the
    key; every iteration begins at the first prompt.
    """
    shapes, asked = [], []
    rollout, update = Learner.rollout, Learner.update

    def remember_rollout(self, prompts, iteration, *others):
        asked.append(sorted(map(tuple, prompts)))
        return rollout(self, prompts, iteration, *others)

    def remember_update(self, batch, targets, documents, iteration):
        seen = list(itertools.islice(documents, 2))
        shapes.extend(part.shape for part in seen)
        return update(self, batch, targets, iter(seen), iteration)

    monkeypatch.setattr(Learner, "rollout", remember_rollout)
    monkeypatch.setattr(Learner, "update", remember_update)
    train(make_recipe(ptx_context=24, total_episodes=16), tmp_path / "runs")
    assert shapes == [(2, 24)] * 4
    assert not set(asked[0]) & set(asked[1])  # 8 and 8 of 20


def test_the_log_of_a_run_is_the_same_twice(make_recipe, tmp_path):
    a, b = train(make_recipe("a"), tmp_path / "runs"), train(make_recipe("b"), tmp_path / "runs")
    assert timeless(a) == timeless(b)
    assert_same_weights(a, b)


def test_lora_trains_adapters_and_its_reference_is_the_adapter_switched_off(make_recipe, tmp_path):
    """KL 0 at the start and the base weights untouched. Mutation seen red: `disable_adapter` left
    out (KL stays 0).
    """
    folder = train(
        make_recipe(lora={"r": 4}, learning_rate=1e-2, final_weights="last"), tmp_path / "runs"
    )
    lines = metrics(folder)
    assert lines[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert lines[-1]["objective/kl_k3"] > 1e-4
    start = load_file(tmp_path / "policy/model.safetensors")
    final = load_file(folder / "final/model.safetensors")
    assert start.keys() == final.keys()
    assert torch.equal(start["model.embed_tokens.weight"], final["model.embed_tokens.weight"])
    difference = (
        final["model.layers.0.self_attn.q_proj.weight"]
        - start["model.layers.0.self_attn.q_proj.weight"]
    )
    assert 0 < torch.linalg.matrix_rank(difference, rtol=1e-3) <= 4
    assert (folder / "final/adapter/adapter_config.json").is_file()


@pytest.mark.parametrize(
    "config",
    [{"frozen_models": "offload"}, {"gradient_checkpointing": True}, {"engine": {"zero_stage": 2}}],
    ids=["offload", "checkpointing", "zero2"],
)
def test_where_things_lie_changes_no_number(make_recipe, tmp_path, config):
    """Offloaded frozen models, recomputed activations, ZeRO: the same run. Mutation seen red:
    offloaded models read in bf16.
    """
    plain = metrics(train(make_recipe("plain"), tmp_path / "runs"))
    other = metrics(train(make_recipe("other", **config), tmp_path / "runs"))
    for name in (
        "objective/scores",
        "objective/kl",
        "loss/policy_avg",
        "loss/value_avg",
        "ptx/loss",
    ):
        assert [line[name] for line in other] == pytest.approx(
            [line[name] for line in plain], rel=1e-4, abs=1e-6
        ), name


def test_prompts_that_do_not_fit_are_dropped_and_counted(make_recipe, tmp_path):
    """Mutation seen red: every prompt kept."""
    folder = train(make_recipe(max_prompt_tokens=14), tmp_path / "runs")
    assert "of 20 prompts are longer than 14 tokens: dropped" in (folder / "logbook.md").read_text()
    with pytest.raises(DataError, match="none of 20 is as short as 2 tokens"):
        train(make_recipe("none", max_prompt_tokens=2), tmp_path / "runs")


def test_a_tokenizer_whose_pad_is_its_end_is_refused(make_recipe, policy_folder, tmp_path):
    """Pitfall 1, at the door. Mutation seen red: only a missing pad token refused."""
    from podium.models import load_tokenizer

    for folder in (policy_folder, tmp_path / "reward"):
        tokenizer = load_tokenizer(folder)
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(folder)
    with pytest.raises(ParentError, match="endings cannot be learned"):
        train(make_recipe(), tmp_path / "runs")
