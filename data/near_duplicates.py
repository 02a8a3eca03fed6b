"""Records that say nearly the same as an earlier one: Jaccard similarity of word 5-grams (OPT,
section 2.3).

MinHash proposes pairs and exact similarity decides, so no pair is called alike that is not. It is
our own: thirty lines of numpy hash a whole text at once and check each candidate pair exactly,
which the `datasketch` package does not do; that is not worth a dependency.
"""

import re
import zlib
from collections import defaultdict
from collections.abc import Hashable, Sequence

import numpy as np

from data.records import Comparison, Document, Message, Ranking, TrainingRecord, texts_of

__all__ = [
    "compared",
    "jaccard",
    "minhash",
    "near_duplicates",
    "shingles",
]

SHINGLE_WORDS = 5
BANDS, BAND_ROWS = 16, 8  # finds 95 % of pairs with Jaccard .8, 99.99 % at .9, all but none at .5
# Multiplying by random odd numbers and keeping the high bits is a cheap family of hash functions:
# one row a function. The seed is fixed so that the same file is cleaned alike on every machine.
MULTIPLIERS = (
    np.random.default_rng(0).integers(0, 2**63, BANDS * BAND_ROWS, dtype=np.uint64) * 2 + 1
)


def near_duplicates(records: Sequence[TrainingRecord], threshold: float) -> list[int | None]:
    """For every record the index of an earlier one that it repeats, or None.

    Two records are alike when `compared` gives the same key for both and each of their texts is
    at least `threshold` similar to its counterpart. Every text by itself, because a long passage
    that two prompts share would otherwise drown the short question in which they differ. A record
    is held against those that stay, so a chain of small changes does not end in one record. Below
    a threshold of .8 the MinHash bands would miss pairs.
    """
    earlier: list[int | None] = []
    grams: list[list[set[int]]] = []
    # the key and one band of a signature -> records without an earlier like that have them
    seen: dict[tuple[Hashable, bytes], list[int]] = defaultdict(list)
    for index, record in enumerate(records):
        key, texts = compared(record)
        here = [shingles(text) for text in texts]
        signature = minhash(set().union(*here)).reshape(BANDS, BAND_ROWS)
        bands = [(key, bytes([i]) + band.tobytes()) for i, band in enumerate(signature)]
        candidates = sorted({other for band in bands for other in seen[band]})
        alike = (
            other
            for other in candidates
            if all(jaccard(a, b) >= threshold for a, b in zip(here, grams[other], strict=True))
        )
        found = next(alike, None)
        if found is None:
            for band in bands:
                seen[band].append(index)
        earlier.append(found)
        grams.append(here if found is None else [])
    return earlier


def compared(record: TrainingRecord) -> tuple[Hashable, list[str]]:
    """What must be equal in two records, and the texts that must be alike, for one to repeat the
    other.
    """
    if isinstance(record, Document):
        return None, [record.text]
    if isinstance(record, Ranking):
        # Two labelers who rank one prompt's responses are two opinions. Where nobody says who
        # ranked, only the same order again can be taken for the same ranking.
        judge = tuple(record.ranks) if record.labeler is None else record.labeler
        return (judge, record.k, *_roles(record.prompt)), [
            *texts_of(record.prompt),
            *record.responses,
        ]
    if isinstance(record, Comparison):
        return (record.labeler, *_roles(record.prompt)), [
            *texts_of(record.prompt),
            record.chosen,
            record.rejected,
        ]
    return _roles(record.messages), texts_of(record.messages)


def _roles(messages: Sequence[Message]) -> tuple[Hashable, ...]:
    """Who speaks, and which functions are called with how many texts."""
    return tuple(
        (
            message.role,
            *(call.function.name for call in message.tool_calls or []),
            len(texts_of([message])),
        )
        for message in messages
    )


def shingles(text: str, words: int = SHINGLE_WORDS) -> set[int]:
    """32-bit hashes of the runs of `words` words and signs, without case; a shorter text is one
    run.

    Signs count because "3 + 4" and "3 - 4" are two questions, and so that a text of nothing but
    signs is not empty. A rare collision of two hashes changes a similarity by a hundredth or less.
    """
    found = re.findall(r"\w+|[^\w\s]", text.lower())
    return {
        zlib.crc32(" ".join(found[i : i + words]).encode())
        for i in range(max(len(found) - words + 1, 1))
    }


def minhash(values: set[int]) -> np.ndarray:
    """MinHash signature of a set of 32-bit hashes, (BANDS * BAND_ROWS,) uint64; equal entries
    estimate the Jaccard.
    """
    mixed = np.fromiter(values, dtype=np.uint64)
    # The hashes of similar strings share bits; this spreads them. It wraps at 2^64, as it should.
    mixed = (mixed ^ (mixed >> np.uint64(16))) * np.uint64(0x9E3779B97F4A7C15)
    return (
        (MULTIPLIERS[:, None] * (mixed ^ (mixed >> np.uint64(32)))[None, :]) >> np.uint64(20)
    ).min(axis=1)


def jaccard(a: set[int], b: set[int]) -> float:
    """Size of the intersection over size of the union."""
    return len(a & b) / len(a | b)
