"""`podium run`: every stage of a recipe in order, skipping what is up to date and going on where a
crash left off.

All stages share this one process: importing torch and transformers costs more than some stages, and
what a stage leaves behind is collected before the next one starts.
"""

import json
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from podium.errors import ParentError
from podium.metrics import metric_text
from podium.models import read_config
from podium.progress import say
from podium.rewards.folders import NO_REWARD, check_brings_head, is_reward_model
from podium.rewards.kinds import kind_of, parents, parts
from podium.run.fitting import check_memory
from podium.run.launch import opened_run, run_stage
from podium.run.lineage import STAGE_FILE, read_stage_file
from podium.run.parents import find_parent, is_hub_id, within_stage
from podium.run.recipe import Recipe
from podium.run.registry import is_stage, spec_of, split_arm

# Fields of `StageSpec.parents` that may name a folder which holds no model.
NO_MODELS = ("tokenizer", "rankings")


def run_chain(recipe: Recipe, runs_dir: Path, force: tuple[str, ...] = ()) -> Path:
    """Bring the whole run up to date; its folder.

    Raises:
        PodiumError: a stage could not run; what was finished before stays, and the same command
            goes on there.
    """
    chain = recipe.chain()
    check_parents(recipe, runs_dir / recipe.name)
    check_data(recipe, runs_dir / recipe.name)
    check_memory(recipe, chain, runs_dir / recipe.name)
    with opened_run(recipe, runs_dir) as run_dir:
        say(f"recipe '{recipe.name}': {len(chain)} stages, everything lies in {run_dir}")
        ran = [
            stage
            for number, stage in enumerate(chain, start=1)
            if _run_numbered(recipe, run_dir, stage, f"[{number}/{len(chain)}]", stage in force)
        ]
        if not ran:
            say(f"\nnothing to do: every stage of '{recipe.name}' is up to date")
        return run_dir


def _run_numbered(recipe: Recipe, run_dir: Path, stage: str, number: str, force: bool) -> bool:
    row, arm = split_arm(stage)
    reason = spec_of(stage).reason
    if arm is not None:
        reason += f", with {json.dumps(recipe.arms(row)[arm])}"
    say(f"\n{number} {stage}: {reason}")
    if not run_stage(recipe, stage, run_dir, force):
        say("  up to date, skipped")
        return False
    record = read_stage_file(run_dir / stage / "final") or {}
    tokens = f", {record['tokens']:,} tokens" if record.get("tokens") else ""
    say(f"  done in {record['wall_seconds']:.0f} s ({record['cpu_seconds']:.0f} s of CPU{tokens})")
    shown = [
        f"{name} {metric_text(value)}"
        for name, value in list(record["metrics"].items())[:6]
        if value is not None
    ]
    if shown:
        say(f"  {', '.join(shown)}")
    return True


def check_parents(recipe: Recipe, run_dir: Path, download: bool = True) -> None:
    """Find a mistyped parent before anything trains: each must be an earlier stage, a finished one,
    a path or a hub id.

    download: False takes a hub id for good, for a look at the recipe must not fetch gigabytes.

    Raises:
        ParentError: names the stage, the field and what would be right.
        FunctionError: a reward names a function that is not there.
    """
    chain = recipe.chain()
    for position, stage in enumerate(chain):
        config, spec = recipe.stage_config(stage), spec_of(stage)
        for field in spec.parents:
            for ref in _refs(getattr(config, field, None)):
                where = f"{stage}.{field}"
                _check_parent(ref, recipe, run_dir, position, where, download)
                if field not in NO_MODELS:
                    _check_is_model(ref, recipe, run_dir, where)
                if field == "model" and ref in chain and spec_of(ref).role == "reward":
                    raise ParentError(
                        f"{stage}.{field} names '{ref}', a reward model, which says nothing",
                        "name a language model: a stage such as sft, a folder or a hub id",
                    )
        for field in spec.rewards:
            for part in parts(getattr(config, field, None)):
                kind = kind_of(part.reward)
                if kind.parent is not None:
                    ref, where = kind.parent(part.reward), f"{stage}.{field}"
                    _check_parent(ref, recipe, run_dir, position, where, download)
                    _check_is_reward(ref, recipe, run_dir, where, download)
                if kind.check is not None:
                    kind.check(part.reward)
        if download and (headed := _headed_field(recipe, run_dir, stage)) is not None:
            _check_head(recipe, run_dir, stage, headed)


def check_data(recipe: Recipe, run_dir: Path) -> None:
    """Find a mistyped data file before anything trains. Once a stage is finished nothing is said:
    an output outlives the data that it was made from.

    Raises:
        DataError: names the file and what lies near it.
    """
    from data.readers import check_source

    if any((run_dir / stage / "final" / STAGE_FILE).is_file() for stage in recipe.chain()):
        return
    for kind in type(recipe.data).model_fields:
        sources = getattr(recipe.data, kind)
        for split in ("train", "validation", "test") if kind != "world" and sources else ():
            if (source := getattr(sources, split)) is not None:
                check_source(source)


