"""How long the chain takes a newcomer, by stage and by kind of work, and what comes out of it.

    python -m benchmarks.chain --seeds 0 1 2 --out runs/chain

Each seed is `podium run willowbrook --set seed=SEED`, started as a person starts it, one after the
other; a run that is finished is read and not made again (then its seconds are the record's).
Seconds by the clock stand beside those of the processor; on a machine with other work only the
latter say something. `learning` is the time in updates that the stage's own logbook counts, PPO's
kinds are its `time/` columns, and `other` is what is left: start, data, validation,
samples, saving.
"""

import argparse
import json
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np

from evals.records import RESULTS_FILE
from podium.run.lineage import read_stage_file

STAGES = ("world", "pretrain", "sft", "rankings", "reward", "ppo", "evals")


def run(recipe: str, seed: int, out: Path, sets: list[str]) -> float:
    """Seconds of the command by the clock."""
    settings = [f"seed={seed}", f"name=chain-{seed}", *sets]
    words = [word for setting in settings for word in ("--set", setting)]
    began = time.perf_counter()
    command = [sys.executable, "-m", "podium.cli", "run", recipe, *words, "--runs-dir", str(out)]
    subprocess.run(command, check=True)
    return time.perf_counter() - began


def kinds_of_work(stage_dir: Path, wall: float) -> dict[str, float]:
    """Seconds of a stage by kind, from its metrics."""
    path = stage_dir / "metrics.jsonl"
    lines = [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []
    kinds: dict[str, float] = {}
    for line in lines:
        for name, value in line.items():
            if name.startswith("time/"):
                kinds[name.removeprefix("time/")] = kinds.get(name.removeprefix("time/"), 0) + value
    rated = [(x["tokens"], x["tokens_per_second"]) for x in lines if x.get("tokens_per_second")]
    if rated and not kinds:
        tokens, rates = np.array(rated).T
        summed = bool((np.diff(tokens) > 0).all()) and len(tokens) > 1  # a count that goes on
        kinds["learning"] = float(tokens[-1] / rates[-1] if summed else (tokens / rates).sum())
    return kinds | {"other": wall - sum(kinds.values())}


def measured(run_dir: Path) -> dict[str, dict[str, Any]]:
    """By stage: wall and processor seconds, and the kinds of work within."""
    found = {}
    for stage in STAGES:
        if (run_dir / stage / "final").is_dir():
            record = read_stage_file(run_dir / stage / "final")
            wall = record["wall_seconds"]
            kinds = kinds_of_work(run_dir / stage, wall)
            found[stage] = {"wall": wall, "cpu": record["cpu_seconds"], "kinds": kinds}
    return found


def tell(runs: list[dict[str, dict[str, Any]]]) -> None:
    """A table of means over seeds, with the range by the clock."""
    print(f"{'stage':<10} {'wall s':>8} {'range':>13} {'CPU s':>8}   kinds of work, wall s")
    for stage in [s for s in STAGES if s in runs[0]]:
        walls = [one[stage]["wall"] for one in runs]
        cpu = np.mean([one[stage]["cpu"] for one in runs])
        kinds = {
            kind: np.mean([one[stage]["kinds"].get(kind, 0.0) for one in runs])
            for kind in runs[0][stage]["kinds"]
        }
        longest = sorted(kinds.items(), key=lambda pair: -pair[1])
        words = ", ".join(f"{kind} {seconds:.1f}" for kind, seconds in longest if seconds >= 0.5)
        spread = f"{min(walls):.0f} to {max(walls):.0f}"
        print(f"{stage:<10} {np.mean(walls):>8.1f} {spread:>13} {cpu:>8.1f}   {words}")
    for name in ("wall", "cpu"):
        sums = [sum(stage[name] for stage in one.values()) for one in runs]
        print(f"all stages, {name}: " + ", ".join(f"{value:.0f} s" for value in sums))


def outcome(run_dir: Path) -> str:
    """Win rate against SFT and the rise of the pretraining loss of the last row."""
    path = run_dir / "evals" / "final" / RESULTS_FILE
    if not path.is_file():
        return "no evaluation"
    name, row = list(json.loads(path.read_text())["rows"].items())[-1]
    loss = row.get("pretrain_loss_increase") or {"value": float("nan")}
    return (
        f"{name}: win rate {row['win_rate']:.1%} [{row['win_rate_low']:.1%}, "
        f"{row['win_rate_high']:.1%}], pretraining loss {loss['value']:+.1%}"
    )


def main() -> None:
    """The runs, the table, and what came out by seed."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--recipe", default="willowbrook")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--out", type=Path, default=Path("runs/chain"))
    parser.add_argument("--set", action="append", default=[], dest="sets", metavar="KEY=VALUE")
    arguments = parser.parse_args()
    runs, lines = [], []
    for seed in arguments.seeds:
        seconds = run(arguments.recipe, seed, arguments.out, arguments.sets)
        run_dir = arguments.out / f"chain-{seed}"
        runs.append(measured(run_dir))
        lines.append(f"seed {seed}: {seconds:.0f} s for the command; {outcome(run_dir)}")
    tell(runs)
    print("\n".join(lines))


if __name__ == "__main__":
    main()
