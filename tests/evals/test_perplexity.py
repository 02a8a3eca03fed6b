"""Pretraining loss and perplexities, against the model's own loss and lm-eval's windows."""

import math

import numpy as np
import pytest
import torch

from data.packing import packed_inputs
from evals.perplexity import block_losses, perplexity, rolling_windows

TEXTS = [
    "Ana the baker lives in the mill and likes honey.",
    "The owl found a lantern in the old barn. " * 12,
]


def test_block_losses_average_to_the_models_own_loss(tiny_llama):
    """Seen red when the targets are not shifted, and when documents of a block see each other."""
    blocks = np.random.default_rng(0).integers(6, 300, size=(10, 32))
    blocks[:, ::9] = 0  # a document every nine tokens
    losses = block_losses(tiny_llama, blocks, separator_id=0, batch_tokens=100)
    ids = torch.tensor(blocks)
    with torch.no_grad():
        assert losses.mean() == pytest.approx(
            float(tiny_llama(**packed_inputs(ids, 0, tiny_llama.config), labels=ids).loss), abs=1e-5
        )


def test_the_head_is_multiplied_out_a_chunk_of_tokens_at_a_time(tiny_llama, monkeypatch):
    """With a vocabulary of 128,000 the logits of 4,096 tokens would take 2 GB. Mutation seen red:
    the model's own forward, which makes the logits of the whole batch.
    """
    blocks = np.random.default_rng(0).integers(6, 300, size=(10, 32))
    whole = block_losses(tiny_llama, blocks, separator_id=0)
    rows: list[int] = []
    head = tiny_llama.get_output_embeddings()
    head.register_forward_hook(lambda module, inputs, logits: rows.append(logits.numel()))
    monkeypatch.setattr("podium.sampling.logprobs.CHUNK_ELEMENTS", 10_000)
    assert block_losses(tiny_llama, blocks, separator_id=0) == pytest.approx(whole, abs=1e-5)
    assert len(rows) > 9 and max(rows) <= 10_000


@pytest.mark.parametrize("length", [5, 10, 11, 20, 27])
def test_windows_predict_every_token_once_with_a_context(length):
    ids = list(range(100, 100 + length))
    windows = rolling_windows(ids, prefix=1, max_length=10)
    assert [token for _, predicted in windows for token in predicted] == ids
    assert all(
        len(context) >= 1 and len(context) + len(predicted) <= 11 for context, predicted in windows
    )
    assert all(context[-1] == predicted[0] - 1 for context, predicted in windows[1:])


def test_a_model_without_knowledge_has_the_perplexity_of_its_vocabulary(tiny_llama, tokenizer):
    with torch.no_grad():
        for parameter in tiny_llama.parameters():
            parameter.zero_()  # every token equally likely
    result = perplexity(tiny_llama, tokenizer, TEXTS, max_length=64)
    assert result.token_perplexity == pytest.approx(len(tokenizer), rel=1e-4)
    tokens = sum(len(tokenizer.encode(text)) for text in TEXTS)
    assert result.bits_per_byte == pytest.approx(
        tokens * math.log2(len(tokenizer)) / sum(map(len, TEXTS)), rel=1e-4
    )


@pytest.mark.slow
def test_equal_to_lm_eval(tiny_llama, tokenizer):
    """Seen red when the last window gets one context token only."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[eval]'")
    from lm_eval.api.instance import Instance
    from lm_eval.models.huggingface import HFLM

    requests = [Instance("loglikelihood_rolling", {}, (text,), 0) for text in TEXTS]
    theirs = HFLM(pretrained=tiny_llama, tokenizer=tokenizer, max_length=50).loglikelihood_rolling(
        requests
    )
    result = perplexity(tiny_llama, tokenizer, TEXTS, max_length=50)
    size = sum(len(text.encode()) for text in TEXTS)
    assert result.bits_per_byte == pytest.approx(-sum(theirs) / size / math.log(2), rel=1e-5)
    assert result.byte_perplexity == pytest.approx(math.exp(-sum(theirs) / size), rel=1e-5)
    assert result.word_perplexity == pytest.approx(
        math.exp(-sum(theirs) / sum(len(text.split(" ")) for text in TEXTS)), rel=1e-5
    )
