"""`podium data check PATH`: what a file is taken for, and what training would see of it.

People look here before they train: which format and kind of record a file is read as, what is
dropped and why, ten examples as the model reads them with the part that the loss falls on marked,
and how long they are.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from data.jsonl import write_jsonl
from data.readers import CONVERTERS, ReadReport, read_with_report
from data.records import Comparison, Demonstration, Document, Message, Prompt, Question, Ranking
from data.template import encode_conversation, encode_prompt, examples_of, naming_record
from podium.errors import DataError

__all__ = ["Checked", "check", "length_lines", "recognise", "rendered", "token_lengths"]

# In the order they are tried: what has two answers to a prompt has one as well.
KINDS: dict[str, type[Any]] = {
    "documents": Document,
    "rankings": Ranking,
    "comparisons": Comparison,
    "demonstrations": Demonstration,
    "questions": Question,
    "prompts": Prompt,
}
QUANTILES = (0, 10, 50, 90, 99, 100)
BINS = 12
BAR = 40  # characters of the longest bar
Piece = tuple[str, bool]  # a text, and whether the loss falls on it


@dataclass(frozen=True)
class Checked:
    """A file that can be read: as what, its records, and what was dropped."""

    format: str
    kind: str
    records: list[Any]
    report: ReadReport


def recognise(source: dict[str, Any], kind: str | None = None) -> Checked:
    """The format and kind that a source reads as: the first in which every row makes sense.

    source: fields of `data.sources.Source`; a `format` among them is the only one tried, as is the
    `kind` where it is given.

    Raises:
        DataError: it reads as nothing; the error is of the format that understood most rows.
    """
    tried: list[DataError] = []
    for name, record_type in _candidates(source.get("format"), kind):
        try:
            records, report = read_with_report(source | {"format": name}, record_type)
        except DataError as error:
            tried.append(error)
            continue
        if records:
            label = next(label for label, own in KINDS.items() if own is record_type)
            return Checked(name, label, records, report)
    if len(set(map(str, tried))) == 1:  # no matter of the format: there is no such file
        raise tried[0]
    furthest = max(tried, key=lambda error: error.line or 0, default=None)
    names = ", ".join(["records", *CONVERTERS])
    raise DataError(
        source["path"],
        problem="reads as no format that Podium knows"
        + (f"; what came furthest said: {furthest}" if furthest is not None else ""),
        fix=f"name the format (--format, one of {names}) and map its columns (--field prompt=...)",
    )


def _candidates(format: str | None, kind: str | None) -> Iterator[tuple[str, type[Any]]]:
    wanted = [KINDS[kind]] if kind else list(KINDS.values())
    for name in [format] if format else ["records", *CONVERTERS]:
        # Text is anything at all, so that it is taken for documents only where somebody says so.
        if name == "text" and format is None:
            continue
        given = KINDS.values() if name == "records" else CONVERTERS[name][1]
        own = [record_type for record_type in wanted if record_type in given]
        yield from ((name, record_type) for record_type in own or wanted[: bool(format or kind)])


def rendered(record: Any, tokenizer: PreTrainedTokenizerBase | None) -> list[list[Piece]]:
    """A record as the model reads it, in pieces by whether the loss falls on them; one list a
    sequence (a ranking has one an answer, and a demonstration one too where the template rewrites
    earlier answers). Without a tokenizer the messages stand as they are.
    """
    if isinstance(record, Document):
        return [[(record.text, True)]]
    if isinstance(record, Question):
        return [[(record.question, False), (f" {choice}", True)] for choice in record.choices]
    if tokenizer is None:
        return [[(_plain(m), m.role == "assistant") for m in chat] for chat in _chats(record)]
    if isinstance(record, Prompt):
        return [[(_decoded(tokenizer, encode_prompt(tokenizer, record.messages)), False)]]
    chats = _chats(record)
    if isinstance(record, Demonstration):
        chats = [list(part) for part in examples_of(tokenizer, record.messages)] or chats
    return [_masked(tokenizer, *encode_conversation(tokenizer, chat)) for chat in chats]


def token_lengths(
    records: Sequence[Any], tokenizer: PreTrainedTokenizerBase | None, kind: str
) -> np.ndarray:
    """The length of every sequence, in tokens, or in characters without a tokenizer."""
    lengths = []
    for number, record in enumerate(records, start=1):
        if tokenizer is None or isinstance(record, Question):
            pieces = rendered(record, None)
            lengths += [sum(len(text) for text, _ in sequence) for sequence in pieces]
        elif isinstance(record, Document):
            lengths.append(len(tokenizer.encode(record.text, add_special_tokens=False)))
        else:
            chats = _chats(record)
            with naming_record(kind, number, getattr(record, "id", None), chats[0]):
                lengths += [len(_ids(tokenizer, record, chat)) for chat in chats]
    return np.array(lengths)


def length_lines(lengths: np.ndarray, unit: str, limit: int | None) -> list[str]:
    """Quantiles, a histogram of bars, and how much does not fit into `limit`."""
    values = np.percentile(lengths, QUANTILES)
    names = ("shortest", "10 %", "median", "90 %", "99 %", "longest")
    lines = ["  ".join(f"{n} {v:,.0f}" for n, v in zip(names, values, strict=True)) + f"  {unit}"]
    # Lengths have long tails: the last bin holds what is beyond the 99th percentile.
    top = max(float(values[4]), 1.0)
    edges = np.append(np.linspace(0, top, BINS), np.inf)
    counts, _ = np.histogram(lengths, edges)
    widest = max(len(f"{edge:,.0f}") for edge in edges[:-1])
    for low, count in zip(edges, counts, strict=False):
        bar = "█" * round(BAR * count / counts.max()) or ("▏" if count else "")
        lines.append(f"  from {low:>{widest},.0f}  {bar} {count:,}")
    if limit is not None:
        beyond = int((lengths > limit).sum())
        lines.append(f"{beyond:,} of {len(lengths):,} are longer than {limit:,} {unit}")
    return lines


def check(
    source: dict[str, Any],
    kind: str | None,
    tokenizer: PreTrainedTokenizerBase | None,
    examples: int,
    limit: int | None,
    marked: Any,
    save: Path | None = None,
) -> Iterator[str]:
    """The lines that the command prints.

    marked: (text, whether the loss falls on it) -> the text as it is shown.

    Raises:
        DataError: the file cannot be used; names file, line, field and fix.
    """
    found = recognise(source, kind)
    yield f"{source['path']}: {found.kind}, in the format `{found.format}`"
    yield f"{found.report}"
    step = max(1, len(found.records) // examples) if examples else 1
    for number in range(0, len(found.records), step)[:examples]:
        record = found.records[number]
        yield f"\n--- record {number + 1} of {len(found.records):,}"
        with naming_record(found.kind, number + 1, getattr(record, "id", None), _chats(record)[0]):
            sequences = rendered(record, tokenizer)
        for index, pieces in enumerate(sequences):
            yield _heading(record, index) + "".join(marked(*piece) for piece in pieces)
    yield "\n--- lengths"
    unit = "characters" if tokenizer is None else "tokens"
    yield from length_lines(token_lengths(found.records, tokenizer, found.kind), unit, limit)
    if save is not None:
        write_jsonl(save, found.records)
        yield f"wrote {len(found.records):,} records to {save}"


def _heading(record: Any, index: int) -> str:
    if isinstance(record, Ranking):
        return f"[rank {record.ranks[index]}] "
    if isinstance(record, Comparison):
        return "[chosen] " if index == 0 else "[rejected] "
    return ""


def _chats(record: Any) -> list[list[Message]]:
    """The conversations in a record; an answer of a ranking or comparison is a last turn."""
    if isinstance(record, Document | Question):
        text = record.text if isinstance(record, Document) else record.question
        return [[Message(role="user", content=text)]]
    if isinstance(record, Ranking):
        answers = list(record.responses)
    elif isinstance(record, Comparison):
        answers = [record.chosen, record.rejected]
    else:
        return [list(record.messages)]
    return [[*record.prompt, Message(role="assistant", content=text)] for text in answers]


def _ids(tokenizer: PreTrainedTokenizerBase, record: Any, chat: list[Message]) -> list[int]:
    if isinstance(record, Prompt):
        return encode_prompt(tokenizer, chat)
    return encode_conversation(tokenizer, chat)[0]


def _masked(
    tokenizer: PreTrainedTokenizerBase, ids: Sequence[int], mask: Sequence[bool]
) -> list[Piece]:
    runs = groupby(zip(ids, mask, strict=True), key=lambda pair: pair[1])
    return [(_decoded(tokenizer, [i for i, _ in run]), learned) for learned, run in runs]


def _decoded(tokenizer: PreTrainedTokenizerBase, ids: Sequence[int]) -> str:
    return str(tokenizer.decode(list(ids), clean_up_tokenization_spaces=False))


def _plain(message: Message) -> str:
    calls = [f"{c.function.name}({c.function.arguments})" for c in message.tool_calls or []]
    said = [message.reasoning_content or "", message.content, *calls]
    return f"{message.role}: {' '.join(filter(None, said))}\n"
