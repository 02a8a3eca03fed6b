"""Responses that join a batch while it is decoded: each is what it would be alone."""

import threading
from dataclasses import replace

import pytest
import torch

from podium.sampling.choice import pick_tokens, row_uniforms
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.joined import JoinedDecoder, JoinedRows, Request
from podium.sampling.protocol import SamplingParams, StopStrings
from podium.sampling.together import Together

# A prompt longer than all columns in use, one that comes when those on the right are used up, and
# settings of every kind.
ASKED = [
    ([5, 6, 7], SamplingParams(40, seed=1)),
    ([8] * 30, SamplingParams(20, temperature=0)),
    ([9, 10], SamplingParams(35, temperature=0.5, top_p=0.8, seed=2)),
    ([11] * 25, SamplingParams(6, top_k=5, seed=3, first_row=4)),
    ([12, 13], SamplingParams(30, seed=4, absent_token_ids=tuple(range(20, 200)))),
]


@pytest.fixture(params=["tiny_llama", "tiny_opt"])
def model(request):
    return request.getfixturevalue(request.param)


def alone(model, prompt, params) -> list[int]:
    return EmbeddedSampler(model, 1).generate([prompt], params)[0].tokens


def requests(asked) -> tuple[list[Request], list[list]]:
    told: list[list] = [[] for _ in asked]
    made = [
        Request(prompt, params, said.append, top=2)
        for (prompt, params), said in zip(asked, told, strict=True)
    ]
    return made, told


@pytest.mark.parametrize("cached", [True, False])
@torch.inference_mode()
def test_a_row_that_joins_late_says_what_it_says_alone(model, cached, monkeypatch):
    """Two slots, a row more whenever one is free. Mutations seen red: `_shift` to the left edge
    alone; the first row's request draws for all.
    """
    monkeypatch.setattr("podium.sampling.joined.LEAST_COLUMNS", 52)
    decoder = (
        JoinedDecoder(model, 1, 1 << 14, 20, 2) if cached else JoinedRows(model, 1, 1 << 14, 2)
    )
    waiting, told = requests(ASKED)
    assert all(decoder.fits(request) for request in waiting)
    steps = 0
    while waiting or decoder.busy:
        if waiting and decoder.free and steps % 3 == 0:
            decoder.add([waiting.pop(0)])
        decoder.step()
        steps += 1
    for (prompt, params), said in zip(ASKED, told, strict=True):
        assert [drawn.token for drawn in said] == alone(model, prompt, params)
        assert [drawn.end for drawn in said] == [""] * (params.max_new_tokens - 1) + ["length"]
        tokens = [drawn.token for drawn in said]
        expected = EmbeddedSampler(model, 1).logprobs([prompt], [tokens])[0]
        assert [drawn.logprob for drawn in said] == pytest.approx(expected, abs=2e-5)
        assert all(len(drawn.top) == 2 and drawn.top[0][1] >= drawn.logprob for drawn in said)


def test_buffers_hold_the_longest_row_twice_and_as_many_rows_as_the_budget(tiny_llama, monkeypatch):
    """By hand. Mutations seen red: the longest once; a slot for every row whatever the budget; a
    row that just fits refused.
    """
    monkeypatch.setattr("podium.sampling.joined.LEAST_COLUMNS", 100)
    for (budget, longest, slots), made in (
        ((1000, 20, 8), (100, 8)),
        ((1000, 20, 80), (100, 10)),
        ((1000, 60, 80), (120, 8)),
        ((50, 60, 80), (120, 1)),
    ):
        decoder = JoinedDecoder(tiny_llama, 1, budget, longest, slots)
        assert (len(decoder.columns), decoder.slots, decoder.free) == (*made, made[1])
    (just, over), _ = requests([([5] * 20, SamplingParams(100)), ([5] * 21, SamplingParams(100))])
    assert (just.length, over.length) == (120, 121)
    assert decoder.fits(just) and not decoder.fits(over)
    decoder.add([just])
    assert decoder.free == 0 and decoder.busy
    rows = JoinedRows(tiny_llama, 1, 50, 3)
    rows.add([over])
    assert rows.fits(over) and rows.free == 2 and rows.busy


