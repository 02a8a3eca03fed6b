"""The run folders that are there: found by name, and what is finished in them."""

from pathlib import Path
from typing import Any

from podium.errors import PodiumError
from podium.run.lineage import STAGE_FILE, read_stage_file
from podium.run.parents import find_parent, is_hub_id
from podium.run.recipe import Recipe


def find_run(name: str, runs_dir: Path) -> Path:
    """A run's folder, by path or by name.

    Raises:
        PodiumError: there is none; lists the runs there are.
    """
    for folder in (Path(name), runs_dir / name):
        if (folder / "recipe.yaml").is_file():
            return folder
    runs = ", ".join(sorted(p.parent.name for p in runs_dir.glob("*/recipe.yaml"))) or "none yet"
    raise PodiumError(
        f"no run '{name}'", f"give its folder, or one of the runs in {runs_dir}: {runs}"
    )


def find_run_or_model(name: str, runs_dir: Path) -> Path:
    """A run's folder as `find_run` finds it; or a stage's folder or a model in Hugging Face layout,
    which are runs of one; or a model of the hub, fetched.

    Raises:
        PodiumError: there is none. ParentError: the hub does not give it.
    """
    models = (Path(name) / place / "config.json" for place in ("", "final"))
    if any(path.is_file() for path in models):
        return Path(name)
    if is_hub_id(name) and not (runs_dir / name).exists():
        return find_parent(name, Recipe(name="model"), Path())
    return find_run(name, runs_dir)


def finished_stages(run_dir: Path) -> dict[str, dict[str, Any]]:
    """stage.json of every finished stage of a run, in the order they finished."""
    records = {}
    for path in run_dir.glob(f"*/final/{STAGE_FILE}"):
        record = read_stage_file(path.parent)
        if record is not None:
            records[path.parent.parent.name] = record
    return dict(sorted(records.items(), key=lambda item: item[1]["finished"]))
