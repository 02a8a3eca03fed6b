"""What `podium plan memory` says beside what a training really takes, one process on a CPU.

    python -m benchmarks.memory

Each configuration pretrains a new model for two updates in a process of its own, whose largest
resident memory is set beside the plan. A base model of the village then goes through SFT, the
reward model and PPO.
"""

import argparse
import subprocess
import sys
from pathlib import Path

from podium.run.lineage import read_stage_file
from podium.run.recipe import load_recipe
from pretrain.plans import Place, plan_memory

COMMON = [
    "dtype=fp32",
    "threads=1",
    "evals=null",
    "ppo=null",
    "reward=null",
    "rankings=null",
    "sft=null",
]
CONFIGURATIONS = {
    "opt-125m, 2 x 512": ["preset=opt-125m", "context=512", "batch_size=2", "tokens=2048"],
    "opt-125m, 1 x 1024": ["preset=opt-125m", "context=1024", "batch_size=1", "tokens=2048"],
    "pythia-160m, 8 x 256": ["preset=pythia-160m", "context=256", "batch_size=8", "tokens=4096"],
    "gpt2-355m, 1 x 256, recomputed": [
        "preset=gpt2-355m",
        "context=256",
        "batch_size=1",
        "tokens=512",
        "gradient_checkpointing=true",
    ],
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, default=Path("runs/memory"))
    parser.add_argument("--only", type=int, nargs="*", default=range(len(CONFIGURATIONS)))
    options = parser.parse_args()
    print("| configuration | planned | measured | off by |\n|---|---|---|---|", flush=True)
    for number, (name, keys) in enumerate(CONFIGURATIONS.items()):
        if number not in options.only:
            continue
        sets = [*COMMON, f"name=memory-{number}", *(f"pretrain.{key}" for key in keys)]
        sets += ["pretrain.eval_tokens=1024", "pretrain.learning_rate=1e-4"]
        recipe = load_recipe("willowbrook", sets)
        place = Place(recipe, options.out / recipe.name, 1, False, "fp32")
        (planned,) = plan_memory(place)
        command = [sys.executable, "-m", "pretrain.train", "willowbrook"]
        command += ["--runs-dir", str(options.out), *(f"--set={key}" for key in sets)]
        subprocess.run(command, check=True, stdout=subprocess.DEVNULL)
        record = read_stage_file(options.out / recipe.name / "pretrain/final") or {}
        measured = record["peak_memory_bytes"]
        off = planned.total / measured - 1
        print(
            f"| {name} | {planned.total / 1e9:.2f} GB | {measured / 1e9:.2f} GB | {off:+.0%} |",
            flush=True,
        )


if __name__ == "__main__":
    main()
