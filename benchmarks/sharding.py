"""The memory that training takes of each of two processes, with and without sharded weights.

    python -m benchmarks.sharding [--stages pretrain reward ppo] [--zero 0 3] [--tree OTHER]

A random LLaMA of 344M parameters, saved in bf16 as strangers' models are, goes through two updates
of a stage by `torchrun` in fp32. Told are the most private memory of the larger process until its
last engine is made ("loading") and over the whole run, and the losses, which must agree. Private
memory is what no other process shares and what the kernel cannot take back: a file that is only
mapped does not count. `--tree` runs the code of another checkout on the same work, for a before and
an after; `--layers` makes the model smaller.
"""

import argparse
import itertools
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import yaml
from transformers import AutoModelForCausalLM, LlamaConfig

from data.jsonl import write_jsonl
from data.records import Demonstration, Document, Message, Ranking
from data.sources import Source
from data.tokens import open_tokenizer
from data.willowbrook.world import Willowbrook
from podium.models import load_tokenizer
from podium.rewards.model import new_reward_model, save_reward_model

HERE = Path(__file__).resolve().parents[1]
VOCABULARY = 2048
SHAPE = {
    "hidden_size": 1024,
    "intermediate_size": 3072,
    "num_attention_heads": 16,
    "max_position_embeddings": 512,
}
# What the processes do: the stage's module, with a mark left whenever an engine was made.
WORKER = """
import os, pathlib, runpy, sys
import podium.engine as engine
mark, made = pathlib.Path(sys.argv[1]), engine.make_engine
def make_engine(*args, **kwargs):
    found = made(*args, **kwargs)
    with mark.open("a") as file:
        file.write("made")
    return found
engine.make_engine = make_engine
stage = sys.argv[2]
sys.argv = sys.argv[2:]
runpy.run_module(f"{stage}.train", run_name="__main__", alter_sys=True)
"""
LOSSES = {"pretrain": "loss", "reward": "loss", "ppo": "loss/value_avg"}


