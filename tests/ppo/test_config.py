"""The config: presets, and what it refuses."""

import pytest
from pydantic import ValidationError

from ppo.config import Config


def test_the_instructgpt_preset_has_the_papers_numbers():
    """Appendix C.4."""
    config = Config(preset="instructgpt")
    assert (config.kl_coef, config.ptx_coef, config.ptx_ratio, config.ema_decay) == (
        0.02,
        27.8,
        8,
        0.992,
    )
    assert (config.total_episodes, config.batch_size, config.num_mini_batches) == (256_000, 512, 8)
    assert config.num_ppo_epochs == 1
    assert (config.gamma, config.clip_range, config.temperature, config.warmup_iterations) == (
        1.0,
        0.2,
        1.0,
        10,
    )
    assert config.windows_per_step == 8 * 64 and config.iterations == 500


def test_keys_beside_a_preset_win():
    config = Config(preset="instructgpt", kl_coef=0.05, guard={"max_ratio": 3.0})
    assert config.kl_coef == 0.05 and config.ptx_coef == 27.8
    assert config.guard.max_ratio == 3.0 and config.guard.max_kl == 100.0


def test_a_resolved_config_loads_to_itself():
    config = Config(preset="instructgpt", kl_coef=0.05)
    assert Config(**config.model_dump()) == config


def test_a_batch_counts_answers_not_prompts():
    """Mutation seen red: `prompts_per_iteration` the batch size."""
    config = Config(advantage="grpo", num_generations=4, batch_size=128, total_episodes=512)
    assert config.prompts_per_iteration == 32 and config.iterations == 4
    assert not config.has_critic and Config(num_generations=4).has_critic


def test_plain_ppo_reads_no_windows():
    assert Config(ptx_coef=0.0).windows_per_step == 0


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"kl_coeff": 0.1}, "kl_coeff"),
        ({"batch_size": 10, "num_mini_batches": 4}, "minibatches"),
        ({"total_episodes": 10}, "less than one batch"),
        ({"lora": {"dropout": 0.1}}, "must not differ"),
        ({"temperature": 0.0}, "temperature"),
        ({"num_generations": 3}, "num_generations 3 answers"),
        ({"advantage": "rloo"}, "set num_generations to 2"),
        ({"advantage": "grpo"}, "set num_generations to 2"),
        ({"advantage": "reinforce++", "value_model": "reward"}, "leave value_model null"),
        ({"advantage": "rloo", "num_generations": 4, "gamma": 0.9}, "leave gamma at 1"),
    ],
)
def test_what_cannot_work_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        Config(**given)