@pytest.mark.parametrize("temperature", [0.0, 1.0])
def test_a_request_draws_by_its_own_numbers_and_says_why_it_ends(temperature):
    """From planted logits. Mutations seen red: one random number for all its tokens; an end by the
    length told of a stop token that comes last; likelihoods at the sampling temperature.
    """
    said: list = []
    params = SamplingParams(3, temperature, stop_token_ids=(4,), seed=3, first_row=7)
    request = Request([5], params, said.append, top=9)
    logits = torch.tensor([[0.0, 1.0, 2.0, 0.5, -1.0]])
    uniforms = row_uniforms(3, [7], 3)
    expected = [int(pick_tokens(logits, uniforms[:, i], temperature, 0, 1.0)[0]) for i in range(2)]
    ends = [request.draw(logits), request.draw(logits)]
    assert ends == [(expected[0], False), (expected[1], False)]
    last = request.draw(torch.tensor([[0.0, 0.0, 0.0, 0.0, 99.0]]))
    assert last == (4, True) and [drawn.end for drawn in said] == ["", "", "stop"]
    logprobs = logits[0].log_softmax(-1)
    assert said[0].logprob == pytest.approx(float(logprobs[expected[0]]))
    assert [token for token, _ in said[0].top] == [2, 1, 3, 0, 4], "no more than there are"
    assert [p for _, p in said[0].top] == pytest.approx(logprobs.sort(descending=True)[0].tolist())
    plain = Request([5], SamplingParams(1, temperature), said.append)
    plain.draw(logits)
    assert (said[-1].logprob, said[-1].top, said[-1].end) == (0.0, (), "length")
    stopping = StopStrings(("b",), lambda tokens: "".join(chr(95 + token) for token in tokens))
    text = Request([5], SamplingParams(9, 0.0, stop=stopping), said.append)
    assert [text.draw(-logits)[1], text.draw(logits.roll(1)), said[-1].end] == [
        False, (3, True), "stop"
    ]  # fmt: skip


def test_the_thread_goes_when_nobody_waits_and_the_next_request_starts_another(
    tiny_llama, monkeypatch
):
    """Mutation seen red: the thread not forgotten, so that the next one waits for ever."""
    monkeypatch.setattr("podium.sampling.together.LINGER_SECONDS", 0.01)
    together = Together(tiny_llama, 1, True, slots=2, budget=1 << 14)
    for _ in range(2):
        said: list = []
        with together._changed:
            together.begin([5, 6], SamplingParams(2, seed=1), said.append)
            thread = together._thread
        thread.join(60)
        assert not thread.is_alive() and together._thread is None and len(said) == 2
        assert thread.daemon, "an interpreter that ends does not wait for it"


def test_many_stream_at_once_from_threads(model):
    """Five visitors, one batch; a stop token ends a row and is not said."""
    sampler = EmbeddedSampler(model, 1, max_batch=3)
    stop = alone(model, *ASKED[0])[9]
    asked = [(p, replace(params, stop_token_ids=(stop,))) for p, params in ASKED] * 2
    said: dict[int, list[int]] = {}
    threads = [
        threading.Thread(target=lambda i=i: said.update({i: list(sampler.stream(*asked[i]))}))
        for i in range(len(asked))
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, (prompt, params) in enumerate(asked):
        tokens = alone(model, prompt, params)
        assert said[i] == (tokens[:-1] if tokens[-1] == stop else tokens)


def test_who_goes_away_leaves_the_batch(tiny_llama):
    """One slot: the next is served at once. Mutation seen red: `give_up` does nothing (the second
    then waits for all of the first).
    """
    together = Together(tiny_llama, 1, True, slots=1, budget=1 << 14)
    first: list = []
    gone, ended = threading.Event(), threading.Event()

    def told(drawn) -> None:
        first.append(drawn)
        if len(first) == 3:
            give_up()
            gone.set()

    give_up = together.begin([5, 6], SamplingParams(100), told)
    together.begin([7], SamplingParams(4), lambda drawn: ended.set() if drawn.end else None)
    assert gone.wait(30) and ended.wait(30)
    assert 3 <= len(first) <= 4 and not first[-1].end


def test_an_error_reaches_all_who_wait_and_the_next_one_is_served(tiny_llama, monkeypatch):
    """Mutation seen red: the thread ends with the error (the first `stream` never returns)."""
    sampler = EmbeddedSampler(tiny_llama, 1)
    draw = Request.draw

    def broken(self, logits):
        raise RuntimeError("no memory")

    monkeypatch.setattr(Request, "draw", broken)
    for _ in range(2):
        with pytest.raises(RuntimeError, match="no memory"):
            list(sampler.stream([5], SamplingParams(4)))
    monkeypatch.setattr(Request, "draw", draw)
    assert len(list(sampler.stream([5], SamplingParams(4)))) == 4


def test_a_row_too_long_for_the_buffers_waits_for_larger_ones(tiny_llama, monkeypatch):
    """Those behind it wait with it. Mutation seen red: `fits` always true."""
    monkeypatch.setattr("podium.sampling.joined.LEAST_COLUMNS", 8)
    sampler = EmbeddedSampler(tiny_llama, 1, max_batch=2, max_tokens=64)
    asked = [([5], SamplingParams(6)), ([6] * 60, SamplingParams(40)), ([7], SamplingParams(6))]
    streams = [sampler.stream(*one) for one in asked]
    said = [list(stream) for stream in reversed(streams)][::-1]
    assert said == [alone(tiny_llama, *one) for one in asked]
