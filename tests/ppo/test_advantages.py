"""Rewards, GAE and whitening against definitions written out the long way."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from ppo.advantages import (
    gae,
    grpo,
    kl_shaped_rewards,
    last_action,
    reinforce_plus_plus,
    rloo,
    whiten,
)


@pytest.fixture
def batch():
    """Three rows of 8 columns; actions start and end at different columns; one row has a single
    action.
    """
    mask = torch.tensor(
        [[0, 0, 1, 1, 1, 1, 0, 0], [0, 1, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 0, 0, 0]]
    ).bool()
    generator = torch.Generator().manual_seed(0)
    logprobs, ref_logprobs, values, rewards = (
        torch.randn(3, 8, generator=generator) for _ in range(4)
    )
    return mask, logprobs, ref_logprobs, values, rewards


def test_reward_index_is_the_last_action(batch):
    """Pitfall 5. Mutation seen red: `last_action(action_mask) + 1`, the first PAD after the stop
    token.
    """
    mask, logprobs, _, _, _ = batch
    rewards = kl_shaped_rewards(
        torch.tensor([1.0, 2.0, 3.0]), logprobs, logprobs, mask, kl_coef=0.1
    )
    assert rewards.nonzero().tolist() == [[0, 5], [1, 7], [2, 4]]
    assert last_action(mask).tolist() == [5, 7, 4]


def test_rewards_without_kl_sum_to_the_score(batch):
    """Pitfall 6: the score is given once. Mutation seen red: the score added to every action."""
    mask, logprobs, ref_logprobs, _, _ = batch
    scores = torch.tensor([1.0, -2.0, 3.0])
    rewards = kl_shaped_rewards(scores, logprobs, ref_logprobs, mask, kl_coef=0.3)
    kl = ((logprobs - ref_logprobs) * mask).sum(1)
    assert torch.allclose(rewards.sum(1) + 0.3 * kl, scores, atol=1e-6)


def test_kl_is_punished_and_only_under_the_mask(batch):
    """Mutation seen red: the sign of the KL term; `where` left out."""
    mask, logprobs, _, _, _ = batch
    rewards = kl_shaped_rewards(torch.zeros(3), logprobs + 1.0, logprobs, mask, kl_coef=0.5)
    assert torch.allclose(rewards, -0.5 * mask.float())


def test_shapes_that_would_broadcast_are_refused(batch):
    """Pitfall 12: (B, 1) scores would become a B x B matrix. Mutations seen red: `_expect_shape`
    does nothing; each of the three checks left out.
    """
    mask, logprobs, ref_logprobs, values, rewards = batch
    with pytest.raises(ValueError, match="scores has shape"):
        kl_shaped_rewards(torch.zeros(3, 1), logprobs, ref_logprobs, mask, 0.1)
    with pytest.raises(ValueError, match="values has shape"):
        gae(rewards, values[:, :1], mask, 1.0, 0.95)
    with pytest.raises(ValueError, match="values has shape"):
        whiten(values[:, 0], mask)


def test_a_row_without_actions_is_refused(batch):
    """Mutation seen red: the check left out; its score would be added to column 0."""
    mask, logprobs, ref_logprobs, _, _ = batch
    mask[1] = False
    with pytest.raises(ValueError, match="without an action"):
        kl_shaped_rewards(torch.zeros(3), logprobs, ref_logprobs, mask, 0.1)


def explicit_gae(rewards, values, gamma, lam):
    """The double sum of the definition, for one row's actions; the value after the last one
    is 0.
    """
    n = len(rewards)
    padded = [*values, 0.0]
    deltas = [rewards[t] + gamma * padded[t + 1] - padded[t] for t in range(n)]
    return [sum((gamma * lam) ** (k - t) * deltas[k] for k in range(t, n)) for t in range(n)]


@settings(max_examples=30, deadline=None)
@given(gamma=st.floats(0.5, 1.0), lam=st.floats(0.0, 1.0), seed=st.integers(0, 1000))
def test_gae_equals_the_explicit_double_sum(gamma, lam, seed):
    """Oracle. Mutations seen red: `next_value` taken from the same column; lambda left out of the
    recursion.
    """
    generator = torch.Generator().manual_seed(seed)
    mask = torch.tensor(
        [[0, 0, 1, 1, 1, 1, 0], [0, 1, 1, 1, 1, 1, 1], [0, 0, 0, 0, 1, 0, 0]]
    ).bool()
    rewards = torch.randn(3, 7, generator=generator) * mask
    values = torch.randn(3, 7, generator=generator)
    advantages, returns = gae(rewards, values, mask, gamma, lam)
    for row in range(3):
        on = mask[row]
        expected = torch.tensor(
            explicit_gae(rewards[row, on].tolist(), values[row, on].tolist(), gamma, lam)
        )
        assert torch.allclose(advantages[row, on], expected, atol=1e-5)
        assert torch.allclose(returns[row, on], expected + values[row, on], atol=1e-5)
        assert not advantages[row, ~on].any() and not returns[row, ~on].any()


def test_no_value_is_bootstrapped_after_the_last_action(batch):
    """Pitfall 5: what the value model says at PAD is nothing. Mutation seen red: `values` not
    masked in `gae`.
    """
    mask, _, _, values, rewards = batch
    rewards = rewards * mask
    reference = gae(rewards, values, mask, 1.0, 0.95)
    changed = torch.where(mask, values, 100.0)
    for result, expected in zip(gae(rewards, changed, mask, 1.0, 0.95), reference, strict=True):
        assert torch.equal(result, expected)


@pytest.mark.parametrize("extra", [0, 1, 5])
def test_advantages_do_not_depend_on_padding(batch, extra):
    """Pitfalls 8 and 11, on both sides. Mutation seen red: whitening over all columns."""
    mask, _, _, values, rewards = batch
    rewards = rewards * mask
    pad = (extra, 2 * extra)
    wide_mask = torch.nn.functional.pad(mask, pad)
    expected = whiten(gae(rewards, values, mask, 0.99, 0.9)[0], mask)
    wide = [
        torch.nn.functional.pad(tensor, pad, value=7.0 * (extra > 0))
        for tensor in (rewards, values)
    ]
    found = whiten(gae(wide[0] * wide_mask, wide[1], wide_mask, 0.99, 0.9)[0], wide_mask)
    assert torch.allclose(found[:, extra : extra + 8], expected, atol=1e-6)


def test_whitened_mean_0_and_variance_1_over_valid_tokens(batch):
    """Pitfall 4. Mutations seen red: the mean kept; statistics of all columns."""
    mask, _, _, values, _ = batch
    whitened = whiten(values * 5 + 3, mask)
    assert whitened[mask].mean().item() == pytest.approx(0.0, abs=1e-6)
    assert whitened[mask].var(correction=0).item() == pytest.approx(1.0, abs=1e-5)
    assert not whitened[~mask].any()


def test_whitening_without_shift_keeps_the_mean(batch):
    """For rewards. Mutation seen red: `shift_mean` ignored."""
    mask, _, _, values, _ = batch
    whitened = whiten(values + 3, mask, shift_mean=False)
    assert whitened[mask].mean().item() == pytest.approx((values[mask] + 3).mean().item(), rel=1e-5)
    assert whitened[mask].var(correction=0).item() == pytest.approx(1.0, abs=1e-5)


# ---- without a critic --------


@pytest.fixture
def answers():
    """Two prompts with three answers each, of unequal lengths, and their rewards token by token."""
    lengths, starts = [3, 1, 5, 2, 4, 4], [2, 2, 2, 1, 1, 1]
    columns = torch.arange(8)[None, :]
    start, length = torch.tensor(starts)[:, None], torch.tensor(lengths)[:, None]
    mask = (columns >= start) & (columns < start + length)
    return torch.randn(6, 8, generator=torch.Generator().manual_seed(3)), mask


def test_rloo_is_the_reward_less_the_mean_of_the_others(answers):
    """Ahmadian et al. 2024, by hand. Mutations seen red: the mean over all K, own answer among
    them; divided by K; neighbours of another prompt (`view(num_generations, -1)`); the rewards
    outside the mask counted.
    """
    rewards, mask = answers
    found = rloo(rewards, mask, 3)
    for row in range(6):
        group = [i for i in range(6) if i // 3 == row // 3]
        others = [float(rewards[i][mask[i]].sum()) for i in group if i != row]
        expected = float(rewards[row][mask[row]].sum()) - sum(others) / 2
        assert torch.allclose(found[row][mask[row]], torch.tensor(expected), atol=1e-5)
    assert not found[~mask].any()


def test_rloo_takes_the_kl_of_the_whole_response():
    """Two answers that score alike: the one further from the reference loses what it paid.
    Mutation seen red: `rloo` on the score alone (the reward of the last action).
    """
    mask = torch.tensor([[True, True, True], [True, True, True]])
    logprobs = torch.tensor([[-1.0, -1.0, -1.0], [-2.0, -2.0, -2.0]])
    rewards = kl_shaped_rewards(torch.ones(2), logprobs, torch.full((2, 3), -2.0), mask, 0.5)
    assert torch.allclose(rloo(rewards, mask, 2)[:, 0], torch.tensor([-1.5, 1.5]))


def test_grpo_is_the_reward_in_its_group_s_standard_deviations(answers):
    """Shao et al. 2024, by hand. Mutations seen red: one standard deviation for the whole batch;
    the population's (`correction=0`); no shift.
    """
    rewards, mask = answers
    found = grpo(rewards, mask, 3)
    totals = [float(rewards[i][mask[i]].sum()) for i in range(6)]
    for row in range(6):
        group = [totals[i] for i in range(6) if i // 3 == row // 3]
        mean = sum(group) / 3
        std = (sum((total - mean) ** 2 for total in group) / 2) ** 0.5
        expected = torch.tensor((totals[row] - mean) / (std + 1e-4))
        assert torch.allclose(found[row][mask[row]], expected, atol=1e-4)
    assert not found[~mask].any()


def test_answers_of_equal_reward_teach_nothing():
    """Mutation seen red: nothing added to the standard deviation (0 / 0)."""
    rewards, mask = torch.ones(4, 1), torch.ones(4, 1, dtype=torch.bool)
    assert not grpo(rewards, mask, 4).any() and not rloo(rewards, mask, 4).any()


def test_reinforce_plus_plus_is_the_whitened_reward_to_go(answers):
    """Hu 2025, by hand: what comes from this token on, then one mean and one variance for the
    tokens of the whole batch. Mutations seen red: the reward up to the token (`flip` left out);
    whitened by row; the rewards outside the mask counted.
    """
    rewards, mask = answers
    to_go = [
        [float(rewards[i][t:][mask[i][t:]].sum()) for t in range(8) if mask[i, t]] for i in range(6)
    ]
    flat = torch.tensor([value for row in to_go for value in row])
    expected = (flat - flat.mean()) / flat.std(correction=0)
    found = reinforce_plus_plus(rewards, mask)
    assert torch.allclose(found[mask], expected, atol=1e-5)
    assert not found[~mask].any()


def test_reinforce_plus_plus_is_gae_of_no_values_and_lambda_1(answers):
    """A second oracle. Mutation seen red: the current token's reward left out of its return."""
    rewards, mask = answers
    rewards = rewards * mask
    advantages, _ = gae(rewards, torch.zeros_like(rewards), mask, 1.0, 1.0)
    assert torch.allclose(reinforce_plus_plus(rewards, mask), whiten(advantages, mask), atol=1e-5)


@pytest.mark.parametrize("function", [rloo, grpo])
@pytest.mark.parametrize("num_generations", [1, 4])
def test_groups_that_are_not_whole_are_refused(answers, function, num_generations):
    """Mutation seen red: the check left out; with 1 the others' mean is 0 / 0."""
    with pytest.raises(ValueError, match=f"ppo.num_generations {num_generations}"):
        function(*answers, num_generations)
