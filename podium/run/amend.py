"""Changing a run that is under way, on record: `podium resume RUN --with ppo.learning_rate=1e-5`.

OPT's authors changed learning rate and clipping of a running model dozens of times and published
the logbook (Zhang et al. 2022, section 2.5 and appendix). A changed recipe makes a stage anew
otherwise; here its newest checkpoint is told of the change, and goes on. What may change is what
the next update alone decides (`StageSpec.amendable`): a batch size, say, would give the updates
that are done another meaning.
"""

import json
from collections.abc import Sequence
from datetime import datetime
from pathlib import Path
from typing import Any

from podium.errors import RecipeError
from podium.run.context import (
    AMENDMENTS_FILE,
    CHECKPOINT_FILE,
    checkpoint_record,
    checkpoints_of,
)
from podium.run.lineage import completed, fingerprint, read_stage_file
from podium.run.recipe import Recipe, dump_recipe, load_recipe
from podium.run.registry import spec_of
from podium.storage import lock, write_json, write_text, writing

__all__ = ["amend", "note"]


def amend(run_dir: Path, sets: Sequence[str]) -> Recipe:
    """The recipe of a run with `sets` changed in it, and the run's files told of it.

    The recipe is written first, and what a checkpoint was made with is compared with it, so that
    the same command finishes what a kill left half told.

    Raises:
        RecipeError: a stage that is finished would change, or a key that an update under way cannot
            change. Nothing is written then.
    """
    file = run_dir / "recipe.yaml"
    recipe = load_recipe(file, sets)
    with lock(run_dir):
        changed = {name: _changes(recipe, name, run_dir) for name in recipe.chain()}
        write_text(file, dump_recipe(recipe))
        for name, rows in changed.items():
            if rows:
                _tell(run_dir / name, fingerprint(recipe, name), rows)
    return recipe


def note(run_dir: Path, text: str) -> Path:
    """Add a dated line to the run's logbook; returns its file."""
    book = run_dir / "logbook.md"
    with writing(run_dir), book.open("a", encoding="utf-8") as file:
        file.write(
            f"- {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z} {' '.join(text.split())}\n"
        )
    return book


def _changes(recipe: Recipe, name: str, run_dir: Path) -> list[dict[str, Any]]:
    """What a stage under way was begun with and what the recipe says, a row for each key that
    differs; empty where it has not begun.
    """
    finished = read_stage_file(run_dir / name / "final")
    record = finished or checkpoint_record(run_dir / name)
    if record is None:
        return []
    old = _flat(completed(record["config"], recipe.stage_config(name)))
    new = _flat(fingerprint(recipe, name))
    rows: list[dict[str, Any]] = [
        {"key": key, "was": old.get(key), "is": new.get(key)}
        for key in sorted(old.keys() | new.keys())
        if old.get(key) != new.get(key)
    ]
    if rows and finished:
        raise RecipeError(
            f"the stage '{name}' is finished, and its {rows[0]['key']} would change",
            f"to make it anew: podium run {run_dir / 'recipe.yaml'} --set ...",
        )
    allowed = spec_of(name).amendable
    for row in rows:
        if not any(row["key"] == key or row["key"].startswith(f"{key}.") for key in allowed):
            raise RecipeError(
                f"{name}.{row['key']} cannot change in a run that is under way",
                f"these can: {', '.join(allowed) or 'none of this stage'}; with another value the "
                f"stage is made anew by podium run {run_dir / 'recipe.yaml'} --set ...",
            )
    return rows


def _flat(tree: dict[str, Any], prefix: str = "") -> dict[str, Any]:
    found: dict[str, Any] = {}
    for key, value in tree.items():
        if isinstance(value, dict):
            found |= _flat(value, f"{prefix}{key}.")
        else:
            found[f"{prefix}{key}"] = value
    return found


def _tell(stage_dir: Path, config: dict[str, Any], rows: list[dict[str, Any]]) -> None:
    """First the record of what changed, then the checkpoints: a kill in between tells twice, which
    is seen, and never hides a change.
    """
    checkpoints = checkpoints_of(stage_dir)
    step = int(checkpoints[-1].name)
    path = stage_dir / AMENDMENTS_FILE
    known = json.loads(path.read_text()) if path.is_file() else []
    write_json(path, [*known, *({"after_step": step, **row} for row in rows)])
    said = ", ".join(f"{r['key']} {json.dumps(r['was'])} -> {json.dumps(r['is'])}" for r in rows)
    with writing(stage_dir), (stage_dir / "logbook.md").open("a", encoding="utf-8") as file:
        now = datetime.now().astimezone()
        file.write(f"- {now:%Y-%m-%d %H:%M:%S %z} changed by hand after step {step}: {said}\n")
    for folder in checkpoints:
        state = json.loads((folder / CHECKPOINT_FILE).read_text())
        write_json(folder / CHECKPOINT_FILE, state | {"config": config})
