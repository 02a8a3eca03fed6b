"""Read any source a recipe names: our own records or a public format, from a file, a folder or the
Hugging Face hub.

    demonstrations: {train: {path: alpaca.json, format: alpaca, limit: 1000}}
    documents: {train: [{path: stories.txt, format: text, weight: 3},
                        {path: wiki.jsonl, weight: 1}]}

What a source drops is counted by reason and told to the log; a source that is in another format
than said is an error.
"""

import difflib
import logging
import os
import re
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError

from data import formats, judged, oasst
from data.conversion import convert, convertible
from data.formats import Malformed, Unusable
from data.jsonl import stream_jsonl, stream_rows
from data.records import Comparison, Demonstration, Document, Prompt, Ranking, note_place, place_of
from data.rows import check_is_there, file_rows, rows_of, suffix_of
from data.sources import Source
from podium.errors import DataError, PodiumError

__all__ = [
    "CONVERTERS",
    "ReadReport",
    "check_source",
    "named_sources",
    "read_source",
    "read_with_report",
    "stream_source",
    "weights_of",
]

log = logging.getLogger("podium.data")
RecordType = TypeVar("RecordType", bound=BaseModel)

# and what each can yield
CONVERTERS: dict[str, tuple[Callable[..., Iterator[Any]], tuple[type, ...]]] = {
    "text": (formats.text, (Document,)),
    "alpaca": (formats.alpaca, (Demonstration,)),
    "sharegpt": (formats.sharegpt, (Demonstration, Comparison)),
    "oasst_tree": (oasst.oasst_tree, (Demonstration, Prompt, Ranking)),
    "oasst_kway": (oasst.oasst_kway, (Ranking,)),
    "hh": (formats.hh, (Comparison,)),
    "trl_preference": (formats.trl_preference, (Comparison,)),
    "prompt_completion": (formats.prompt_completion, (Demonstration,)),
    "scored_list": (formats.scored_list, (Ranking,)),
    "scored_rows": (judged.scored_rows, (Ranking,)),
    "judged_pair": (judged.judged_pair, (Comparison,)),
}


