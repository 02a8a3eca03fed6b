"""K-way reward training against TRL's RewardTrainer on the same rankings as pairs, and shared prefix against plain.

    python -m benchmarks.reward                 all of it, about a quarter of an hour on two quiet cores
    python -m benchmarks.reward --quick         a small one in a minute or two

Both arms of a comparison run in one process, in turn, with the same model shape (OPT 4 x 128), rankings, number format,
optimizer (AdamW) and tokens a forward; neither uses gradient checkpointing or dropout. One step is one optimizer step
on all rankings; the losses of the first step must agree, so both arms do the same work. Times are medians over the
repeats. TRL is timed inside its training loop, so its set-up does not count. Peak memory is what a fresh process grows
by during one step. The last line printed is one JSON object:

    {"ratio": {"4": .., "6": .., "9": ..}, "memory_ratio": {..}, "shared_prefix_ratio": ..}

ratio = TRL's seconds / ours, memory_ratio = TRL's growth / ours, shared_prefix_ratio = plain seconds / shared seconds
(prompt 256, response 64, K = 6).
"""

import argparse
import contextlib
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from itertools import combinations
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

from reward.batches import Item

VOCABULARY, PAD, END = 1024, 1, 2
FORWARD_TOKENS = 4096  # both arms forward about so many tokens at a time


def make_items(rankings: int, k: int, prompt: int, shortest: int, longest: int) -> list[Item]:
    """Rankings of random tokens without ties: what they say does not matter for time."""
    rng = np.random.default_rng([rankings, k, prompt])

    def tokens(count: int) -> tuple[int, ...]:
        return tuple(rng.integers(10, VOCABULARY, count).tolist())

    return [
        Item(
            prompt=tokens(prompt),
            responses=tuple((*tokens(int(rng.integers(shortest, longest + 1)) - 1), END) for _ in range(k)),
            which=tuple(range(k)),
            ranks=tuple(rng.permutation(k).astype(float).tolist()),
        )
        for _ in range(rankings)
    ]


def make_model() -> Any:
    """OPT 4 x 128 with a reward head, the same weights every time."""
    from transformers import OPTConfig, OPTForSequenceClassification

    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=VOCABULARY, hidden_size=128, word_embed_proj_dim=128, ffn_dim=512, num_hidden_layers=4,
        num_attention_heads=4, max_position_embeddings=512, dropout=0.0, pad_token_id=PAD,
    )
    config.num_labels = 1
    return OPTForSequenceClassification(config)


class Ours:
    """Podium's update on a DeepSpeed engine."""

    def __init__(self, items: list[Item], dtype: str, shared_prefix: bool = False) -> None:
        from podium.engine import EngineConfig, make_engine
        from reward.updates import Objective, ScoringModule

        self.items = items
        self.objective = Objective("pairwise", FORWARD_TOKENS, shared_prefix, PAD, dtype)  # type: ignore[arg-type]
        module = ScoringModule(make_model())
        self.engine = make_engine(module, EngineConfig(), learning_rate=1e-5, dtype=dtype)  # type: ignore[arg-type]

    def step(self) -> tuple[float, float]:
        """(seconds, loss before the step)."""
        from reward.updates import update

        began = time.perf_counter()
        metrics = update(self.engine, self.items, 1e-5, self.objective)
        return time.perf_counter() - began, metrics["loss"]


