"""vLLM itself, in its own environment, beside the embedded sampler on the same weights."""

import os
import signal
import threading
import time

import pytest
import torch
from scipy.stats import chisquare
from transformers import LlamaConfig, LlamaForCausalLM

from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.kinds import VllmConfig, make_sampler
from podium.sampling.protocol import SamplingParams

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]
PROMPTS = [[5 + (7 * row + place) % 300 for place in range(1 + row % 9)] for row in range(32)]


def llama(tied: bool) -> LlamaForCausalLM:
    """vLLM's attention on a CPU knows heads of 32 and more."""
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            vocab_size=320,
            hidden_size=64,
            intermediate_size=128,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=tied,
        )
    ).eval()
    changed(model, 0.3)  # so that some tokens are likelier than others
    return model


@torch.no_grad()
def changed(model: torch.nn.Module, by: float) -> None:
    for weight in model.parameters():
        weight += by * torch.randn_like(weight) * weight.std().nan_to_num(0.1).clamp(min=0.02)


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def both(request, vllm_python):
    """The model, a sampler through vLLM and the embedded one."""
    model = llama(request.param)
    sampler = make_sampler(VllmConfig(python=vllm_python, cache_gb=0.25), model, 1)
    yield model, sampler, EmbeddedSampler(model, 1)
    sampler.server.stop()


def assert_alike(model, sampler, embedded, params: SamplingParams) -> None:
    """Greedy tokens of most rows are the same; log-probabilities are near, of whatever was said."""
    ours, theirs = embedded.generate(PROMPTS, params), sampler.generate(PROMPTS, params)
    same = sum(a.tokens == b.tokens for a, b in zip(ours, theirs, strict=True))
    assert same >= 30, same  # rounding decides between tokens that are as likely
    said = [sample.tokens for sample in theirs]
    read = embedded.logprobs(PROMPTS, said, params.temperature)
    there = sampler.logprobs(PROMPTS, said, params.temperature)
    for sample, here, again in zip(theirs, read, there, strict=True):
        assert sample.logprobs == pytest.approx(here, abs=1e-3)
        assert again == pytest.approx(here, abs=1e-3)


def test_it_says_what_the_embedded_sampler_says_before_and_after_an_update(both):
    """Mutations seen red: the weights are not reloaded; `_repack_heads` left out (tied: half the
    model is then the old one, with the new version's name); absent tokens are not sent.
    """
    model, sampler, embedded = both
    absent = tuple(range(0, 320, 3))
    for _ in range(2):
        assert_alike(*both, SamplingParams(12, temperature=0, absent_token_ids=absent))
        changed(model, 0.5)
        sampler.update_weights(model)
    assert_alike(*both, SamplingParams(12, temperature=0))
    assert sampler.server.starts == 1
    row = [5 + token % 300 for token in range(128)]  # as long as the context
    for count in (1, 100):
        ours, theirs = (s.logprobs([row[:-count]], [row[-count:]])[0] for s in (embedded, sampler))
        assert theirs == pytest.approx(ours, abs=1e-3)


def test_log_probabilities_are_of_the_tempered_distribution_before_it_is_cut(both):
    """As the embedded sampler's. Mutation seen red: `_temper` left out."""
    _, sampler, embedded = both
    params = SamplingParams(
        8, temperature=0.6, top_k=4, top_p=0.9, absent_token_ids=(7, 8, 9), seed=2
    )
    theirs = sampler.generate(PROMPTS, params)
    read = embedded.logprobs(PROMPTS, [sample.tokens for sample in theirs], 0.6)
    for sample, here in zip(theirs, read, strict=True):
        assert sample.logprobs == pytest.approx(here, abs=1e-3)
        assert not {7, 8, 9} & set(sample.tokens)


def test_tokens_come_as_often_as_they_are_likely_and_rows_keep_their_streams(both):
    """Mutation seen red: every row has the same seed."""
    model, sampler, _ = both
    params = SamplingParams(1, temperature=0.8, top_k=6, seed=5)
    drawn = sampler.generate([[5, 6, 7]] * 600, params)
    with torch.no_grad():
        logits = model(torch.tensor([[5, 6, 7]])).logits[0, -1] / 0.8
    likely = logits.topk(6)
    counts = [
        sum(sample.tokens == [token] for sample in drawn) for token in likely.indices.tolist()
    ]
    assert sum(counts) == 600
    expected = (likely.values.softmax(-1).double() * 600).numpy()
    assert chisquare(counts, expected * sum(counts) / expected.sum()).pvalue > 1e-4
    later = SamplingParams(1, temperature=0.8, top_k=6, seed=5, first_row=400)
    again = [sample.tokens for sample in sampler.generate([[5, 6, 7]] * 200, later)]
    assert again == [sample.tokens for sample in drawn[400:]]


def test_a_batch_of_more_prompt_tokens_than_one_pass_holds_is_sampled(both):
    """Mutation seen red: prompts read in pieces, which ends in an error of the random numbers."""
    _, sampler, embedded = both
    long = [[5 + (11 * row + place) % 300 for place in range(100)] for row in range(150)]
    sampler.generate(PROMPTS, SamplingParams(1))
    starts = sampler.server.starts
    said = sampler.generate(long, SamplingParams(4, seed=1))
    assert sampler.server.starts == starts
    read = embedded.logprobs(long, [sample.tokens for sample in said])
    for sample, here in zip(said, read, strict=True):
        assert sample.logprobs == pytest.approx(here, abs=1e-3)


def test_stops_end_a_response_and_belong_to_it(both):
    _, sampler, _ = both
    said = sampler.generate(PROMPTS, SamplingParams(12, seed=1))
    stops = {sample.tokens[4] for sample in said}
    ended = sampler.generate(PROMPTS, SamplingParams(12, seed=1, stop_token_ids=tuple(stops)))
    for whole, cut in zip(said, ended, strict=True):
        first = next(n for n, token in enumerate(whole.tokens) if token in stops)
        assert cut.tokens == whole.tokens[: first + 1] and cut.finished


def test_a_server_killed_in_mid_rollout_costs_time_and_nothing_else(both):
    """SIGKILL while it works. Mutation seen red: one try."""
    _, sampler, _ = both
    params = SamplingParams(110, seed=9)
    before = sampler.generate(PROMPTS * 4, params)
    starts, victim = sampler.server.starts, sampler.server.pid

    def kill() -> None:
        time.sleep(0.5)  # the rollout above took longer
        os.kill(victim, signal.SIGKILL)

    killer = threading.Thread(target=kill)
    killer.start()
    after = sampler.generate(PROMPTS * 4, params)
    killer.join()
    assert sampler.server.starts == starts + 1 and sampler.server.pid != victim
    same = sum(a.tokens == b.tokens for a, b in zip(before, after, strict=True))
    assert same >= 0.9 * len(before)
