"""Tokens per second of Podium's pretraining loop against plain torch, Hugging Face's Trainer and
litgpt's loop.

    python -m benchmarks.pretrain                    1M, 20M and 125M parameters in fp32
    python -m benchmarks.pretrain --quick            a step to warm up and two that count
    python -m benchmarks.pretrain --dtype bf16 --litgpt /path/to/env/bin/python

The sides take turns, a step each, every one in a process of its own (`benchmarks.pretrain_sides`),
with the same LLaMA, weights, windows of random tokens, threads, AdamW and clipping. The batch is
the same in every step, so that the loss falls and a difference shows: all losses must agree, to
1e-4 in fp32. A window is one document, unless `--documents` says how long documents are: then
Podium keeps them apart by a mask and positions of their own, the others let all of a window see
each other, which is less work, and losses are not compared.

Times are medians over the repeats, after one step to warm up, in wall and in processor seconds: on
a busy machine only their ratios say something. Tokens are those that are predicted. litgpt may need
an environment of its own: `--litgpt` is the interpreter of one, of the same version of Python, with
litgpt, lightning and torchmetrics; torch is ours. All sides are in memory at once: with 125M
parameters that is 3 GB each. The last line printed is one JSON object:

    {"1M": {"tokens_per_second": {"ours": .., "torch": ..}, "wall_ratio": {"torch": ..},
            "processor_ratio": {..}, "memory": {..}}, "20M": ..}

wall_ratio = their wall seconds / ours, processor_ratio the same of processor seconds: above 1 ours
is the faster one. memory = MB by which a side's peak lies above what it held before its first step.
"""

import argparse
import json
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np

from benchmarks.pretrain_sides import SIDES, SIZES, Size, Work, make_model, make_windows
from benchmarks.turns import Racer

TOLERANCE = {"fp32": 1e-4, "bf16": 1e-2}  # nats a token


def race(sides: list[str], work: Work, litgpt: str) -> dict[str, Racer]:
    """The sides' steps in turn, by their names."""
    racers = {
        side: Racer(SIDES[side], work, litgpt if side == "litgpt" else sys.executable)
        for side in sides
    }
    for _ in range(work.steps):
        for racer in racers.values():
            racer.step()
    for racer in racers.values():
        racer.process.join()
    return racers


def must_agree(losses: dict[str, list[float]], tolerance: float) -> None:
    """Raise RuntimeError where a side's losses part from the first side's, or those never fall."""
    (first, expected), *others = losses.items()
    if not min(expected) < expected[0]:
        raise RuntimeError(f"the losses of {first} never fall: {expected}")
    for side, found in others:
        if not np.allclose(found, expected, rtol=0, atol=tolerance):
            raise RuntimeError(f"the losses of {first} and {side} differ: {expected} and {found}")


def summary(racers: dict[str, Racer], size: Size) -> dict[str, dict[str, float]]:
    """What the last line says of one size."""
    tokens = size.windows * (size.context - 1)
    we = next(iter(racers.values()))
    they = {side: racer for side, racer in racers.items() if racer is not we}
    return {
        "tokens_per_second": {side: round(tokens / r.pace) for side, r in racers.items()},
        "wall_ratio": {side: round(r.pace / we.pace, 3) for side, r in they.items()},
        "processor_ratio": {
            side: round(r.processor_pace / we.processor_pace, 3) for side, r in they.items()
        },
        "memory": {side: round(r.growth) for side, r in racers.items()},
    }


def sides_of(options: argparse.Namespace) -> list[str]:
    """Ours first; litgpt only where there is one."""
    sides = ["ours", *(side for side in options.sides if side != "ours")]
    if "litgpt" in sides and options.litgpt is None and find_spec("litgpt") is None:
        print("litgpt is left out: it is not installed here, and --litgpt names no interpreter")
        sides.remove("litgpt")
    return sides


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="two repeats")
    parser.add_argument("--sizes", choices=list(SIZES), nargs="*", default=list(SIZES))
    parser.add_argument("--sides", choices=list(SIDES), nargs="*", default=list(SIDES))
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1, help="torch threads of each side")
    parser.add_argument("--repeats", type=int, help="steps that count; default 15, quick 2")
    parser.add_argument("--documents", type=int, help="mean tokens of a document; default a window")
    parser.add_argument("--litgpt", help="the interpreter of an environment with litgpt")
    parser.add_argument(
        "--attention",
        choices=("eager", "sdpa"),
        default="sdpa",
        help="of the sides on transformers",
    )
    options = parser.parse_args()
    steps = 1 + (options.repeats or (2 if options.quick else 15))
    sides = sides_of(options)
    result: dict[str, Any] = {}
    for name in options.sizes:
        size = SIZES[name]
        ids = make_windows(size, options.documents)
        work = Work(size, ids, options.dtype, options.threads, steps, options.attention)
        print(
            f"{name}: {make_model(work).num_parameters():,} parameters, {size.windows} x "
            f"{size.context} tokens, {options.dtype}, {options.threads} threads, medians of "
            f"{steps - 1}",
            flush=True,
        )
        racers = race(sides, work, options.litgpt or sys.executable)
        result[name] = summary(racers, size)
        for side, racer in racers.items():
            ratios = [result[name][kind].get(side) for kind in ("wall_ratio", "processor_ratio")]
            print(
                f"  {side:10} {result[name]['tokens_per_second'][side]:>7,} tokens/s, {racer}"
                + ("; {} and {} times our seconds".format(*ratios) if side != sides[0] else ""),
                flush=True,
            )
        if options.documents is None:
            losses = {side: racer.losses for side, racer in racers.items()}
            must_agree(losses, TOLERANCE[options.dtype])
    print(json.dumps(result))


if __name__ == "__main__":
    main()
