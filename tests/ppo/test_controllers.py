"""KL controllers, score scaling and the weight average, by hand."""

import pytest
import torch
from torch import nn

from ppo.controllers import EMA, AdaptiveKL, FixedKL, RunningScale


def test_fixed_controller_stays():
    controller = FixedKL(0.02)
    controller.update(kl=50.0, episodes=512)
    assert controller.kl_coef == 0.02


def test_adaptive_controller_by_hand():
    """Ziegler's rule: the error is clipped at 20 %. Mutation seen red: target / kl for kl /
    target.
    """
    controller = AdaptiveKL(0.1, target=6.0, horizon=10_000)
    controller.update(kl=6.6, episodes=1000)  # 10 % too high
    assert controller.kl_coef == pytest.approx(0.1 * (1 + 0.1 * 0.1))
    controller.update(kl=0.0, episodes=1000)  # far too low
    assert controller.kl_coef == pytest.approx(0.1 * 1.01 * (1 - 0.2 * 0.1))


def test_running_scale_equals_the_std_of_all_scores_in_any_split():
    """Pitfall 4's cousin. Mutation seen red: the shift term of Welford's update left out."""
    scores = torch.randn(60, generator=torch.Generator().manual_seed(0)) * 3 + 5
    for split in ([60], [1, 59], [20, 20, 20]):
        scale = RunningScale()
        for part in scores.split(split):
            scale.update(part)
        assert scale.std == pytest.approx(scores.double().std(correction=0).item(), rel=1e-6)


def test_running_scale_of_one_score_is_1():
    """Mutation seen red: 0 where there is no spread."""
    scale = RunningScale()
    scale.update(torch.tensor([4.0]))
    assert scale.std == 1.0


def test_ema_by_hand_and_swapping():
    """Mutation seen red: decay and 1 - decay exchanged."""
    model = nn.Linear(1, 1, bias=False)
    model.weight.data.fill_(1.0)
    ema = EMA(model.parameters(), decay=0.9)
    model.weight.data.fill_(2.0)
    ema.update()
    with ema.swapped_in():
        assert model.weight.item() == pytest.approx(1.1)
    assert model.weight.item() == 2.0


def test_frozen_weights_are_not_averaged():
    """Mutation seen red: all parameters averaged."""
    model = nn.Linear(2, 2)
    model.bias.requires_grad_(False)
    assert len(EMA(model.parameters(), 0.9).average) == 1


def test_states_come_back():
    """Pitfall 14. Mutation seen red: `load_state_dict` of the EMA does nothing."""
    adaptive, scale = AdaptiveKL(0.1, 6.0, 100), RunningScale()
    adaptive.update(9.0, 50)
    scale.update(torch.tensor([1.0, 5.0]))
    model = nn.Linear(2, 2)
    ema = EMA(model.parameters(), 0.5)
    model.weight.data.add_(1.0)
    ema.update()
    fresh = AdaptiveKL(0.1, 6.0, 100), RunningScale(), EMA(model.parameters(), 0.5)
    for new, old in zip(fresh, (adaptive, scale, ema), strict=True):
        new.load_state_dict(old.state_dict())
    assert fresh[0].kl_coef == adaptive.kl_coef and fresh[1].std == scale.std
    assert all(torch.equal(a, b) for a, b in zip(fresh[2].average, ema.average, strict=True))
