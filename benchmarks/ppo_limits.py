"""What an iteration of our PPO needs, kind by kind, and how near to this machine's limits it runs.

    python -m benchmarks.ppo_limits --shape llama-4m --workload ragged --dtype bf16

The shapes, prompts and settings are those of `benchmarks.ppo`. What is needed is counted over real
tokens, as though nothing were padded: multiply-adds x 2 of the products with weights and of
attention, and the bytes that must come from memory where nothing stays in a cache. The machine's
rates are measured beside: a square product in the type of the kind, one in fp32 for attention
(which is computed in it on a CPU), and the sum of a tensor that no cache holds. The limit is the
larger of arithmetic / rate and bytes / rate, and the last column says which share of the seconds
that is. Of a machine whose caches hold the weights it is no bound for decoding, only a measure.
"""

import argparse
import json
import math
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from benchmarks.ppo import WORKLOADS, matmul_rate
from benchmarks.ppo_inputs import SHAPES, STOP, balanced_seeds, write_inputs
from ppo.learner import BF16_COPY_FROM

ADAM_BYTES = 28  # a parameter: weight, gradient and two moments are read, all but the gradient kept
CACHE_BYTES = 4  # a key or a value on a CPU


@dataclass(frozen=True)
class Size:
    """What counts of a model: weights of its layers and of its head, layers, width of attention."""

    body: int
    head: int
    layers: int
    width: int

    def attention(self, lengths: Sequence[int]) -> float:
        """Multiply-adds x 2 of a causal forward: at the t-th token a query meets t keys, and their
        values are summed up.
        """
        return 4 * self.width * self.layers * sum(n * (n + 1) / 2 for n in lengths)


@dataclass(frozen=True)
class Need:
    """Of one kind of work. `products` and `attention` in FLOP, `memory` in bytes."""

    products: float
    attention: float
    memory: float

    def seconds(self, product_rate: float, attention_rate: float, memory_rate: float) -> float:
        """The least time at these rates."""
        arithmetic = self.products / product_rate + self.attention / attention_rate
        return max(arithmetic, self.memory / memory_rate)


def decoding(size: Size, prompts: Sequence[int], responses: Sequence[int], width: int) -> Need:
    """Sampling, with weights of `width` bytes. The last token of a response is not read."""
    read = [p + r - 1 for p, r in zip(prompts, responses, strict=True)]
    weights = (size.body + size.head) * width * max(responses)  # the prompts' pass and each step
    # the keys and values that each token after the prompt looks back at
    seen = sum(n * (n + 1) / 2 - p * (p + 1) / 2 for n, p in zip(read, prompts, strict=True))
    cache = 2 * size.width * size.layers * CACHE_BYTES * seen
    products = 2 * size.body * sum(read) + 2 * size.head * sum(responses)
    return Need(products, size.attention(read), weights + cache)


def reading(
    size: Size, prompts: Sequence[int], responses: Sequence[int], head: bool, training: bool = False
) -> Need:
    """A pass over all rows; in training its backward pass does twice its arithmetic, and the
    weights are read twice and their gradients written.
    """
    lengths = [p + r for p, r in zip(prompts, responses, strict=True)]
    weights = size.body + (size.head if head else 0)
    products = 2 * size.body * sum(lengths) + (2 * size.head * sum(responses) if head else 0)
    times = 3 if training else 1
    return Need(times * products, times * size.attention(lengths), times * 4 * weights)


def needs(
    size: Size, prompts: Sequence[int], responses: Sequence[int], sampler_width: int
) -> dict[str, Need]:
    """By the names of the profile, one inner epoch in one optimizer step."""
    rows = prompts, responses
    parameters = 2 * size.body + size.head  # policy and value model
    return {
        "generate": decoding(size, *rows, sampler_width),
        "old_logprobs": reading(size, *rows, head=True),
        "reference": reading(size, *rows, head=True),
        "reward": reading(size, *rows, head=False),
        "value": reading(size, *rows, head=False),
        "update_policy": reading(size, *rows, head=True, training=True),
        "update_value": reading(size, *rows, head=False, training=True),
        "optimizer": Need(0, 0, ADAM_BYTES * parameters),
    }


