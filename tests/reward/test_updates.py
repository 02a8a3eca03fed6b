"""What is logged of an update, on scores that are counted by hand."""

import copy
from types import SimpleNamespace

import pytest
import torch

from podium.engine import EngineConfig, init_distributed, make_engine
from reward.batches import EncodedRanking, collate
from reward.updates import (
    Objective,
    ScoringModule,
    means,
    padded_tokens,
    prepare,
    statistics,
    update,
)

OBJECTIVE = Objective("pairwise", 64, False, 0, "fp32")


def item(ranks: list[float], weight: float = 1.0, tokens: int = 1) -> EncodedRanking:
    """A ranking of answers of one token each, to a prompt of so many."""
    answers = tuple((10 + k,) for k in range(len(ranks)))
    return EncodedRanking(
        (1,) * tokens, answers, tuple(range(len(ranks))), tuple(ranks), weight=weight
    )


def test_what_is_logged_by_hand():
    """Two rankings: scores 2, 1, 0 with the pairs (0, 1), (0, 2) right and 1 tied with 2; scores
    4, 6 the wrong way round, of weight 0.5. A third one is repeated with weight 0 and counts
    nothing. Mutations seen red: the mean over rankings; the repeated one in the mean; the spread
    without the mean taken off.
    """
    micro = collate([item([1, 2, 2]), item([1, 2], 0.5), item([1, 2], 0.0)], 0)
    scores = torch.tensor([2.0, 1.0, 0.0, 4.0, 6.0, 100.0, 0.0])
    found = means(statistics(scores, micro, OBJECTIVE), 2)
    nll = [torch.log1p(torch.exp(torch.tensor(-gap))).item() for gap in (1.0, 2.0, -2.0)]
    assert found["loss"] == pytest.approx(((nll[0] + nll[1]) / 2 + 0.5 * nll[2]) / 2)
    assert found["accuracy"] == pytest.approx(2 / 3)
    assert found["score_mean"] == pytest.approx((2 + 1 + 0 + 4 + 6) / 5)
    assert found["score_std"] == pytest.approx(torch.tensor([2.0, 1, 0, 4, 6]).std(correction=0))


@pytest.mark.parametrize(("device", "micro", "widest"), [("cpu", 4096, 1024), ("cpu", 64, 64)])
def test_a_cpu_forwards_few_tokens_at_a_time_and_never_more_than_asked(device, micro, widest):
    """Thirty answers of 128 tokens. Mutations seen red: the larger of the two limits."""
    engine = SimpleNamespace(device=torch.device(device), zero_optimization_stage=lambda: 0)
    items = [item([1, 2], tokens=127) for _ in range(15)]
    for piece in prepare(items, engine, OBJECTIVE._replace(micro_batch_tokens=micro)):
        sizes = [padded_tokens([chunk]) for chunk in piece.chunks]
        assert max(sizes) == max(widest, 128)


def test_shards_are_forwarded_whole():
    """ZeRO-2 and 3 wait for each other in every forward: one chunk a micro-batch, on each process."""
    items = [item([1, 2], tokens=127) for _ in range(15)]
    for stage, chunks in ((1, 4), (2, 1), (3, 1)):
        engine = SimpleNamespace(
            device=torch.device("cpu"), zero_optimization_stage=lambda stage=stage: stage
        )
        (piece,) = prepare(items, engine, OBJECTIVE._replace(micro_batch_tokens=4096))
        assert len(piece.chunks) == chunks


def test_padding_counts_in_what_is_forwarded():
    """Prompts of 3 and 1 and answers of 1 each: as sequences two of 4 and two of 2, padded to 4; as
    prefixes two of 3 and four of 1.
    """
    items = [item([1, 2], tokens=3), item([1, 2], tokens=1)]
    assert padded_tokens(collate(items, 0).chunks) == 16
    assert padded_tokens(collate(items, 0, shared_prefix=True).chunks) == 10


def test_what_is_logged_is_of_all_micro_batches(reward_model):
    """Six rankings in one micro-batch and in six. Seen red with the last one's figures alone."""
    init_distributed()
    found = []
    for tokens in (10_000, 1):
        module = ScoringModule(copy.deepcopy(reward_model))
        engine = make_engine(module, EngineConfig(), learning_rate=1e-3)
        items = [item([1, 2, 3], 1 + n / 4, tokens=2 + n) for n in range(6)]
        found.append(update(engine, items, 1e-3, OBJECTIVE._replace(micro_batch_tokens=tokens)))
    whole, cut = found
    assert cut == pytest.approx(whole, rel=1e-4)
