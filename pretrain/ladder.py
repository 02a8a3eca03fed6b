"""`podium fit FOLDER`: what the base models in a folder of runs say about scaling.

Reads stage.json of every `<run>/pretrain/final`. Runs are compared that were measured on the same
validation text with the same tokenizer; those that started from another model are set against those
from scratch (`pretrain.scaling.effective_tokens`).
"""

import json
import struct
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from podium.errors import PodiumError
from podium.run.lineage import read_stage_file
from podium.storage import write_json
from pretrain.scaling import (
    Effective,
    Fit,
    Point,
    compute_frontier,
    effective_tokens,
    fit_joint,
    fit_one,
    fit_transfer,
)

__all__ = ["Trained", "fit_runs", "in_words", "non_embedding", "read_runs"]

EMBEDDINGS = ("embed_tokens", "embed_positions", "lm_head", "wte", "wpe", "embed_in", "embed_out")
ENOUGH_RUNS = 4  # for a law in one quantity with a floor
TRUSTED = 3.0  # an exponent whose interval is wider than this factor is called not determined


@dataclass(frozen=True)
class Trained:
    """One base model. `text` tells what its loss was measured on; `epochs` how often its training
    text was read.
    """

    name: str
    point: Point
    text: str
    started_from: str | None
    epochs: float


def read_runs(folder: Path) -> list[Trained]:
    """The finished base models of a folder of runs, by name.

    Raises:
        PodiumError: there is none.
    """
    found = []
    for final in sorted(folder.glob("*/pretrain/final")):
        record = read_stage_file(final)
        loss = None if record is None else record["metrics"].get("validation_loss")
        if record is None or loss is None:
            continue
        files = [
            file["sha256"]
            for entry in record["data"]
            if entry["kind"] == "documents" and entry["split"] == "validation"
            for file in entry["files"]
        ]
        found.append(
            Trained(
                final.parent.parent.name,
                Point(float(non_embedding(final)), float(record["tokens"]), float(loss)),
                " ".join([*sorted(files), str(record["tokenizer_sha256"])]),
                record["config"].get("init_from"),
                float(record["metrics"].get("epochs") or 0.0),
            )
        )
    if not found:
        raise PodiumError(
            f"{folder} holds no finished base model",
            "give a folder of runs; python -m benchmarks.scaling FOLDER makes a ladder",
        )
    return found


def non_embedding(final: Path) -> int:
    """Parameters without embeddings and the output head, from the headers of the weights' files
    (Kaplan et al.: laws are cleaner without them).
    """
    total = 0
    for file in final.glob("*.safetensors"):
        with file.open("rb") as opened:
            (length,) = struct.unpack("<Q", opened.read(8))
            header = json.loads(opened.read(length))
        for name, tensor in header.items():
            if name != "__metadata__" and not any(part in name for part in EMBEDDINGS):
                size = 1
                for side in tensor["shape"]:
                    size *= side
                total += size
    return total


def fit_runs(folder: Path, seed: int = 0) -> dict[str, Any]:
    """Every law that the runs suffice for, and why not where they do not; fit.json."""
    runs = read_runs(folder)
    groups = Counter(run.text for run in runs if run.started_from is None)
    if not groups:
        raise PodiumError(
            f"every model in {folder} started from another one",
            "laws are fitted to models from scratch; add some",
        )
    text = groups.most_common(1)[0][0]
    scratch = [run.point for run in runs if run.text == text and run.started_from is None]
    most = fullest([p.tokens for p in scratch])
    largest = fullest([p.parameters for p in scratch])
    wide = [p for p in scratch if p.tokens == most]
    long = [p for p in scratch if p.parameters == largest]
    frontier = compute_frontier(scratch)
    worth = [
        one
        for group in groups
        for one in effective_tokens(
            [r.point for r in runs if r.text == group and r.started_from is not None],
            [r.point for r in runs if r.text == group and r.started_from is None],
        )
    ]
    laws = {
        "L(N, D)": lambda: fit_joint(scratch, seed),
        "L(N)": lambda: fit_one([p.parameters for p in wide], [p.loss for p in wide], seed=seed),
        "L(D)": lambda: fit_one([p.tokens for p in long], [p.loss for p in long], seed=seed),
        "L(C)": lambda: fit_one([p.flops for p in frontier], [p.loss for p in frontier], seed=seed),
        "D_T": lambda: fit_transfer(worth, seed),
    }
    found = {name: _law(fit) for name, fit in laws.items()}
    repeated = [r.name for r in runs if r.epochs > 1 and r.text == text]
    return {
        "runs": [r._asdict() | {"flops": r.flops} for r in scratch],
        "range": {
            "parameters": _ends([p.parameters for p in scratch]),
            "tokens": _ends([p.tokens for p in scratch]),
        },
        "L(N) at tokens": most,
        "L(D) at parameters": largest,
        "frontier": [p._asdict() | {"flops": p.flops} for p in frontier],
        "transfer": [one._asdict() for one in worth],
        "laws": found,
        "read more than once": repeated,
        "other text": sum(1 for r in runs if r.text != text),
    }


