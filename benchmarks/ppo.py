"""PPO beside trl 1.12.0's PPOTrainer, the last published one: seconds an iteration, memory, share
of the peak.

    python -m benchmarks.ppo              40 minutes on two quiet cores; --iterations and
                                          --repeats for a spread
    python -m benchmarks.ppo --quick      a small shape once, to see that it works

Same weights, prompts, lengths, micro-batches of the update, inner epochs and threads; the sides
take turns within one run, each in its own process, TRL in an environment that this command makes
once (~/.cache/podium/trl-1.12.0). Two workloads: `fixed` (no end token: every response has full
length, our worst case) and `ragged` (responses end at random, mean about 40 % of the cap). No ptx,
which TRL does not have. The first iteration of a process warms up (ours with the inputs of the
second, so that no shape is compiled later) and is not counted; of the others (`--iterations` a
turn, `--repeats` turns) the median counts.

The last line is one JSON object. `same_dtype`: TRL's seconds / ours at the same number format, the
lower of fp32 and bf16; `best`: each side at its faster format; both the lowest over the shapes.
`memory_ratio`: our peak / TRL's, the highest. `peak_share`: arithmetic of our iteration / (seconds
x the matrix product rate measured here).
"""

import argparse
import json
import math
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
import venv
from dataclasses import replace
from pathlib import Path
from typing import Any

from benchmarks.ppo_inputs import PAD, QUICK, SHAPES, STOP, Shape, balanced_seeds, write_inputs

TRL = "trl==1.12.0"
TORCH = "torch==2.13.0"
DTYPES = ("fp32", "bf16")
TURNS = ("podium fp32", "trl fp32", "podium bf16", "trl bf16", "podium bf16 compiled")
WORKLOADS = ("fixed", "ragged")


# ---- our side --------


def run_podium(work: dict[str, Any]) -> dict[str, Any]:
    """Seconds of every iteration, peak memory, profile, and the arithmetic of the last
    iteration.
    """
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

    from podium.rewards.model_reward import ModelReward
    from ppo.config import Config
    from ppo.learner import Learner, Models

    torch.set_num_threads(work["threads"])
    folder = Path(work["folder"])
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)
        for _ in range(2)
    )
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(folder / "reward", dtype=torch.float32)
        for _ in range(2)
    )
    prompts = json.loads((folder / "prompts.json").read_text())
    batch_size, inner_epochs = work["batch"], work["inner_epochs"]
    config = Config(
        total_episodes=batch_size * work["iterations"],
        batch_size=batch_size,
        num_mini_batches=1,
        num_ppo_epochs=inner_epochs,
        per_device_train_batch_size=work["micro_batch"],
        per_device_eval_batch_size=2 * work["micro_batch"],
        response_length=work["response_length"],
        rollout_batch_size=batch_size,
        kl_coef=0.05,
        ptx_coef=0.0,
        missing_eos_penalty=0.0,
        warmup_iterations=0,
        learning_rate=work["learning_rate"],
        value_learning_rate=work["learning_rate"],
        final_weights="last",
        compile=work["compile"],
    )
    models = Models(policy, ModelReward(reward), value, reference)
    stops = () if work["stop_token_id"] is None else (work["stop_token_id"],)
    learner = Learner(config, models, PAD, stops, work["seed"], dtype=work["dtype"])
    seconds, profile, batch = [], {}, None
    for iteration in [2, *range(2, work["iterations"] + 1)]:
        rows = range((iteration - 1) * batch_size, iteration * batch_size)
        began = time.perf_counter()
        batch = learner.rollout([prompts[i % len(prompts)] for i in rows], iteration)
        targets, _ = learner.targets(batch)
        learner.update(batch, targets, None, iteration)
        seconds.append(time.perf_counter() - began)
        profile = learner.profile.drain()
    assert batch is not None
    memory = torch.cuda.max_memory_allocated() if torch.cuda.is_available() else peak_resident()
    return {
        "seconds": seconds,
        "memory_bytes": memory,
        "profile": profile,
        "mean_response": float(batch.action_mask.sum() / batch_size),
        "prompt_lengths": (batch.attention_mask & ~batch.action_mask).sum(1).tolist(),
        "response_lengths": batch.action_mask.sum(1).tolist(),
        "flops": arithmetic(policy, batch, inner_epochs),
        "peak_flops": matmul_rate(work["dtype"]),
    }


