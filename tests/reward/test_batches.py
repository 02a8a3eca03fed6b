"""From rankings to padded tokens: what is dropped is counted, and how a batch is cut changes
nothing.
"""

import itertools

import pytest
import torch

from data.records import Ranking
from data.template import encode_prompt, encode_response
from podium.rewards.score import score, score_shared_prefix
from reward.batches import (
    collate,
    encode_rankings,
    epoch_batches,
    micro_batches,
    shuffled_pairs,
    weights_of_mean_one,
)
from reward.loss import pairwise_losses
from tests.reward.conftest import ranking


def summed_loss(model, pieces, **how) -> torch.Tensor:
    """The loss of a step: rankings of all micro-batches summed, over their number."""
    total = sum(item.weight for items in pieces for item in items)
    losses = []
    for items in pieces:
        micro = collate(items, 1, **how)
        read = score_shared_prefix if how.get("shared_prefix") else score
        scores = torch.cat([read(model, *chunk) for chunk in micro.chunks])[micro.sequence_of]
        rankings = pairwise_losses(
            scores, micro.ranks, micro.ranking_ids, len(items), micro.ratings
        )
        losses.append((rankings * micro.weights).sum() / total)
    return torch.stack(losses).sum()


def test_every_sequence_is_prompt_plus_response_with_its_end(rankings, tokenizer):
    items, counts = encode_rankings(rankings, tokenizer, 128)
    assert len(items) == len(rankings)
    assert counts == {"empty responses (kept)": 1, "duplicate responses (forwarded once)": 1}
    for item, record in zip(items, rankings, strict=True):
        assert list(item.prompt) == encode_prompt(tokenizer, record.prompt)
        for k, text in enumerate(record.responses):
            assert list(item.responses[item.response_index[k]]) == encode_response(tokenizer, text)


def test_duplicates_are_tied_and_forwarded_once(tokenizer):
    """One text ranked 1 and 3: it was not the text that told them apart. Red when tie_duplicates
    returns the ranks.
    """
    items, counts = encode_rankings(
        [ranking("Who?", ["Ana.", "Bram.", "Ana.", "Cy."], [1, 4, 3, 1])], tokenizer, 128
    )
    assert items[0].ranks == (2, 4, 2, 1)
    assert len(items[0].responses) == 3
    micro = collate(items, 1)
    assert micro.chunks[0].input_ids.shape[0] == 3
    assert micro.sequence_of[0] == micro.sequence_of[2]
    assert counts["duplicate responses (forwarded once)"] == 1


@pytest.mark.parametrize(
    ("responses", "ranks", "reason"),
    [
        (["Ana.", "Bram."], [1, 1], "rankings with nothing but ties (dropped)"),
        (["Ana.", "Ana."], [1, 2], "rankings with nothing but ties (dropped)"),
        (["Ana.", "Zq " * 100], [1, 2], "rankings with fewer than two responses (dropped)"),
    ],
)
def test_what_teaches_nothing_is_dropped_and_counted(tokenizer, responses, ranks, reason):
    items, counts = encode_rankings([ranking("Who?", responses, ranks)], tokenizer, 60)
    assert items == []
    assert counts[reason] == 1


def test_a_response_over_the_context_leaves_its_ranking(tokenizer):
    items, counts = encode_rankings(
        [ranking("Who?", ["Ana.", "Zq " * 100, "Bram."], [3, 1, 2])], tokenizer, 60
    )
    assert items[0].ranks == (3, 2)
    assert counts == {"responses over the context (dropped)": 1}


def test_margins_come_from_likert_or_strength(tokenizer):
    rated = ranking("Who?", ["Ana.", "Bram.", "Cy."], [1, 2, 3], likert=[7, 4, 4], strength=2.0)
    (likert,), _ = encode_rankings([rated], tokenizer, 60, margin="likert", margin_scale=0.5)
    (strength,), _ = encode_rankings([rated], tokenizer, 60, margin="strength", margin_scale=0.5)
    assert likert.ratings == (3.5, 2.0, 2.0)
    assert strength.ratings == (0, -1, -2)
    _, counts = encode_rankings(
        [ranking("Who?", ["Ana.", "Bram."], [1, 2])], tokenizer, 60, margin="likert"
    )
    assert counts == {"rankings without likert (trained without a margin)": 1}


