"""Are larger reward models, and those of more rankings, over-optimised less? On the village.

    python -m benchmarks.reward_size --seeds 0 1 2 --out runs/claims

Gao et al. (2022, section 3.2 and figure 3) drove policies against reward models of 3M to 3B
parameters and saw the larger ones, and those of more comparisons, lead to more gold before it
falls. Here the SFT model of `benchmarks.starts` gives 64 answers to each of the same held-out
prompts, once for all; of each seed reward models of SIZES learn from the same rankings, and those
of the middle size from fewer and more of them, which hold one another. Each one's favourite of n is
then scored by the world's gold, for all n from the 64 answers without bias
(`podium.statistics.bon_unbiased`), and Gao's form d (a - b d) fitted, d the square root of the KL.

A size is one base and one SFT model of it, which its reward models start from, with the tokenizer,
documents, demonstrations and rates of the middle one. The policy is the same for all, as in the
paper. PPO against each of them, which the paper has too, is left out for its time.
"""

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np

from benchmarks.rounds import told
from benchmarks.small_beats_large import SHAPE
from benchmarks.starts import (
    START_SEED,
    final,
    options_of,
    record_of,
    told_over_seeds,
    train,
    train_start,
)
from data.jsonl import read_jsonl, write_jsonl
from data.records import Prompt, Ranking
from data.template import stop_token_ids
from data.worlds import open_world
from evals.answers import Judge, answer_prompts
from evals.held_out import draw, held_out_prompts
from evals.overoptimisation import Curve, fit_curve
from evals.records import Answer
from podium.models import load_causal_lm, load_tokenizer, moved
from podium.rewards.kinds import make_reward
from podium.run.place import Place
from podium.run.recipe import load_recipe
from podium.runtime import device
from podium.sampling.kinds import make_sampler
from podium.sampling.protocol import SamplingParams
from podium.statistics import bon_kl, bon_unbiased, mean_with_interval
from podium.storage import write_json
from pretrain.presets import PRESETS, Preset

MIDDLE = "1.1M"
# llama-tiny but for layers and width (3 x 160 there, which is the middle one)
SIZES = {
    "0.24M": SHAPE,
    MIDDLE: None,
    "3.6M": Preset("llama", 4, 256, 8, 3e-3, 640, inner=688, initial_std=0.05),
}
FEW, SOME, MANY = 150, 600, 2400  # rankings; those of every size are SOME
ARMS = (("0.24M", SOME), (MIDDLE, FEW), (MIDDLE, SOME), (MIDDLE, MANY), ("3.6M", SOME))
HELD_OUT = 240  # prompts whose rankings tell the accuracy
LENGTH = 64  # tokens an answer


class Driven(NamedTuple):
    """One reward model of one seed: accuracy on held-out rankings, the gold of its favourite of
    1, 2, 4, ... answers, and Gao's curve of it.
    """

    accuracy: float
    gold: list[float]
    curve: Curve


def train_size(start: Path, size: str, out: Path, sets: Sequence[str]) -> Path:
    """The run with a size's base and SFT model; the middle one's is the start itself."""
    shape = SIZES[size]
    if shape is None:
        return start
    PRESETS[f"size-{size}"] = shape
    own = [f"pretrain.preset=size-{size}", f"pretrain.tokenizer={final(start, 'pretrain')}"]
    return train(out, f"size-{size}", START_SEED, ("pretrain", "sft"), [*own, *sets])


def train_rankings(start: Path, seed: int, out: Path, sets: Sequence[str]) -> Path:
    """MANY rankings of the SFT model's answers; their folder."""
    models = {"base": final(start, "pretrain"), "sft": final(start, "sft")}
    own = [f"rankings.models.{name}={folder}" for name, folder in models.items()]
    own += [f"rankings.prompts={MANY}", f"rankings.validation_prompts={HELD_OUT}"]
    return final(train(out, f"many-{seed}", seed, ("rankings",), [*own, *sets]), "rankings")


def write_first(rankings: Path, count: int, into: Path) -> Path:
    """The first `count` training rankings and all held-out ones, as a folder; the folder."""
    found = read_jsonl(rankings / "rankings.train.jsonl", Ranking)
    held_out = read_jsonl(rankings / "rankings.validation.jsonl", Ranking)
    write_jsonl(into / "rankings.train.jsonl", found[:count])
    write_jsonl(into / "rankings.validation.jsonl", held_out)
    return into.resolve()


def train_reward(
    model: Path, rankings: Path, arm: tuple[str, int], seed: int, out: Path, sets: Sequence[str]
) -> Path:
    """A reward model that starts from the SFT model of a size; its run."""
    size, count = arm
    name = f"reward-{size}-{count}-{seed}"
    given = write_first(rankings, count, out / "first" / f"{count}-{seed}")
    own = [f"reward.model={final(model, 'sft')}", f"reward.rankings={given}"]
    return train(out, name, seed, ("reward",), [*own, *sets])


def answers_of(start: Path, prompts: int, samples: int, out: Path) -> list[Answer]:
    """The SFT model's answers to held-out prompts with their gold, made once and kept."""
    kept = out / f"answers-{prompts}-{samples}.jsonl"
    if not kept.is_file():
        place = Place(load_recipe(start / "recipe.yaml"), start, device(), START_SEED)
        folder = final(start, "sft")
        tokenizer, model = load_tokenizer(folder), moved(load_causal_lm(folder), place.device)
        sampler = make_sampler(place.sampler(), model, int(tokenizer.pad_token_id))
        params = SamplingParams(LENGTH, stop_token_ids=stop_token_ids(tokenizer, model))
        judge = Judge(open_world(start / "world" / "final"), None, None)
        asked = draw(held_out_prompts(start), prompts, 0)
        told = ("sft", sampler, sampler, tokenizer, asked, samples, params, judge)
        write_jsonl(kept, answer_prompts(*told))
    return read_jsonl(kept, Answer)


