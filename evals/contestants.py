"""The models of a comparison: found by name, with the run that each belongs to and the rewards that
it was trained on.

A contestant is a run (its tuned policy, else its SFT model), a stage of a run (`runs/mine/sft`), a
model folder, or a hub id.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from podium.errors import PodiumError
from podium.rewards.function import load_function
from podium.rewards.kinds import KINDS, kind_of, name_of, parts
from podium.rewards.specs import Ref, RewardSpec
from podium.run.folders import finished_stages
from podium.run.lineage import hash_folder, read_stage_file
from podium.run.parents import find_parent
from podium.run.recipe import Recipe, load_recipe
from podium.run.registry import Role, rows_with, spec_of, split_arm
from podium.storage import hash_file

# Of a run the policy is compared; where it has none yet, the newest model that there is.
PREFERRED: tuple[Role, ...] = ("policy", "demonstrated", "start", "base")


@dataclass(frozen=True)
class Contestant:
    """One model. `run` is the folder of the run it was made in; None for a model from elsewhere."""

    name: str
    folder: Path
    run: Path | None

    @property
    def recipe(self) -> Recipe:
        """Of its run; an empty one without."""
        return Recipe(name="model") if self.run is None else load_recipe(self.run / "recipe.yaml")


def find_contestant(ref: str, runs_dir: Path) -> Contestant:
    """The model that a name means.

    Raises:
        PodiumError: a run without a finished model. ParentError: no such model.
    """
    for place in (Path(ref), runs_dir / ref):
        if (place / "recipe.yaml").is_file():
            return Contestant(ref, place / model_of(place) / "final", place)
        if (place.parent / "recipe.yaml").is_file() and place.name:
            run = place.parent
            recipe = load_recipe(run / "recipe.yaml")
            return Contestant(ref, find_parent(place.name, recipe, run), run)
    folder = find_parent(ref, Recipe(name="compare"), Path())
    run = folder.parent.parent
    return Contestant(ref, folder, run if (run / "recipe.yaml").is_file() else None)


def model_of(run: Path) -> str:
    """The stage of a run whose model stands for it: the first policy that is finished, else SFT's.

    Raises:
        PodiumError: none is finished.
    """
    finished = list(finished_stages(run))
    for role in PREFERRED:
        found = [stage for stage in finished if split_arm(stage)[0] in rows_with(role)]
        if found:
            return min(found, key=lambda stage: split_arm(stage)[1] is not None)
    raise PodiumError(f"{run} has no finished model", f"make one: podium run {run / 'recipe.yaml'}")


def optimised_rewards(folder: Path) -> set[str]:
    """The identities (as `identities`) of the rewards that a model, or one that it was made from,
    was trained or chosen by; those that ranked answers for its reward model are among them. Empty
    for a model that no run made.
    """
    record = read_stage_file(folder)
    if record is None or record["stage"] == "world":
        return set()
    spec = spec_of(record["stage"])
    sums = [record["config"].get(field) for field in spec.rewards if spec.role != "report"]
    refs = [part.reward for reward in sums for part in parts(_spec(reward))]
    found = {_recorded(ref, record) for ref in refs}
    run = folder.parent.parent
    for parent in record["parents"]:
        found |= optimised_rewards((run / parent["path"]).resolve())
    return found


def identities(reward: RewardSpec, recipe: Recipe, run: Path) -> set[str]:
    """The identity of each part of a reward: what its weights or its code are, not how it is
    called, so that a copy under another name is known again.
    """
    return set(_identities(reward, recipe, run))


def _identities(reward: RewardSpec, recipe: Recipe, run: Path) -> Iterator[str]:
    for part in parts(reward):
        kind = kind_of(part.reward)
        if kind.parent is not None:
            yield hash_folder(find_parent(kind.parent(part.reward), recipe, run))
        elif kind is KINDS["function"]:
            text = str(part.reward)
            yield _function(text, hash_file(load_function(text)[1]))
        else:
            yield name_of(part.reward)


def _recorded(ref: Ref, record: dict[str, Any]) -> str:
    """As `identities`, from what stage.json noted when the reward was used."""
    kind = kind_of(ref)
    if kind.parent is not None:
        hashes = {parent["ref"]: parent["sha256"] for parent in record["parents"]}
        return str(hashes.get(kind.parent(ref), name_of(ref)))
    if kind is KINDS["function"]:
        file = Path(str(ref).partition(":")[0]).name
        codes = [c["sha256"] for c in record.get("code", []) if Path(c["path"]).name == file]
        return _function(str(ref), codes[0] if codes else "")
    return name_of(ref)


def _function(text: str, sha256: str) -> str:
    return f"{text.rpartition(':')[2]} in {sha256 or text}"


def _spec(value: Any) -> RewardSpec | None:
    return None if value is None else TypeAdapter(RewardSpec).validate_python(value)