def peak_resident() -> int:
    """Most bytes this process had in memory. (getrusage would count the parent's, which a child
    takes over.)
    """
    return 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])


def arithmetic(policy: Any, batch: Any, inner_epochs: int) -> float:
    """Multiply-adds x 2 of one iteration over real tokens: 2 a weight forward, 6 a weight in
    training.
    """
    head = policy.get_output_embeddings().weight.numel()
    embedding = policy.get_input_embeddings().weight.numel()
    body = sum(p.numel() for p in policy.base_model.parameters()) - embedding
    tokens, actions = int(batch.attention_mask.sum()), int(batch.action_mask.sum())
    # generate, reference, reward, value; two with a head
    forwards = 2 * body * tokens * 4 + 2 * head * actions * 2
    training = 6 * inner_epochs * (2 * body * tokens + head * actions)
    return float(forwards + training)


def matmul_rate(dtype: str) -> float:
    """The best rate of a square matrix product here and now, in FLOP/s."""
    import torch

    device = "cuda" if torch.cuda.is_available() else "cpu"
    a = torch.randn(
        1536, 1536, device=device, dtype=torch.bfloat16 if dtype == "bf16" else torch.float32
    )
    best = math.inf
    for _ in range(6):
        began = time.perf_counter()
        a @ a
        if device == "cuda":
            torch.cuda.synchronize()
        best = min(best, time.perf_counter() - began)
    return 2 * 1536**3 / best


# ---- the race --------


def trl_python() -> str:
    """The interpreter of TRL's own environment; made on the first call."""
    folder = (
        Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache")) / "podium" / "trl-1.12.0"
    )
    python = folder / "bin/python"
    probe = [
        str(python),
        "-c",
        "import importlib.metadata as m; assert m.version('trl') == '1.12.0'",
    ]
    if not python.exists() or subprocess.run(probe, capture_output=True).returncode:
        print(f"making {folder} (once) ...", flush=True)
        venv.create(folder, with_pip=True)
        subprocess.run([str(python), "-m", "pip", "install", "-q", TORCH, TRL], check=True)
    return str(python)


def run_side(side: str, work: dict[str, Any], trl: str) -> dict[str, Any]:
    """One side's iterations in a process of its own."""
    with tempfile.TemporaryDirectory() as scratch:
        spec = Path(scratch) / "work.json"
        spec.write_text(json.dumps(work | {"scratch": scratch}))
        ours = [sys.executable, "-m", "benchmarks.ppo", "--work", str(spec)]
        command = (
            ours
            if side == "podium"
            else [trl, str(Path(__file__).with_name("ppo_trl.py")), str(spec)]
        )
        environment = os.environ | {
            "OMP_NUM_THREADS": str(work["threads"]),
            "TOKENIZERS_PARALLELISM": "false",
        }
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        if done.returncode:
            raise SystemExit(f"{side} failed:\n{done.stderr[-4000:]}")
        return json.loads(done.stdout.strip().splitlines()[-1])


def race(
    shape: Shape, ragged: bool, options: argparse.Namespace, trl: str
) -> dict[str, dict[str, Any]]:
    """One of TURNS -> the median iteration's seconds, the highest memory, and what else the side
    reports.
    """
    turns: dict[str, list[dict[str, Any]]] = {}
    with tempfile.TemporaryDirectory() as folder:
        write_inputs(shape, ragged, Path(folder))
        work = {
            "folder": folder,
            "threads": options.threads,
            "batch": shape.batch,
            "micro_batch": shape.micro_batch,
            "response_length": shape.response_length,
            "stop_token_id": STOP if ragged else None,
            "inner_epochs": options.inner_epochs,
            "iterations": 1 + options.iterations,
            "learning_rate": 1e-6,
        }
        for repeat, seed in enumerate(balanced_seeds(shape, options.iterations, options.repeats)):
            for name in TURNS if repeat % 2 == 0 else reversed(TURNS):
                if name.endswith("compiled") and not options.compile:
                    continue
                side, dtype, *compiled = name.split()
                found = run_side(
                    side, work | {"dtype": dtype, "seed": seed, "compile": bool(compiled)}, trl
                )
                turns.setdefault(name, []).append(found)
                seconds = " ".join(f"{counted:7.2f}" for counted in found["seconds"][1:])
                print(
                    f"  {name:20}  {seconds} s  {found['memory_bytes'] / 2**20:7.0f} MiB",
                    flush=True,
                )
    return {name: summed_up(found) for name, found in turns.items()}