def drive(run: Path, answers: Sequence[Answer], samples: int) -> Driven:
    """What best of n by a run's reward model is worth; its scores are made once and kept."""
    kept = run / "scores.json"
    if not kept.is_file():
        place = Place(load_recipe(run / "recipe.yaml"), run, device(), 0)
        scorer = make_reward("reward", place).to(place.device).eval()
        asked = [Prompt(messages=answer.prompt) for answer in answers]
        scores = scorer(asked, [answer.response for answer in answers])
        write_json(kept, [float(score) for score in scores])
    proxy = np.array(json.loads(kept.read_text())).reshape(-1, samples)  # (P, S)
    gold = np.array([answer.gold for answer in answers], dtype=float).reshape(-1, samples)
    accuracy = float(record_of(run, "reward")["metrics"]["accuracy"])
    return driven(proxy, gold, accuracy)


def driven(proxy: np.ndarray, gold: np.ndarray, accuracy: float) -> Driven:
    """Best of n by `proxy` scores, (P, S), of answers with these gold ones."""
    sizes = sizes_of(proxy.shape[1])
    best = [favourite(proxy, gold, n) for n in sizes]
    gain = [value - best[0] for value in best]
    return Driven(accuracy, best, fit_curve([bon_kl(n) for n in sizes], gain, "best of n"))


def favourite(proxy: np.ndarray, gold: np.ndarray, n: int) -> float:
    """Mean gold of the proxy's favourite of n, over prompts."""
    of_prompt = partial(bon_unbiased, n=n)
    return float(np.mean([of_prompt(p, g) for p, g in zip(proxy, gold, strict=True)]))


def sizes_of(samples: int) -> list[int]:
    """1, 2, 4, ... up to `samples`."""
    return [2**power for power in range(samples.bit_length())]


def table(found: dict[tuple[str, int], dict[int, Driven]], samples: int) -> str:
    """By reward model, over seeds: what picking gains over one answer, and the curve."""
    shown = [n for n in sizes_of(samples) if n > 1][1::2]
    heads = ["parameters", "rankings", "accuracy", *(f"best of {n}" for n in shown), "a", "b"]
    lines = [f"| {' | '.join(heads)} |", "|---" * len(heads) + "|"]
    for (size, count), seeds in found.items():
        if not seeds:
            continue
        each = list(seeds.values())
        places = [sizes_of(samples).index(n) for n in shown]
        gains = [told_over_seeds([d.gold[i] - d.gold[0] for d in each], "+.2f") for i in places]
        curve = [told_over_seeds([getattr(d.curve, name) for d in each], ".2f") for name in "ab"]
        accuracy = told_over_seeds([d.accuracy for d in each], ".1%")
        lines.append(f"| {size} | {count} | {accuracy} | {' | '.join([*gains, *curve])} |")
    return "\n".join(lines)


def contrasts(found: dict[tuple[str, int], dict[int, Driven]]) -> str:
    """More less fewer, of the gain of best of the largest n and of b; the seeds are the units."""
    pairs = [
        (("3.6M", SOME), ("0.24M", SOME)),
        (("3.6M", SOME), (MIDDLE, SOME)),
        ((MIDDLE, SOME), ("0.24M", SOME)),
        ((MIDDLE, MANY), (MIDDLE, FEW)),
        ((MIDDLE, MANY), (MIDDLE, SOME)),
    ]
    lines = ["| the first less the second | gold of best of the most | b |", "|---|---|---|"]
    for first, second in pairs:
        both = [seed for seed in found[first] if seed in found[second]]
        if both:
            gaps = [found[first][s].gold[-1] - found[second][s].gold[-1] for s in both]
            bends = [found[first][s].curve.b - found[second][s].curve.b for s in both]
            name = ", ".join(f"{size} of {count}" for size, count in (first, second))
            cells = [told_over_seeds(values, "+.2f") for values in (gaps, bends)]
            lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--prompts", type=int, default=150)
    parser.add_argument("--samples", type=int, default=64, help="answers to each, a power of two")
    options = parser.parse_args()
    start = train_start(options.out, options.set)
    answers = answers_of(start, options.prompts, options.samples, options.out)
    gold = [float(answer.gold or 0) for answer in answers]
    mean = mean_with_interval(gold, [answer.prompt_index for answer in answers])
    print(f"gold of one answer: {told(mean, '.2f')}", flush=True)
    models = {size: train_size(start, size, options.out, options.set) for size in SIZES}
    found: dict[tuple[str, int], dict[int, Driven]] = {arm: {} for arm in ARMS}
    for seed in options.seeds:
        rankings = train_rankings(start, seed, options.out, options.set)
        for arm in ARMS:
            given = (models[arm[0]], rankings, arm, seed, options.out, options.set)
            found[arm][seed] = drive(train_reward(*given), answers, options.samples)
        print(table(found, options.samples), contrasts(found), sep="\n\n", flush=True)


if __name__ == "__main__":
    main()