class Trl:
    """TRL's RewardTrainer on every pair of the same rankings."""

    def __init__(self, items: list[Item], dtype: str) -> None:
        from datasets import Dataset
        from transformers import PreTrainedTokenizerFast, TrainerCallback
        from trl import RewardConfig, RewardTrainer

        rows = [
            {"chosen_ids": [*item.prompt, *item.responses[i]], "rejected_ids": [*item.prompt, *item.responses[j]]}
            for item in items for a, b in combinations(range(len(item.ranks)), 2)
            for i, j in [(a, b) if item.ranks[a] < item.ranks[b] else (b, a)]
        ]
        pairs = max(1, FORWARD_TOKENS // (2 * max(item.longest for item in items)))
        clock = self.clock = {"began": 0.0, "ended": 0.0}

        class Timer(TrainerCallback):
            def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
                clock["began"] = time.perf_counter()

            def on_step_end(self, *args: Any, **kwargs: Any) -> None:
                clock["ended"] = time.perf_counter()

        config = RewardConfig(
            output_dir=tempfile.mkdtemp(), per_device_train_batch_size=pairs, max_steps=1, learning_rate=1e-5,
            gradient_accumulation_steps=-(-len(rows) // pairs), gradient_checkpointing=False, bf16=dtype == "bf16",
            max_length=None, save_strategy="no", report_to="none", logging_steps=1, disable_tqdm=True, use_cpu=True,
            adam_beta2=0.95,
        )
        self.trainer = RewardTrainer(
            make_model(), config, train_dataset=Dataset.from_list(rows), callbacks=[Timer()],
            processing_class=_tokenizer(PreTrainedTokenizerFast),
        )

    def step(self) -> tuple[float, float]:
        """(seconds of the optimizer step, its loss)."""
        with contextlib.redirect_stdout(sys.stderr):
            result = self.trainer.train()
        return self.clock["ended"] - self.clock["began"], float(result.training_loss)


def _tokenizer(kind: Any) -> Any:
    """TRL wants a tokenizer for its pad token only: the rows are tokens already."""
    from tokenizers import Tokenizer
    from tokenizers.models import WordLevel

    words = {"<pad>": PAD, "<end>": END, "<unk>": 0}
    return kind(tokenizer_object=Tokenizer(WordLevel(words, "<unk>")), pad_token="<pad>", eos_token="<end>")


def race(first: Any, second: Any, repeats: int) -> tuple[float, list[float], list[float]]:
    """Ratio of median seconds (second / first) over alternating steps, after one step each to warm up."""
    losses = [first.step()[1], second.step()[1]]
    if abs(losses[0] - losses[1]) > 0.02:
        raise RuntimeError(f"the arms differ in their first loss: {losses}")
    times: tuple[list[float], list[float]] = ([], [])
    for _ in range(repeats):
        times[0].append(first.step()[0])
        times[1].append(second.step()[0])
    return median(times[1]) / median(times[0]), *times


def memory(arm: str, k: int, rankings: int, dtype: str) -> float:
    """MB by which a fresh process grows during one step of an arm."""
    command = [sys.executable, "-m", "benchmarks.reward", "--memory", arm, "--k", str(k), "--rankings", str(rankings)]
    done = subprocess.run([*command, "--dtype", dtype], capture_output=True, text=True, check=True)
    return float(done.stdout.strip().splitlines()[-1])


def measure_memory(arm: str, items: list[Item], dtype: str) -> float:
    """The growth of this process's peak during one step, in MB."""
    runner = Ours(items, dtype) if arm == "ours" else Trl(items, dtype)
    before = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    runner.step()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024 - before


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--quick", action="store_true", help="fewer rankings and repeats")
    parser.add_argument("--dtype", choices=("fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=None, help="torch threads; default: what torch takes")
    parser.add_argument("--k", type=int, nargs="+", default=[4, 6, 9])
    parser.add_argument("--rankings", type=int, default=None, help="rankings a step; default 16, quick 4")
    parser.add_argument("--memory", choices=("ours", "trl"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.threads:
        torch.set_num_threads(options.threads)
    rankings = options.rankings or (4 if options.quick else 16)
    repeats = 1 if options.quick else 3

    def items(k: int) -> list[Item]:
        return make_items(rankings, k, prompt=64, shortest=32, longest=64)

    if options.memory:
        print(measure_memory(options.memory, items(options.k[0]), options.dtype))
        return
    result: dict[str, Any] = {"ratio": {}, "memory_ratio": {}}
    print(f"{rankings} rankings a step, {options.dtype}, {torch.get_num_threads()} threads, medians of {repeats}")
    for k in options.k:
        ratio, ours, trl = race(Ours(items(k), options.dtype), Trl(items(k), options.dtype), repeats)
        grown = [memory(arm, k, rankings, options.dtype) for arm in ("ours", "trl")]
        result["ratio"][str(k)] = round(ratio, 2)
        result["memory_ratio"][str(k)] = round(grown[1] / grown[0], 2)
        print(f"K={k}: ours {median(ours):.2f} s, TRL {median(trl):.2f} s a step: {ratio:.2f} times as fast; "
              f"peak growth {grown[0]:.0f} MB, TRL {grown[1]:.0f} MB", flush=True)
    long = make_items(rankings, 6, prompt=256, shortest=64, longest=64)
    ratio, shared, plain = race(Ours(long, options.dtype, shared_prefix=True), Ours(long, options.dtype), repeats)
    result["shared_prefix_ratio"] = round(ratio, 2)
    print(f"prompt 256, response 64, K=6: shared {median(shared):.2f} s, plain {median(plain):.2f} s: {ratio:.2f}")
    print(json.dumps(result))


if __name__ == "__main__":
    main()
