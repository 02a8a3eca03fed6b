"""What the paper did to its prompts before training (section 3.2), and what GPT-3 and OPT did to
their documents, each to the kinds of records it was made for.

`clean` takes records through these rules, in this order, and reports what each one took:

1. common prefix   prompts that begin as an earlier one does (InstructGPT)
2. near duplicate  records with nearly the words of an earlier one (OPT); data.near_duplicates
3. user cap        more than so many prompts of one user (InstructGPT)
4. personal data   is covered, or its record dropped (InstructGPT); data.personal_data
5. the split into train, validation and test (InstructGPT: by user)
6. overlap         training text that shares 13 words in a row with texts held out for evaluation
                   (GPT-3); data.overlap

Which rules a kind of record gets is `RULES`, the table below.
"""

import hashlib
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, TypeVar

import numpy as np
from pydantic import BaseModel

from data.near_duplicates import near_duplicates
from data.overlap import common_run, cut, held_out_runs
from data.personal_data import redact
from data.records import (
    Comparison,
    Demonstration,
    Document,
    Message,
    Prompt,
    Ranking,
    TrainingRecord,
    texts_of,
)

__all__ = [
    "RULES",
    "CleaningReport",
    "Dropped",
    "Rules",
    "clean",
    "common_prefixes",
    "over_cap",
    "personal_data",
    "split",
    "split_key",
    "texts",
    "with_texts",
]

RecordType = TypeVar("RecordType", bound=TrainingRecord)
Numbered = tuple[int, RecordType]  # a record and its number in the source, from 1
EXAMPLES_SHOWN = 3  # of every rule in the printed report; the file of dropped records has all


@dataclass(frozen=True)
class Rules:
    """How records are cleaned; None or "keep" switches a rule off."""

    prefix_characters: int | None = None  # common prefix: alike for so many characters
    near_duplicate: float | None = 0.95  # Jaccard similarity from which on; OPT section 2.3
    user_cap: int | None = None  # records of one user
    personal_data: Literal["drop", "redact", "keep"] = "redact"
    overlap: Literal["drop", "cut", "keep"] = "drop"
    overlap_words: int = 13  # in a row, in common with a held-out text; GPT-3 appendix C


RULES: dict[type, Rules] = {
    # Five books with one licence header begin alike and are five books, so a document is compared
    # by its whole text. It is nobody's, so no cap. A page is worth more than the one address or
    # the one quoted test question in it: these are taken out and the page stays.
    Document: Rules(overlap="cut"),
    # The paper's own rules. Among prompts a long beginning in common means one person who tries
    # one request over and over (200 characters: the paper gives no number), and a prompt costs
    # so little that one with personal data is better dropped than sent to labelers.
    Prompt: Rules(prefix_characters=200, user_cap=200, personal_data="drop"),
    # Several questions about one passage begin alike, and several answers to one question are
    # wanted; each was written by hand, so it is redacted rather than dropped. The cap is for
    # requests that come by themselves, not for work that was asked for.
    Demonstration: Rules(),
    # Several labelers rank the same responses to the same prompt: that is how agreement is
    # measured, and no repetition. Only the same ranking by the same labeler is one too many.
    Ranking: Rules(),
    # As rankings. The comparisons of one K-way ranking share their prompt too.
    Comparison: Rules(),
}


class Dropped(BaseModel):
    """A record that was taken out: its number in the source (from 1), the rule, and what the rule
    saw.
    """

    number: int
    rule: str
    why: str
    record: TrainingRecord


@dataclass
class CleaningReport:
    """How many records came in, went out by split, and were dropped or changed by which rule."""

    read: int = 0
    kept: dict[str, int] = field(default_factory=dict)
    dropped: list[Dropped] = field(default_factory=list)
    changed: dict[str, list[str]] = field(default_factory=dict)  # rule -> one line a record

    def counts(self) -> dict[str, int]:
        """Dropped records by rule."""
        return dict(Counter(dropped.rule for dropped in self.dropped))

    def __str__(self) -> str:
        lines = [f"{self.read} records read"]
        for rule, count in self.counts().items():
            lines.append(f"  {count:6d} dropped: {rule}")
            examples = [dropped for dropped in self.dropped if dropped.rule == rule]
            for dropped in examples[:EXAMPLES_SHOWN]:
                lines.append(f"           {_label(dropped.number, dropped.record)}: {dropped.why}")
        for rule, changes in self.changed.items():
            lines.append(f"  {len(changes):6d} changed: {rule}")
            lines += [f"           {change}" for change in changes[:EXAMPLES_SHOWN]]
        lines += [f"  {count:6d} kept: {split}" for split, count in self.kept.items()]
        return "\n".join(lines)


