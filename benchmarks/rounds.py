"""Does a second round of fresh rankings beat as many rankings taken at once? On the village.

    python -m benchmarks.rounds --seeds 1 2 3                      OUT is runs/rounds
    python -m benchmarks.rounds --arms at-once recipe-mix          with the second control

All seeds start from one SFT model. Of each seed there is a first set of rankings, and then

- round-1 and round-2: the recipes of `podium iterate`. The second ranks answers of the first
  round's policy (its share), of SFT and of other prompts; reward model and PPO begin anew from SFT.
  The reward models learn from all prompts: gold judges here, so no half of them is held out.
- at-once: the second round's own recipe, seeds included, but SFT gives the policy's share of the
  answers. So both arms have as many rankings of the same prompts by the same labelers, and differ
  in who answered alone.
- recipe-mix: the same with the shares of the recipe, which has more answers to other prompts and
  some of the base model. This is what the recipe would make of twice the rankings.

The world's gold score of the answers to the same held-out prompts decides. SETS makes the recipe
smaller. Nothing is made twice: the same command goes on after a stop. The seeds have SFT model and
prompts in common, so the interval over seeds is about other rankings and other runs of reward model
and PPO alone.
"""

import argparse
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from data.jsonl import read_jsonl
from data.worlds import open_world
from evals.compare import COMPARISON_FILE, Settings, compare
from evals.held_out import held_out_prompts, key_of
from evals.records import Answer
from evals.rounds import MIX, Plan, round_tree
from evals.winrate import judged_win_rate, outcomes
from podium.run.chain import run_chain
from podium.run.lineage import read_stage_file
from podium.run.recipe import load_recipe, validate
from podium.statistics import Estimate, mean_with_interval, paired_difference

ARMS = ("at-once", "recipe-mix")
SETS = (
    "threads=1",
    "evals=null",
    "sft.num_train_epochs=1",  # of 2
    "rankings.prompts=600",  # of 2,500, a round
    "rankings.validation_prompts=40",  # of 240
    "ppo.total_episodes=1792",  # 14 iterations of 40
    "ppo.warmup_iterations=6",  # of 10
)
START_SEED = 20  # any: nothing was chosen by it


class Golds(NamedTuple):
    """One seed: gold scores (P, S) by model, and which prompt each row answers (P)."""

    scores: dict[str, np.ndarray]
    prompts: list[str]


def train_start(recipe: str, sets: Sequence[str], out: Path) -> Path:
    """Make the base and the SFT model that all seeds start from; their run."""
    own = [f"seed={START_SEED}", "name=start"]
    later = [f"{stage}=null" for stage in ("rankings", "reward", "ppo")]
    return run_chain(load_recipe(recipe, [*sets, *own, *later]), out)


def train(
    recipe: str, sets: Sequence[str], start: Path, seed: int, arms: Sequence[str], out: Path
) -> Path:
    """Make both rounds and the other arms of a seed; its folder."""
    base, sft = (str((start / stage / "final").resolve()) for stage in ("pretrain", "sft"))
    # Round 2 takes the next seed: with steps of ten no seed's round is another's.
    own = [f"seed={10 * seed}", f"name=seed-{seed}"]
    own += [f"rankings.models.sft={sft}", f"rankings.models.base={base}"]
    own += [f"reward.model={sft}", f"ppo.model={sft}", "sft=null", "pretrain=null"]
    tree = load_recipe(recipe, [*sets, *own]).model_dump(mode="json")
    folder = out / tree["name"]
    for run in ("round-1", "round-2", *arms):
        run_chain(validate(run_tree(tree, run, folder), run), folder)
    return folder


def run_tree(tree: dict[str, Any], run: str, folder: Path) -> dict[str, Any]:
    """The recipe of a round or of an arm."""
    made = round_tree(tree, Plan(2), 1 if run == "round-1" else 2, folder) | {"name": run}
    made["reward"]["half"] = tree["reward"]["half"]
    first = {key: tree["rankings"][key] for key in ("models", "mix", "main")}
    if run == "recipe-mix":
        made["rankings"] |= first
    if run == "at-once":
        made["rankings"] |= {
            "models": {"sft": first["models"]["sft"]},
            "mix": {"sft": MIX["policy"] + MIX["sft"], "off_topic": MIX["off_topic"]},
            "main": "sft",
        }
    return made


def judge(folder: Path, start: Path, arms: Sequence[str], prompts: int, samples: int) -> Golds:
    """The gold score of every policy's answers and SFT's to the same held-out prompts."""
    places = ["round-2/ppo", *(f"{arm}/ppo" for arm in arms), "round-1/ppo", "sft"]
    models = {one: start / "sft" if one == "sft" else folder / one for one in places}
    out = folder / "-".join(["compare", *arms])
    return golds_of(models, folder / "round-1", out, prompts, samples)


