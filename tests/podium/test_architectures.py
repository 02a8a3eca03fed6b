"""Every family of causal language models that the installed transformers has: what Podium computes
is what the model's own forward computes, or the family is refused by name.

A dozen families that differ in kind run by default: plain, shared heads, learned positions, ALiBi,
scaled and capped logits, sliding windows, mixtures, latent attention, recurrent and hybrid ones, one
that counts positions for itself, an encoder, one that sees pictures. All of them are `slow`.
"""

import pytest

from benchmarks.architectures import examine
from benchmarks.small_families import FAMILIES

KINDS = [
    "llama",
    "gpt2",
    "bloom",
    "cohere2",
    "gemma2",
    "gpt_oss",
    "deepseek_v3",
    "llama4_text",
    "falcon",
    "mamba",
    "qwen3_5_text",
    "pegasus",
    "modernbert-decoder",
]
REFUSED = {
    "bert": "lets a token see those after it",
    "gemma3": "it reads images or sound as well",
    "xmod": "must be told the language",
}


def check(family: str) -> None:
    row = examine(family)
    if row.refused:
        assert len(row.refused) < 500 and "Traceback" not in row.refused
        return
    assert max(row.sampler, row.trainer, row.evals) < 1e-4, row
    assert row.lora == row.ppo == "yes", row
    assert row.reward_head == "yes" or "transformers" in row.reward_head, row


@pytest.mark.parametrize("family", KINDS)
def test_a_family_of_each_kind_is_computed_as_by_its_own_forward(family):
    """Seen red: the sampler on BART's kin was off by 7 nats, Mamba and hybrids ended in tracebacks,
    RWKV's packed documents were off by 3 nats, Llama 4 was refused, ModernBERT too.
    """
    check(family)


@pytest.mark.parametrize("family", REFUSED)
def test_what_cannot_be_served_is_refused_in_a_sentence(family):
    assert REFUSED[family] in examine(family).refused


@pytest.mark.slow
@pytest.mark.parametrize("family", [f for f in FAMILIES if f not in KINDS and f not in REFUSED])
def test_every_family_is_computed_as_by_its_own_forward_or_refused_by_name(family):
    check(family)
