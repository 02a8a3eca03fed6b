"""Decoding through torch.compile: the same text and log-probabilities, at exact shapes and at a
GPU's rounded ones.
"""

import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, MistralConfig, MistralForCausalLM

from podium.sampling import compiled as compiled_module
from podium.sampling import prepacked as prepacked_module
from podium.sampling.compiled import CompiledStep
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.protocol import SamplingParams

PROMPTS = [
    [5, 6, 7],
    [8],
    [9, 10, 11, 12, 13, 14],
    [15, 16],
    [17, 18, 19, 20],
    [21],
    [22, 23],
    [24, 25, 26],
]
STEP = CompiledStep(torch.device("cpu"))


@pytest.fixture(params=["tiny_llama", "tiny_opt"])
def model(request):
    return request.getfixturevalue(request.param)


@pytest.fixture
def served(monkeypatch):
    """The (rows, columns) of every compiled step."""
    shapes: list[tuple[int, int]] = []
    step = CompiledStep.__call__

    def watched(self, model, ids, mask, *rest):
        shapes.append(tuple(mask.shape))
        return step(self, model, ids, mask, *rest)

    monkeypatch.setattr(CompiledStep, "__call__", watched)
    return shapes


@pytest.mark.parametrize(
    "really", [False, pytest.param(True, marks=pytest.mark.slow)], ids=["plain", "compiled"]
)
@pytest.mark.parametrize("rounded", [False, True])
def test_a_compiled_step_says_the_same(model, served, monkeypatch, rounded, really):
    """Rows that leave, rows that are refilled, a second round with other prompts in the same
    buffers. Everything around torch's compiler is seen without it too, in a second.

    Seen red (rounded) with columns after the newest left in the mask, with idle rows kept among the
    logits, and (both) with the position off by one.
    """
    monkeypatch.setattr(compiled_module, "COLUMNS", 8)
    if not really:
        monkeypatch.setattr(torch, "compile", lambda function, **how: function)
    plain, compiled = (
        EmbeddedSampler(model, 1, max_batch=6, compiled=whether) for whether in (False, True)
    )
    compiled._step.rounded = rounded
    for seed, prompts in ((1, PROMPTS), (2, PROMPTS[:3] + PROMPTS[4:]), (3, PROMPTS[::-1])):
        params = SamplingParams(20, stop_token_ids=(), seed=seed)
        # row 0 ends early, others where they happen to say it
        stop = plain.generate(prompts, params)[0].tokens[4]
        params = SamplingParams(20, stop_token_ids=(stop,), seed=seed)
        expected, found = plain.generate(prompts, params), compiled.generate(prompts, params)
        assert [sample.tokens for sample in found] == [sample.tokens for sample in expected]
        for mine, theirs in zip(found, expected, strict=True):
            assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)
    assert len(served) > 60
    if rounded:
        assert {rows for rows, _ in served} <= {2, 4, 6} and all(
            columns % 8 == 0 for _, columns in served
        )


def test_a_row_that_is_left_alone_is_decoded_as_ever(tiny_llama, served, monkeypatch):
    """A CPU would compile it apart from many. Mutation seen red: a lone row through the step."""
    monkeypatch.setattr(torch, "compile", lambda function, **how: function)
    plain, sampler = (EmbeddedSampler(tiny_llama, 1, compiled=how) for how in (False, True))
    params = SamplingParams(6, seed=1)
    for prompts in (PROMPTS[:1], PROMPTS[:2]):
        found, expected = (one.generate(prompts, params) for one in (sampler, plain))
        assert [s.tokens for s in found] == [s.tokens for s in expected]
    assert served and {rows for rows, _ in served} == {2}


def test_one_program_serves_every_shape_and_a_gpu_records_it(monkeypatch):
    """What torch's compiler is asked for. Mutations seen red: `dynamic` left out (a program for each
    length); CUDA graphs on a CPU.
    """
    asked = []
    monkeypatch.setattr(torch, "compile", lambda function, **how: asked.append(how))
    on_cpu, on_gpu = CompiledStep(torch.device("cpu")), CompiledStep(torch.device("cuda"))
    assert (on_cpu.rounded, on_gpu.rounded) == (False, True)
    assert asked == [
        {"dynamic": True, "mode": None},
        {"dynamic": True, "mode": "reduce-overhead"},
    ]


def test_windows_are_exact_on_a_cpu_and_rounded_up_to_few_on_a_gpu():
    """Rows to powers of two, but never to one nor beyond the slots; columns to whole blocks around
    those in use. Mutations seen red: rows rounded down; a block too many.
    """
    step = CompiledStep(torch.device("cpu"))
    cache = step.cache(1, 12, 512, None)
    assert step.window(3, 130, 250, cache) == (3, 130, 250)
    step.rounded = True
    asked = [(1, 0, 1), (2, 127, 128), (3, 128, 129), (4, 130, 256), (5, 257, 257), (9, 0, 512)]
    assert [step.window(*one, cache) for one in asked] == [
        (2, 0, 128), (2, 0, 128), (4, 128, 256), (4, 128, 256), (8, 256, 384), (12, 0, 512)
    ]  # fmt: skip


def test_rounded_shapes_keep_their_buffers_and_exact_ones_do_not():
    """A CUDA graph writes where it was recorded. Seen red with a new cache each time."""
    step = CompiledStep(torch.device("cpu"))
    assert step.cache(2, 4, 100, None) is not step.cache(2, 4, 100, None)
    step.rounded = True
    kept = step.cache(2, 4, 100, None)
    assert kept.aimed.columns == 128 and kept.aimed.fixed and kept.aimed.slots == 4
    assert len(kept.slot_layers) == 2
    kept.aim(slice(0, 4), 0, 1, slice(0, 1))
    kept.slot_layers[0].update(torch.ones(4, 1, 1, 8), torch.ones(4, 1, 1, 8))
    assert [b._dynamo_static_input_type for b in kept._buffers()] == ["unguarded"] * 2
    assert step.cache(2, 3, 128, None) is kept
    assert step.cache(2, 4, 129, None) is not kept
    assert step.cache(2, 4, 100, torch.bfloat16) is not kept


def test_models_that_a_compiled_step_would_get_wrong_are_decoded_as_ever(tiny_llama, served):
    """Seen red with each of the first two conditions left out of `serves`."""
    tokens = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 1}
    sliding = MistralForCausalLM(
        MistralConfig(
            **tokens,
            intermediate_size=32,
            num_attention_heads=2,
            num_key_value_heads=2,
            sliding_window=4,
        )
    )
    alibi = BloomForCausalLM(BloomConfig(**tokens, n_head=2))
    assert STEP.serves(tiny_llama)
    for model in (sliding, alibi):
        assert not STEP.serves(model)
        EmbeddedSampler(model.eval(), 1, compiled=True).generate([[5, 6], [7]], SamplingParams(3))
    assert not served


@pytest.mark.skipif(not prepacked_module._types(), reason="this processor has no packed product")
def test_weights_that_are_packed_are_not_compiled(tiny_llama, monkeypatch):
    """Packing a head alone is no reason: it stays outside. Seen red with the condition left out of
    `serves`.
    """
    assert STEP.serves(tiny_llama)
    monkeypatch.setattr(prepacked_module, "FROM_ELEMENTS", tiny_llama.lm_head.weight.numel())
    assert STEP.serves(tiny_llama)
    monkeypatch.setattr(prepacked_module, "FROM_ELEMENTS", 1)
    assert not STEP.serves(tiny_llama)