def golds_of(
    models: Mapping[str, Path], home: Path, out: Path, prompts: int, samples: int
) -> Golds:
    """The gold score of each model's answers to held-out prompts of the run `home`; kept in
    `out`.
    """
    if not (out / COMPARISON_FILE).is_file():
        named = tuple(str(model) for model in models.values())
        told = Settings(named, prompts_from=str(home), prompts=prompts, samples=samples)
        compare(told, home.parent, out)
    world = open_world(home / "world" / "final")
    asked = {key_of(prompt.messages): prompt for prompt in held_out_prompts(home)}
    scores, rows = {}, []
    for number, place in enumerate(models):
        answers = read_jsonl(out / f"answers-{number}.jsonl", Answer)
        found = [world.gold(asked[key_of(one.prompt)], one.response) for one in answers]
        scores[place] = np.array(found).reshape(-1, samples)
        rows = [json.dumps(key_of(one.prompt)) for one in answers[::samples]]
    return Golds(scores, rows)


def told(found: Any, form: str) -> str:
    value, low, high = found[:3]
    return f"{value:{form}}" + ("" if low is None else f" [{low:{form}}, {high:{form}}]")


def difference(seeds: Sequence[Golds], first: str, second: str) -> Estimate:
    """Of gold, paired by prompt; several seeds ask the same prompts, which stay the units."""
    a, b = (np.concatenate([one.scores[name] for one in seeds]) for name in (first, second))
    ids = np.repeat(np.concatenate([one.prompts for one in seeds]), a.shape[1])
    return paired_difference(a.reshape(-1), b.reshape(-1), ids)


def wins(seeds: Sequence[Golds], first: str, second: str) -> Any:
    """Win rate of the first model, every answer against every one to the same prompt."""
    met = [outcomes(one.scores[first], one.scores[second]) for one in seeds]
    ids = np.repeat(np.concatenate([one.prompts for one in seeds]), met[0][0].size)
    return judged_win_rate(np.concatenate(met).reshape(-1), ids)


def over_seeds(seeds: Sequence[Golds], first: str, second: str) -> Estimate:
    """What another seed would give: the seeds are the units."""
    gaps = [float((one.scores[first] - one.scores[second]).mean()) for one in seeds]
    return mean_with_interval(gaps, range(len(gaps)))


def models_table(folders: dict[int, Path], found: dict[int, Golds]) -> str:
    """Each model alone."""
    lines = ["| seed | model | rankings | gold | KL |", "|---|---|---|---|---|"]
    for seed, golds in found.items():
        for place, scores in golds.scores.items():
            ids = np.repeat(golds.prompts, scores.shape[1])
            gold = told(mean_with_interval(scores.reshape(-1), ids), ".2f")
            run = folders[seed] / place.split("/")[0]
            taught = drift = "-"
            if place.endswith("ppo"):
                taught = f"{rankings_of(run):,}"
                drift = f"{_record(run / 'ppo')['metrics']['kl']:.2f}"
            lines.append(f"| {seed} | {place} | {taught} | {gold} | {drift} |")
    return "\n".join(lines)


def pairs_table(found: dict[int, Golds]) -> str:
    """The last policy against each other one."""
    lines = ["| round-2/ppo against | seed | wins | difference in gold |", "|---|---|---|---|"]
    seeds, last = list(found.values()), "round-2/ppo"
    for other in [place for place in seeds[0].scores if place != last]:
        for name, some in [*((str(s), [one]) for s, one in found.items()), ("all", seeds)]:
            rate, gap = wins(some, last, other), difference(some, last, other)
            lines.append(f"| {other} | {name} | {told(rate, '.1%')} | {told(gap, '+.2f')} |")
        gap = told(over_seeds(seeds, last, other), "+.2f")
        lines.append(f"| {other} | over seeds | | {gap} |")
    return "\n".join(lines)


def rankings_of(run: Path) -> int:
    """How many taught the run's reward model."""
    data = _record(run / "reward")["data"]
    return sum(d["records"] for d in data if str(d["source"]).endswith("rankings.train.jsonl"))


def _record(stage: Path) -> dict[str, Any]:
    record = read_stage_file(stage / "final")
    assert record is not None, f"{stage} was just trained"
    return record


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--arms", nargs="+", choices=ARMS, default=["at-once"])
    parser.add_argument("--recipe", default="willowbrook")
    parser.add_argument("--set", action="append", default=[], metavar="a.b=c")
    parser.add_argument("--prompts", type=int, default=400)
    parser.add_argument("--samples", type=int, default=2)
    parser.add_argument("--out", type=Path, default=Path("runs/rounds"))
    options = parser.parse_args()
    folders, found = {}, {}
    sets = [*SETS, *options.set]
    start = train_start(options.recipe, sets, options.out)
    for seed in options.seeds:
        folder = train(options.recipe, sets, start, seed, options.arms, options.out)
        found[seed] = judge(folder, start, options.arms, options.prompts, options.samples)
        folders[seed] = folder
        print(models_table(folders, found), pairs_table(found), sep="\n\n", flush=True)


if __name__ == "__main__":
    main()
