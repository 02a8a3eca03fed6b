"""Prompts unlike the training prompts are found by their hidden states."""

import json

import numpy as np
import pytest
import torch

from data.records import Message, Prompt
from data.template import encode_prompt
from evals.distance import distances, far_prompts, region_of, states_of
from evals.report import render


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
    prompts = asked(["Hi?", "Tell me a long story about an owl and a lantern, please.", "Who?"])
    found = states_of(tiny_llama, tokenizer, prompts, 100)
    for row, prompt in zip(found, prompts, strict=True):
        ids = torch.tensor([encode_prompt(tokenizer, prompt.messages)])
        alone = tiny_llama(input_ids=ids, output_hidden_states=True).hidden_states[1][0, -1]
        assert row == pytest.approx(alone.detach().numpy(), abs=1e-5)


def asked(texts) -> list[Prompt]:
    return [Prompt(messages=[Message(role="user", content=text)]) for text in texts]


def test_a_prompt_of_another_kind_is_flagged(tiny_llama, tokenizer):
    """Sixty questions about villagers, asked about another, and lines of digits. The last token is
    the same turn's everywhere, so what differs is what it has read. Seen red with those
    within the bound flagged.
    """
    names = ["Ana", "Bram", "Cleo", "Dov", "Eli", "Fay"]
    foods = ["honey", "plums", "bread", "figs", "oats", "jam", "nuts", "tea", "pie", "soup"]
    known = asked([f"Does {n} like {f}?" for n in names for f in foods])
    new = asked(["Does Ana like corn?", "9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9 9"])
    found = far_prompts(tiny_llama, tokenizer, known, new, 100)
    assert found["flagged"][0] == 1 and found["farthest"][0]["prompt"].startswith("9 9")
    assert found["farthest"][0]["distance"] > found["bound"]
    assert far_prompts(tiny_llama, tokenizer, known[:5], new, 100) is None


def test_the_report_says_which_prompts_are_far(copied_run):
    """Of the miniature run's evaluation, and with one flagged."""
    path = copied_run / "evals/final/results.json"
    results = json.loads(path.read_text())
    far = results["setup"]["far_prompts"]
    assert far["asked"] == 6 and len(far["farthest"]) <= len(far["flagged"])
    assert f"{len(far['flagged'])} of 6 test prompts lie farther" in render(copied_run).read_text()
    one = {"prompt": "Integrate <x> dx", "distance": 9.0, "use_case": None}
    results["setup"]["far_prompts"] = far | {"flagged": [0], "farthest": [one]}
    path.write_text(json.dumps(results))
    assert "Integrate &lt;x&gt; dx” (9.0" in render(copied_run).read_text()
