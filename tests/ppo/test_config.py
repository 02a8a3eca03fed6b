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
    ],
)
def test_what_cannot_work_is_refused(given, message):
    with pytest.raises(ValidationError, match=message):
        Config(**given)