def clean(
    records: Sequence[RecordType],
    shares: Mapping[str, float],
    rules: Rules | None = None,
    held_out: Iterable[str] = (),
) -> tuple[dict[str, list[RecordType]], CleaningReport]:
    """Clean and split records of one kind.

    shares: the splits and their sizes, e.g. {"train": 0.8, "validation": 0.2}.
    rules: those of the records' kind in `RULES` by default.
    held_out: texts of the evaluations to come, which the split "train" must not contain.
    """
    if rules is None:
        rules = RULES[type(records[0])] if records else Rules()
    report = CleaningReport(read=len(records))
    kept = list(enumerate(records, start=1))
    if rules.prefix_characters is not None:
        earlier = common_prefixes(_bare(kept), rules.prefix_characters)
        name = f"common prefix of {rules.prefix_characters} characters"
        kept = _without(kept, name, _like_earlier(kept, earlier), report)
    if rules.near_duplicate is not None:
        earlier = near_duplicates(_bare(kept), rules.near_duplicate)
        name = f"near duplicate (Jaccard {rules.near_duplicate:g})"
        kept = _without(kept, name, _like_earlier(kept, earlier), report)
    if rules.user_cap is not None:
        whys = over_cap(_bare(kept), rules.user_cap)
        kept = _without(kept, f"over {rules.user_cap} of one user", whys, report)
    # In every split, not in train alone as in the paper: held-out texts are read and published
    # too, and what redaction leaves in train looks as in the others.
    if rules.personal_data == "drop":
        whys = [", ".join(personal_data(record)) or None for _, record in kept]
        kept = _without(kept, "personal data", whys, report)
    elif rules.personal_data == "redact":
        kept = _redacted(kept, report)

    splits = split(kept, shares)
    runs = held_out_runs(held_out, rules.overlap_words)
    if "train" in splits and runs and rules.overlap != "keep":
        splits["train"] = _without_overlap(splits["train"], runs, rules, report)
    report.kept = {name: len(part) for name, part in splits.items()}
    return {name: _bare(part) for name, part in splits.items()}, report


# The rules: each says of every record why it goes, or None where it stays
# -----------------------------------------------------------------------------------------------


def common_prefixes(records: Sequence[TrainingRecord], characters: int) -> list[int | None]:
    """For every record the index of an earlier one whose prompt agrees with its own for
    `characters`, or wholly when it is shorter; None without one.

    System messages are left out of the comparison: they are the application's words, the same
    over all its users' prompts.
    """
    first: dict[str, int] = {}
    earlier: list[int | None] = []
    for index, record in enumerate(records):
        said = " ".join(m.content for m in _asked(record) if m.role != "system")
        found = first.setdefault(" ".join(said.split())[:characters], index)
        earlier.append(None if found == index else found)
    return earlier


def over_cap(records: Sequence[TrainingRecord], cap: int) -> list[str | None]:
    """Why each record is over its user's `cap`, or None; records without a user are not capped."""
    counts: Counter[str | None] = Counter()
    whys: list[str | None] = []
    for record in records:
        user = getattr(record, "user", None)
        counts[user] += user is not None
        whys.append(f"number {counts[user]} of user '{user}'" if counts[user] > cap else None)
    return whys


def personal_data(record: TrainingRecord) -> list[str]:
    """The kinds of personal data in a record's texts."""
    return list(dict.fromkeys(kind for text in texts(record) for kind in redact(text)[1]))


# How a rule's answers are carried out
# -----------------------------------------------------------------------------------------------


def _bare(numbered: Sequence[Numbered[RecordType]]) -> list[RecordType]:
    return [record for _, record in numbered]


def _without(
    numbered: Sequence[Numbered[RecordType]],
    rule: str,
    whys: Sequence[str | None],
    report: CleaningReport,
) -> list[Numbered[RecordType]]:
    """The records that have no `why` to go; the others are reported under the rule's name."""
    kept = []
    for (number, record), why in zip(numbered, whys, strict=True):
        if why is None:
            kept.append((number, record))
        else:
            report.dropped.append(Dropped(number=number, rule=rule, why=why, record=record))
    return kept


def _like_earlier(
    numbered: Sequence[Numbered[Any]], earlier: Sequence[int | None]
) -> list[str | None]:
    return [None if index is None else f"as {_label(*numbered[index])}" for index in earlier]


