"""Is a small model with RLHF preferred to a far larger one with SFT alone? On the village.

    python -m benchmarks.small_beats_large --seeds 0 1 2 --out runs/claims

Large: the base and the SFT model of `benchmarks.starts`, 1.1M parameters. Small: 0.24M, with the
large one's tokenizer, documents, demonstrations, learning rates and spread of new weights. Of each
seed the small one is fine-tuned anew and goes through PPO-ptx. As in InstructGPT (appendix C) one
reward model serves all sizes: it is as large as the large model, and learned from rankings of the
large one's answers.

The world's gold score of answers to the same held-out prompts decides. The large model and
its answers are the same for all seeds, and the small base is; so the interval over seeds is about
what was trained from them.
"""

from collections.abc import Sequence
from pathlib import Path

from benchmarks.rounds import Golds, difference, golds_of, over_seeds, told, wins
from benchmarks.starts import (
    START_SEED,
    final,
    kl_of,
    options_of,
    reward_of_each,
    told_over_seeds,
    train,
    train_start,
)
from podium.statistics import mean_with_interval
from pretrain.presets import PRESETS, Preset

SMALL = "small-2x80"
# llama-tiny but for layers and width (3 x 160 there)
SHAPE = Preset("llama", 2, 80, 5, 3e-3, 640, inner=216, initial_std=0.05)
PAIRS = (("small/ppo", "large/sft"), ("small/ppo", "small/sft"), ("small/sft", "large/sft"))


def train_base(start: Path, out: Path, sets: Sequence[str]) -> Path:
    """The small base model; its run. The tokenizer is the large one's, or the reward model could
    not read what the policy says.
    """
    PRESETS[SMALL] = SHAPE
    own = [f"pretrain.preset={SMALL}", f"pretrain.tokenizer={final(start, 'pretrain')}"]
    return train(out, "small-base", START_SEED, ("pretrain",), [*sets, *own])


def train_small(
    base: Path, reward: Path, name: str, seed: int, out: Path, sets: Sequence[str]
) -> Path:
    """SFT of the small base and PPO-ptx against a reward model of another run; the run."""
    models = [f"sft.model={final(base, 'pretrain')}", f"ppo.reward={final(reward, 'reward')}"]
    return train(out, f"{name}-{seed}", seed, ("sft", "ppo"), [*sets, "ppo.model=sft", *models])


def judge(small: Path, start: Path, prompts: int, samples: int) -> Golds:
    """Gold of both small models' answers and the large one's."""
    models = {"small/ppo": small / "ppo", "small/sft": small / "sft", "large/sft": start / "sft"}
    return golds_of(models, small, small / "compare", prompts, samples)


def models_table(found: dict[int, Golds], smalls: dict[int, Path]) -> str:
    """Each model alone."""
    lines = ["| seed | model | gold | KL |", "|---|---|---|---|"]
    for seed, golds in found.items():
        for place, scores in golds.scores.items():
            gold = told(mean_with_interval(scores.mean(axis=1), golds.prompts), ".2f")
            kl = ""
            if place == "small/ppo":
                kl = f"{kl_of(smalls[seed]):.2f}"
            lines.append(f"| {seed} | {place} | {gold} | {kl} |")
    return "\n".join(lines)


def pairs_table(found: dict[int, Golds]) -> str:
    """Who wins, a seed and over all: intervals over prompts, and over seeds."""
    lines = ["| the first against the second | seed | wins | gold |", "|---|---|---|---|"]
    seeds = list(found.values())
    for first, second in PAIRS:
        for name, some in [*((str(s), [one]) for s, one in found.items()), ("all", seeds)]:
            rate, gap = wins(some, first, second), difference(some, first, second)
            pair = f"{first}, {second}"
            lines.append(f"| {pair} | {name} | {told(rate, '.1%')} | {told(gap, '+.2f')} |")
        rate = told_over_seeds([wins([one], first, second).rate for one in seeds], ".1%")
        gap = over_seeds(seeds, first, second)
        lines.append(f"| {pair} | over seeds | {rate} | {told(gap, '+.2f')} |")
    return "\n".join(lines)


def main() -> None:
    options = options_of(__doc__, prompts=300).parse_args()
    start = train_start(options.out, options.set)
    base = train_base(start, options.out, options.set)
    smalls, found = {}, {}
    for seed, reward in reward_of_each(options, start):
        smalls[seed] = train_small(base, reward, "small", seed, options.out, options.set)
        found[seed] = judge(smalls[seed], start, options.prompts, options.samples)
        print(models_table(found, smalls), pairs_table(found), sep="\n\n", flush=True)


if __name__ == "__main__":
    main()
