"""`podium iterate RECIPE --rounds R`: rankings of the newest policy's answers, a reward model from
all rounds' rankings, PPO again (Bai et al. 2022, section 4.5: iterated online RLHF).

A round is a run like any other, in a folder of its own, made by `podium run`'s own chain from a
recipe that this module writes: `round-1/` is the given recipe, `round-2/` names the models of the
rounds before it as parents. So lineage, skipping and going on after a kill are the chain's.

After each round all policies so far and the SFT model answer the same held-out prompts
(`evals.compare`): the world's gold score and Elo, and the score of the reward model of the other
half of the prompts, which PPO was not trained on.

What is left out: new prompts a round (each ranks answers to the recipe's), and human votes as the
judge; `podium label results` has those.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from evals.compare import COMPARISON_FILE, Settings, compare
from evals.verdicts import interval
from podium.errors import PodiumError, RecipeError
from podium.progress import say
from podium.run.chain import run_chain
from podium.run.recipe import Recipe, validate
from podium.run.registry import STAGES
from podium.storage import write_json, write_text

MADE_ONCE = ("pretrain", "sft", "rl_init")  # by the first round; later ones start from these
FIRST_ONLY = ("dpo", "dpo_arms", "ppo_arms", "evals")
# Shares of a later round's candidates: mostly the newest policy's, some of the one before and of
# the SFT model for diversity, and answers to other prompts, as in the first round.
MIX = {"policy": 0.5, "earlier": 0.15, "sft": 0.15, "off_topic": 0.2}
REPORT_FILE, PAGE_FILE = "rounds.json", "rounds.md"


@dataclass(frozen=True)
class Plan:
    """How rounds follow each other.

    Attributes:
        rounds: how many.
        decay: what the weight of a ranking is multiplied by for every round that has passed since;
            1 mixes all evenly, as Bai et al. do.
        start: PPO of a later round begins from the SFT model, as Bai et al. do, or from the last
            policy.
        people: each round's answers are ranked on the labeling site in place of the world's
            labelers.
        prompts, samples: of the comparison after each round.
    """

    rounds: int
    decay: float = 1.0
    start: Literal["sft", "policy"] = "sft"
    people: bool = False
    prompts: int = 200
    samples: int = 2


class AwaitsPeople(PodiumError):
    """A round's answers lie ready, and nobody has ranked them yet."""


def iterate(recipe: Recipe, plan: Plan, runs_dir: Path) -> Path:
    """Bring all rounds up to date; the folder that holds them, with rounds.json and rounds.md.

    Raises:
        RecipeError: the recipe has no rankings, reward model or PPO, or takes its rankings from a
            file, which no later policy could add to.
        AwaitsPeople: says which file to import into the site and where its export is looked for;
            the same command goes on then.
        PodiumError: a stage could not run; what was finished before stays.
    """
    _check(recipe, plan)
    folder = runs_dir / recipe.name
    folder.mkdir(parents=True, exist_ok=True)
    tree = recipe.model_dump(mode="json")
    for number in range(1, plan.rounds + 1):
        say(f"\n== round {number} of {plan.rounds} ==")
        made = round_tree(tree, plan, number, folder)
        if plan.people:
            made["data"] = made["data"] | {"rankings": _by_people(made, folder, number)}
        run_chain(validate(made, f"round {number}"), folder)
        _report(folder, plan, number)
    return folder


def round_tree(tree: Mapping[str, Any], plan: Plan, number: int, folder: Path) -> dict[str, Any]:
    """The recipe of a round, as a YAML tree; of a given recipe, plan and number always the same."""
    made = dict(tree) | {"name": f"round-{number}", "seed": tree["seed"] + number - 1}
    reward = dict(tree["reward"])
    if reward["half"] == "all":
        reward["half"] = "split"  # the other half's model judges what PPO was not trained on
    made["reward"] = reward
    if number == 1:
        return made
    first = {stage: _final(folder, 1, stage) for stage in MADE_ONCE if tree.get(stage)}
    for stage in (*MADE_ONCE, *FIRST_ONLY):
        made.pop(stage, None)
    newest, sft = _final(folder, number - 1, "ppo"), first.get("sft", tree["reward"]["model"])
    models = {"policy": newest, "sft": sft}
    if number > 2:
        models["earlier"] = _final(folder, number - 2, "ppo")
    mix = {name: share for name, share in MIX.items() if name in {*models, "off_topic"}}
    made["rankings"] = dict(tree["rankings"]) | {"models": models, "mix": mix, "main": "policy"}
    reward["rankings"] = [
        {
            "source": _final(folder, then, "rankings") if then < number else "rankings",
            "weight": plan.decay ** (number - then),
        }
        for then in range(1, number + 1)
    ]
    for row, spec in STAGES.items():
        if made.get(row) and row != "rankings":
            made[row] = dict(made[row])
            for field in spec.parents:
                value = made[row].get(field)
                if isinstance(value, str):
                    made[row][field] = first.get(value, value)
    if plan.start == "policy":
        made["ppo"]["model"] = newest
    return made