def _redacted(
    numbered: Sequence[Numbered[RecordType]], report: CleaningReport
) -> list[Numbered[RecordType]]:
    """All records, with placeholders over their personal data."""
    kept = []
    for number, record in numbered:
        if kinds := personal_data(record):
            record = with_texts(record, [redact(text)[0] for text in texts(record)])
            report.changed.setdefault("personal data redacted", []).append(
                f"{_label(number, record)}: {', '.join(kinds)}"
            )
        kept.append((number, record))
    return kept


def _without_overlap(
    numbered: Sequence[Numbered[RecordType]],
    runs: set[str],
    rules: Rules,
    report: CleaningReport,
) -> list[Numbered[RecordType]]:
    """The records without the held-out `runs` of words. With "cut" a document loses the passage
    only, and what is left of it may be several documents with its id and number.
    """
    name = f"{rules.overlap_words} words in common with a held-out text"
    kept: list[Numbered[RecordType]] = []
    for number, record in numbered:
        found = [common_run(text, runs, rules.overlap_words) for text in texts(record)]
        run = next((run for run in found if run is not None), None)
        pieces: list[RecordType] = [record]
        if run is not None:
            pieces = []
            if rules.overlap == "cut" and isinstance(record, Document):
                pieces = [
                    with_texts(record, [piece])
                    for piece in cut(record.text, runs, rules.overlap_words)
                ]
            if pieces:
                change = f"{_label(number, record)}: in {len(pieces)} pieces without {run!r}"
                report.changed.setdefault(f"{name}, cut out", []).append(change)
            else:
                report.dropped.append(Dropped(number=number, rule=name, why=run, record=record))
        kept += [(number, piece) for piece in pieces]
    return kept


def split(
    numbered: Iterable[Numbered[RecordType]], shares: Mapping[str, float]
) -> dict[str, list[Numbered[RecordType]]]:
    """Deal the records to the splits, all of one `split_key` to the same.

    The place is a hash of that key alone, so that it never changes when records are added. Shares
    are therefore of keys, not of records.
    """
    edges = np.cumsum(list(shares.values())) / sum(shares.values())
    splits: dict[str, list[Numbered[RecordType]]] = {name: [] for name in shares}
    for number, record in numbered:
        digest = hashlib.blake2b(split_key(record).encode(), digest_size=8).digest()
        place = int.from_bytes(digest) / 2**64
        name = list(shares)[int(np.searchsorted(edges, place, side="right"))]
        splits[name].append((number, record))
    return splits


def split_key(record: TrainingRecord) -> str:
    """What must not be in two splits: of rankings and comparisons the prompt, so that all
    labelers' rankings of it stay together, whatever is known of its user; of prompts and
    demonstrations the user, else the prompt (InstructGPT splits by user id); of documents the text.
    """
    if isinstance(record, Document):
        return record.text
    asked = "\n".join(message.content for message in _asked(record))
    user = record.user if isinstance(record, Prompt | Demonstration) else None
    return user or asked


# What is in a record
# -----------------------------------------------------------------------------------------------


def texts(record: TrainingRecord) -> list[str]:
    """Everything people or models wrote in a record. Ids, users and `meta` are not text."""
    if isinstance(record, Document):
        return [record.text]
    if isinstance(record, Ranking):
        return [*texts_of(record.prompt), *record.responses]
    if isinstance(record, Comparison):
        return [*texts_of(record.prompt), record.chosen, record.rejected]
    return texts_of(record.messages)


def with_texts(record: Any, new: Sequence[str]) -> Any:
    """The record with other texts in the places of `texts(record)`."""
    if isinstance(record, Document):
        return record.model_copy(update={"text": new[0]})
    field_name = "prompt" if isinstance(record, Ranking | Comparison) else "messages"
    texts_left = iter(new)
    changes: dict[str, Any] = {
        field_name: [message.with_texts(texts_left) for message in getattr(record, field_name)]
    }
    answers = list(texts_left)
    if isinstance(record, Ranking):
        changes["responses"] = answers
    elif isinstance(record, Comparison):
        changes["chosen"], changes["rejected"] = answers
    return record.model_copy(update=changes)


def _asked(record: Any) -> list[Message]:
    """The question with what was said before it, without the answer a demonstration shows."""
    if isinstance(record, Ranking | Comparison):
        return record.prompt
    return record.messages[:-1] if isinstance(record, Demonstration) else record.messages


def _label(number: int, record: Any) -> str:
    name = getattr(record, "id", None)
    return f"record {number}" + (f" ({name})" if name else "")
