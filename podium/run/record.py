"""What a finished stage says of itself: stage.json for programs, the model card for people."""

import math
import shlex
import sys
from datetime import datetime
from pathlib import Path
from typing import Any

from podium.metrics import metric_text
from podium.models import template_hash, tokenizer_hash
from podium.run.lineage import FORMAT_VERSION, code_revision, library_versions
from podium.run.registry import label_of
from podium.runtime import peak_memory

WATTS_PER_CORE, WATTS_PER_GPU = 10.0, 400.0


def stage_record(
    stage: str,
    folder: Path,
    inputs: dict[str, Any],
    facts: dict[str, Any],
    metrics: dict[str, float],
    tokens: int,
    costs: dict[str, float],
    processes: int,
) -> dict[str, Any]:
    """The content of stage.json.

    inputs: config, parents and data with their hashes. facts: seed, dtype, device, threads. costs:
    wall_seconds and cpu_seconds over all attempts. The energy is an estimate; its assumption stands
    beside it.
    """
    gpu_seconds = costs["wall_seconds"] * processes if facts["device"] == "cuda" else 0.0
    joules = WATTS_PER_CORE * costs["cpu_seconds"] + WATTS_PER_GPU * gpu_seconds
    return {
        "stage": stage,
        "format": FORMAT_VERSION,
        "finished": datetime.now().astimezone().isoformat(),
        **inputs,
        "command": shlex.join([Path(sys.argv[0]).name, *sys.argv[1:]]),
        "code_revision": code_revision(),
        "libraries": library_versions(),
        **facts,
        "processes": processes,
        "tokenizer_sha256": tokenizer_hash(folder),
        "template_sha256": template_hash(folder),
        "metrics": {
            name: (float(value) if math.isfinite(value) else None)
            for name, value in metrics.items()
        },
        "tokens": tokens,
        **costs,
        "peak_memory_bytes": peak_memory(),
        "energy_watt_hours": round(joules / 3600, 4),
        "energy_assumption": f"{WATTS_PER_CORE:.0f} W per busy CPU core, {WATTS_PER_GPU:.0f} W "
        f"per GPU",
    }


def model_card(card: str, record: dict[str, Any]) -> str:
    """README.md: the stage's own words, then how it was made; a model is called as everywhere."""
    label = label_of(record["stage"], record["config"])
    stage = f"`{record['stage']}`" + (f" ({label})" if label != record["stage"] else "")
    parents = ", ".join(f"`{p['ref']}` ({p['sha256'][:12]})" for p in record["parents"]) or "none"
    rows = "\n".join(
        f"| {name} | {metric_text(value)} |"
        for name, value in record["metrics"].items()
        if value is not None
    )
    by_hand = [
        f"{row['key']} from {row['was']} to {row['is']} after step {row['after_step']}"
        for row in record.get("amendments", [])
    ]
    changed = f"Changed by hand while it ran: {'; '.join(by_hand)}. " if by_hand else ""
    numbers = f"\n| metric | value |\n|---|---|\n{rows}\n" if rows else ""
    return (
        f"---\nlibrary_name: transformers\ntags: [podium, "
        f"{record['stage']}]\n---\n\n{card.strip()}\n\n"
        f"## How it was made\n\nStage {stage}, seed {record['seed']}, parents: "
        f"{parents}, "
        f"{record['tokens']:,} tokens, {record['wall_seconds']:.0f} s wall, "
        f"{record['cpu_seconds']:.0f} s CPU, about "
        f"{record['energy_watt_hours']} Wh ({record['energy_assumption']}). Command: "
        f"`{record['command']}`. "
        f"Code: {record['code_revision']}. {changed}Everything else is in stage.json.\n{numbers}"
    )