def _final(folder: Path, number: int, stage: str) -> str:
    return str((folder / f"round-{number}" / stage / "final").resolve())


def _check(recipe: Recipe, plan: Plan) -> None:
    for stage in ("rankings", "reward", "ppo"):
        if recipe.stage_config(stage) is None:
            raise RecipeError(
                f"recipe '{recipe.name}' has no section '{stage}:', which a round is made of",
                f"add `{stage}: {{}}`, or start from a file in recipes/",
            )
    if recipe.data.rankings is not None:
        raise RecipeError(
            f"recipe '{recipe.name}': data.rankings is a file, and a later round ranks answers "
            "that no file has yet",
            "leave it out; with people as labelers say --labelers site",
        )
    ranked_by_a_reward = recipe.stage_config("rankings").reward is not None
    if recipe.data.world is None and not plan.people and not ranked_by_a_reward:
        raise RecipeError(
            f"recipe '{recipe.name}' has no world whose labelers could rank",
            "say --labelers site, or give rankings.reward",
        )


def _by_people(made: dict[str, Any], folder: Path, number: int) -> dict[str, Any]:
    """The rankings of a round by people; AwaitsPeople where they have not made them yet.

    The candidates are sampled in a run beside the round's, so that the round itself holds nothing
    but what people said.
    """
    answers = folder / f"round-{number}.rankings.jsonl"
    if answers.is_file():
        return {"train": str(answers.resolve())}
    kept = ("world", "rankings") if number > 1 else ("world", *MADE_ONCE, "rankings")
    drop = {row for stage in STAGES if stage not in kept for row in (stage, f"{stage}_arms")}
    asked = {key: value for key, value in made.items() if key not in drop}
    asked["name"] = f"round-{number}-candidates"
    place = folder / asked["name"] / "rankings"
    try:
        run_chain(validate(asked, f"candidates of round {number}"), folder)
        candidates = place / "final" / "candidates.jsonl"
    except PodiumError:
        # without a world the stage ends here by itself, with the candidates written
        candidates = place / "candidates.jsonl"
        if not candidates.is_file():
            raise
    raise AwaitsPeople(
        f"round {number} waits for people: {candidates} holds the answers to rank",
        f"podium label import {candidates}; once they are ranked, podium label export, and copy "
        f"the file that it names to {answers}; then give this command again",
    )


def _report(folder: Path, plan: Plan, number: int) -> None:
    """What every policy so far is worth, written as JSON and as a page."""
    first = folder / "round-1"
    base = first / "sft" if (first / "sft").is_dir() else None
    policies = [folder / f"round-{then}" / "ppo" for then in range(1, number + 1)]
    models = [str(path) for path in (base, *policies) if path is not None]
    if len(models) < 2:
        return
    newest = folder / f"round-{number}"
    judges: dict[str, Any] = {"held_out": str(newest / "reward" / "final" / "held_out")}
    if (newest / "world").is_dir():
        judges["gold"] = None
    found = {}
    for name, judge in judges.items():
        out = folder / f"compare-{number}-{name.replace('_', '-')}"
        told = Settings(tuple(models), prompts=plan.prompts, samples=plan.samples, judge=judge)
        found[name] = compare(told, folder, out)
    write_json(folder / REPORT_FILE, {"rounds": number, "judges": found})
    page = _page(found, number)
    write_text(folder / PAGE_FILE, page)
    say(page)


def _page(found: Mapping[str, Mapping[str, Any]], number: int) -> str:
    """A table a judge: score and Elo of each model, with 95 % intervals over prompts."""
    lines = [f"# After round {number}"]
    for name, result in found.items():
        lines += ["", f"## {result['judge']}", ""]
        if name == "held_out":
            lines += ["Trained on the other half of the prompts; no policy was trained on it.", ""]
        lines += ["| model | score | Elo |", "| --- | --- | --- |"]
        for model in result["models"]:
            place = Path(model["name"])
            rating = result["elo"].get(model["name"])
            lines.append(
                f"| {place.parent.name} {place.name} | {interval(model['score'], '.2f')} | "
                f"{interval(rating, '+.0f') if rating else '-'} |"
            )
    return "\n".join(lines) + f"\n\nFrom {COMPARISON_FILE} of compare-{number}-*.\n"