@dataclass
class ReadReport:
    """What was read: records kept, rows dropped by reason, and a mixture's epochs by source."""

    kept: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    epochs: dict[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        reasons = ", ".join(f"{count} {reason}" for reason, count in self.dropped.most_common())
        epochs = ", ".join(f"{name} {count:.2f}" for name, count in self.epochs.items())
        dropped = f", {sum(self.dropped.values())} rows dropped ({reasons})" if reasons else ""
        return f"{self.kept} records read{dropped}" + (f"; epochs: {epochs}" if epochs else "")


def read_source(spec: Any, record_type: type[RecordType]) -> list[RecordType]:
    """All records of a source: a path, a `Source` (or dict of its fields), or a list of these (a
    mixture).

    In a list, sources with weights are mixed by weight (see data.mixture; documents count by
    characters); without weights they follow each other. Raises DataError naming file, line, field
    and fix.
    """
    records, report = read_with_report(spec, record_type)
    if report.dropped or report.epochs:
        log.warning("%s: %s", _name(spec), report)
    return records


def read_with_report(
    spec: Any, record_type: type[RecordType], passes: int = 1
) -> tuple[list[RecordType], ReadReport]:
    """As `read_source`, with the report of what was dropped.

    passes: how often all of it will be read. A mixture by weight then holds the draws of all
    passes, one after the other reading on; anything else is read once and repeats.
    """
    if isinstance(spec, list | tuple):
        return _read_mixture([_source(part) for part in spec], record_type, passes)
    return _read_one(_source(spec), record_type)


def _read_mixture(
    sources: list[Source], record_type: type[Any], passes: int
) -> tuple[list[Any], ReadReport]:
    named = named_sources(sources)
    parts: dict[str, list[Any]] = {}
    report = ReadReport()
    for name, source in named.items():
        parts[name], part_report = _read_one(source, record_type)
        report.dropped += part_report.dropped
    weights = weights_of(named)
    if not weights:
        records = [record for part in parts.values() for record in part]
    else:
        from data.mixture import mix  # numpy, which a recipe without a mixture does not need

        mixture = mix(parts, weights, passes=passes, size=_size)
        records = mixture.items
        report.epochs = {name: part.epochs for name, part in mixture.report.items()}
    report.kept = len(records)
    return records, report


def named_sources(spec: Any) -> dict[str, Source]:
    """The sources of what a recipe gives (one, or a list), each by its path; the second of one path
    is numbered.
    """
    named: dict[str, Source] = {}
    for part in spec if isinstance(spec, list | tuple) else [spec]:
        source = _source(part)
        name = source.path if source.path not in named else f"{source.path} #{len(named) + 1}"
        named[name] = source
    return named


def weights_of(named: dict[str, Source]) -> dict[str, float]:
    """The weight of each source of a mixture; empty where they follow each other. A single source
    is no mixture.

    Raises:
        DataError: some have a weight and some not.
    """
    weights = {name: part.weight for name, part in named.items() if part.weight is not None}
    if weights and len(weights) < len(named):
        missing = next(name for name in named if name not in weights)
        raise DataError(
            missing,
            None,
            "weight",
            "other sources of the mixture have a weight",
            "give each one, or none",
        )
    return weights


def _size(record: BaseModel) -> float:
    return float(len(record.text)) if isinstance(record, Document) else 1.0


def _read_one(source: Source, record_type: type[Any]) -> tuple[list[Any], ReadReport]:
    report = ReadReport()
    return list(stream_source(source, record_type, report)), report


def stream_source(
    spec: Any, record_type: type[RecordType], report: ReadReport
) -> Iterator[RecordType]:
    """The records of one source, one after the other, for what is beyond memory; `report` counts as
    they come. Raises DataError as `read_source`, when the row is reached.
    """
    source = _source(spec)
    path = _expand(source.path)
    if source.format == "records" and suffix_of(Path(path)) == ".txt":
        source = source.model_copy(update={"format": "text"})
    if source.format == "records":
        found = _stored_records(path, source, record_type)
    else:
        found = _converted(path, source, record_type, report)
    end = None if source.limit is None else source.skip + source.limit
    for record in islice(found, source.skip, end):
        report.kept += 1
        yield record
    if not report.kept:
        raise DataError(
            path,
            None,
            None,
            f"nothing usable in it: {report}",
            "check path, format, skip and limit",
        )


def _stored_records(path: str, source: Source, record_type: type[Any]) -> Iterator[Any]:
    """Our own records; a file of another kind that converts (comparisons for rankings, ...) is
    converted.
    """
    if suffix_of(Path(path)) == ".jsonl" and not source.fields:
        first: Any = next((row for _, row in file_rows(Path(path), source)), {})
        stored = _stored_type(first, record_type)
        records = stream_jsonl(path, stored)
    else:
        first = next((row for _, row in rows_of(path, source)), {})
        stored = _stored_type(first, record_type)
        records = stream_rows((row for _, row in rows_of(path, source)), stored, path)
    for record in records:
        try:
            yield from convert(record, record_type)
        except ValidationError:  # an answer without a question makes no prompt
            messages = getattr(record, "messages", None) or getattr(record, "prompt", [])
            _, line = (place_of(messages) if messages else None) or (path, None)
            problem = f"holds no question, so no {record_type.__name__} can be made of it"
            raise DataError(path, line, "messages", problem, "drop the line") from None


def _stored_type(first: Any, record_type: type[Any]) -> type[Any]:
    """The kind of record a file holds by its first row; `record_type` unless another kind fits and
    converts. Prompts and demonstrations have the same keys: who speaks last tells them apart.
    """
    keys = set(first) if isinstance(first, dict) else set()
    answered = _last_role(first) == "assistant"
    for kind in (record_type, Ranking, Comparison, Demonstration, Document):
        required = {name for name, info in kind.model_fields.items() if info.is_required()}
        if kind is Prompt and answered:
            continue
        if required <= keys and convertible(kind, record_type):
            return kind
    return record_type


def _last_role(row: Any) -> str | None:
    turns = row.get("messages") if isinstance(row, dict) else None
    last = turns[-1] if isinstance(turns, list) and turns else None
    return last.get("role") if isinstance(last, dict) else None


def _converted(
    path: str, source: Source, record_type: type[Any], report: ReadReport
) -> Iterator[Any]:
    """Records made from the rows of a public format; what is of no use is counted in `report`."""
    converter, yields = CONVERTERS[source.format]
    trees = source.format == "oasst_tree"
    if not any(convertible(kind, record_type) for kind in yields):
        fitting = [
            name
            for name, (_, kinds) in CONVERTERS.items()
            if any(convertible(k, record_type) for k in kinds)
        ]
        problem = f"{source.format} does not hold {record_type.__name__}s"
        raise DataError(
            path, None, "format", problem, f"formats that do: records, {', '.join(fitting)}"
        )
    for number, row in TOGETHER.get(source.format, iter)(rows_of(path, source)):
        try:
            found = list(converter(row, record_type) if trees else converter(row))
        except Unusable as reason:
            report.dropped[str(reason)] += 1
            continue
        except Malformed as error:
            known = ", ".join(CONVERTERS)
            fix = f"is it really in format {source.format}? Known formats: records, {known}"
            raise DataError(path, number, error.field, error.problem, fix) from None
        except ValidationError as error:
            report.dropped[error.errors()[0]["msg"].removeprefix("Value error, ")] += 1
            continue
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            # The net: a shape that no converter thought of is named, and ends in no traceback.
            problem = f"does not fit the format ({type(error).__name__}: {error})"
            fix = f"correct the row, or name another format than {source.format}"
            raise DataError(path, number, None, problem, fix) from error
        for record in found:
            if not convertible(type(record), record_type):
                report.dropped[f"a {type(record).__name__}, not a {record_type.__name__}"] += 1
                continue
            try:
                made = convert(record.model_copy(update={"source": Path(path).name}), record_type)
            except ValidationError:
                report.dropped["no question in it"] += 1
                continue
            if not made:
                report.dropped["no preference in it"] += 1
            for one in made:
                note_place(one, path, number)
            yield from made


def _trees(rows: Iterator[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Open Assistant's trees, put together first where the file holds flat messages."""
    numbered = list(rows)
    flat = [row for _, row in numbered if isinstance(row, dict)]
    # A root's parent is null, and a table's nulls are left out: any row may be the first with it.
    if any("parent_id" in row for row in flat) and not any(row.get("replies") for row in flat):
        yield from enumerate(oasst.trees_of(flat), start=1)
    else:
        yield from numbered


# Formats in which several rows make one record, and what puts them together.
TOGETHER: dict[str, Callable[[Iterator[tuple[int, Any]]], Iterator[tuple[int, Any]]]] = {
    "oasst_tree": _trees,
    "scored_rows": judged.by_prompt,
}


def check_source(spec: Any) -> None:
    """Whether every part of a source can be there, without reading it. Raises DataError."""
    for source in named_sources(spec).values():
        check_is_there(_expand(source.path))


def _source(spec: Any) -> Source:
    if isinstance(spec, Source):
        return spec
    try:
        return Source.model_validate(spec if isinstance(spec, dict) else {"path": str(spec)})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        key, problem = ".".join(map(str, first["loc"])), first["msg"]
        word, known = str(first["input"]), ["records", *CONVERTERS]
        if first["type"] == "extra_forbidden":
            word, known, problem = key, list(Source.model_fields), "unknown key"
        near = difflib.get_close_matches(word, known, n=1)
        fix = (
            f"did you mean {near[0]!r}?"
            if near
            else f"a source has {', '.join(Source.model_fields)}"
        )
        raise PodiumError(f"data source {_name(spec)}: field '{key}': {problem}", fix) from None


def _name(spec: Any) -> str:
    if isinstance(spec, list | tuple):
        return " + ".join(map(_name, spec))
    return (
        str(spec.get("path", spec)) if isinstance(spec, dict) else str(getattr(spec, "path", spec))
    )


def _expand(path: str) -> str:
    """Fill in ${VARIABLES} and ~. Raises DataError when a variable is not set."""
    expanded = os.path.expandvars(path)
    if unset := re.search(r"\$\{(\w+)\}", expanded):
        raise DataError(
            path,
            None,
            None,
            f"the environment variable {unset[1]} is not set",
            f"export {unset[1]}=...",
        )
    return str(Path(expanded).expanduser()) if expanded.startswith("~") else expanded
