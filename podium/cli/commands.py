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


def score_file(reward: str, file: Path, out: Path | None) -> Path:
    """Scores for every answer in a JSONL file, written beside it unless `out` says where."""
    from podium.run.recipe import validate_reward
    from reward.score_file import score_file as score

    quieten_libraries()
    out = out or file.with_suffix(".scored.jsonl")
    score(validate_reward(reward, "REWARD"), file, out)
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


def print_plan(
    flops: float | None,
    gpu_hours: float | None,
    card: str,
    mfu: float,
    cards: int,
    as_json: bool,
) -> None:
    """What a budget of pretraining buys, by two laws. One of `flops` and `gpu_hours` is given.

    Raises:
        PodiumError: both or neither, or a budget that is none.
    """
    from dataclasses import asdict

    from podium.errors import PodiumError
    from pretrain.planning import CARDS, chinchilla, cost, kaplan, nearest

    if (flops is None) == (gpu_hours is None):
        raise PodiumError(
            "a budget is operations or card hours", "--flops 1e21, or --gpu-hours 500"
        )
    if flops is None:
        cost(1.0, card, mfu)  # an unknown card or share is told before it is used
        flops = (gpu_hours or 0) * 3600 * CARDS[card].flops * mfu
    if not flops > 0:
        raise PodiumError(f"a budget of {flops:g} operations buys nothing", "give a positive one")
    spent = cost(flops, card, mfu)
    plans = [kaplan(flops), chinchilla(flops)]
    days = spent.card_hours / cards / 24
    if as_json:
        rows = [asdict(plan) | {"steps": plan.steps} for plan in plans]
        print(json.dumps({"flops": flops, "days": days, **asdict(spent), "plans": rows}, indent=2))
        return
    say(f"{flops:.3g} operations ({flops / 8.64e19:.3g} petaflop-days)")
    say(
        f"{spent.card_hours:,.1f} hours of one {card} at {mfu:.0%} of its peak, {days:,.2f} days "
        f"of {cards}; {spent.kilowatt_hours:,.1f} kWh, {spent.kilograms:,.1f} kg CO2"
    )
    for plan in plans:
        say(
            f"{plan.law:<11} {plan.parameters:,.3g} parameters, {plan.tokens:,.3g} tokens "
            f"({plan.tokens / plan.parameters:.3g} a parameter), {plan.steps:,.0f} updates of "
            f"{plan.batch_tokens:,.3g}; nearest preset {nearest(plan.parameters)}"
            + (f"; beyond its range: {plan.outside}" if plan.outside else "")
        )
    say(
        "Kaplan's law favours large models on few tokens; Chinchilla's is what was confirmed "
        "since. Who serves a model for long trains a smaller one on more tokens than either says, "
        "as LLaMA was."
    )


def print_memory(
    recipe: Recipe,
    run_dir: Path,
    processes: int,
    memory: float | None,
    on_gpu: bool | None,
    shape: str | None,
    as_json: bool,
) -> None:
    """The plan of `podium plan memory`; `memory` in GB."""
    import torch

    from podium.runtime import resolve_dtype
    from pretrain.plans import Place, in_words, plan_memory

    quieten_libraries()
    gpu = torch.cuda.is_available() if on_gpu is None else on_gpu
    dtype = "bf16" if gpu and recipe.dtype == "auto" else resolve_dtype(recipe.dtype)
    place = Place(recipe, run_dir, processes, gpu, dtype, shape)
    found = list(plan_memory(place))
    if as_json:
        print(json.dumps({m.stage: m.parts | {"total": m.total} for m in found}, indent=2))
        return
    say(in_words(found, place, None if memory is None else int(memory * 1e9)))
