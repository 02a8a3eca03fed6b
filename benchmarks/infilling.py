"""GLM's blank infilling on the village: does a model fill blanks above chance, is the text after a
blank of use, and what does it cost as a language model?

    python -m benchmarks.infilling                     # some twenty minutes of one core
    python -m benchmarks.infilling --arms causal all short --seeds 0

Each seed trains the same small LLaMA on equal tokens: causally, with blanks in half of the windows
(the default), in all of them, as GLM, or with short blanks alone in half. A seed is that of the
weights and of the order; the village is one.

What is asked is the same everywhere: in each held-out document one span of Poisson's length at a
chance place, token by token, with the span's earlier tokens shown. An answer is the likeliest
token. A model is asked in the ways that it learned:

    both       the text before and after the blank, behind [MASK]
    cut        the same with the text after the blank taken away
    before     the text before it alone, behind [gMASK], which is how it learned to go on
    causal     the text before it alone, read causally

Chance is the training documents' most frequent token. Intervals are over seeds.
docs/lab/infilling.md tells what came out.
"""

import argparse
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from transformers import PreTrainedTokenizerBase

from benchmarks.starts import final, record_of, told_over_seeds
from data.jsonl import read_jsonl
from data.packing import encode_documents
from data.records import Document
from data.special_tokens import document_separator_id
from data.worlds import Config as WorldConfig
from data.worlds import write_world
from podium.models import load_causal_lm, load_tokenizer
from podium.run.chain import run_chain
from podium.run.recipe import validate
from pretrain.blanks import (
    IDS,
    ORDER,
    Blank,
    Infilling,
    SentinelIds,
    causal_row,
    document_row,
    spans_among,
)
from pretrain.infilling import add_sentinels, call_inputs

ARMS: dict[str, dict[str, float] | None] = {
    "causal": None,
    "half": {},
    "all": {"share": 1.0},
    "short": {"short": 1.0},
}
BLANKS = ("both", "cut", "before")
WAYS = {
    "causal": ("causal",),
    "half": (*BLANKS, "causal"),
    "all": BLANKS,
    "short": ("both", "cut", "causal"),
}
CONTEXT = 160


