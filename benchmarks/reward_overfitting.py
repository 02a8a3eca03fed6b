"""What the paper warns of (InstructGPT, section 3.5): rankings as batch elements against their
pairs, shuffled.

    python -m benchmarks.reward_overfitting --keep FOLDER
        seeds 0, 1, 2; writes curves.png in FOLDER too
    python -m benchmarks.reward_overfitting --keep FOLDER --stop-after 1
        one curve now; the same command goes on

Willowbrook's rankings without a policy: K people of the village answer a prompt, careful to
careless, and one labeler ranks. Three ways to learn from the same rankings, from the same base, at
the same constant learning rate; an epoch has as many updates in each:

    rankings             a batch of whole rankings
    pairs, equal steps   as many pairs an update as those rankings hold; every epoch goes over
                         all pairs once
    pairs, equal tokens  as many tokens an update as those rankings take; K - 1 epochs go over
                         all pairs once

Loss and accuracy are of whole rankings (mean over pairs, then over rankings), on some of the
training rankings and on held-out prompts. The default base is the stories260K of PODIUM_REAL_DATA.
The last line printed is one JSON object.
"""

import argparse
import itertools
import json
import math
import os
import random
from collections import Counter
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch

from benchmarks.reward_real import kept
from data.records import Prompt, Ranking
from data.worlds import World, load_world
from podium.engine import init_distributed
from podium.runtime import device, resolve_dtype
from reward.batches import EncodedRanking, encode_rankings, epoch_batches, shuffled_pairs
from reward.candidates import Candidates
from reward.collect import judge
from reward.config import Config
from reward.planning import InitialModel, initial_model
from reward.sources import HELDOUT
from reward.train import new_engine
from reward.updates import update, validate

RANKINGS, STEPS, TOKENS = ARMS = ("rankings", "pairs, equal steps", "pairs, equal tokens")


def make_rankings(world: World, split: Any, count: int, k: int, seed: int) -> list[Ranking]:
    """`count` prompts of a split, each with k answers by people of the village and one training
    labeler's ranking.
    """
    rng = random.Random(f"{seed}-{split}")
    labelers = [labeler for labeler in world.labelers(seed) if labeler.cohort != HELDOUT]
    found: list[Ranking] = []
    for number, prompt in enumerate(world.prompts(rng, split)):
        if len(found) == count:
            break
        found += judge(ask(world, prompt, k, split, rng), number, labelers, 1, rng, Counter())
    return found


def ask(world: World, prompt: Prompt, k: int, split: str, rng: random.Random) -> Candidates:
    """A prompt and k people's answers."""
    answers = [world.demonstration(prompt, rng).messages[-1].content for _ in range(k)]
    return Candidates(
        prompt=prompt.messages,
        responses=answers,
        generators=["people"] * k,
        split=split,
        user=prompt.user,
        use_case=prompt.use_case,
        meta=prompt.meta,
    )


def arm_batches(
    arm: str, items: list[EncodedRanking], batch_size: int, epochs: int, seed: int
) -> list[list[EncodedRanking]]:
    """All updates of an arm, as many in each: `epochs` times the batches that the rankings make."""
    an_epoch = math.ceil(len(items) / batch_size)
    source, size = items, batch_size
    if arm != RANKINGS:
        source = shuffled_pairs(items)
        share = 1.0 if arm == STEPS else tokens(items) / tokens(source)
        size = math.ceil(share * len(source) / an_epoch)
    forever = (
        batch for epoch in itertools.count() for batch in epoch_batches(source, size, seed, epoch)
    )
    return list(itertools.islice(forever, epochs * an_epoch))


def tokens(items: list[EncodedRanking]) -> int:
    """Tokens of one forward over all these items, padding left out."""
    return sum(len(item.prompt) + len(response) for item in items for response in item.responses)


def curve(
    arm: str,
    train: list[EncodedRanking],
    validation: list[EncodedRanking],
    config: Config,
    initial: InitialModel,
    seed: int,
    dtype: Any,
) -> list[dict[str, float]]:
    """One arm's figures after 0, 1, 2, ... epochs of updates."""
    engine, objective = new_engine(config, initial, seed, device(), dtype)
    batches = arm_batches(arm, train, config.batch_size, config.num_train_epochs, seed)
    an_epoch = len(batches) // config.num_train_epochs
    pairs = len(shuffled_pairs(train))
    rows, forwarded, used = [], 0, 0
    for number in range(len(batches) + 1):
        if number:
            update(engine, batches[number - 1], config.learning_rate, objective)
            forwarded += tokens(batches[number - 1])
            used += len(shuffled_pairs(batches[number - 1]))
        if number % an_epoch == 0:
            rows.append({"updates": number, "tokens": forwarded, "passes": used / pairs})
            for name, items in (("train", train[: len(validation)]), ("validation", validation)):
                found = validate(engine, items, objective)
                rows[-1] |= {
                    f"{name}_{figure}": found[f"validation_{figure}"]
                    for figure in ("loss", "accuracy")
                }
            print(
                f"  {arm}, seed {seed}: " + ", ".join(f"{k} {v:.4g}" for k, v in rows[-1].items()),
                flush=True,
            )
    return rows


