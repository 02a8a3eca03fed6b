"""Distances of prompts from the training prompts, and the reward model's accuracy by them."""

import copy
from collections import Counter

import numpy as np
import pytest
import torch

from data.records import Message
from data.template import encode_prompt
from podium.rewards.model import RewardEnsemble
from reward.distance import distances, region_of, states_of
from reward.evaluate import by_thirds, pairs_of, prompt_distances, trust_report
from reward.report import describe
from reward.sources import RankingSplits, prompt_key
from tests.reward.conftest import ranking


def test_a_distance_counts_in_the_spread_of_its_direction():
    """Two dimensions, one with ten times the spread: equally far in nats, not in units. Seen red
    with the covariance in place of its inverse.
    """
    rng = np.random.default_rng(0)
    region = region_of(rng.normal(size=(20_000, 2)) * np.array([10.0, 1.0]))
    near, far = distances(region, np.array([[10.0, 0.0], [0.0, 10.0]]))
    assert near == pytest.approx(1 / 2**0.5, rel=0.05)
    assert far == pytest.approx(10 / 2**0.5, rel=0.05)


def test_fewer_states_than_dimensions_have_a_region_all_the_same():
    """Seen red without the ball: the covariance of 10 states in 64 dimensions has no inverse."""
    rng = np.random.default_rng(0)
    region = region_of(rng.normal(size=(10, 64)))
    near, far = distances(region, np.stack([np.zeros(64), np.full(64, 9.0)]))
    assert near < 2 < far


def test_states_are_of_the_last_token_whatever_the_batch(tiny_llama, tokenizer):
    """Against one row alone. Mutation seen red: the last place of the padded row."""
    texts = ["Hi?", "Tell me a long story about an owl and a lantern, please.", "Who?"]
    prompts = [[Message(role="user", content=text)] for text in texts]
    found = states_of(tiny_llama, tokenizer, prompts, 100)
    for row, prompt in zip(found, prompts, strict=True):
        ids = torch.tensor([encode_prompt(tokenizer, prompt)])
        alone = tiny_llama(input_ids=ids, output_hidden_states=True).hidden_states[1][0, -1]
        assert row == pytest.approx(alone.detach().numpy(), abs=1e-5)


def test_prompts_of_like_length_are_read_together(tiny_llama, tokenizer, monkeypatch):
    """So that little of what is read is padding. Seen red with batches in the order of the prompts:
    every one as long as the longest of its 32.
    """
    monkeypatch.setattr("reward.distance.BATCH_TOKENS", 100)
    asked = [[Message(role="user", content="owl " * (1 + i % 4 * 12))] for i in range(40)]
    read = []
    tiny_llama.base_model.register_forward_pre_hook(
        lambda model, args, kwargs: read.append(kwargs["input_ids"].numel()), with_kwargs=True
    )
    states_of(tiny_llama, tokenizer, asked, 200)
    assert max(read) <= 100
    assert sum(read) < 1.2 * sum(len(encode_prompt(tokenizer, prompt)) for prompt in asked)


def test_accuracy_by_thirds_of_the_prompts_by_hand():
    """Six prompts, of which the model orders the two nearest rightly, one of the middle two, and
    none of the farthest. Seen red with the thirds turned round, and with thirds of the pairs.
    """
    asked = [
        ranking(f"{i}?", ["a", "b"] + ["c"] * (i == 0), [1, 2, 3][: 2 + (i == 0)]) for i in range(6)
    ]
    scores = [np.array([2.0, 1.0, 0.0]), *(np.array([s, 0.5]) for s in (1, 1, 0, 0, 0))]
    far = {prompt_key(r.prompt): float(i) for i, r in enumerate(asked)}
    found = by_thirds(pairs_of(asked, scores), far)
    assert [found[third]["value"] for third in ("near", "middle", "far")] == [1.0, 0.5, 0.0]
    assert [found[third]["pairs"] for third in found] == [4, 2, 2]
    assert all(found[third]["prompts"] == 2 for third in found)
    assert (found["middle"]["nearest"], found["middle"]["farthest"]) == (2.0, 3.0)
    assert found["far"]["high"] > 0.9  # two prompts say little
    assert (
        by_thirds(pairs_of(asked[:2], scores[:2]), far)
        == {}
        == by_thirds(pairs_of(asked, scores), {})
    )


def test_prompts_of_another_kind_lie_in_the_far_third_of_the_trust_report(reward_model, tokenizer):
    """Taught thirty questions about villagers, asked six more and three lines of digits. Seen red
    with distances from the held-out prompts themselves, and with those of an ensemble's second member.
    """
    names, foods = (
        ["Ana", "Bram", "Cleo", "Dov", "Eli"],
        ["honey", "plums", "bread", "figs", "oats", "jam"],
    )
    taught = [ranking(f"Does {n} like {f}?", ["Yes.", "No."], [1, 2]) for n in names for f in foods]
    near = [ranking(f"Does {n} like corn?", ["Yes.", "No."], [1, 2]) for n in [*names, "Fay"]]
    digits = [ranking(f"{i} " * 20, ["Yes.", "No."], [1, 2]) for i in (7, 8, 9)]
    far = prompt_distances(reward_model, tokenizer, taught, near + digits, 100)
    furthest = sorted(far, key=lambda key: -far[key])[:3]
    assert set(furthest) == {prompt_key(r.prompt) for r in digits}
    splits = RankingSplits(taught, near + digits, [], Counter())
    report = trust_report(reward_model, tokenizer, splits)
    thirds = report["validation"]["accuracy_by_prompt_distance"]
    assert thirds["far"]["nearest"] == pytest.approx(far[furthest[-1]])
    assert "third of prompts farthest from the training prompts" in describe(report)
    stranger = copy.deepcopy(reward_model)
    with torch.no_grad():
        stranger.base_model.get_input_embeddings().weight.normal_()
    several = RewardEnsemble([reward_model, stranger])
    assert prompt_distances(several, tokenizer, taught, near + digits, 100) == far, "the first's"
    few = trust_report(reward_model, tokenizer, splits._replace(train=taught[:19]))
    assert few["validation"]["accuracy_by_prompt_distance"] == {}
    assert "third of prompts" not in describe(few)
