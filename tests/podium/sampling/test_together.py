"""Responses that join a batch while it is decoded: each is what it would be alone."""

import threading
from dataclasses import replace

import pytest
import torch

from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.joined import JoinedDecoder, JoinedRows, Request
from podium.sampling.protocol import SamplingParams
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
