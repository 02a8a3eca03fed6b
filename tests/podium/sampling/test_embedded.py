"""The sampler: what it draws, the log-probabilities it reports, and that batching changes
neither.
"""

import gc
import weakref
from dataclasses import replace

import pytest
import torch

from podium.attention import attend_in_fp32
from podium.errors import PodiumError
from podium.sampling.cache import SlotCache
from podium.sampling.choice import pick_tokens, row_uniforms
from podium.sampling.decoder import Decoder
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.logprobs import token_logprobs
from podium.sampling.protocol import SamplingParams

PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16], [17, 18, 19, 20]]


@pytest.fixture(params=["tiny_llama", "tiny_opt"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def sampler(model):
    return EmbeddedSampler(model, pad_token_id=1)


def ragged_stop(model, prompts, params: SamplingParams) -> int:
    """The token that, as a stop token, gives these rows the most different lengths (draws up to it
    stay the same).
    """
    rows = [sample.tokens for sample in EmbeddedSampler(model, 1).generate(prompts, params)]
    return max(
        {token for row in rows for token in row},
        key=lambda token: (len({row.index(token) for row in rows if token in row}), token),
    )


def test_greedy_equals_hugging_face_generate(model, sampler):
    """Mutation seen red: positions off by one in `_advance`."""
    ours = sampler.generate(PROMPTS, SamplingParams(max_new_tokens=12, temperature=0))
    for prompt, sample in zip(PROMPTS, ours, strict=True):
        theirs = model.generate(
            torch.tensor([prompt]),
            do_sample=False,
            max_new_tokens=12,
            min_new_tokens=12,
            eos_token_id=None,
        )
        assert sample.tokens == theirs[0, len(prompt) :].tolist()
        assert not sample.finished


def test_sampled_logprobs_equal_a_full_forward_pass(sampler):
    """Cached decoding of ragged rows equals scoring the finished text. Mutation seen red: mask `>`
    for `>=` start.
    """
    samples = sampler.generate(PROMPTS, SamplingParams(max_new_tokens=20, temperature=0.7, seed=3))
    scored = sampler.logprobs(PROMPTS, [sample.tokens for sample in samples], temperature=0.7)
    for sample, logprobs in zip(samples, scored, strict=True):
        assert sample.logprobs == pytest.approx(logprobs, abs=2e-5)


def test_logprobs_use_the_sampling_temperature(sampler):
    """Pitfall 3. Mutation seen red: temperature left out of `head_logprobs`."""
    warm = sampler.logprobs([[5, 6]], [[7, 8, 9]], temperature=1.0)[0]
    cold = sampler.logprobs([[5, 6]], [[7, 8, 9]], temperature=0.5)[0]
    assert warm != pytest.approx(cold, abs=1e-4)


def test_logprobs_equal_negative_cross_entropy(model, sampler):
    """Oracle. Mutation seen red: the hidden state of the token itself in place of the one before
    it.
    """
    prompt, response = [5, 6, 7], [8, 9, 10, 11]
    with torch.no_grad():
        logits = model(torch.tensor([prompt + response])).logits[0, len(prompt) - 1 : -1]
    expected = -torch.nn.functional.cross_entropy(logits, torch.tensor(response), reduction="none")
    assert sampler.logprobs([prompt], [response])[0] == pytest.approx(expected.tolist(), abs=1e-5)


@pytest.mark.parametrize("max_batch", [1, 3, 128])
def test_batching_and_refill_do_not_change_the_text(model, max_batch):
    """Ragged rows, rows leaving and arriving. Mutation seen red: `_retire` moves the cache but not
    `count`.
    """
    prompts = PROMPTS * 4
    params = SamplingParams(30, temperature=0.5, seed=1)
    params = replace(params, stop_token_ids=(ragged_stop(model, prompts, params),))
    reference = [
        EmbeddedSampler(model, 1).generate([prompt], replace(params, first_row=i))[0]
        for i, prompt in enumerate(prompts)
    ]
    assert len({len(sample.tokens) for sample in reference}) > 3, (
        "the rows must be ragged for this to be a test"
    )
    samples = EmbeddedSampler(model, 1, max_batch=max_batch).generate(prompts, params)
    for sample, expected in zip(samples, reference, strict=True):
        assert sample.tokens == expected.tokens and sample.finished == expected.finished
        assert sample.logprobs == pytest.approx(expected.logprobs, abs=2e-5)


def test_a_custom_stop_token_ends_the_row_and_is_part_of_it(model):
    """Pitfall 10: any id can be the stop token. Mutation seen red: `finished` compares with the
    tokenizer's eos.
    """
    params = SamplingParams(30, temperature=0.5, seed=9)
    stop = ragged_stop(model, [[5]] * 20, params)
    samples = EmbeddedSampler(model, 1).generate(
        [[5]] * 20, replace(params, stop_token_ids=(stop,))
    )
    ended = [sample for sample in samples if sample.finished]
    assert ended and all(
        sample.tokens.count(stop) == 1 and sample.tokens[-1] == stop for sample in ended
    )
    assert all(
        len(sample.tokens) == 30 and stop not in sample.tokens
        for sample in samples
        if not sample.finished
    )


def test_the_first_of_several_stop_tokens_ends_a_row(model, sampler):
    """A row is what it was up to the first of them. Mutations seen red: the first id alone stops;
    `finished` or the stream compares with the first alone.
    """
    params = SamplingParams(30, temperature=0.5, seed=9)
    prompts = [[5]] * 20
    stops = tuple(dict.fromkeys(s.tokens[4] for s in sampler.generate(prompts, params)))[:2]
    whole = [sample.tokens for sample in sampler.generate(prompts, params)]
    params = replace(params, stop_token_ids=stops)
    ended = set()
    for i, (sample, tokens) in enumerate(
        zip(sampler.generate(prompts, params), whole, strict=True)
    ):
        end = next((n for n, token in enumerate(tokens) if token in stops), 30)
        assert sample.tokens == tokens[: end + 1] and sample.finished == (end < 30)
        ended |= set(tokens[end : end + 1])
        said = list(sampler.stream([5], replace(params, first_row=i)))
        assert said == tokens[:end]
    assert ended == set(stops)  # both ended some row


def test_rollouts_of_one_prompt_differ_and_a_rerun_is_equal(sampler):
    """Pitfalls 3 and 7. Mutation seen red: every row draws from stream 0."""
    params = SamplingParams(max_new_tokens=10, seed=4)
    first, again = sampler.generate([[5, 6]] * 4, params), sampler.generate([[5, 6]] * 4, params)
    other = sampler.generate([[5, 6]] * 4, SamplingParams(max_new_tokens=10, seed=5))
    assert first == again
    assert len({tuple(sample.tokens) for sample in first}) == 4
    assert [sample.tokens for sample in other] != [sample.tokens for sample in first]


def test_stream_gives_what_generate_gives(model, sampler):
    params = SamplingParams(25, temperature=0.5, seed=2)
    params = replace(params, stop_token_ids=(ragged_stop(model, PROMPTS, params),))
    for prompt in PROMPTS:
        sample = sampler.generate([prompt], params)[0]
        expected = sample.tokens[:-1] if sample.finished else sample.tokens
        assert list(sampler.stream(prompt, params)) == expected


def test_draws_follow_the_distribution():
    """Frequencies of 20,000 draws against the softmax. Mutation seen red: `right=True` dropped and
    a shift of one.
    """
    logits = torch.tensor([[0.0, 1.0, -30.0, 2.0, 0.5]]).expand(20000, -1)
    tokens, logprobs = pick_tokens(logits, row_uniforms(0, range(20000), 1)[:, 0], 0.8, 0, 1.0)
    expected = (logits[0] / 0.8).softmax(-1)
    frequencies = torch.bincount(tokens, minlength=5) / 20000
    assert torch.allclose(frequencies, expected, atol=0.012)
    assert torch.allclose(logprobs, expected.log()[tokens])


def test_top_k_and_top_p_cut_the_draw_but_not_the_logprob():
    """Mutation seen red: the cut compares the mass up to and with the token."""
    logits = torch.tensor([[3.0, 2.0, 1.0, 0.0]]).expand(500, -1)
    uniforms = row_uniforms(0, range(500), 1)[:, 0]
    by_k, logprobs = pick_tokens(logits, uniforms, 1.0, 2, 1.0)
    # 0.64 of the mass lies on the first, 0.88 on the first two
    by_p, _ = pick_tokens(logits, uniforms, 1.0, 0, 0.7)
    assert set(by_k.tolist()) == {0, 1} and set(by_p.tolist()) == {0, 1}
    assert torch.allclose(logprobs, logits[0].log_softmax(-1)[by_k])


def test_a_token_of_probability_zero_is_never_drawn():
    """By the smallest and the largest uniform number. Mutation seen red: `right=False`."""
    logits = torch.randn(4000, 50, generator=torch.Generator().manual_seed(0))
    logits[:, 0] = logits[:, -1] = -torch.inf
    for uniform in (0.0, 1 - 2**-24):
        tokens, _ = pick_tokens(logits, torch.full((4000,), uniform), 1.0, 0, 1.0)
        assert int(tokens.min()) >= 1 and int(tokens.max()) <= 48


def test_an_own_copy_changes_only_when_told(tiny_llama):
    """With a type of its own the sampler is a copy: `update_weights` refreshes it."""
    sampler = EmbeddedSampler(tiny_llama, 1, dtype=torch.bfloat16)
    before = sampler.generate([[5, 6]], SamplingParams(8, temperature=0))
    with torch.no_grad():
        for parameter in tiny_llama.parameters():
            parameter.mul_(-2.0)
    assert sampler.generate([[5, 6]], SamplingParams(8, temperature=0)) == before
    sampler.update_weights(tiny_llama)
    assert sampler.generate([[5, 6]], SamplingParams(8, temperature=0)) != before


@pytest.mark.parametrize("in_fp32", [False, True])
def test_keys_are_kept_in_the_type_that_attention_reads(tiny_llama, monkeypatch, in_fp32):
    """A bf16 model on a CPU. Seen red with the buffers always in fp32 (queries and keys then differ
    in type).
    """
    model = tiny_llama.bfloat16()
    if in_fp32:
        attend_in_fp32(model)
    made = []
    monkeypatch.setattr(
        "podium.sampling.decoder.SlotCache", lambda *args: made.append(SlotCache(*args)) or made[-1]
    )
    EmbeddedSampler(model, 1).generate([[5, 6]], SamplingParams(3))
    assert made[0].slot_layers[0].keys.dtype == (torch.float32 if in_fp32 else torch.bfloat16)


def test_sampling_switches_dropout_off_and_leaves_the_mode(tiny_opt):
    """Pitfall 2, the sampler's half. Mutation seen red: `evaluating` does nothing."""
    for module in tiny_opt.modules():
        if hasattr(module, "dropout") and isinstance(module.dropout, float):
            module.dropout = 0.5
    tiny_opt.train()
    sampler = EmbeddedSampler(tiny_opt, 1)
    sample = sampler.generate([[5, 6]], SamplingParams(10))[0]
    assert sample.logprobs == pytest.approx(
        sampler.logprobs([[5, 6]], [sample.tokens])[0], abs=2e-5
    )
    assert tiny_opt.training


def test_chunked_head_gives_the_same_values_and_gradients(tiny_llama, monkeypatch):
    """Mutation seen red: the chunks' order reversed."""
    ids = torch.randint(3, 200, (3, 17), generator=torch.Generator().manual_seed(0))
    target_mask = torch.zeros_like(ids, dtype=torch.bool)
    target_mask[:, 4:] = True
    results = []
    for elements in (1 << 24, 700):
        monkeypatch.setattr("podium.sampling.logprobs.CHUNK_ELEMENTS", elements)
        tiny_llama.zero_grad()
        with torch.no_grad():
            still = token_logprobs(tiny_llama, ids, torch.ones_like(ids), target_mask, 0.7)
        values = token_logprobs(tiny_llama, ids, torch.ones_like(ids), target_mask, 0.7)
        assert torch.equal(values.detach(), still)
        (values * torch.arange(len(values))).mean().backward()
        results.append((values.detach(), tiny_llama.model.embed_tokens.weight.grad.clone()))
    assert torch.allclose(results[0][0], results[1][0], atol=1e-6)
    assert torch.allclose(results[0][1], results[1][1], atol=1e-4)


def test_logprobs_do_not_depend_on_padding(model, sampler):
    """Rows of one batch against each alone; left padding against right. Pitfall 8. Mutation seen
    red: positions counted from the padded edge (OPT is the witness; LLaMA's rotation is relative
    and does not notice).
    """
    responses = [[21, 22], [23], [24, 25, 26, 27, 28], [29, 30, 31], [32]]
    together = sampler.logprobs(PROMPTS, responses)
    for prompt, response, found in zip(PROMPTS, responses, together, strict=True):
        assert sampler.logprobs([prompt], [response])[0] == pytest.approx(found, abs=1e-5)
        ids = torch.tensor([[1] * 4 + prompt + response])
        mask = (torch.arange(ids.shape[1]) >= 4).long()[None]
        target_mask = (torch.arange(ids.shape[1]) >= 4 + len(prompt))[None]
        with torch.no_grad():
            left = token_logprobs(model, ids, mask, target_mask)
        assert left.tolist() == pytest.approx(found, abs=1e-5)


def test_too_long_a_prompt_is_refused(sampler):
    """And an empty one; a row that just fits is drawn. Mutations seen red: the shortest prompt
    measured; a row of the context's length refused.
    """
    for draw in (
        sampler.generate,
        lambda prompts, params: list(sampler.stream(prompts[0], params)),
    ):
        with pytest.raises(PodiumError, match="A prompt of 120 tokens and 20 new ones"):
            draw([[5] * 120, [6]], SamplingParams(max_new_tokens=20))
        with pytest.raises(PodiumError, match="context of 128"):
            draw([[5] * 109], SamplingParams(max_new_tokens=20))
        with pytest.raises(PodiumError, match="An empty prompt"):
            draw([[], [5]], SamplingParams(max_new_tokens=20))
    assert len(sampler.generate([[5] * 108], SamplingParams(20))[0].tokens) == 20
    assert sampler.generate([], SamplingParams(20)) == []


def test_a_pass_holds_no_more_padded_tokens_than_it_may(tiny_llama, monkeypatch):
    """Of prefill and of log-probabilities; both are what they are in one pass. Mutation seen red:
    the budget not handed on.
    """
    shapes = []
    forward = type(tiny_llama.model).forward

    def watched(self, input_ids=None, **inputs):
        shapes.append(tuple(input_ids.shape))
        return forward(self, input_ids=input_ids, **inputs)

    monkeypatch.setattr(type(tiny_llama.model), "forward", watched)
    whole, parts = EmbeddedSampler(tiny_llama, 1), EmbeddedSampler(tiny_llama, 1, max_tokens=16)
    params = SamplingParams(5, seed=2)
    expected = whole.generate(PROMPTS, params)
    responses = [sample.tokens for sample in expected]
    shapes.clear()
    assert [s.tokens for s in parts.generate(PROMPTS, params)] == responses
    assert max(rows * columns for rows, columns in shapes) <= 16 and len(shapes) > 5
    scored = whole.logprobs(PROMPTS, responses)
    shapes.clear()
    for mine, theirs in zip(parts.logprobs(PROMPTS, responses), scored, strict=True):
        assert mine == pytest.approx(theirs, abs=1e-5)
    assert len(shapes) > 2 and max(rows * columns for rows, columns in shapes) <= 16


def test_a_row_of_several_documents_is_read_by_its_own_positions(model):
    """Two texts in one row, each seen alone: what `positions` is for. Mutation seen red: positions
    counted on.
    """
    texts = [[5, 6, 7, 8], [9, 10, 11]]
    ids = torch.tensor([texts[0] + texts[1]])
    apart = torch.zeros(1, 1, 7, 7, dtype=torch.bool)
    for start, end in ((0, 4), (4, 7)):
        apart[0, 0, start:end, start:end] = torch.ones(end - start, end - start).tril().bool()
    target_mask = torch.tensor([[False, True, True, True, False, True, True]])
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    with torch.no_grad():
        found = token_logprobs(model, ids, apart, target_mask, positions=positions)
        alone = [
            token_logprobs(model, one, torch.ones_like(one), torch.arange(one.shape[1])[None] > 0)
            for one in (torch.tensor([text]) for text in texts)
        ]
    assert found.tolist() == pytest.approx(torch.cat(alone).tolist(), abs=1e-5)


def test_ids_without_a_token_are_never_drawn_at_any_temperature(model):
    """And the others are drawn as before, with their whole log-probability. Mutation seen red: the
    ids cut from the log-probability too.
    """
    prompts = [[5, 6]] * 30
    absent = tuple(range(20, 320))
    for temperature in (0.0, 1.0):
        params = SamplingParams(4, temperature, absent_token_ids=absent, seed=1)
        samples = EmbeddedSampler(model, 1).generate(prompts, params)
        assert all(token < 20 for sample in samples for token in sample.tokens)
        scored = EmbeddedSampler(model, 1).logprobs(prompts, [s.tokens for s in samples])
        for sample, logprobs in zip(samples, scored, strict=True):
            assert sample.logprobs == pytest.approx(logprobs, abs=2e-5)


def test_the_cache_is_never_longer_than_the_live_rows_need(tiny_llama):
    """Many refills on two slots: the buffers do not grow with the number of prompts."""
    columns = []
    original = SlotCache.__init__

    def watch(self, layers, slots, width, dtype):
        columns.append((slots, width))
        original(self, layers, slots, width, dtype)

    sampler = EmbeddedSampler(tiny_llama, 1, max_batch=2)
    SlotCache.__init__ = watch
    try:
        samples = sampler.generate(PROMPTS * 6, SamplingParams(9, seed=1))
    finally:
        SlotCache.__init__ = original
    assert columns == [(2, 6 + 2 * 9)]
    assert len(samples) == 30 and all(len(sample.tokens) == 9 for sample in samples)


@pytest.mark.parametrize(("slots", "budget"), [(8, 1 << 14), (8, 12), (3, 1 << 14), (2, 4)])
def test_those_who_wait_come_in_when_a_quarter_of_the_slots_is_free(tiny_llama, slots, budget):
    """Or when nobody is left; the longest first, as many as slots and the pass allow. Mutations
    seen red: whenever a slot is free; when half of them are; a row too many for the pass.
    """
    prompts, params = PROMPTS * 6, SamplingParams(12, temperature=0.5, seed=1)
    params = replace(params, stop_token_ids=(ragged_stop(tiny_llama, prompts, params),))
    decoder = Decoder(tiny_llama, prompts, params, 1, slots, budget)
    lengths, waited = [], 0
    with torch.inference_mode():
        while decoder.busy:
            live, waiting = len(decoder.row), [len(prompts[i]) for i in decoder.queue]
            free = slots - live
            decoder.step()
            came = waiting[: len(waiting) - len(decoder.queue)]
            expected = 0
            if waiting and (live == 0 or free >= max(1, slots // 4)):
                expected = min(free, len(waiting), max(1, budget // waiting[0]))
            waited += bool(waiting and free and not expected)
            assert len(came) == expected
            lengths += came
    assert lengths == sorted(map(len, prompts), reverse=True)
    assert bool(waited) == (slots // 4 > 1), "some wait although a slot is free"
    alone = EmbeddedSampler(tiny_llama, 1).generate(prompts, params)
    assert [s.tokens for s in decoder.samples()] == [s.tokens for s in alone]


def test_the_cache_is_freed_when_sampling_ends(tiny_llama, monkeypatch):
    """Without waiting for the garbage collector, which let some GB of caches pile up between
    rollouts.

    Red with a reference to the cache kept in its layers: both then wait for the collector of rings.
    """
    made = []
    original = SlotCache.__init__

    def watch(self, *args):
        made.append(weakref.ref(self))
        original(self, *args)

    monkeypatch.setattr(SlotCache, "__init__", watch)
    gc.disable()
    try:
        EmbeddedSampler(tiny_llama, 1).generate(PROMPTS, SamplingParams(4, seed=1))
        assert made and all(cache() is None for cache in made)
    finally:
        gc.enable()