def main() -> None:
    """Make the model once, train it by each stage and each way, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawTextHelpFormatter
    )
    parser.add_argument("--stages", nargs="*", default=list(LOSSES), choices=list(LOSSES))
    parser.add_argument("--zero", nargs="*", type=int, default=[0, 3])
    parser.add_argument("--layers", type=int, default=24)
    parser.add_argument("--tree", type=Path, default=HERE)
    parser.add_argument("--set", nargs="*", default=[], help="keys of the recipe, as podium's")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        make_models(folder, options.layers)
        print(
            "| stage | ZeRO | loading | whole run | seconds | losses |\n|---|---|---|---|---|---|"
        )
        for stage, zero in itertools.product(options.stages, options.zero):
            recipe = write_recipe(folder, stage, zero)
            loading, whole, seconds = watch(recipe, stage, options.tree, options.set)
            losses = losses_of(folder / "runs" / recipe.stem / stage, stage)
            told = " ".join(f"{loss:.6f}" for loss in losses)
            print(
                f"| {stage} | {zero} | {loading / 1e9:.2f} GB | {whole / 1e9:.2f} GB "
                f"| {seconds:.0f} | {told} |",
                flush=True,
            )


def make_models(folder: Path, layers: int) -> None:
    """base/ and reward/ in bf16 with a tokenizer of the village, rankings and demonstrations."""
    rng = random.Random(0)
    documents = itertools.islice(Willowbrook(seed=0).documents(rng), 2000)
    texts = [document.text for document in documents]
    write_jsonl(folder / "sample.jsonl", [Document(text=text) for text in texts])
    source = Source(path=str(folder / "sample.jsonl"))
    tokenizer = open_tokenizer(folder / "tokens", [source], VOCABULARY, lambda: False)
    torch.manual_seed(0)
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        pad_token_id=tokenizer.pad_token_id,
        num_hidden_layers=layers,
        **SHAPE,
    )
    AutoModelForCausalLM.from_config(shape).bfloat16().save_pretrained(folder / "base")
    tokenizer.save_pretrained(folder / "base")
    tokenizer = load_tokenizer(folder / "base")
    reward = new_reward_model(folder / "base", tokenizer, 0).bfloat16()
    save_reward_model(reward, tokenizer, folder / "reward")
    rankings = [
        Ranking(
            prompt=[Message(role="user", content=f"Tell me about number {number}.")],
            responses=[text[:200] for text in rng.sample(texts, 3)],
            ranks=[1, 2, 3],
            labeler="l0",
        )
        for number in range(40)
    ]
    write_jsonl(folder / "rankings.jsonl", rankings)
    answers = [[*r.prompt, Message(role="assistant", content=r.responses[0])] for r in rankings[:4]]
    write_jsonl(folder / "demonstrations.jsonl", [Demonstration(messages=a) for a in answers])


def write_recipe(folder: Path, stage: str, zero: int) -> Path:
    """Two updates of a stage."""
    engine, base = {"zero_stage": zero}, str(folder / "base")
    sections: dict[str, Any] = {
        "pretrain": {
            "init_from": base,
            "learning_rate": 1e-4,
            "context": 128,
            "batch_size": 4,
            "per_device_train_batch_size": 2,
            "tokens": 2 * 4 * 128,
            "eval_tokens": 256,
            "sample_prompt": "",
        },
        "reward": {
            "model": base,
            "rankings": str(folder / "rankings.jsonl"),
            "batch_size": 16,
            "learning_rate": 1e-5,
        },
        "ppo": {
            "model": base,
            "reward": str(folder / "reward"),
            "total_episodes": 16,
            "batch_size": 8,
            "num_mini_batches": 2,
            "per_device_train_batch_size": 2,
            "per_device_eval_batch_size": 4,
            "response_length": 16,
            "learning_rate": 1e-6,
            "value_learning_rate": 1e-6,
            "warmup_iterations": 1,
            "frozen_models": "sharded" if zero == 3 else "resident",
        },
    }
    recipe = {"name": f"{stage}-{zero}", "seed": 0, "dtype": "fp32", "threads": 1}
    recipe["data"] = {"world": {"name": "willowbrook"}}
    if stage == "reward":  # whose report would read all of the world's
        recipe["data"] = {"demonstrations": {"train": str(folder / "demonstrations.jsonl")}}
    recipe |= {stage: sections[stage] | {"engine": engine}}
    path = folder / f"{stage}-{zero}.yaml"
    path.write_text(yaml.safe_dump(recipe))
    return path


def watch(recipe: Path, stage: str, tree: Path, sets: list[str]) -> tuple[int, int, float]:
    """Bytes of the larger process until its last engine was made and over all, and seconds."""
    runs = recipe.parent / "runs"
    worker, mark = recipe.parent / "worker.py", recipe.with_suffix(".made")
    worker.write_text(WORKER)
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", "2", str(worker)]
    command += [str(mark), stage, str(recipe), "--runs-dir", str(runs)]
    command += [f"--set={key}" for key in sets]
    environment = os.environ | {"PYTHONPATH": str(tree), "OMP_NUM_THREADS": "1"}
    loading = whole = marked = 0
    began = time.perf_counter()
    with (recipe.parent / f"{recipe.stem}.txt").open("w+") as said:
        launcher = subprocess.Popen(
            command, cwd=tree, env=environment, stdout=said, stderr=subprocess.STDOUT
        )
        while launcher.poll() is None:
            taken = max((private_bytes(child) for child in children(launcher.pid)), default=0)
            whole = max(whole, taken)
            if mark.is_file() and (marks := mark.stat().st_size) > marked:
                loading, marked = whole, marks
            time.sleep(0.05)
        if launcher.returncode:
            said.seek(0)
            sys.exit(said.read()[-6000:])
    return loading, whole, time.perf_counter() - began


def children(process: int) -> list[int]:
    """The processes that a process has started."""
    try:
        text = Path(f"/proc/{process}/task/{process}/children").read_text()
    except OSError:
        return []
    return [int(word) for word in text.split()]


def private_bytes(process: int) -> int:
    """Memory of a process that is its own and that only swapping could free."""
    try:
        lines = Path(f"/proc/{process}/status").read_text().splitlines()
    except OSError:
        return 0
    found = [line.split() for line in lines if line.startswith(("RssAnon:", "RssShmem:"))]
    return sum(int(kilobytes) for _, kilobytes, _ in found) * 1024


def losses_of(folder: Path, stage: str) -> list[float]:
    """The loss of each update."""
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row[LOSSES[stage]] for row in rows if LOSSES[stage] in row]


if __name__ == "__main__":
    main()
