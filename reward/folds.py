"""Would the model please people it never learned from? k-fold over groups of labelers (InstructGPT,
section 4.1).

The labelers are split into groups; a model learns from all groups but one and is measured on
held-out prompts, once as ranked by the groups it learned from and once as ranked by the group left
out. The paper, with five groups and three seeds: 72.4 +- 0.4 % and 69.6 +- 0.9 %.

    python -m reward.folds RUN --groups 4 --seeds 0 1 2      writes RUN/reward-folds.json and .md
"""

import argparse
import json
import sys
from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.jsonl import read_jsonl
from data.records import Ranking
from podium.engine import init_distributed
from podium.errors import DataError, PodiumError
from podium.models import moved
from podium.progress import say
from podium.run.parents import find_parent
from podium.run.recipe import load_recipe
from podium.runtime import device, resolve_dtype, set_threads
from podium.sharding import full_state_dict
from podium.storage import write_json, write_text
from reward.batches import EncodedRanking, encode_rankings
from reward.calibration import accuracy
from reward.config import Config
from reward.evaluate import pairs_of, score_rankings
from reward.planning import InitialModel, initial_model, training_batches
from reward.sources import HELDOUT, check_cohorts
from reward.train import learning_rate_at, merged_model, new_engine, new_module, one_update


def group_labelers(rankings: Sequence[Ranking], groups: int) -> list[set[str]]:
    """The labelers of these rankings in `groups` parts, the busiest dealt out first.

    Raises:
        DataError: fewer labelers than groups.
    """
    counts: dict[str, int] = defaultdict(int)
    for ranking in rankings:
        if ranking.labeler is not None:
            counts[ranking.labeler] += 1
    names = sorted(counts, key=lambda name: (-counts[name], name))
    if len(names) < groups or groups < 2:
        raise DataError(
            "rankings",
            field="labeler",
            problem=f"{len(names)} labelers cannot make {groups} groups",
            fix="give fewer --groups (at least 2), or rankings that name their labelers",
        )
    return [set(names[i::groups]) for i in range(groups)]


def fit(
    config: Config, initial: InitialModel, items: list[EncodedRanking], seed: int, dtype: Any
) -> PreTrainedModel:
    """One reward model trained on these items, in memory."""
    engine, objective = new_engine(config, initial, seed, device(), dtype)
    batches = training_batches(items, config.num_train_epochs, config.batch_size, seed)
    for number, batch in enumerate(batches, 1):
        one_update(engine, objective, batch, learning_rate_at(config, number, len(batches)))
    module = new_module(config, initial, seed)
    return moved(merged_model(module, full_state_dict(engine)), device())


def pair_accuracy(
    model: PreTrainedModel,
    tokenizer: PreTrainedTokenizerBase,
    rankings: Sequence[Ranking],
    max_length: int,
) -> float:
    """Share of untied pairs that the model orders as the labelers do."""
    return float(
        accuracy(
            pairs_of(rankings, score_rankings(model, tokenizer, rankings, max_length)).gap
        ).mean()
    )


def cross_validate(run: Path, groups: int = 5, seeds: Sequence[int] = (0, 1, 2)) -> dict[str, Any]:
    """Accuracy on labelers learned from and on labelers left out, a row a fold and seed, then mean
    and deviation.
    """
    recipe = load_recipe(run / "recipe.yaml")
    config = recipe.stage_config("reward")
    if config is None or not isinstance(config.rankings, str):
        raise PodiumError(
            f"{run} has no single rankings stage to fold over",
            "use a run whose reward.rankings is one",
        )
    initial = initial_model(
        find_parent(config.model, recipe, run), config.max_length, recipe.special_tokens
    )
    folder = find_parent(config.rankings, recipe, run)
    train, validation = (
        read_jsonl(folder / f"rankings.{s}.jsonl", Ranking) for s in ("train", "validation")
    )
    check_cohorts(train + validation, str(folder))
    train = [ranking for ranking in train if ranking.cohort != HELDOUT]
    set_threads(recipe.threads)
    init_distributed()
    dtype = resolve_dtype(recipe.dtype)
    rows = []
    for out in group_labelers(train, groups):
        items, _ = encode_rankings(
            [r for r in train if r.labeler not in out],
            initial.tokenizer,
            initial.max_length,
            margin=config.margin,
            margin_scale=config.margin_scale,
        )
        for seed in seeds:
            model = fit(config, initial, items, seed, dtype)
            sides = [
                [r for r in validation if (r.labeler in out) == left] for left in (False, True)
            ]
            own, other = (
                pair_accuracy(model, initial.tokenizer, side, initial.max_length) for side in sides
            )
            rows.append(
                {
                    "left_out": sorted(out),
                    "seed": seed,
                    "learned_from": own,
                    "left_out_accuracy": other,
                }
            )
            say(
                f"  without {', '.join(sorted(out))}, seed {seed}: {100 * own:.1f} %; on them "
                f"{100 * other:.1f} %"
            )
    return {"groups": groups, "seeds": list(seeds), "rows": rows, **summary(rows)}


def summary(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Mean and standard deviation over seeds of the mean over folds, as the paper prints them."""
    found = {}
    for name in ("learned_from", "left_out_accuracy"):
        by_seed: dict[int, list[float]] = defaultdict(list)
        for row in rows:
            by_seed[row["seed"]].append(row[name])
        means = [float(np.mean(values)) for values in by_seed.values()]
        found[name] = {
            "mean": float(np.mean(means)),
            "std": float(np.std(means, ddof=1)) if len(means) > 1 else None,
        }
    return found


def table(found: dict[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "| labelers left out | seed | accuracy on the others | on those left out |",
        "|---|---|---|---|",
    ]
    lines += [
        f"| {', '.join(row['left_out'])} | {row['seed']} | {100 * row['learned_from']:.1f} % "
        f"| {100 * row['left_out_accuracy']:.1f} % |"
        for row in found["rows"]
    ]
    own, other = found["learned_from"], found["left_out_accuracy"]
    spread = [f" +- {100 * x['std']:.1f}" if x["std"] is not None else "" for x in (own, other)]
    lines.append(
        f"| mean over folds, +- deviation over seeds | | {100 * own['mean']:.1f}{spread[0]} % "
        f"| {100 * other['mean']:.1f}{spread[1]} % |"
    )
    return "\n".join(lines) + "\n"


def main() -> None:
    """Write reward-folds.json and reward-folds.md, the accuracies and their table, into the run."""
    parser = argparse.ArgumentParser(
        description="Accuracy of the reward model on labelers it did not learn from."
    )
    parser.add_argument(
        "run", type=Path, help="a run's folder with finished sft and rankings stages"
    )
    parser.add_argument("--groups", type=int, default=5, help="groups of labelers; paper: 5")
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2], help="paper: 3 seeds")
    options = parser.parse_args()
    try:
        found = cross_validate(options.run, options.groups, options.seeds)
    except PodiumError as error:
        say(f"error: {error}")
        sys.exit(error.exit_code)
    write_json(options.run / "reward-folds.json", found)
    write_text(options.run / "reward-folds.md", table(found))
    say(table(found))
    say(json.dumps(summary(found["rows"])))


if __name__ == "__main__":
    main()
