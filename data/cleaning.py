"""What the paper did to its prompts before training (section 3.2), and what GPT-3 and OPT did to
their documents.

Every step takes records and returns those it keeps, in their order; `clean` runs them all and
counts what each drops.

1. Prompts that share a long common prefix with an earlier one (InstructGPT).
2. Texts with nearly the words of an earlier one: Jaccard similarity of word 5-grams at least .95
   (OPT).
3. More than 200 prompts of one user (InstructGPT).
4. Split into train, validation and test by user id (InstructGPT).
5. Training records with personal data (InstructGPT).
6. Training records that share 13 words in a row with texts held out for evaluation (GPT-3).

MinHash is our own: thirty lines of numpy hash a whole text at once and check each candidate pair
exactly, which the `datasketch` package does not do; that is not worth a dependency.
"""

import hashlib
import re
import zlib
from collections import Counter, defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np

from data.records import Comparison, Document, Ranking

RecordType = TypeVar("RecordType")

# the paper gives no number; two requests that agree for 200 characters are one request
PREFIX_CHARACTERS = 200
USER_CAP = 200  # section 3.2
NEAR_DUPLICATE = 0.95  # OPT section 2.3
OVERLAP_WORDS = 13  # GPT-3 appendix C
SHINGLE_WORDS = 5
BANDS, BAND_ROWS = 16, 8  # finds 95 % of pairs with Jaccard .8, 99.99 % at .9, all but none at .5


@dataclass
class CleaningReport:
    """How many records came in, went out by split, and were dropped by which step."""

    read: int = 0
    kept: dict[str, int] = field(default_factory=dict)
    dropped: Counter[str] = field(default_factory=Counter)

    def __str__(self) -> str:
        lines = [f"{self.read} records read"]
        lines += [
            f"  {count:6d} dropped: {reason}" for reason, count in self.dropped.items() if count
        ]
        lines += [f"  {count:6d} kept: {split}" for split, count in self.kept.items()]
        return "\n".join(lines)


def clean(
    records: Sequence[RecordType],
    shares: Mapping[str, float],
    *,
    prefix_characters: int = PREFIX_CHARACTERS,
    near_duplicate: float = NEAR_DUPLICATE,
    user_cap: int = USER_CAP,
    held_out: Iterable[str] = (),
    overlap_words: int = OVERLAP_WORDS,
) -> tuple[dict[str, list[RecordType]], CleaningReport]:
    """Clean and split records. `shares` names the splits and their sizes, e.g. {"train": 0.8,
    "validation": 0.2}.

    Personal data and overlap with `held_out` (texts of the evaluations to come) are taken out of
    the split "train".
    """
    report = CleaningReport(read=len(records))
    kept = list(records)
    steps: list[tuple[str, Callable[[list[RecordType]], list[RecordType]]]] = [
        ("long common prefix", lambda part: drop_common_prefix(part, prefix_characters)),
        (
            f"near duplicate (Jaccard {near_duplicate})",
            lambda part: drop_near_duplicates(part, near_duplicate),
        ),
        (f"over {user_cap} of one user", lambda part: cap_per_user(part, user_cap)),
    ]
    for reason, step in steps:
        before = len(kept)
        kept = step(kept)
        report.dropped[reason] = before - len(kept)
    splits = split_by_user(kept, shares)
    if "train" in splits:
        train = splits["train"]
        clear = [record for record in train if not personal_data(" ".join(texts(record)))]
        splits["train"] = drop_overlap(clear, held_out, overlap_words)
        report.dropped["personal data in train"] = len(train) - len(clear)
        report.dropped[f"{overlap_words} words in common with a held-out text"] = len(clear) - len(
            splits["train"]
        )
    report.kept = {name: len(part) for name, part in splits.items()}
    return splits, report


def texts(record: Any) -> list[str]:
    """Everything people or models wrote in a record."""
    if isinstance(record, Document):
        return [record.text]
    if isinstance(record, Ranking):
        return [prompt_text(record), *record.responses]
    if isinstance(record, Comparison):
        return [prompt_text(record), record.chosen, record.rejected]
    return [message.content for message in record.messages]


def prompt_text(record: Any) -> str:
    """The question with what was said before it; a document's text. Demonstrations are compared by
    their question.
    """
    if isinstance(record, Document):
        return record.text
    messages = getattr(record, "prompt", None) or record.messages
    said = messages[:-1] if messages[-1].role == "assistant" else messages
    return "\n".join(message.content for message in said)


def drop_common_prefix(
    records: Sequence[RecordType], characters: int = PREFIX_CHARACTERS
) -> list[RecordType]:
    """Drop a record whose prompt agrees with an earlier one for `characters`, or wholly when it is
    shorter.
    """
    first: dict[str, RecordType] = {}
    for record in records:
        first.setdefault(" ".join(prompt_text(record).split())[:characters], record)
    return list(first.values())