def size_of(folder: Path) -> Size:
    """Of the policy in a folder of `write_inputs`."""
    from podium.models import count_parameters, load_causal_lm

    policy: Any = load_causal_lm(folder)
    embedding = policy.get_input_embeddings().weight.numel()
    body = count_parameters(policy.base_model) - embedding
    head = policy.get_output_embeddings().weight.numel()
    return Size(body, head, policy.config.num_hidden_layers, policy.config.hidden_size)


def read_rate(threads: int) -> float:
    """Bytes a second at which a tensor of 1 GiB is summed up."""
    import torch

    torch.set_num_threads(threads)
    tensor, best = torch.ones(1 << 28), math.inf
    for _ in range(5):
        began = time.perf_counter()
        tensor.sum()
        best = min(best, time.perf_counter() - began)
    return tensor.numel() * 4 / best


def measured(options: argparse.Namespace, folder: Path) -> dict[str, Any]:
    """Our side of the race in a process of its own, its median iteration's kinds of work."""
    shape = next(s for s in SHAPES if s.name == options.shape)
    shape = replace(shape, response_length=options.response_length or shape.response_length)
    ragged = options.workload == "ragged"
    write_inputs(shape, ragged, folder)
    work = {
        "folder": str(folder),
        "threads": options.threads,
        "batch": shape.batch,
        "micro_batch": shape.micro_batch,
        "response_length": shape.response_length,
        "stop_token_id": STOP if ragged else None,
        "inner_epochs": 1,
        "iterations": 2,
        "learning_rate": 1e-6,
        "dtype": options.dtype,
        "seed": balanced_seeds(shape, 1, 1)[0],
        "compile": options.compile,
    }
    spec = folder / "work.json"
    spec.write_text(json.dumps(work))
    command = [sys.executable, "-m", "benchmarks.ppo", "--work", str(spec)]
    environment = os.environ | {"OMP_NUM_THREADS": str(options.threads)}
    done = subprocess.run(command, env=environment, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(done.stderr[-4000:])
    return json.loads(done.stdout.strip().splitlines()[-1])


def tell(found: dict[str, Any], size: Size, dtype: str, memory_rate: float) -> None:
    """The table."""
    copies = dtype == "bf16" and 2 * size.head + size.body > BF16_COPY_FROM
    fp32, product = matmul_rate("fp32"), matmul_rate(dtype)
    print(
        f"square products: {product / 1e9:.0f} GFLOP/s ({dtype}), {fp32 / 1e9:.0f} (fp32); "
        f"memory: {memory_rate / 1e9:.1f} GB/s"
    )
    print("kind             seconds  GFLOP products  attention     GB   least s   share")
    total = 0.0
    rows = found["prompt_lengths"], found["response_lengths"]
    for kind, need in needs(size, *rows, 2 if copies else 4).items():
        seconds = found["profile"].get(f"time/{kind}")
        if seconds is None:
            continue
        rate = fp32 if kind == "generate" and not copies else product
        least = need.seconds(rate, fp32, memory_rate)
        total += least
        print(
            f"{kind:<15} {seconds:>8.2f} {need.products / 1e9:>15.1f} {need.attention / 1e9:>10.1f}"
            f" {need.memory / 1e9:>6.2f} {least:>9.2f} {least / seconds:>7.0%}"
        )
    seconds = found["seconds"][-1]
    print(f"{'iteration':<15} {seconds:>8.2f} {'':>33} {total:>9.2f} {total / seconds:>7.0%}")


def main() -> None:
    """One shape, one workload, one type."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--shape", choices=[s.name for s in SHAPES], default="llama-4m")
    parser.add_argument("--workload", choices=WORKLOADS, default="ragged")
    parser.add_argument("--dtype", choices=["fp32", "bf16"], default="bf16")
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--response-length", type=int, help="the cap, instead of the shape's own")
    parser.add_argument("--compile", action="store_true")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = measured(options, Path(folder))
        memory_rate = read_rate(options.threads)
        tell(found, size_of(Path(folder) / "policy"), options.dtype, memory_rate)


if __name__ == "__main__":
    main()
