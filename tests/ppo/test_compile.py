"""torch.compile inside PPO: the same numbers, and the sampled copy has no compiled layers (its
steps are compiled).
"""

import pytest
import torch
from pydantic import ValidationError

from podium.sampling.compiled import CompiledStep
from ppo.config import Config

PROMPTS = [
    [5, 6, 7],
    [8, 9],
    [10, 11, 12, 13, 14, 15],
    [16],
    [17, 18, 19],
    [21, 22],
    [23, 24, 25],
    [26, 27, 28, 29],
]


def compiled_layers(model: torch.nn.Module) -> int:
    return sum(module._compiled_call_impl is not None for module in model.modules())


@pytest.mark.slow
@pytest.mark.parametrize("lora", [None, {"r": 2}])
def test_a_compiled_learner_says_and_learns_the_same(make_learner, lora, monkeypatch):
    """Two iterations, so that the sampler's copy must follow the updates. Seen red with the layers
    of the sampled policy compiled, with the copy never refreshed, with nothing compiled, and with
    steps not compiled.
    """
    whole, compiled = make_learner(lora=lora), make_learner(lora=lora, compile=True)
    steps = []
    step = CompiledStep.__call__
    monkeypatch.setattr(CompiledStep, "__call__", lambda *args: steps.append(1) or step(*args))
    layers = whole.policy.module.model.config.num_hidden_layers
    parts = [compiled.policy.module, compiled.value.module, compiled.reward.module]
    parts += [] if lora else [compiled.reference.module]
    assert [compiled_layers(part) for part in parts] == [layers] * len(parts)
    assert compiled_layers(compiled.sampler.model) == compiled_layers(whole.policy.module) == 0
    for iteration in (1, 2):
        batches = []
        for learner in (whole, compiled):
            batch = learner.rollout(PROMPTS, iteration)
            targets, _ = learner.targets(batch)
            learner.update(batch, targets, None, iteration)
            batches.append(batch)
        expected, found = batches
        assert torch.equal(found.input_ids, expected.input_ids)
        for name in ("logprobs", "ref_logprobs", "values", "scores"):
            torch.testing.assert_close(
                getattr(found, name), getattr(expected, name), atol=1e-4, rtol=0
            )
    assert len(steps) > 10
    weights = zip(
        whole.policy.module.parameters(), compiled.policy.module.parameters(), strict=True
    )
    for mine, theirs in weights:
        torch.testing.assert_close(mine, theirs, atol=2e-4, rtol=0)


@pytest.mark.parametrize("sharded", [{"engine": {"zero_stage": 3}}, {"frozen_models": "sharded"}])
def test_sharded_weights_are_not_compiled(sharded):
    """Seen red with the check left out."""
    with pytest.raises(ValidationError, match="compile works on whole weights"):
        Config(compile=True, **sharded)
