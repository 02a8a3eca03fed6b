"""Vocabularies that fit no tokenizer: padded ones, ids with gaps between, embeddings that are too
small. Ids without a token are never drawn, and a token without a row is said at the start.
"""

import json
from pathlib import Path

import pytest
import torch
from tokenizers import Tokenizer

from podium.errors import ParentError
from podium.models import (
    absent_in_words,
    absent_token_ids,
    check_rows,
    load_causal_lm,
    resize_for,
    rows_needed,
    save_model,
)
from podium.rewards.model import load_reward_model, new_reward_model, save_reward_model
from podium.sampling.choice import pick_tokens
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.protocol import SamplingParams

SPARE = 40
ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def padded(tiny_llama, tokenizer):
    """A model of nearly even odds, so that one id in nine is of a spare row."""
    tiny_llama.resize_token_embeddings(len(tokenizer) + SPARE, mean_resizing=False)
    return tiny_llama


@pytest.fixture
def with_gap(tokenizer):
    """The tokenizer with a token 7 ids above the others."""
    from transformers import PreTrainedTokenizerFast

    tree = json.loads(tokenizer.backend_tokenizer.to_str())
    far = {**tree["added_tokens"][-1], "id": len(tokenizer) + 7, "content": "<|far|>"}
    tree["added_tokens"].append(far)
    tree["model"]["vocab"]["<|far|>"] = far["id"]
    return PreTrainedTokenizerFast(tokenizer_object=Tokenizer.from_str(json.dumps(tree)))


def test_absent_ids_are_those_without_a_token(padded, tokenizer, with_gap):
    """Mutation: `range(len(tokenizer), rows)`: of a tokenizer with gaps it bars a real token."""
    rows = len(tokenizer) + SPARE
    assert absent_token_ids(tokenizer, padded.config) == tuple(range(len(tokenizer), rows))
    barred = absent_token_ids(with_gap, padded.config)
    far = with_gap.convert_tokens_to_ids("<|far|>")
    assert far == len(tokenizer) + 7 and far not in barred and len(barred) == SPARE - 1
    assert f"{len(barred)} ids without a token" in absent_in_words(barred)


@pytest.mark.parametrize(("temperature", "top_k", "top_p"), [(0, 0, 1), (1, 0, 1), (1, 2, 0.5)])
def test_an_absent_id_is_never_chosen_and_changes_no_log_probability(temperature, top_k, top_p):
    """Mutation: without `absent`: it takes the most likely id, which has no token."""
    logits = torch.tensor([0.0, 1.0, 5.0, 2.0]).expand(64, 4)
    uniforms = torch.linspace(0, 1 - 2**-24, 64)
    tokens, logprobs = pick_tokens(
        logits, uniforms, temperature, top_k, top_p, absent=torch.tensor([2])
    )
    assert 2 not in tokens and tokens.max() == 3
    whole = logits[0].log_softmax(-1)
    assert torch.equal(logprobs, whole[tokens]), "of all rows, as trainer and reference read them"


def test_what_is_sampled_has_a_token_and_reads_back_as_it_was_drawn(padded, tokenizer):
    absent = absent_token_ids(tokenizer, padded.config)
    sampler = EmbeddedSampler(padded.eval(), 1)
    params = SamplingParams(24, absent_token_ids=absent, seed=3)
    free = sampler.generate([[5, 6], [7]], SamplingParams(24, seed=3))
    assert any(token in absent for sample in free for token in sample.tokens)
    samples = sampler.generate([[5, 6], [7]], params)
    assert not any(token in absent for sample in samples for token in sample.tokens)
    again = sampler.logprobs([[5, 6], [7]], [sample.tokens for sample in samples])
    drawn = [sample.logprobs for sample in samples]
    assert torch.allclose(torch.tensor(again), torch.tensor(drawn), atol=1e-5)


def test_new_rows_reach_the_largest_id(tiny_llama, with_gap):
    """Mutation: `len(tokenizer)` rows: the id beyond the gap ended in an IndexError."""
    resize_for(with_gap, tiny_llama)
    assert tiny_llama.get_input_embeddings().weight.shape[0] == rows_needed(with_gap)
    tiny_llama(torch.tensor([[with_gap.convert_tokens_to_ids("<|far|>")]]))


def test_a_token_without_a_row_is_said_in_a_sentence(tiny_llama, tokenizer, tmp_path):
    """Before: an IndexError at the first id that the model had no row for."""
    save_model(tiny_llama, tokenizer, tmp_path / "lm")
    reward = new_reward_model(tmp_path / "lm", tokenizer, 0)
    fewer = len(tokenizer) - 3
    for model in (tiny_llama, reward):
        model.resize_token_embeddings(fewer)
    save_model(tiny_llama, tokenizer, tmp_path / "lm")
    save_reward_model(reward, tokenizer, tmp_path / "rm")
    said = f"ids up to {len(tokenizer) - 1}, the model's embedding {fewer} rows"
    with pytest.raises(ParentError, match=said):
        check_rows(tokenizer, load_causal_lm(tmp_path / "lm"), "lm")
    with pytest.raises(ParentError, match=said):
        load_reward_model(tmp_path / "rm")


def test_whoever_samples_says_which_ids_have_no_token():
    """Seen red for `podium eval code`, which drew them. Two leave it to reward.candidates."""
    forgotten = set()
    for room in (
        "app",
        "dpo",
        "evals",
        "examples",
        "ppo",
        "reward",
        "sft",
        "podium/cli",
        "podium/run",
    ):
        for file in (ROOT / room).rglob("*.py"):
            text = file.read_text(encoding="utf-8")
            if "SamplingParams(" in text and "absent_token_ids" not in text:
                forgotten.add(file.relative_to(ROOT).as_posix())
    assert forgotten == {"app/labeling/sampling.py", "reward/collect.py"}