def summed_up(turns: list[dict[str, Any]]) -> dict[str, Any]:
    """One side's turns as one: the median over all counted iterations, the highest memory."""
    counted = [seconds for turn in turns for seconds in turn["seconds"][1:]]
    memory = max(turn["memory_bytes"] for turn in turns)
    return turns[-1] | {"seconds": statistics.median(counted), "memory_bytes": memory}


def compare(results: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The ratios of one workload on one shape."""
    seconds = {name: found["seconds"] for name, found in results.items()}
    memory = {name: found["memory_bytes"] for name, found in results.items()}
    fastest = min(
        (name for name in results if name.startswith("podium")), key=lambda name: seconds[name]
    )
    ours = results[fastest]
    return {
        "same_dtype": min(seconds[f"trl {dtype}"] / seconds[f"podium {dtype}"] for dtype in DTYPES),
        "best": min(seconds[f"trl {dtype}"] for dtype in DTYPES) / seconds[fastest],
        "memory_ratio": max(memory[f"podium {dtype}"] / memory[f"trl {dtype}"] for dtype in DTYPES),
        "peak_share": ours["flops"] / ours["seconds"] / ours["peak_flops"],
        "mean_response": ours["mean_response"],
        "profile": ours["profile"],
        "seconds": seconds,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument(
        "--quick", action="store_true", help="one small shape, one iteration: for development"
    )
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--iterations", type=int, default=1, help="counted iterations a process")
    parser.add_argument("--repeats", type=int, default=1, help="turns of each side")
    parser.add_argument(
        "--inner-epochs", type=int, default=1, help="InstructGPT's (C.4); TRL's default is 4"
    )
    parser.add_argument("--shape", choices=[shape.name for shape in SHAPES], help="this shape only")
    parser.add_argument("--workload", choices=WORKLOADS, help="this workload only")
    parser.add_argument("--response-length", type=int, help="the cap, instead of each shape's own")
    parser.add_argument(
        "--compile", action="store_true", help="time our bf16 with `ppo.compile` too, for `best`"
    )
    parser.add_argument("--work", help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.work:
        print(json.dumps(run_podium(json.loads(Path(options.work).read_text()))))
        return
    if options.quick:
        options.iterations = options.repeats = 1
    trl = trl_python()
    shapes = [
        shape
        for shape in (QUICK if options.quick else SHAPES)
        if options.shape in (None, shape.name)
    ]
    table: dict[str, dict[str, Any]] = {}
    for shape in shapes:
        shape = replace(shape, response_length=options.response_length or shape.response_length)
        for workload in [name for name in WORKLOADS if options.workload in (None, name)]:
            name = f"{shape.name} {workload}"
            print(
                f"{name}, up to {shape.response_length} tokens ({options.threads} threads)",
                flush=True,
            )
            table[name] = compare(race(shape, workload == "ragged", options, trl))
    print(json.dumps(summary(table)))


def summary(table: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """The worst case over the shapes, and everything behind it."""
    result: dict[str, Any] = {}
    for workload in WORKLOADS:
        rows = [row for name, row in table.items() if name.endswith(workload)]
        result[workload] = {
            key: min((row[key] for row in rows), default=None) for key in ("same_dtype", "best")
        }
    result["memory_ratio"] = max(row["memory_ratio"] for row in table.values())
    result["peak_share"] = min(row["peak_share"] for row in table.values())
    result["profile"] = {name: row["profile"] for name, row in table.items()}
    return result | {"shapes": table}


if __name__ == "__main__":
    main()