def _check_is_model(ref: str, recipe: Recipe, run_dir: Path, where: str) -> None:
    """Whether a folder from outside the run holds a model: its weights are read when the stage
    begins, hours later.
    """
    if is_stage(within_stage(ref)[0]) or is_hub_id(ref):
        return
    with _named(where):
        read_config(find_parent(ref, recipe, run_dir))


def _headed_field(recipe: Recipe, run_dir: Path, stage: str) -> str | None:
    """The field of a stage's config that names the model which gets a scalar head: what a reward
    stage starts from, or a value model where no reward model of Podium's is its start.
    """
    config = recipe.stage_config(stage)
    if spec_of(stage).role == "reward":
        return "model"
    if not getattr(config, "has_critic", False):
        return None
    if config.value_model is not None:
        return "value_model"

    def own(ref: str) -> bool:
        folder = _folder_outside(ref, recipe, run_dir)
        return folder is None or is_reward_model(folder)

    return None if any(own(ref) for ref in parents(config.reward)) else "model"


def _folder_outside(ref: str, recipe: Recipe, run_dir: Path) -> Path | None:
    """The folder of a model from outside the run; None of a stage's."""
    if is_stage(within_stage(ref)[0]):
        return None
    return find_parent(ref, recipe, run_dir)


def _check_head(recipe: Recipe, run_dir: Path, stage: str, field: str) -> None:
    """Whether the family that a scalar head will be put on can carry one: otherwise the stages
    before it would train for nothing.
    """
    ref = getattr(recipe.stage_config(stage), field)
    while isinstance(ref, str) and ref in recipe.chain():
        if spec_of(ref).role == "reward":  # it has one, or was looked at itself
            return
        config = recipe.stage_config(ref)
        ref = getattr(config, "model", None) or getattr(config, "init_from", None)
    with _named(f"{stage}.{field}"):
        folder = _folder_outside(ref, recipe, run_dir) if isinstance(ref, str) else None
    if folder is not None and (folder / "config.json").is_file():
        from podium.rewards.model import check_scalar_head

        check_scalar_head(read_config(folder), f"{stage}.{field}")


def _check_is_reward(ref: str, recipe: Recipe, run_dir: Path, where: str, download: bool) -> None:
    """Whether what a reward names will score answers: a language model does not."""
    stage, inside = within_stage(ref)
    if is_stage(stage):
        if not inside and spec_of(stage).role != "reward":
            raise ParentError(f"{where} names '{ref}', which is no reward model", NO_REWARD)
    elif download or not is_hub_id(ref):
        with _named(where):
            folder = find_parent(ref, recipe, run_dir)
            if (folder / "config.json").is_file():
                check_brings_head(folder)


def _check_inside(whole: str, recipe: Recipe, where: str) -> None:
    """Whether a stage of the chain will leave the model that is named within it: a mistyped one is
    found missing only when the stages before it have trained.
    """
    stage, inside = within_stage(whole)
    if not inside or stage not in recipe.chain():
        return
    config, fix = recipe.stage_config(stage), f"name the stage itself: {stage}"
    if spec_of(stage).role == "reward":
        left = {f"members/{number}" for number in range(1, config.members)}
        left |= {"held_out"} if config.half == "split" else set()
        fix = (
            f"add `half: split` to the section `{stage}:`; it then learns from one half of the "
            f"prompts and leaves a model of the other half in {stage}/held_out"
        )
    else:
        left = {"value"} if getattr(config, "has_critic", False) else set()
    if inside in left:
        return
    if left:
        fix = f"it leaves {', '.join(f'{stage}/{name}' for name in sorted(left))}"
    raise ParentError(f"{where} names '{whole}', which the stage '{stage}' will not make", fix)


def _check_parent(
    ref: str, recipe: Recipe, run_dir: Path, position: int, where: str, download: bool
) -> None:
    """Whether the stage at `position` of the chain will find its parent; `where` names the field in
    errors.
    """
    if is_hub_id(ref) and not download:
        return
    _check_inside(ref, recipe, where)
    chain, whole = recipe.chain(), ref
    ref, _ = within_stage(ref)
    if ref in chain[:position] or (run_dir / ref / "final" / STAGE_FILE).is_file():
        return
    if not is_stage(ref) and Path(os.path.expandvars(ref)).expanduser().exists():
        # a stage's name is never a path: the checkout has folders of the same names
        return
    if ref in chain[position:]:
        raise ParentError(
            f"{where} names '{ref}', which runs after it", f"the order is {', '.join(chain)}"
        )
    with _named(where):
        find_parent(whole, recipe, run_dir)


@contextmanager
def _named(where: str) -> Iterator[None]:
    """What is wrong with a parent, told with the field that names it."""
    try:
        yield
    except ParentError as error:
        raise ParentError(f"{where}: {error.message}", error.fix) from error


def _refs(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, dict):
        for item in value.values():
            yield from _refs(item)
    elif isinstance(value, list | tuple):
        for item in value:
            yield from _refs(item)
