"""What the smaller commands do once their arguments are read; each imports what it needs when it
runs.
"""

import json
from pathlib import Path

from podium.progress import quieten_libraries, say
from podium.run.folders import finished_stages
from podium.run.lineage import STAGE_FILE, read_stage_file
from podium.run.recipe import Recipe


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
            f"{stage:<12} {record['wall_seconds']:7,.0f} s wall {record['cpu_seconds']:7,.0f} s CPU"
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
    from podium.run.parents import find_parent
    from reward.score_file import score_file as score

    quieten_libraries()
    out = out or file.with_suffix(".scored.jsonl")
    score(find_parent(model, Recipe(name="score"), Path()), file, out)
    return out


def print_outcome(run_dir: Path, chain: list[str]) -> None:
    """After a run: the report's table, every stage's time and folder, and what to do next."""
    say("")
    if (run_dir / "evals" / "final" / STAGE_FILE).is_file():
        from evals import report

        report.render(run_dir)
    records = {stage: read_stage_file(run_dir / stage / "final") or {} for stage in chain}
    for stage, record in records.items():
        say(f"  {stage:<12} {record.get('wall_seconds', 0):7.0f} s  {run_dir / stage / 'final'}")
    wall = sum(record.get("wall_seconds", 0) for record in records.values())
    cpu = sum(record.get("cpu_seconds", 0) for record in records.values())
    say(f"  {'all stages':<12} {wall:7.0f} s  ({cpu:.0f} s of CPU)")
    say(f"\ntalk to it: podium chat {run_dir}")
