"""Tokens a second of the embedded sampler and of vLLM on the same weights and prompts, what a
hand-over of weights costs, and how far their log-probabilities are apart.

    python -m benchmarks.vllm [--rounds 5] [--threads 1]

Random weights: nothing ends early, so each answer has all its tokens. Rounds alternate between the
two; the table gives the fastest of each, and the spread. docs/lab/vllm.md has the figures.
"""

import argparse
import random
import time
from collections.abc import Sequence

import numpy as np
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from podium.models import count_parameters
from podium.progress import quieten_libraries
from podium.sampling.kinds import EmbeddedConfig, VllmConfig, make_sampler
from podium.sampling.protocol import Sampler, SamplingParams

SHAPES = {  # (hidden, inner, layers, heads, vocabulary), (answers, tokens of each)
    "4M": ((256, 688, 4, 4, 2048), (64, 64)),
    "125M": ((768, 2048, 12, 12, 32000), (32, 32)),
}
TYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


def llama(shape: tuple[int, int, int, int, int]) -> LlamaForCausalLM:
    hidden, inner, layers, heads, vocabulary = shape
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=vocabulary,
        hidden_size=hidden,
        intermediate_size=inner,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=512,
        tie_word_embeddings=True,
    )
    return LlamaForCausalLM(config).eval()


def seconds(sampler: Sampler, prompts: Sequence[list[int]], params: SamplingParams) -> float:
    begun = time.perf_counter()
    said = sampler.generate(prompts, params)
    assert all(len(sample.tokens) == params.max_new_tokens for sample in said)
    return time.perf_counter() - begun


def race(name: str, dtype: str, rounds: int) -> str:
    """One line of the table."""
    shape, (rows, tokens) = SHAPES[name]
    model = llama(shape)
    draw = random.Random(0)
    lengths = [draw.randint(8, 64) for _ in range(rows)]
    prompts = [[draw.randrange(5, shape[-1]) for _ in range(length)] for length in lengths]
    kept = TYPES[dtype] if dtype != "fp32" else None
    embedded = make_sampler(EmbeddedConfig(), model, 0, rows, kept)
    vllm = make_sampler(VllmConfig(dtype=dtype, cache_gb=1.0), model, 0, rows)
    taken: dict[str, list[float]] = {"embedded": [], "vllm": [], "update": []}
    for number in range(rounds + 1):  # the first warms both up and is not counted
        params = SamplingParams(tokens, seed=number)
        found = {"embedded": seconds(embedded, prompts, params)}
        found["vllm"] = seconds(vllm, prompts, params)
        begun = time.perf_counter()
        vllm.update_weights(model)
        vllm.generate([[5]], SamplingParams(1))
        found["update"] = time.perf_counter() - begun
        if number:
            for key, value in found.items():
                taken[key].append(value)
    said = vllm.generate(prompts, SamplingParams(tokens, seed=1))
    read = embedded.logprobs(prompts, [sample.tokens for sample in said])
    gap = np.abs(np.array([sample.logprobs for sample in said]) - np.array(read))
    speeds = [
        f"{rows * tokens / min(taken[key]):,.0f} ({rows * tokens / max(taken[key]):,.0f})"
        for key in ("embedded", "vllm")
    ]
    update = f"{np.median(taken['update']):.2f}"
    size = f"{count_parameters(model) / 1e6:.1f}M"
    far = f"{gap.mean():.1e} | {gap.max():.1e}"
    return f"| {size} {dtype}, {rows} x {tokens} | {' | '.join(speeds)} | {update} | {far} |"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--shapes", nargs="+", default=list(SHAPES), choices=SHAPES)
    given = parser.parse_args()
    torch.set_num_threads(given.threads)
    quieten_libraries()
    print("| model, answers x tokens | embedded tokens/s (slowest round) | vLLM | ", end="")
    print("hand-over s | mean gap | largest |\n|---|---|---|---|---|---|")
    for name in given.shapes:
        for dtype in TYPES:
            print(race(name, dtype, given.rounds), flush=True)


if __name__ == "__main__":
    main()
