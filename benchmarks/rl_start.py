"""Does a tenth of pretraining data in the fine-tune that PPO starts from help it? On the village.

    python -m benchmarks.rl_start --seeds 0 1 2 --out runs/claims

InstructGPT (appendix C.3) started its PPO from a fine-tune of two epochs with a tenth of
pretraining data in it, "since we find it helpful for PPO training". Two arms of each seed differ in
`sft.aux_share` alone, 0.1 (mix) and 0 (bare): the same small base, demonstrations and epochs, then
PPO-ptx against the same reward model, each held by its KL to its own start. The arm with the mix is
the small model of `benchmarks.small_beats_large`, and shared with it.

The stage's name does not matter: `rl_init` is the code of `sft`.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.rounds import Golds, difference, golds_of, over_seeds, told, wins
from benchmarks.small_beats_large import train_base, train_small
from benchmarks.starts import kl_of, options_of, reward_of_each, told_over_seeds, train_start
from data.jsonl import read_jsonl
from data.packing import encode_documents, pack
from data.records import Document
from data.special_tokens import document_separator_id
from evals.perplexity import block_losses
from podium.models import load_causal_lm, load_tokenizer
from podium.statistics import Estimate, mean_with_interval, paired_difference

PLACES = ("mix/ppo", "bare/ppo", "mix/sft", "bare/sft")
BLOCKS, CONTEXT = 200, 160  # held-out text a model reads: 32,000 tokens


class Arms(NamedTuple):
    """One seed: gold by model, loss of each block of held-out text by model, KL by arm."""

    golds: Golds
    losses: dict[str, np.ndarray]
    kl: dict[str, float]


def train_arms(base: Path, reward: Path, seed: int, out: Path, sets: Sequence[str]) -> list[Path]:
    """The run with the mix, which is the small model's, and the one without."""
    bare = [*sets, "sft.aux_share=0"]
    return [
        train_small(base, reward, "small", seed, out, sets),
        train_small(base, reward, "bare", seed, out, bare),
    ]


def measure(runs: Sequence[Path], prompts: int, samples: int) -> Arms:
    """What a seed's four models are worth."""
    arms = dict(zip(("mix", "bare"), runs, strict=True))
    models = {place: arms[place.split("/")[0]] / place.split("/")[1] for place in PLACES}
    golds = golds_of(models, runs[0], runs[1] / "compare", prompts, samples)
    text = read_jsonl(runs[0] / "world" / "final" / "documents.validation.jsonl", Document)
    losses = {place: losses_of(model / "final", text) for place, model in models.items()}
    kl = {arm: kl_of(run) for arm, run in arms.items()}
    return Arms(golds, losses, kl)


def losses_of(folder: Path, text: Sequence[Document]) -> np.ndarray:
    """The model's loss on each block of the text (BLOCKS), nats a token."""
    tokenizer = load_tokenizer(folder)
    encoded = encode_documents(tokenizer, [document.text for document in text])
    separator_id = document_separator_id(tokenizer)
    blocks = pack(encoded, CONTEXT, separator_id)[:BLOCKS]
    return block_losses(load_causal_lm(folder), blocks, separator_id)


def models_table(found: dict[int, Arms]) -> str:
    """Each model alone."""
    lines = ["| seed | model | gold | pretraining loss | KL |", "|---|---|---|---|---|"]
    for seed, arms in found.items():
        for place in PLACES:
            gold = told(_by_prompt(arms.golds, place), ".2f")
            arm, stage = place.split("/")
            kl = f"{arms.kl[arm]:.2f}" if stage == "ppo" else ""
            lines.append(f"| {seed} | {place} | {gold} | {arms.losses[place].mean():.3f} | {kl} |")
    return "\n".join(lines)


def arms_table(found: dict[int, Arms]) -> str:
    """Mix less bare after PPO and before it."""
    lines = [
        "| with the mix less without | seed | wins | gold | pretraining loss | KL |",
        "|---|---|---|---|---|---|",
    ]
    seeds = list(found.values())
    for stage in ("ppo", "sft"):
        first, second = f"mix/{stage}", f"bare/{stage}"
        for seed, arms in found.items():
            won = told(wins([arms.golds], first, second), ".1%")
            gold = told(difference([arms.golds], first, second), "+.2f")
            blocks = range(len(arms.losses[first]))
            loss = told(paired_difference(arms.losses[first], arms.losses[second], blocks), "+.3f")
            kl = f"{arms.kl['mix'] - arms.kl['bare']:+.2f}" if stage == "ppo" else ""
            lines.append(f"| {stage} | {seed} | {won} | {gold} | {loss} | {kl} |")
        golds = [arms.golds for arms in seeds]
        won = told(wins(golds, first, second), ".1%")
        gold = told(difference(golds, first, second), "+.2f")
        lines.append(f"| {stage} | all | {won} | {gold} | | |")
        gold = told(over_seeds(golds, first, second), "+.2f")
        apart = [float((a.losses[first] - a.losses[second]).mean()) for a in seeds]
        kl = told_over_seeds([a.kl["mix"] - a.kl["bare"] for a in seeds], "+.2f")
        kl = kl if stage == "ppo" else ""
        loss = told_over_seeds(apart, "+.3f")
        lines.append(f"| {stage} | over seeds | | {gold} | {loss} | {kl} |")
    return "\n".join(lines)


def _by_prompt(golds: Golds, place: str) -> Estimate:
    return mean_with_interval(golds.scores[place].mean(axis=1), golds.prompts)


def main() -> None:
    options = options_of(__doc__, prompts=300).parse_args()
    start = train_start(options.out, options.set)
    base = train_base(start, options.out, options.set)
    found = {}
    for seed, reward in reward_of_each(options, start):
        runs = train_arms(base, reward, seed, options.out, options.set)
        found[seed] = measure(runs, options.prompts, options.samples)
        print(models_table(found), arms_table(found), sep="\n\n", flush=True)


if __name__ == "__main__":
    main()