@pytest.mark.parametrize("max_tokens", [1, 120, 400, 10_000])
@pytest.mark.parametrize("processes", [1, 2, 3])
def test_micro_batches_hold_every_ranking_once(rankings, tokenizer, max_tokens, processes):
    items, _ = encode_rankings(rankings, tokenizer, 128)
    plan = micro_batches(items, max_tokens, processes)
    assert len(plan) == processes
    assert len({len(share) for share in plan}) == 1, (
        "every process must take part in every collective"
    )
    pieces = list(itertools.chain(*plan))
    held = [item for piece in pieces for item in piece if item.weight > 0]
    assert sorted(held, key=lambda i: i.prompt) == sorted(items, key=lambda i: i.prompt)
    for piece in pieces:
        padded = max(i.longest for i in piece) * sum(len(i.responses) for i in piece)
        assert padded <= max_tokens or len(piece) == 1


@pytest.mark.parametrize(
    ("max_tokens", "processes", "how"),
    [
        (1, 1, {}),
        (300, 1, {"chunk_tokens": 64}),
        (300, 3, {"chunk_tokens": 1}),
        (1, 3, {}),
        (300, 1, {"shared_prefix": True}),
        (1, 2, {"shared_prefix": True}),
    ],
)
def test_loss_and_gradient_do_not_depend_on_the_cut(
    reward_model, rankings, tokenizer, max_tokens, processes, how
):
    """Red when repeated items keep their weight, and when sequence_of ignores the sorting by
    length.
    """
    items, _ = encode_rankings(rankings, tokenizer, 128)
    weights = list(reward_model.parameters())
    whole = summed_loss(reward_model, [items])
    expected = torch.autograd.grad(whole, weights, allow_unused=True)
    cut = summed_loss(
        reward_model, list(itertools.chain(*micro_batches(items, max_tokens, processes))), **how
    )
    torch.testing.assert_close(cut, whole, atol=1e-6, rtol=0)
    for a, b in zip(torch.autograd.grad(cut, weights, allow_unused=True), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-6, rtol=1e-4)


def test_an_epoch_is_a_permutation_set_by_seed_and_epoch(rankings, tokenizer):
    items, _ = encode_rankings(rankings * 3, tokenizer, 128)
    first = list(epoch_batches(items, 5, seed=1, epoch=0))
    assert [len(batch) for batch in first] == [5, 5, 2]
    assert first == list(epoch_batches(items, 5, seed=1, epoch=0))
    assert first != list(epoch_batches(items, 5, seed=1, epoch=1))
    assert sorted(i.prompt for batch in first for i in batch) == sorted(i.prompt for i in items)


def test_shuffled_pairs_hold_every_strict_pair_once(rankings, tokenizer):
    items, _ = encode_rankings(rankings, tokenizer, 128)
    pairs = shuffled_pairs(items)
    strict = sum(len(r.comparisons()) for r in rankings)
    assert len(pairs) == strict
    assert all(len(pair.responses) == 2 and pair.ranks == (1, 2) for pair in pairs)


def test_weights_have_mean_one_and_weights_of_one_stay_as_they_are(rankings, tokenizer):
    heavy, _ = encode_rankings(rankings, tokenizer, 128)
    light, _ = encode_rankings(rankings, tokenizer, 128, weight=0.01)
    scaled = weights_of_mean_one(heavy + light)
    assert sum(item.weight for item in scaled) == pytest.approx(len(scaled))
    assert scaled[0].weight == pytest.approx(100 * scaled[-1].weight)
    assert weights_of_mean_one(heavy) == heavy


def test_k_of_one_and_missing_ranks_never_become_a_ranking():
    with pytest.raises(ValueError, match="at least 2"):
        Ranking(prompt=[{"role": "user", "content": "Who?"}], responses=["Ana."], ranks=[1])
    with pytest.raises(ValueError, match="has 1 entries for 2 responses"):
        Ranking(
            prompt=[{"role": "user", "content": "Who?"}], responses=["Ana.", "Bram."], ranks=[1]
        )
