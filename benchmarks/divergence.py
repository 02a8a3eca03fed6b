"""A learning rate ten times too high, with the guard and without it, beside the good run.

    python -m benchmarks.divergence --seeds 3 --recipe willowbrook

Each run pretrains the recipe's base model; the world is made once a seed. The table has the
validation loss at the end, how far it is from the good run's, and how often the guard went back.
"""

import argparse
import json
from pathlib import Path

from podium.errors import DivergenceError
from podium.run.launch import run_one
from podium.run.recipe import load_recipe

OFF = {"max_loss_rise": None, "max_grad_norm": None, "max_rollbacks": 0}


def ended(recipe: str, sets: list[str], folder: Path) -> tuple[float | None, float]:
    """Validation loss (None: it diverged to what is no number) and rollbacks of one pretraining."""
    loaded = load_recipe(recipe, sets)
    try:
        run_one(loaded, "pretrain", folder)
    except DivergenceError:
        return None, 0
    record = json.loads((folder / loaded.name / "pretrain/final/stage.json").read_text())
    return record["metrics"]["validation_loss"], record["metrics"]["rollbacks"]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--recipe", default="willowbrook")
    parser.add_argument("--seeds", type=int, default=3)
    parser.add_argument("--factor", type=float, default=10.0)
    parser.add_argument("--rate", type=float, default=3e-3, help="the good run's peak")
    parser.add_argument("--out", type=Path, default=Path("runs/divergence"))
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    options = parser.parse_args()
    print("| seed | good | ten times | with the guard | off by | rollbacks |")
    print("|---|---|---|---|---|---|")
    for seed in range(options.seeds):
        wild = f"pretrain.learning_rate={options.factor * options.rate:g}"
        arms = {
            "good": [f"pretrain.learning_rate={options.rate:g}"],
            "wild": [wild, *(f"pretrain.guard.{k}={json.dumps(v)}" for k, v in OFF.items())],
            "guarded": [wild],
        }
        found = {
            arm: ended(
                options.recipe,
                [*options.set, f"seed={seed}", f"name={arm}-{seed}", *sets],
                options.out,
            )
            for arm, sets in arms.items()
        }
        (good, _), (plain, _), (guarded, rollbacks) = found.values()
        shown = ["diverged" if loss is None else f"{loss:.4f}" for loss in (good, plain, guarded)]
        off = f"{guarded / good - 1:+.1%}" if good and guarded else ""
        print(f"| {seed} | {' | '.join(shown)} | {off} | {rollbacks:g} |", flush=True)


if __name__ == "__main__":
    main()