def table(curves: dict[str, list[list[dict[str, float]]]]) -> str:
    """Markdown: a row an arm and epoch, means over seeds; validation figures with their deviation
    over seeds.
    """
    lines = [
        "| arm | updates | tokens forwarded | passes over the pairs | train loss | train "
        "accuracy | validation loss "
        "| validation accuracy |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for arm, seeds in curves.items():
        for rows in zip(*seeds, strict=True):
            mean = {name: float(np.mean([row[name] for row in rows])) for name in rows[0]}
            spread = {
                name: float(np.std([row[name] for row in rows], ddof=min(1, len(rows) - 1)))
                for name in rows[0]
            }
            lines.append(
                f"| {arm} | {mean['updates']:.0f} | {mean['tokens'] / 1e3:,.0f}k | "
                f"{mean['passes']:.2f} "
                f"| {mean['train_loss']:.3f} | {100 * mean['train_accuracy']:.1f} % "
                f"| {mean['validation_loss']:.3f} +- {spread['validation_loss']:.3f} "
                f"| {100 * mean['validation_accuracy']:.1f} +- "
                f"{100 * spread['validation_accuracy']:.1f} % |"
            )
    return "\n".join(lines)


def draw(curves: dict[str, list[list[dict[str, float]]]], file: Path) -> None:
    """Loss and accuracy by updates, by tokens and by passes; training dashed, validation solid,
    means over seeds.
    """
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplots(2, 3)
    for column, x in enumerate(("updates", "tokens", "passes")):
        for row, y in enumerate(("loss", "accuracy")):
            for number, (arm, seeds) in enumerate(curves.items()):
                for part, line in (("train", "--"), ("validation", "-")):
                    points = [
                        np.mean([[r[x], r[f"{part}_{y}"]] for r in rows], axis=0)
                        for rows in zip(*seeds, strict=True)
                    ]
                    label = arm if part == "validation" else None
                    axes[row][column].plot(
                        *np.transpose(points), line, color=f"C{number}", marker=".", label=label
                    )
            axes[row][column].set(xlabel=x, ylabel=y)
            axes[row][column].grid(alpha=0.25)
    axes[0][0].legend(title="validation solid, training dashed")
    figure.savefig(file, dpi=100)


def main() -> None:
    data = Path(os.environ.get("PODIUM_REAL_DATA", "."))
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--keep", type=Path, required=True, help="folder for each seed's curves and the picture"
    )
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--base", type=Path, default=data / "A_models/stories260K/hf")
    parser.add_argument("--k", type=int, default=6)
    parser.add_argument("--rankings", type=int, default=320)
    parser.add_argument("--validation", type=int, default=160)
    parser.add_argument("--epochs", type=int, default=8)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="fp32")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--stop-after", type=int, default=None, help="curves to train in this command"
    )
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    init_distributed()
    initial = initial_model(options.base, None)
    config = Config(
        num_train_epochs=options.epochs,
        batch_size=options.batch_size,
        learning_rate=options.learning_rate,
    )
    world = load_world("willowbrook")

    def one(arm: str, seed: int) -> list[dict[str, float]]:
        nonlocal trained
        trained += 1
        sets = (("train", options.rankings), ("validation", options.validation))
        train, validation = (
            encode_rankings(
                make_rankings(world, split, count, options.k, seed),
                initial.tokenizer,
                initial.max_length,
            )[0]
            for split, count in sets
        )
        return curve(arm, train, validation, config, initial, seed, resolve_dtype(options.dtype))

    passing = ("seeds", "keep", "stop_after")
    settings = {name: str(value) for name, value in vars(options).items() if name not in passing}
    options.keep.mkdir(parents=True, exist_ok=True)
    curves: dict[str, list[list[dict[str, float]]]] = {arm: [] for arm in ARMS}
    trained = 0
    for seed in options.seeds:
        for arm, found in curves.items():
            if trained == options.stop_after:
                print("stopped; the same command goes on")
                return
            file = options.keep / f"seed-{seed}-{arm.replace(', ', '-').replace(' ', '-')}.json"
            found.append(kept(file, settings, partial(one, arm, seed)))
    draw(curves, options.keep / "curves.png")
    print(table(curves))
    print(json.dumps(curves))


if __name__ == "__main__":
    main()
