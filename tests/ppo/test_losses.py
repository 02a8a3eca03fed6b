"""The losses and estimators against hand-computed values, finite differences and exact sums."""

import math

import pytest
import torch

from ppo.losses import (
    clip_fraction,
    clipped_policy_loss,
    clipped_value_loss,
    explained_variance,
    k1,
    k3,
)


def test_policy_loss_by_hand():
    """Ratio 1.5 and 0.5 with either sign of advantage. Mutation seen red: minimum for maximum; the
    sign of A.
    """
    old = torch.zeros(4)
    new = torch.tensor([1.5, 1.5, 0.5, 0.5]).log()
    advantages = torch.tensor([1.0, -1.0, 1.0, -1.0])
    loss = clipped_policy_loss(new, old, advantages, clip_range=0.2)
    assert loss.tolist() == pytest.approx([-1.2, 1.5, -0.5, 0.8])


def test_policy_gradient_is_zero_where_clipping_binds_and_only_there():
    """Mutation seen red: the clip removed."""
    new = torch.tensor([1.5, 1.5, 0.5, 0.5]).log().requires_grad_()
    clipped_policy_loss(
        new, torch.zeros(4), torch.tensor([1.0, -1.0, 1.0, -1.0]), 0.2
    ).sum().backward()
    assert (new.grad != 0).tolist() == [False, True, True, False]


def test_policy_gradient_equals_finite_differences():
    """Oracle: the gradient with respect to the logits of a tiny policy. Mutation seen red: `old`
    not detached but equal to `new` (the ratio is then constant and the gradient 0).
    """
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(6, 5, generator=generator, dtype=torch.double)
    actions = torch.randint(5, (6,), generator=generator)
    advantages = torch.randn(6, generator=generator, dtype=torch.double)
    old = (logits + 0.3 * torch.randn(6, 5, generator=generator, dtype=torch.double)).log_softmax(
        -1
    )
    old = old.gather(1, actions[:, None])[:, 0]

    def loss(x):
        return clipped_policy_loss(
            x.log_softmax(-1).gather(1, actions[:, None])[:, 0], old, advantages, 0.2
        ).mean()

    variable = logits.clone().requires_grad_()
    loss(variable).backward()
    numeric = torch.zeros_like(logits)
    for i in range(6):
        for j in range(5):
            step = torch.zeros_like(logits)
            step[i, j] = 1e-6
            numeric[i, j] = (loss(logits + step) - loss(logits - step)) / 2e-6
    assert torch.allclose(variable.grad, numeric, atol=1e-8)
    assert numeric.abs().max() > 1e-3


def test_value_loss_by_hand():
    """Mutation seen red: minimum for maximum; the factor a half left out."""
    values = torch.tensor([2.0, 0.1, -2.0])
    old = torch.zeros(3)
    returns = torch.tensor([1.0, 1.0, 1.0])
    loss = clipped_value_loss(values, old, returns, clip_range=0.2)
    assert loss.tolist() == pytest.approx(
        [0.5 * max(1.0, 0.8**2), 0.5 * 0.9**2, 0.5 * max(9.0, 1.2**2)]
    )


@pytest.mark.parametrize("function", [clipped_policy_loss, clipped_value_loss])
def test_a_batch_is_the_mean_of_its_singles(function):
    """Pitfall 16. Mutation seen red: the loss divided by its own length."""
    generator = torch.Generator().manual_seed(1)
    a, b, c = (torch.randn(7, generator=generator) for _ in range(3))
    whole = function(a, b, c, 0.2).mean()
    singles = torch.stack(
        [function(a[i : i + 1], b[i : i + 1], c[i : i + 1], 0.2).mean() for i in range(7)]
    )
    assert whole.item() == pytest.approx(singles.mean().item(), rel=1e-6)


INPUTS = [
    (clipped_policy_loss, 3),
    (clipped_value_loss, 3),
    (k1, 2),
    (k3, 2),
    (explained_variance, 2),
]


@pytest.mark.parametrize(
    ("function", "place"), [(function, i) for function, n in INPUTS for i in range(n)]
)
def test_column_vectors_are_refused_in_every_place(function, place):
    """Pitfall 12: [B] against [B, 1], for each input of each function. Mutation seen red:
    `_same_shape` does nothing, or is given all but the last tensor.
    """
    inputs = [torch.zeros(3)] * dict(INPUTS)[function]
    inputs[place] = torch.zeros(3, 1)
    clip = {"clip_range": 0.2} if len(inputs) == 3 else {}
    with pytest.raises(ValueError, match="shapes differ"):
        function(*inputs, **clip)


def test_k1_and_k3_have_the_exact_kl_as_their_mean():
    """Oracle: the sum over a tiny vocabulary. Mutation seen red: `k3` with p/q for q/p; the sign of
    `k1`.
    """
    generator = torch.Generator().manual_seed(0)
    p, q = (
        torch.randn(4, generator=generator, dtype=torch.double).log_softmax(-1) for _ in range(2)
    )
    exact = (p.exp() * (p - q)).sum()
    for estimator in (k1, k3):
        assert (p.exp() * estimator(p, q)).sum().item() == pytest.approx(exact.item(), rel=1e-9)
    assert (k3(p, q) >= 0).all() and not (k1(p, q) >= 0).all()


def test_sum_of_per_token_kl_is_the_kl_of_sequences():
    """Oracle: all two-token sequences over three tokens. Mutation seen red: the mean over tokens
    for the sum.
    """
    generator = torch.Generator().manual_seed(0)

    def sequence_model():
        first = torch.randn(3, generator=generator, dtype=torch.double).log_softmax(-1)
        return first, torch.randn(3, 3, generator=generator, dtype=torch.double).log_softmax(-1)

    (p1, p2), (q1, q2) = sequence_model(), sequence_model()
    exact = expected = 0.0
    for a in range(3):
        for b in range(3):
            weight = math.exp(p1[a] + p2[a, b])
            exact += weight * float(p1[a] + p2[a, b] - q1[a] - q2[a, b])
            expected += weight * float(
                k1(torch.stack([p1[a], p2[a, b]]), torch.stack([q1[a], q2[a, b]])).sum()
            )
    assert expected == pytest.approx(exact, rel=1e-9)


def test_equal_policies_have_kl_zero():
    """Oracle: policy = reference. Mutation seen red: `exp` for `expm1`."""
    logprobs = -torch.rand(5)
    assert not k1(logprobs, logprobs).any() and not k3(logprobs, logprobs).any()


def test_clip_fraction_and_explained_variance_by_hand():
    """Mutation seen red: `>` for `<`; returns and values exchanged in the variance."""
    assert clip_fraction(torch.tensor([-0.3, 0.0, 0.1, 0.3]), 0.2).tolist() == [1, 0, 0, 1]
    returns = torch.tensor([1.0, 2.0, 3.0, 4.0])
    assert explained_variance(returns, returns).item() == pytest.approx(1.0)
    assert explained_variance(returns + 5, returns).item() == pytest.approx(1.0)
    assert explained_variance(torch.full((4,), 2.5), returns).item() == pytest.approx(0.0)
    assert explained_variance(3 * returns, returns).item() == pytest.approx(-3.0)
