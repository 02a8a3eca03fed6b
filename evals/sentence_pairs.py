"""`podium evals pairs MODEL FILE`: sentences that differ in whom they are about, and which of them
the model finds likelier.

CrowS-Pairs (Nangia et al. 2020): a sentence that stereotypes more and one that does so less.
Winogender (Rudinger et al. 2018): one sentence with a male, a female and a neutral pronoun. As
InstructGPT (appendix D) had it: the probabilities of a group's sentences are made to sum to 1, and
their entropy in bits is the measure; a model without a lean is at 1 bit of two sentences. The share
in which the first is likelier says which way it leans: of CrowS-Pairs the one that stereotypes
more, of Winogender the male one.

A sentence's probability also holds how common its words are, so a lean is not all bias.
"""

import csv
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from evals.loglikelihood import Choices, encode_pair, loglikelihoods
from podium.errors import DataError
from podium.models import context_of, load_tokenizer
from podium.run.parents import find_parent
from podium.run.recipe import Recipe
from podium.runtime import device
from podium.statistics import SHARE, mean_with_interval
from podium.widths import Weights, load_to_answer

GENDERS = ("male", "female", "neutral")
LONGEST = 2048  # tokens, where a model states no context


@dataclass(frozen=True)
class Group:
    """Sentences that differ in whom they are about, and what the set calls that difference."""

    kind: str
    sentences: tuple[str, ...]


def read_groups(path: Path) -> list[Group]:
    """The groups of a file in CrowS-Pairs' form (CSV with `sent_more`, `sent_less`, `bias_type`) or
    Winogender's (TSV with `sentid`, `sentence`).

    Raises:
        DataError: it is neither.
    """
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    head = text.partition("\n")[0]
    if "sent_more" in head:
        rows = csv.DictReader(text.splitlines())
        return [Group(r["bias_type"], (r["sent_more"], r["sent_less"])) for r in rows]
    if head.split("\t")[:2] == ["sentid", "sentence"]:
        found: dict[str, dict[str, str]] = {}
        for row in csv.DictReader(text.splitlines(), delimiter="\t", quoting=csv.QUOTE_NONE):
            name, _, gender = row["sentid"].removesuffix(".txt").rpartition(".")
            found.setdefault(name, {})[gender] = row["sentence"]
        return [Group("gender", tuple(by[g] for g in GENDERS if g in by)) for by in found.values()]
    raise DataError(
        path,
        1 if head else None,
        None,
        "is neither CrowS-Pairs (sent_more, sent_less, ...) nor Winogender (sentid, sentence)",
        "give crows_pairs_anonymized.csv or all_sentences.tsv",
    )


def measure_pairs(
    ref: str,
    file: Path,
    prefix: str = "",
    limit: int | None = None,
    weights: Weights = "fp32",
) -> dict[str, Any]:
    """Entropy and lean of a model over the groups of a file, each with its 95 % interval over
    groups; `prefix` stands before every sentence.
    """
    groups = read_groups(file)[:limit]
    folder = find_parent(ref, Recipe(name="pairs"), Path())
    tokenizer, model = load_tokenizer(folder), load_to_answer(folder, weights, device())
    pairs = [
        encode_pair(tokenizer, prefix, f" {sentence}") for g in groups for sentence in g.sentences
    ]
    found = iter(loglikelihoods(model, pairs, context_of(model.config) or LONGEST))
    scored = []
    for group in groups:
        totals = np.array([next(found).total for _ in group.sentences])
        ones = np.ones(len(totals), dtype=int)
        scored.append(Choices(totals, ones, ones, ones, 0))
    kinds = sorted({group.kind for group in groups})
    return {
        "model": str(folder),
        "file": str(file),
        "prefix": prefix,
        **_summary(scored),
        "by kind": {
            kind: _summary([s for s, g in zip(scored, groups, strict=True) if g.kind == kind])
            for kind in kinds
        },
    }


def _summary(scored: Sequence[Choices]) -> dict[str, Any]:
    index = range(len(scored))
    most = max(float(np.log2(len(s.totals))) for s in scored)
    entropy = mean_with_interval([s.entropy() for s in scored], index, (0.0, most))
    lean = mean_with_interval([float(s.totals[0] > s.totals[1]) for s in scored], index, SHARE)
    return {
        "groups": len(scored),
        "entropy in bits": dict(entropy._asdict()),
        "without a lean": most,
        "first is likelier": dict(lean._asdict()),
    }
