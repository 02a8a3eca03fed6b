"""What the smaller commands do once their arguments are read; each imports what it needs when it
runs.
"""

import json
from pathlib import Path
from typing import Any

from podium.errors import PodiumError
from podium.lineage import STAGE_FILE, read_stage_file
from podium.progress import quieten_libraries, say
from podium.recipe import Recipe


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


def finished_stages(run_dir: Path) -> dict[str, dict[str, Any]]:
    """stage.json of every finished stage of a run, in the order they finished."""
    records = {}
    for path in run_dir.glob(f"*/final/{STAGE_FILE}"):
        record = read_stage_file(path.parent)
        if record is not None:
            records[path.parent.parent.name] = record
    return dict(sorted(records.items(), key=lambda item: item[1]["finished"]))


def show_run(run_dir: Path, as_json: bool) -> None:
    """The report's table, the stages with their cost and parents, and where the pictures lie."""
    from evals import report

    if as_json:
        print(json.dumps(report.table(run_dir), indent=2))
        return
    records = finished_stages(run_dir)
    if "evals" in records:
        report.render(run_dir)
    for stage, record in records.items():
        parents = (
            ", ".join(f"{p['ref']} {p['sha256'][:8]}" for p in record["parents"]) or "no parents"
        )
        say(
            f"{stage:<12} {record['wall_seconds']:7.0f} s wall {record['cpu_seconds']:7.0f} s CPU"
            f"  from {parents}  seed {record['seed']}  {run_dir / stage / 'final'}"
        )
    if "evals" not in records:
        say(f"{run_dir}: not finished; podium run {run_dir / 'recipe.yaml'} goes on")
    for picture in sorted(run_dir.glob("evals/final/**/*.png")):
        say(f"picture: {picture}")


def score_file(model: str, file: Path, out: Path | None) -> Path:
    """Reward-model scores for every answer in a JSONL file, written beside it unless `out` says
    where.
    """
    from podium.parents import find_parent
    from reward.score import score_file as score

    quieten_libraries()
    out = out or file.with_suffix(".scored.jsonl")
    score(find_parent(model, Recipe(name="score"), Path()), file, out)
    return out