def train(out: Path, arm: str, seed: int, tokens: int, tokenizer: Path | None) -> Path:
    """Train one model, or take the one that is there; its run folder."""
    data = out / "data"
    tree = {
        "name": f"{arm}-{seed}",
        "seed": seed,
        "threads": 1,
        "data": {
            "documents": {
                split: str((data / f"documents.{split}.jsonl").resolve())
                for split in ("train", "validation")
            }
        },
        "pretrain": {
            "infilling": ARMS[arm],
            "tokenizer": str(tokenizer) if tokenizer else None,
            "context": CONTEXT,
            "tokens": tokens,
            "warmup_tokens": min(50_000, tokens // 10),
            "eval_steps": 10**6,
            "save_steps": 10**6,
        },
    }
    return run_chain(validate(tree, "benchmarks.infilling"), out)


def asked_of(documents: Sequence[np.ndarray]) -> list[Blank]:
    """One blank in each document, of Poisson's length at a chance place."""
    rng = np.random.default_rng(0)
    mean = Infilling().mean_span
    return [spans_among(len(ids) - 1, 1, mean, rng)[0] for ids in documents]


def row_of(way: str, ids: np.ndarray, blank: Blank, sentinels: SentinelIds) -> np.ndarray:
    """(5, L): the document as it is read with its blank, asked in one of the ways."""
    end = blank[1]
    if way == "both":
        return document_row(ids, [blank], sentinels.mask, sentinels, told=[0])
    if way == "cut":
        return document_row(ids[:end], [blank], sentinels.mask, sentinels, told=[0])
    if way == "before":
        return document_row(ids[:end], [blank], sentinels.suffix_mask, sentinels, told=[0])
    return causal_row(ids[:end], int(ids[0]))


def states_that_answer(way: str, row: np.ndarray, blank: Blank) -> np.ndarray:
    """Where in the row the state lies that predicts each of the span's tokens."""
    start = blank[0] if way == "causal" else int(np.flatnonzero(row[ORDER])[0]) + 1
    return np.arange(start, start + blank[1] - blank[0]) - 1


@torch.no_grad()
def accuracy(folder: Path, way: str, documents: Sequence[np.ndarray]) -> float:
    """The share of all blanks' tokens that the model's likeliest token is."""
    model, sentinels = load_causal_lm(folder), sentinels_of(load_tokenizer(folder), way)
    right = asked = 0
    for ids, blank in zip(documents, asked_of(documents), strict=True):
        row = row_of(way, ids, blank, sentinels)
        logits = model(**call_inputs(torch.from_numpy(row)[None])).logits[0]
        at = states_that_answer(way, row, blank)
        wanted = torch.from_numpy(row[IDS, at + 1])
        right += int((logits[at].argmax(-1) == wanted).sum())
        asked += len(at)
    return right / asked


def sentinels_of(tokenizer: PreTrainedTokenizerBase, way: str) -> SentinelIds:
    """A model that is asked causally need not have them."""
    return add_sentinels(tokenizer) if way != "causal" else SentinelIds(-1, -1, -1, -1)


def documents_of(out: Path, split: str, tokenizer: PreTrainedTokenizerBase) -> list[np.ndarray]:
    """Each document's ids with the separator before them, cut so that a row with a blank fits."""
    texts = [one.text for one in read_jsonl(out / "data" / f"documents.{split}.jsonl", Document)]
    separator = np.asarray([document_separator_id(tokenizer)], dtype=np.int32)
    whole = [np.concatenate([separator, ids]) for ids in encode_documents(tokenizer, texts)]
    return [ids[: CONTEXT - 3] for ids in whole if len(ids) > 1]


def chance(out: Path, tokenizer: PreTrainedTokenizerBase, held_out: Sequence[np.ndarray]) -> float:
    """The share of the blanks' tokens that the training documents' most frequent token is."""
    counts: Counter[int] = Counter()
    for ids in documents_of(out, "train", tokenizer):
        counts.update(ids[1:].tolist())
    favourite = counts.most_common(1)[0][0]
    spans = [ids[first:end] for ids, (first, end) in zip(held_out, asked_of(held_out), strict=True)]
    return float((np.concatenate(spans) == favourite).mean())


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", choices=list(ARMS), nargs="+", default=["causal", "half"])
    parser.add_argument("--tokens", type=int, default=300_000)
    parser.add_argument("--out", type=Path, default=Path("runs/infilling"))
    options = parser.parse_args()
    if not (options.out / "data" / "documents.validation.jsonl").is_file():
        write_world(WorldConfig(), options.out / "data")
    found: dict[str, list[float]] = {}
    tokenizer: Path | None = None

    def note(name: str, value: float) -> None:
        found.setdefault(name, []).append(value)
        print(f"seed {seed}: {name} {value:.4f}", flush=True)

    def differ(one: str, other: str) -> None:
        if one in found and other in found:
            pairs = zip(found[one], found[other], strict=True)
            found[f"{one} - {other}"] = [a - b for a, b in pairs]

    for seed in options.seeds:
        for arm in options.arms:
            run = train(options.out, arm, seed, options.tokens, tokenizer)
            folder = final(run, "pretrain")
            tokenizer = tokenizer or folder  # the first run's: all read the same ids
            held_out = documents_of(options.out, "validation", load_tokenizer(tokenizer))
            note(f"loss, {arm}", record_of(run, "pretrain")["metrics"]["validation_loss"])
            for way in WAYS[arm]:
                note(f"right, {arm}, {way}", accuracy(folder, way, held_out))
    for arm in set(options.arms) - {"causal"}:
        differ(f"loss, {arm}", "loss, causal")
        differ(f"right, {arm}, both", f"right, {arm}, cut")
        differ(f"right, {arm}, both", f"right, {arm}, before")
        differ(f"right, {arm}, both", "right, causal, causal")
    print(f"chance: {chance(options.out, load_tokenizer(str(tokenizer)), held_out):.4f}")
    for name, values in found.items():
        print(f"{name:<46} {told_over_seeds(values, '.4f')}")


if __name__ == "__main__":
    main()
