"""The loop shown in one command: serve, import, ten labelers rank, agreement, export, reward model.

The candidates are those of the run's `rankings` stage where it has one, else fresh samples of its
checkpoints. Training labelers rank training prompts, held-out labelers prompts of their own. The
reward model is trained in a run of its own beside the first, which borrows that run's parents, so
nothing of the first run changes.
"""

import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from app.labeling.collecting import ExportFilter, collect_rankings
from app.labeling.exporting import make_export
from app.labeling.importing import (
    Candidates,
    add_batch,
    read_candidates,
    rules_of,
    storable_candidates,
    stored_candidates,
)
from app.labeling.sampling import sample_candidates
from app.labeling.simulate import simulate
from app.labeling.site import Settings, Site, open_site
from app.labeling.terminal import print_agreement
from data.worlds import Labeler, open_world
from podium.errors import PodiumError
from podium.progress import progress_bar, say

PARENTS = ("world", "pretrain", "sft")


def demonstrate(
    run: Path, prompts: int, overlap: int, reward: bool, seed: int, folder: Path | None
) -> None:
    run = run.resolve()
    beside = run.with_name(f"{run.name}-labeled")
    folder = folder or beside / "labeling"
    if (folder / "labeling.sqlite").exists():
        raise PodiumError(f"{folder} already has a site", "give another --folder, or move it away")
    labelers = open_world(run / "world" / "final").labelers(seed)
    training, heldout = _candidates(run, prompts, seed)

    say("1. import")
    site = open_site(Settings(folder=folder))
    with site.database.write() as session:
        for name, cohort, records in (
            ("training", "train", training),
            ("held out", "heldout", heldout),
        ):
            if records:
                rules = rules_of(
                    {"name": name, "cohorts": [cohort], "overlap": overlap, "shuffle_seed": seed}
                )
                report = add_batch(session, rules, records, time.time())
                say(f"   batch '{name}': {report.tasks} tasks, {overlap} rankings wanted of each")

    say(f"2. {len(labelers)} labelers rank through the site's HTTP API")
    run_labelers(site, labelers, seed)

    say("3. agreement")
    with site.database.read() as session:
        print_agreement(collect_rankings(session, ExportFilter()))

    say("4. export")
    made = make_export(site.database, site.exports, "rankings", ExportFilter(), None, time.time())
    export = (site.exports / made.file).resolve()
    say(f"   {export}: {made.rows} rankings, sha256 {made.sha256[:12]}, data card beside it")
    site.database.close()

    if reward:
        say("5. reward model on the export")
        train_reward(run, beside, export)
    say(
        f"Look at the site yourself: podium label user add NAME --role admin --folder "
        f"{folder}, then "
        f"podium label serve --folder {folder}"
    )


def run_labelers(site: Site, labelers: Sequence[Labeler], seed: int) -> None:
    """All of them until no open task is left, with a progress bar of answers."""
    from app.labeling.application import create_site
    from app.labeling.progress import batch_progress
    from app.serving import serving

    with site.database.read() as session:
        candidates = stored_candidates(session)
        rows = [row for row in batch_progress(session) if row.state == "open"]
        wanted = sum(row.wanted - row.done for row in rows)
    begun = time.monotonic()
    with (
        serving(create_site(site)) as address,
        progress_bar(wanted, "rankings", unit="ranking") as bar,
    ):
        done = simulate(
            site,
            address,
            labelers,
            candidates,
            seed,
            told=lambda kind: bar.advance() if kind == "answered" else None,
        )
    say(
        f"   {done['answered']} rankings and {done['skipped']} skips in "
        f"{time.monotonic() - begun:.1f} s"
    )


def train_reward(run: Path, beside: Path, export: Path) -> None:
    """`podium reward` in the run `beside`, with the first run's world and models as parents."""
    for stage in PARENTS:
        place = beside / stage
        if (run / stage).is_dir() and not place.exists():
            place.parent.mkdir(parents=True, exist_ok=True)
            place.symlink_to(run / stage)
    command = [
        sys.executable,
        "-m",
        "podium.cli",
        "reward",
        "train",
        str(run / "recipe.yaml"),
        "--runs-dir",
        str(beside.parent),
        "--set",
        f"name={beside.name}",
        "--set",
        f"reward.rankings={export}",
    ]
    if subprocess.run(command, check=False).returncode:
        raise PodiumError("the reward stage failed; its message is above", " ".join(command[1:]))
    say(f"   reward model: {beside / 'reward' / 'final'}")


def _candidates(run: Path, prompts: int, seed: int) -> tuple[list[Candidates], list[Candidates]]:
    """(for training labelers, for held-out ones): other prompts each, a quarter as many for the
    latter.
    """
    kept = run / "rankings" / "final" / "candidates.jsonl"
    extra = max(prompts // 4, 1)
    if kept.is_file():
        records = storable_candidates(read_candidates(kept))
        training = [r for r in records if r.split != "validation"][:prompts]
        return training, [r for r in records if r.split == "validation"][:extra]
    say("0. sample candidates from the run's checkpoints")
    models = [name for name in ("sft", "pretrain") if (run / name / "final").is_dir()]
    records = sample_candidates(run, models, prompts + extra, 4, True, seed)
    return records[:prompts], records[prompts:]