def drop_near_duplicates(
    records: Sequence[RecordType], threshold: float = NEAR_DUPLICATE
) -> list[RecordType]:
    """Drop a record whose words' 5-grams have Jaccard similarity of at least `threshold` with an
    earlier kept one.

    MinHash signatures in 16 bands of 8 propose pairs, exact similarity decides; thresholds below .8
    would miss some.
    """
    kept: list[RecordType] = []
    shingles: list[set[int]] = []
    # one band of a signature -> kept records that have it
    seen: dict[bytes, list[int]] = defaultdict(list)
    for record in records:
        grams = word_hashes(" ".join(texts(record)), SHINGLE_WORDS)
        bands = [
            bytes([i]) + band.tobytes()
            for i, band in enumerate(minhash(grams).reshape(BANDS, BAND_ROWS))
        ]
        candidates = {index for band in bands for index in seen[band]}
        if any(jaccard(grams, shingles[index]) >= threshold for index in candidates):
            continue
        for band in bands:
            seen[band].append(len(kept))
        kept.append(record)
        shingles.append(grams)
    return kept


def minhash(values: set[int]) -> np.ndarray:
    """MinHash signature of a set of 32-bit hashes, (BANDS * BAND_ROWS,) uint64; equal entries
    estimate the Jaccard.
    """
    mixed = np.fromiter(values, dtype=np.uint64)
    # spread the bits; wraps at 2^64
    mixed = (mixed ^ (mixed >> np.uint64(16))) * np.uint64(0x9E3779B97F4A7C15)
    return (
        (MULTIPLIERS[:, None] * (mixed ^ (mixed >> np.uint64(32)))[None, :]) >> np.uint64(20)
    ).min(axis=1)


MULTIPLIERS = (
    np.random.default_rng(0).integers(0, 2**63, BANDS * BAND_ROWS, dtype=np.uint64) * 2 + 1
)


def jaccard(a: set[int], b: set[int]) -> float:
    """Size of the intersection over size of the union."""
    return len(a & b) / len(a | b)


def word_hashes(text: str, words: int) -> set[int]:
    """32-bit hashes of the runs of `words` words, without case and punctuation; a shorter text is
    one run.
    """
    found = re.findall(r"\w+", text.lower())
    return {
        zlib.crc32(" ".join(found[i : i + words]).encode())
        for i in range(max(len(found) - words + 1, 1))
    }


def cap_per_user(records: Sequence[RecordType], cap: int = USER_CAP) -> list[RecordType]:
    """Keep at most `cap` records of each user; records without a user are not capped."""
    counts: Counter[str] = Counter()
    kept = []
    for record in records:
        user = getattr(record, "user", None)
        if user is not None:
            counts[user] += 1
        if user is None or counts[user] <= cap:
            kept.append(record)
    return kept


def split_by_user(
    records: Iterable[RecordType], shares: Mapping[str, float]
) -> dict[str, list[RecordType]]:
    """Split so that no user is in two splits; a record without a user goes by its prompt.

    The place is a hash of the user id, so it never changes when records are added. Shares are of
    users, not of records.
    """
    edges = np.cumsum(list(shares.values())) / sum(shares.values())
    splits: dict[str, list[RecordType]] = {name: [] for name in shares}
    for record in records:
        key = getattr(record, "user", None) or prompt_text(record)
        place = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest()) / 2**64
        splits[list(shares)[int(np.searchsorted(edges, place, side="right"))]].append(record)
    return splits


OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
PERSONAL = {
    "email": re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+"),
    "social security number": re.compile(r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)"),
    "IP address": re.compile(rf"(?<![\d.])(?:{OCTET}\.){{3}}{OCTET}(?![\d.]*\d)"),
    "phone number": re.compile(r"(?<![\w.])(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}(?!\d)"),
    "international phone number": re.compile(
        r"(?<![\w.])\+\d{1,3}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){2,3}(?!\d)"
    ),
}
CARD = re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])")


def personal_data(text: str) -> list[str]:
    """The kinds of personal data a text seems to hold: patterns, so it errs both ways; names are
    not looked for.
    """
    kinds = [kind for kind, pattern in PERSONAL.items() if pattern.search(text)]
    if any(_passes_luhn(re.sub(r"\D", "", match[0])) for match in CARD.finditer(text)):
        kinds.append("card number")
    return kinds


def _passes_luhn(digits: str) -> bool:
    """The check digit of card numbers: an arbitrary long number fails it nine times in ten."""
    doubled = [int(digit) * (1 + i % 2) for i, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in doubled) % 10 == 0


def drop_overlap(
    records: Sequence[RecordType], held_out: Iterable[str], words: int = OVERLAP_WORDS
) -> list[RecordType]:
    """Drop records that share a run of `words` words with a held-out text; shorter held-out texts
    cannot be found.
    """
    held = {
        value
        for text in held_out
        if len(re.findall(r"\w+", text)) >= words
        for value in word_hashes(text, words)
    }
    return [
        record
        for record in records
        if not any(word_hashes(text, words) & held for text in texts(record))
    ]
