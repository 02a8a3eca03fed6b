"""The K-way losses against loops over pairs, and what they must not depend on."""

import itertools
import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from reward.loss import pairwise_losses, plackett_luce_losses, strict_pairs


def flat(rankings: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
    """Lists of ranks -> the flat (N,) ranks and ranking ids that the losses take."""
    ranks = torch.tensor([rank for ranks in rankings for rank in ranks])
    ids = torch.tensor([r for r, ranks in enumerate(rankings) for _ in ranks])
    return ranks, ids


def brute_force(
    scores: torch.Tensor, rankings: list[list[int]], ratings: torch.Tensor | None = None
) -> torch.Tensor:
    """The paper's formula with loops: mean over a ranking's untied pairs, one value a ranking."""
    losses, start = [], 0
    for ranks in rankings:
        terms = []
        for i, j in itertools.permutations(range(len(ranks)), 2):
            if ranks[i] < ranks[j]:
                margin = (
                    max(0.0, float(ratings[start + i] - ratings[start + j]))
                    if ratings is not None
                    else 0.0
                )
                terms.append(
                    -torch.log(torch.sigmoid(scores[start + i] - scores[start + j] - margin))
                )
        losses.append(torch.stack(terms).mean() if terms else scores[start] * 0)
        start += len(ranks)
    return torch.stack(losses)


some_rankings = st.lists(
    st.lists(st.integers(1, 5), min_size=2, max_size=9), min_size=1, max_size=6
)


@settings(max_examples=60, deadline=None)
@given(some_rankings, st.integers(0, 10_000), st.booleans())
def test_loss_and_gradient_equal_brute_force_pairs(rankings, seed, with_margins):
    """Red with `<` turned to `<=` in strict_pairs (ties kept), with better and worse swapped, and
    without the clamp.
    """
    ranks, ids = flat(rankings)
    generator = torch.Generator().manual_seed(seed)
    scores = torch.randn(len(ranks), generator=generator, dtype=torch.float64, requires_grad=True)
    ratings = (
        torch.randn(len(ranks), generator=generator, dtype=torch.float64) if with_margins else None
    )

    ours = pairwise_losses(scores, ranks, ids, len(rankings), ratings)
    theirs = brute_force(scores, rankings, ratings)
    torch.testing.assert_close(ours, theirs, atol=1e-6, rtol=0)
    (ours_grad,) = torch.autograd.grad(ours.sum(), scores)
    (theirs_grad,) = torch.autograd.grad(theirs.sum(), scores)
    torch.testing.assert_close(ours_grad, theirs_grad, atol=1e-6, rtol=0)


@settings(max_examples=30, deadline=None)
@given(some_rankings, st.randoms())
@pytest.mark.parametrize("loss", [pairwise_losses, plackett_luce_losses])
def test_the_order_in_which_responses_are_listed_does_not_matter(loss, rankings, random):
    """Red when Plackett-Luce takes the responses' order for their rank (`field` from
    torch.tril).
    """
    ranks, ids = flat(rankings)
    scores = torch.randn(
        len(ranks), generator=torch.Generator().manual_seed(0), dtype=torch.float64
    )
    shuffle = torch.tensor(random.sample(range(len(ranks)), len(ranks)))
    torch.testing.assert_close(
        loss(scores[shuffle], ranks[shuffle], ids[shuffle], len(rankings)),
        loss(scores, ranks, ids, len(rankings)),
    )


def test_a_ranking_of_nine_counts_as_much_as_a_ranking_of_two():
    """At equal scores every pair costs log 2, so every ranking does. Red when _mean_by_ranking
    returns totals.
    """
    ranks, ids = flat([list(range(1, 10)), [1, 2]])
    losses = pairwise_losses(torch.zeros(11), ranks, ids, 2)
    torch.testing.assert_close(losses, torch.full((2,), math.log(2)))


def test_ties_carry_no_gradient():
    """Red with `<=` in strict_pairs."""
    scores = torch.randn(3, requires_grad=True)
    ranks, ids = flat([[1, 1, 1]])
    for loss in (pairwise_losses, plackett_luce_losses):
        value = loss(scores, ranks, ids, 1).sum()
        assert value == 0
        assert torch.autograd.grad(value, scores)[0].abs().sum() == 0


def test_pairs_never_cross_rankings():
    """Red when `same` is dropped from strict_pairs."""
    ranks, ids = flat([[1, 2], [3, 4]])
    better, worse = strict_pairs(ranks, ids)
    assert list(zip(better.tolist(), worse.tolist(), strict=True)) == [(0, 1), (2, 3)]


def test_plackett_luce_is_the_likelihood_of_drawing_the_order_one_by_one():
    """Three responses, best first: P = e^2/(e^2+e^1+e^0) * e^1/(e^1+e^0). Red when `field` leaves
    out the diagonal.
    """
    scores = torch.tensor([2.0, 1.0, 0.0])
    ranks, ids = flat([[1, 2, 3]])
    e = torch.exp(scores)
    # mean of the two choices
    expected = -(torch.log(e[0] / e.sum()) + torch.log(e[1] / (e[1] + e[2]))) / 2
    torch.testing.assert_close(plackett_luce_losses(scores, ranks, ids, 1)[0], expected)


def test_for_two_responses_the_two_losses_are_one():
    scores = torch.tensor([0.3, -1.2])
    ranks, ids = flat([[2, 1]])
    torch.testing.assert_close(
        plackett_luce_losses(scores, ranks, ids, 1), pairwise_losses(scores, ranks, ids, 1)
    )


def test_a_strong_preference_asks_for_a_wide_gap():
    """Loss at equal scores grows with the margin: -log sigmoid(-m). Red when the margin is added
    instead.
    """
    ranks, ids = flat([[1, 2]])
    slight = pairwise_losses(torch.zeros(2), ranks, ids, 1, ratings=torch.tensor([1.0, 0.0]))
    strong = pairwise_losses(torch.zeros(2), ranks, ids, 1, ratings=torch.tensor([3.0, 0.0]))
    torch.testing.assert_close(
        torch.cat([slight, strong]), torch.nn.functional.softplus(torch.tensor([1.0, 3.0]))
    )
