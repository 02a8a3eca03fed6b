"""Do rankings of helpful answers teach what is harmless, and the other way round? On the village.

    python -m benchmarks.helpful_or_harmless --seeds 0 1 2 --out runs/claims

Bai et al. (2022, section 4) found helpfulness and harmlessness to pull apart, and a preference
model of both kinds of comparisons to learn both. A tenth of the village's prompts ask for something
petty and harmful, which labelers want declined with courtesy; they are the harmless kind, and all
others the helpful one. Of each seed the SFT model of `benchmarks.starts` answers as many prompts of
each kind, labelers rank, and reward models learn from equally many rankings with different shares
of the harmless kind. Accuracy is on held-out prompts of both kinds.
"""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from benchmarks.rounds import told
from benchmarks.starts import final, options_of, told_over_seeds, train, train_start
from data.jsonl import read_jsonl, write_jsonl
from data.records import Prompt, Ranking
from podium.rewards.kinds import make_reward
from podium.run.place import Place
from podium.run.recipe import load_recipe
from podium.runtime import device
from podium.statistics import SHARE, mean_with_interval

KINDS = ("helpful", "harmless")
SHARES = (0.0, 0.5, 1.0)  # of the rankings that are of the harmless kind
WRITERS = {"sft": "sft", "base": "pretrain"}  # of the answers: name -> stage
Right = dict[str, tuple[np.ndarray, np.ndarray]]  # kind -> right or not, and the prompt (N)


def write_prompts(world: Path, folder: Path, rankings: int, held_out: int) -> None:
    """Prompts of each kind, in files of their own, to rank answers of and to measure on."""
    for split, source, count in (("train", "train", rankings), ("validation", "test", held_out)):
        prompts = read_jsonl(world / f"prompts.{source}.jsonl", Prompt)
        for kind in KINDS:
            of_kind = [p for p in prompts if (p.use_case == "harmful") == (kind == "harmless")]
            write_jsonl(folder / f"{kind}.{split}.jsonl", of_kind[:count])


def train_rankings(start: Path, kind: str, seed: int, out: Path, sets: Sequence[str]) -> Path:
    """The rankings of one kind, as a stage of a run; their folder."""
    files = {split: out / "kinds" / f"{kind}.{split}.jsonl" for split in ("train", "validation")}
    own = [f"data.prompts.{split}={file.resolve()}" for split, file in files.items()]
    own += [f"rankings.models.{name}={final(start, stage)}" for name, stage in WRITERS.items()]
    own += ["rankings.prompts=100000", "rankings.validation_prompts=100000"]  # all of the files
    return final(train(out, f"{kind}-{seed}", seed, ("rankings",), [*own, *sets]), "rankings")


def write_mixture(folders: dict[str, Path], share: float, into: Path) -> None:
    """As many rankings as one kind has, a share of them harmless; held-out ones of both kinds."""
    helpful, harmless = (read_jsonl(folders[k] / "rankings.train.jsonl", Ranking) for k in KINDS)
    total = min(len(helpful), len(harmless))
    count = round(share * total)
    write_jsonl(into / "rankings.train.jsonl", harmless[:count] + helpful[: total - count])
    both = [ranking for kind in KINDS for ranking in held_out(folders[kind])]
    write_jsonl(into / "rankings.validation.jsonl", both)


def held_out(folder: Path) -> list[Ranking]:
    """The training labelers' rankings of held-out prompts."""
    return read_jsonl(folder / "rankings.validation.jsonl", Ranking)


def train_reward(
    start: Path, folders: dict[str, Path], share: float, seed: int, out: Path, sets: Sequence[str]
) -> Path:
    """A reward model of a mixture; its run."""
    name = f"share-{share:g}-{seed}"
    mixture = (out / "kinds" / name).resolve()
    write_mixture(folders, share, mixture)
    own = [f"reward.model={final(start, 'sft')}", f"reward.rankings={mixture}"]
    return train(out, name, seed, ("reward",), [*own, *sets])


def measure(run: Path, folders: dict[str, Path]) -> Right:
    """For each pair of held-out answers, was the one that a labeler put first scored higher?"""
    place = Place(load_recipe(run / "recipe.yaml"), run, device(), 0)
    scorer = make_reward("reward", place).to(place.device).eval()
    found: Right = {}
    for kind, folder in folders.items():
        rankings = held_out(folder)
        asked = [Prompt(messages=r.prompt) for r in rankings for _ in r.responses]
        texts = [text for ranking in rankings for text in ranking.responses]
        scores = np.array([float(score) for score in scorer(asked, texts)])
        found[kind] = pairs_right(rankings, scores)
    return found


def pairs_right(rankings: Sequence[Ranking], scores: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each pair that a labeler told apart, 1 right, 0.5 equal scores, 0 wrong, and the prompt's
    number; `scores` of all answers, ranking after ranking.
    """
    right, prompt, at = [], [], 0
    numbers: dict[str, int] = {}
    for ranking in rankings:
        number = numbers.setdefault(str(ranking.prompt), len(numbers))
        own = scores[at : at + len(ranking.ranks)]
        at += len(ranking.ranks)
        for i, first in enumerate(ranking.ranks):
            for j, second in enumerate(ranking.ranks):
                if first < second:  # i was preferred
                    right.append(0.5 * (1 + np.sign(own[i] - own[j])))
                    prompt.append(number)
    return np.array(right), np.array(prompt)


def table(found: dict[float, dict[int, Right]]) -> str:
    """Accuracy by share: a seed's with an interval over prompts, the mean's with one over seeds."""
    lines = ["| share of harmless | seed | helpful | harmless |", "|---|---|---|---|"]
    for share, seeds in found.items():
        for seed, right in seeds.items():
            cells = [told(mean_with_interval(*right[kind], SHARE), ".1%") for kind in KINDS]
            lines.append(f"| {share:g} | {seed} | {' | '.join(cells)} |")
        means = [[float(right[kind][0].mean()) for right in seeds.values()] for kind in KINDS]
        cells = [told_over_seeds(mean, ".1%") for mean in means]
        lines.append(f"| {share:g} | over seeds | {' | '.join(cells)} |")
    return "\n".join(lines)


def main() -> None:
    parser = options_of(__doc__)
    parser.add_argument("--rankings", type=int, default=300, help="that each model learns from")
    parser.add_argument("--held-out", type=int, default=50, help="prompts of each kind")
    options = parser.parse_args()
    start = train_start(options.out, options.set)
    folder = options.out / "kinds"
    write_prompts(start / "world" / "final", folder, options.rankings, options.held_out)
    found: dict[float, dict[int, Right]] = {share: {} for share in SHARES}
    for seed in options.seeds:
        given = (seed, options.out, options.set)
        folders = {kind: train_rankings(start, kind, *given) for kind in KINDS}
        for share in SHARES:
            found[share][seed] = measure(train_reward(start, folders, share, *given), folders)
        print(table(found), flush=True)


if __name__ == "__main__":
    main()
