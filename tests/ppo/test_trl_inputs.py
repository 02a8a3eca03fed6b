"""TRL's inputs drive our learner."""

import pytest

from podium.errors import RecipeError
from ppo.config import Config
from ppo.trl_inputs import config_from_trl, iterations, learner_from_trl, prompts_from_trl

ARGS = {
    "total_episodes": 16,
    "per_device_train_batch_size": 2,
    "gradient_accumulation_steps": 4,
    "num_mini_batches": 2,
    "num_ppo_epochs": 2,
    "response_length": 8,
    "temperature": 0.7,
    "kl_coef": 0.05,
    "cliprange": 0.1,
    "lam": 0.9,
    "learning_rate": 1e-3,
    "stop_token": "eos",
    "missing_eos_penalty": 1.0,
    "seed": 1,
    "unknown_to_us": None,
}


def test_names_are_translated():
    config = config_from_trl(ARGS)
    assert (config.batch_size, config.clip_range, config.gae_lambda, config.num_ppo_epochs) == (
        8,
        0.1,
        0.9,
        2,
    )
    assert config.learning_rate == config.value_learning_rate == 1e-3
    assert config.ptx_coef == 0.0 and config.missing_eos_penalty == 1.0 and config.iterations == 2


def test_what_is_not_given_is_what_trl_takes():
    """TRL's own defaults, by its documentation; and what TRL does not know is switched off.
    Mutations seen red: another default; the norm of 0, which TRL reads as none, taken for a limit.
    """
    config = config_from_trl({"total_episodes": 16})
    assert (config.batch_size, config.learning_rate, config.warmup_iterations) == (8, 3e-6, 0)
    assert (config.ptx_coef, config.final_weights, config.missing_eos_penalty) == (0.0, "last", 0.0)
    assert config.engine.gradient_clipping == Config().engine.gradient_clipping
    given = {"gradient_accumulation_steps": 3, "max_grad_norm": 0.25, "warmup_steps": 4}
    config = config_from_trl({"total_episodes": 96, **given}, processes=2)
    assert (config.batch_size, config.warmup_iterations) == (48, 4)
    assert config.engine.gradient_clipping == 0.25
    off = config_from_trl({"total_episodes": 16, "max_grad_norm": 0})
    assert off.engine.gradient_clipping == Config().engine.gradient_clipping


def test_the_seed_the_precision_and_the_end_are_those_given(
    policy_folder, reward_folder, tokenizer
):
    """Mutations seen red: another seed where none is given; the end token where none is asked for."""
    from transformers import AutoModelForSequenceClassification

    from podium.models import load_causal_lm

    for given, expected in (
        ({"stop_token": None, "seed": None}, (42, (), "fp32")),
        ({"stop_token": None, "stop_token_id": 7, "bf16": True}, (1, (7,), "bf16")),
    ):
        args = {k: v for k, v in (ARGS | given).items() if k != "seed" or v is not None}
        scored = [
            AutoModelForSequenceClassification.from_pretrained(reward_folder) for _ in range(2)
        ]
        learner = learner_from_trl(args, tokenizer, load_causal_lm(policy_folder), None, *scored)
        assert (learner.seed, learner.stop_token_ids, learner.dtype) == expected


def test_k3_in_the_reward_is_refused():
    with pytest.raises(RecipeError, match="k3"):
        config_from_trl({**ARGS, "kl_estimator": "k3"})


def test_padding_is_taken_off_either_side():
    rows = [{"input_ids": [1, 1, 5, 6]}, {"input_ids": [7, 1, 8, 1]}]
    assert prompts_from_trl(rows, pad_token_id=1) == [[5, 6], [7, 1, 8]]


def test_four_models_train_in_place(policy_folder, reward_folder, tokenizer):
    from transformers import AutoModelForSequenceClassification

    from podium.models import load_causal_lm

    model, reference = load_causal_lm(policy_folder), load_causal_lm(policy_folder)
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(reward_folder) for _ in range(2)
    )
    before = model.model.layers[0].mlp.up_proj.weight.clone()
    learner = learner_from_trl(ARGS, tokenizer, model, reference, reward, value)
    logged = list(iterations(learner, [[10, 11, 12], [13, 14], [15], [16, 17, 18, 19]] * 2))
    assert len(logged) == 2 and logged[0]["objective/kl"] == pytest.approx(0.0, abs=1e-4)
    assert learner.stop_token_ids == (tokenizer.eos_token_id,)
    assert not before.equal(model.model.layers[0].mlp.up_proj.weight)
