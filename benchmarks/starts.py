"""What the claims about fine-tuning start from, on the village: one base and one SFT model, and of
each seed rankings of that model's answers and a reward model.

    python -m benchmarks.starts --seeds 0 1 2 --out runs/claims

The benchmarks of single claims make it themselves, and share it where they are given one `--out`.
All seeds live in one village and have the SFT model in common, so an interval over seeds tells of
other rankings and reward models and of what each benchmark trains anew. SETS makes the recipe
smaller, to less than `benchmarks.rounds` has.
"""

import argparse
import math
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from benchmarks.rounds import told
from podium.run.chain import run_chain
from podium.run.lineage import read_stage_file
from podium.run.recipe import load_recipe
from podium.statistics import mean_with_interval

RECIPE = "willowbrook"
SETS = (
    "threads=1",
    "evals=null",
    "sft.num_train_epochs=1",  # of 2
    "rankings.prompts=600",  # of 2,500
    "rankings.validation_prompts=40",  # of 240
    "ppo.total_episodes=1280",  # 10 iterations of 40
    "ppo.warmup_iterations=4",  # of 10
)
START_SEED = 20  # any: nothing was chosen by it
STAGES = ("pretrain", "sft", "rankings", "reward", "ppo")


def train(out: Path, name: str, seed: int, stages: Sequence[str], told: Sequence[str]) -> Path:
    """Make a run of these stages of the recipe, or go on with it; its folder."""
    without = [f"{stage}=null" for stage in STAGES if stage not in stages]
    own = [f"name={name}", f"seed={seed}"]
    return run_chain(load_recipe(RECIPE, [*SETS, *told, *own, *without]), out)


def train_start(out: Path, sets: Sequence[str]) -> Path:
    """The base and the SFT model that all seeds start from, as stages of a run."""
    return train(out, "start", START_SEED, ("pretrain", "sft"), sets)


def train_reward(
    start: Path, seed: int, out: Path, sets: Sequence[str], same: int | None = None
) -> Path:
    """A seed's rankings and reward model, as stages of a run. same: take this seed's instead."""
    seed = seed if same is None else same
    base, sft = final(start, "pretrain"), final(start, "sft")
    own = [f"rankings.models.base={base}", f"rankings.models.sft={sft}", f"reward.model={sft}"]
    return train(out, f"reward-{seed}", seed, ("rankings", "reward"), [*sets, *own])


def reward_of_each(options: argparse.Namespace, start: Path) -> Iterator[tuple[int, Path]]:
    """Each seed, and the run that has its reward model."""
    for seed in options.seeds:
        given = (start, seed, options.out, options.set, options.reward_seed)
        yield seed, train_reward(*given)


def told_over_seeds(values: Sequence[float], form: str) -> str:
    """A mean, and what another seed would give; `form` is of both."""
    return told(mean_with_interval(values, range(len(values))), form)


def final(run: Path, stage: str) -> Path:
    """The folder of a finished stage, in full, so that other runs can name it."""
    return (run / stage / "final").resolve()


def record_of(run: Path, stage: str) -> dict[str, Any]:
    """The stage.json of a finished stage."""
    record = read_stage_file(run / stage / "final")
    assert record is not None, f"{run / stage} was just trained"
    return record


def kl_of(run: Path) -> float:
    """Nats an answer between PPO's policy and its start; no number where the guard took every
    iteration back.
    """
    return float(record_of(run, "ppo")["metrics"].get("kl", math.nan))


def options_of(doc: str | None, prompts: int | None = None) -> argparse.ArgumentParser:
    """The command line that these benchmarks have in common. prompts: how many are answered, where
    answers are what is compared.
    """
    parser = argparse.ArgumentParser(description=(doc or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    parser.add_argument(
        "--reward-seed", type=int, help="all seeds take this one's reward model; else each its own"
    )
    parser.add_argument("--out", type=Path, default=Path("runs/claims"))
    if prompts is not None:
        parser.add_argument("--prompts", type=int, default=prompts)
        parser.add_argument("--samples", type=int, default=2, help="answers to each prompt")
    return parser


def main() -> None:
    options = options_of(__doc__).parse_args()
    start = train_start(options.out, options.set)
    for seed in options.seeds:
        found = record_of(train_reward(start, seed, options.out, options.set), "reward")
        told = {name: round(v, 3) for name, v in found["metrics"].items() if v is not None}
        print(f"seed {seed}: {told}", flush=True)


if __name__ == "__main__":
    main()