def fullest(values: Sequence[float]) -> float:
    """The largest value that enough runs have for a law in the other quantity; where none has, the
    one that most have. A lone larger run beside a ladder must not take its place.
    """
    counts = Counter(values)
    enough = [value for value, count in counts.items() if count >= ENOUGH_RUNS]
    return max(enough) if enough else max(counts, key=lambda value: (counts[value], value))


def _ends(values: Sequence[float]) -> list[float]:
    return [min(values), max(values)]


def _law(fit: Any) -> dict[str, Any]:
    try:
        found: Fit = fit()
    except PodiumError as error:
        return {"none": error.message}
    return asdict(found)


def fit_and_write(folder: Path, out: Path) -> dict[str, Any]:
    """Fit, and leave fit.json and fit.png in `out`."""
    from pretrain.ladder_plot import draw

    result = fit_runs(folder)
    out.mkdir(parents=True, exist_ok=True)
    write_json(out / "fit.json", result)
    draw(result, out / "fit.png")
    return result


def in_words(result: dict[str, Any]) -> str:
    """What `podium fit` prints: each law's numbers with their intervals, and how far they hold."""
    low, high = result["range"]["parameters"]
    least, most = result["range"]["tokens"]
    lines = [
        f"{len(result['runs'])} runs from scratch on one text: {low:,.0f} to {high:,.0f} "
        f"parameters without embeddings, {least:,.0f} to {most:,.0f} tokens"
    ]
    if result["read more than once"]:
        lines.append(
            f"{len(result['read more than once'])} of them read their text more than once: the "
            f"laws are of fresh tokens"
        )
    for name, law in result["laws"].items():
        lines.append(f"{name}: {law['none'] if 'none' in law else _numbers(law)}")
    known = [one for one in result["transfer"] if one["transferred"] is not None]
    for one in known:
        run = Effective(**one)
        lines.append(
            f"  {run.parameters:,.0f} parameters, {run.tokens:,.0f} tokens after other text: that "
            f"start was worth {run.transferred:,.0f} tokens"
        )
    lines.append(
        "Intervals are bootstrapped over the residuals of these runs. A law holds in the range of "
        "its runs; beyond it, it is a guess."
    )
    return "\n".join(lines)


def _numbers(law: dict[str, Any]) -> str:
    told: Sequence[str] = [
        f"{name} {value:.3g} [{law['intervals'][name][0]:.3g}, {law['intervals'][name][1]:.3g}]"
        for name, value in law["values"].items()
    ]
    loose = [
        name
        for name in ("alpha", "beta", "exponent", "a", "b")
        if name in law["values"] and _undetermined(law["intervals"][name])
    ]
    text = f"{', '.join(told)}; off by {law['residual']:.1%} on {law['runs']} runs"
    return text + (f"; NOT DETERMINED by them: {', '.join(loose)}" if loose else "")


def _undetermined(ends: tuple[float, float]) -> bool:
    low, high = ends
    return low <= 0 or high / low > TRUSTED
