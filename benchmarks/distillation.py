"""SFT on the best of n of a model's own answers, against the SFT model that gave them, on finished
runs of the village that differ in their seed alone.

    python -m benchmarks.distillation OUT RUN RUN RUN

For each run: `podium instruct best` (n = 16, and n = 1 as a control: the model's own answers, not
chosen), `podium sft` for two epochs on each from the SFT model, and `podium compare` of both with
the SFT model and with PPO by the world's gold score. Nothing is made twice: the same command goes
on after a stop. docs/lab/instruct.md has the table.
"""

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import yaml

from podium.statistics import Estimate, mean_with_interval

SIZES = (16, 1)  # the first is the claim, the second the control
PROMPTS, LEARNING_RATE, EPOCHS = 1500, 5e-4, 2.0


def podium(*arguments: object) -> None:
    subprocess.run([sys.executable, "-m", "podium.cli", *map(str, arguments)], check=True)


def distil(run: Path, number: int, n: int, out: Path) -> Path:
    """The stage folder of an SFT model that went on with the best of n."""
    name, best = f"distilled-{number}-{n}", out / f"best-{number}-{n}.jsonl"
    if not best.is_file():
        seed = ["--seed", 100 + number, "--prompts", PROMPTS]
        podium("instruct", "best", run, "--n", n, *seed, "--out", best)
    tree = yaml.safe_load((run / "recipe.yaml").read_text(encoding="utf-8"))
    demonstrations = {
        "train": str(best.resolve()),
        "validation": str((run / "world/final/demonstrations.validation.jsonl").resolve()),
    }
    sft = {key: value for key, value in tree["sft"].items() if value is not None}
    sft |= {
        "model": str((run / "sft/final").resolve()),
        "learning_rate": LEARNING_RATE,
        "num_train_epochs": EPOCHS,
        "aux_share": 0.0,
    }
    recipe = {key: tree[key] for key in ("seed", "dtype", "threads", "sampler")}
    recipe |= {"name": name, "data": {"demonstrations": demonstrations}, "sft": sft}
    (out / f"{name}.yaml").write_text(yaml.safe_dump(recipe, sort_keys=False), encoding="utf-8")
    podium("sft", out / f"{name}.yaml", "--runs-dir", out / "runs")
    return out / "runs" / name / "sft"


def measure(run: Path, number: int, out: Path) -> dict[str, Any]:
    """The comparison of a run's SFT, both distilled models and PPO."""
    place = out / f"compare-{number}"
    if not (place / "comparison.json").is_file():
        made = [distil(run, number, n, out) for n in SIZES]
        models = [run / "sft", *made, run / "ppo"]
        podium("compare", *models, "--prompts-from", run, "--out", place)
    return json.loads((place / "comparison.json").read_text(encoding="utf-8"))


def told(value: dict[str, Any] | Estimate, form: str = ".2f") -> str:
    parts = value._asdict() if isinstance(value, Estimate) else value
    return f"{parts['value']:{form}} [{parts['low']:{form}}, {parts['high']:{form}}]"


def main(out: Path, runs: list[Path]) -> None:
    """Print the tables."""
    out.mkdir(parents=True, exist_ok=True)
    found = [measure(run, number, out) for number, run in enumerate(runs)]
    names = ("SFT", f"best of {SIZES[0]}", f"best of {SIZES[1]}", "PPO")
    print(f"| seed | {' | '.join(f'gold of {n}' for n in names)} | best of {SIZES[0]} beats SFT |")
    print("|---|---|---|---|---|---|")
    for number, one in enumerate(found):
        scores = " | ".join(told(model["score"]) for model in one["models"])
        met = one["against"][0]  # SFT against the best of n: its wins are the other's losses
        wins = {"value": 1 - met["rate"], "low": 1 - met["high"], "high": 1 - met["low"]}
        print(f"| {number} | {scores} | {told(wins, '.1%')} |")
    print("\n| over seeds | difference in gold |\n|---|---|")
    for first, second in ((1, 0), (2, 0), (1, 2), (1, 3)):
        gaps = [
            one["models"][first]["score"]["value"] - one["models"][second]["score"]["value"]
            for one in found
        ]
        estimate = mean_with_interval(gaps, range(len(gaps)))
        print(f"| {names[first]} minus {names[second]} | {told(estimate, '+.2f')} |")


if __name__ == "__main__":
    main(Path(sys.argv[1]), [Path(argument) for argument in sys.argv[2:]])
