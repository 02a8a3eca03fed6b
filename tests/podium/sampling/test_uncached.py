"""Decoding without a cache says what decoding with one says, and which of them serves a model is
measured.
"""

import pytest
import torch

from podium.sampling import uncached
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.protocol import SamplingParams
from podium.sampling.together import Together
from podium.sampling.uncached import UncachedDecoder, reads_from_cache

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16], [17, 18, 19, 20]]


@pytest.fixture(params=["tiny_llama", "tiny_opt"])
def model(request):
    return request.getfixturevalue(request.param)


def whole_rows(model, **options) -> EmbeddedSampler:
    sampler = EmbeddedSampler(model, 1, **options)
    assert sampler.cached
    sampler.cached = False
    return sampler


@pytest.mark.parametrize("slots", [1, 2, 128])
def test_whole_rows_say_what_the_cache_says(model, slots):
    """Rows that leave early and rows that wait, in passes of a few tokens. Mutations seen red: the
    state of the padding read; a row's count taken from its whole length.
    """
    params = SamplingParams(14, temperature=0.7, seed=3, first_row=2, top_k=50)
    stop = EmbeddedSampler(model, 1).generate(PROMPTS, params)[0].tokens[5]
    params = SamplingParams(
        14, 0.7, top_k=50, stop_token_ids=(stop,), absent_token_ids=(30, 31), seed=3, first_row=2
    )
    expected = EmbeddedSampler(model, 1).generate(PROMPTS, params)
    assert {len(sample.tokens) for sample in expected} > {14}, "some end early, some do not"
    for budget in (16384, 24):
        sampler = whole_rows(model, max_batch=slots, max_tokens=budget)
        found = sampler.generate(PROMPTS, params)
        assert [s.tokens for s in found] == [s.tokens for s in expected]
        assert [s.finished for s in found] == [s.finished for s in expected]
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=2e-5)


def test_rows_are_read_as_many_at_a_time_as_slots_and_budget_allow(tiny_llama, monkeypatch):
    """Mutation seen red: a slot too many; the budget not asked."""
    read = []
    states = uncached.last_states

    def watched(lm, **inputs):
        assert inputs["use_cache"] is False
        read.append(tuple(inputs["input_ids"].shape))
        return states(lm, **inputs)

    monkeypatch.setattr(uncached, "last_states", watched)
    decoder = UncachedDecoder(tiny_llama, PROMPTS[:3], SamplingParams(2), 1, slots=2, budget=7)
    with torch.no_grad():
        decoder.step()
        assert decoder.live == [0, 1] and list(decoder.queue) == [2] and decoder.busy
        decoder.step()
        assert decoder.live == [] and decoder.busy, "one waits"
        decoder.step()
        decoder.step()
    assert not decoder.busy
    # Rows of 3 and 1 tokens fit into seven padded tokens, of 4 and 2 they do not; then the row of 6.
    assert sorted(read[1:3]) == [(1, 2), (1, 4)]
    assert [read[0], *read[3:]] == [(2, 3), (1, 6), (1, 7)]


def test_who_streams_from_whole_rows_hears_what_generate_says(model):
    """Several at once, of unequal length, through `begin` too. Mutation seen red: the padding's id
    not handed on.
    """
    sampler = whole_rows(model, max_batch=3)
    params = SamplingParams(6, seed=4)
    expected = [EmbeddedSampler(model, 1).generate([p], params)[0].tokens for p in PROMPTS]
    assert [list(sampler.stream(prompt, params)) for prompt in PROMPTS] == expected
    for cached in (True, False):
        together = Together(model, 1, cached, slots=3, budget=1 << 14)
        told: list[list] = [[] for _ in PROMPTS]
        with together._changed:  # the thread finds all of them waiting
            for prompt, said in zip(PROMPTS, told, strict=True):
                together.begin(prompt, params, said.append)
            thread = together._thread
        thread.join(60)
        assert [[drawn.token for drawn in said] for said in told] == expected
        assert {drawn.logprob for said in told for drawn in said} == {0.0}, "nobody asked for it"


def test_begin_tells_tokens_and_gives_up(tiny_llama):
    """The sampler's own `begin`: with the likeliest tokens, and too long a prompt refused before
    anything is drawn.
    """
    import queue

    sampler = EmbeddedSampler(tiny_llama, 1)
    said: queue.SimpleQueue = queue.SimpleQueue()
    stop = sampler.begin([5, 6], SamplingParams(3, seed=4), said.put, top=2)
    drawn = [said.get(timeout=60) for _ in range(3)]
    expected = sampler.generate([[5, 6]], SamplingParams(3, seed=4))[0]
    assert [one.token for one in drawn] == expected.tokens
    assert [one.logprob for one in drawn] == pytest.approx(expected.logprobs, abs=2e-5)
    assert all(len(one.top) == 2 for one in drawn) and drawn[-1].end == "length"
    stop()
    with pytest.raises(Exception, match="context of 128"):
        sampler.begin([5] * 120, SamplingParams(20), said.put)


class Wrong:
    """A forward pass put in a model's place, which goes wrong where it has a cache."""

    def __init__(self, model, how: str) -> None:
        self.inner, self.how, self.calls = model.forward, how, 0

    def __call__(self, input_ids=None, past_key_values=None, **inputs):
        self.calls += 1
        if past_key_values is not None and self.how == "refuses":
            raise AttributeError("this cache has no conv_states")
        output = self.inner(input_ids=input_ids, past_key_values=past_key_values, **inputs)
        if past_key_values is not None and self.how == "differs":
            # By a little, and in steps of one token alone: the prompt is read well.
            output.logits[:, :, :160] += 0.1 * (input_ids.shape[1] == 1)
        return output


@pytest.mark.parametrize("how", ["refuses", "differs", "agrees"])
def test_a_model_that_the_cache_gets_wrong_is_read_whole(tiny_llama, monkeypatch, how):
    """Measured once. Mutations seen red: what a model raises passed on; a wide tolerance in fp32;
    measured at every call.
    """
    expected = EmbeddedSampler(tiny_llama, 1).generate(PROMPTS, SamplingParams(5, temperature=0))
    delattr(tiny_llama, uncached.ATTRIBUTE)
    wrong = Wrong(tiny_llama, how)
    monkeypatch.setattr(tiny_llama, "forward", wrong)
    assert reads_from_cache(tiny_llama) == (how == "agrees")
    calls = wrong.calls
    assert reads_from_cache(tiny_llama) == (how == "agrees") and wrong.calls == calls > 0
    sampler = EmbeddedSampler(tiny_llama, 1)
    assert sampler.cached == (how == "agrees")
    if how != "agrees":
        found = sampler.generate(PROMPTS, SamplingParams(5, temperature=0))
        assert [s.tokens for s in found] == [s.tokens for s in expected]


def test_a_vocabulary_of_a_few_tokens_is_measured_too(tiny_llama):
    """The probe's ids are taken modulo the vocabulary. Mutation seen red: as they are."""
    tiny_llama.resize_token_embeddings(9)
    assert reads_from_cache(tiny_llama)
    assert reads_from_cache(tiny_llama.bfloat16())
