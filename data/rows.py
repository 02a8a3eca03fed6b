"""Rows as they lie in files: JSON Lines, JSON, CSV, parquet, plain text, folders and the hub."""

import codecs
import csv
import io
import json
import re
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from data.jsonl import numbered_lines, opened, read_bytes
from data.sources import Source
from podium.errors import DataError

SEPARATED = {".csv": ",", ".tsv": "\t"}
BLOCK = 1 << 20  # bytes of a text file in memory
ROWS = 1000  # of a parquet file in memory
NO_TEXT = (".json", ".jsonl", ".parquet", *SEPARATED)


def rows_of(path: str, source: Source) -> Iterator[tuple[int, Any]]:
    """(number, row) of a file, of every text file in a folder, or of a data set in a folder or on
    the hub. Columns are renamed as `source.fields` says.

    Raises:
        DataError: missing, unreadable or malformed: names the file, the line and the fix.
    """
    for number, row in _rows(path, source):
        yield number, renamed(row, source.fields)


def renamed(row: Any, fields: Mapping[str, str]) -> Any:
    """The row with our name -> its value; a dot leads into nested objects. What is not named stays
    under its own name.
    """
    if not fields or not isinstance(row, dict):
        return row
    taken = {name.split(".")[0] for name in fields.values()}
    kept = {key: value for key, value in row.items() if key not in taken and key not in fields}
    for ours, theirs in fields.items():
        value: Any = row
        for part in theirs.split("."):
            value = value.get(part) if isinstance(value, dict) else None
        if value is not None:
            kept[ours] = value
    return kept


def check_is_there(path: str) -> None:
    """Whether a source can be there, without reading it: a path is, what may be a hub's id is taken
    for good.

    Raises:
        DataError: it is neither; names what lies near it.
    """
    local = Path(path)
    if not (local.exists() or _may_be_hub_id(path)):
        with opened(local):  # tells why not
            pass


def _may_be_hub_id(path: str) -> bool:
    named = re.fullmatch(r"[\w-][\w.-]*(/[\w-][\w.-]*)?", path)
    return named is not None and not Path(path).suffix


def _rows(path: str, source: Source) -> Iterator[tuple[int, Any]]:
    local = Path(path)
    if local.is_dir() and source.format == "text":
        files = sorted(local.rglob("*.txt"))
        if not files:
            raise DataError(
                path,
                None,
                None,
                "no .txt file in this folder",
                "name a file, or a folder of .txt files",
            )
        for file in files:
            yield from file_rows(file, source)
    elif local.is_dir() or (_may_be_hub_id(path) and not local.exists()):
        yield from enumerate(_hub_rows(path, source), start=1)
    else:
        yield from file_rows(local, source)


def file_rows(path: Path, source: Source) -> Iterator[tuple[int, Any]]:
    """(number, row) of one file, by its suffix; what has another suffix is looked at, since JSON
    Lines come under every name.
    """
    suffix = suffix_of(path)
    if suffix not in NO_TEXT and source.format != "text":
        suffix = _looks_like(path)
    if suffix == ".parquet":
        yield from enumerate(_parquet_rows(path), start=1)
    elif suffix in SEPARATED:
        table = csv.DictReader(io.StringIO(_decode(path)), delimiter=SEPARATED[suffix])
        for row in table:
            yield table.line_num, _table_row(path, table.line_num, row)
    elif suffix == ".jsonl":
        for number, line in numbered_lines(path):
            yield number, _wrap(_parse(path, number, line), source)
    elif suffix == ".json":
        yield from _json_rows(path, source)
    else:
        for number, piece in enumerate(_pieces(path, source.separator), start=1):
            yield number, {"text": piece.strip()}


def _pieces(path: Path, separator: str) -> Iterator[str]:
    """A text file cut at each `separator`, as `str.split` cuts it, a block in memory at a time."""
    decoder = codecs.getincrementaldecoder("utf-8-sig")()
    line, rest = 1, ""
    with opened(path) as file:
        while block := file.read(BLOCK):
            try:
                rest += decoder.decode(block)
            except UnicodeDecodeError as error:
                line += error.object.count(b"\n", 0, error.start)
                raise _not_utf8(path, line) from None
            line += block.count(b"\n")
            *whole, rest = rest.split(separator)
            yield from whole
    try:
        yield rest + decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        raise _not_utf8(path, line) from None


def _json_rows(path: Path, source: Source) -> Iterator[tuple[int, Any]]:
    """A JSON list of rows; a file that holds a row a line is read as that."""
    if _looks_like(path) == ".jsonl":
        for number, line in numbered_lines(path):
            yield number, _wrap(_parse(path, number, line), source)
        return
    content = _parse(path, None, _decode(path))
    if not isinstance(content, list):
        raise DataError(
            path,
            None,
            None,
            "is not a JSON list of rows",
            "give [row, row, ...], or one row a line",
        )
    for number, row in enumerate(content, start=1):
        yield number, _wrap(row, source)


def _looks_like(path: Path) -> str:
    """The suffix that fits what a file holds: rows a line, one JSON list, or text."""
    lines = (line for _, line in numbered_lines(path))
    first, second = next(lines, ""), next(lines, "")
    if first.startswith("[") and not second.startswith("["):
        return ".json"
    if first.startswith("{") and (not second or second.startswith("{")):
        return ".jsonl" if first.endswith("}") else ".json"
    return ".json" if path.suffix == ".json" else ".txt"


def _parquet_rows(path: Path) -> Iterator[Any]:
    """Rows without the nulls that a column of unlike objects is filled up with."""
    from pyarrow import ArrowException, parquet

    try:
        with parquet.ParquetFile(path) as file:
            for batch in file.iter_batches(ROWS):
                yield from map(_without_nulls, batch.to_pylist())
    except (OSError, ArrowException) as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        raise DataError(path, None, None, f"is no parquet file: {why}", "check the file") from None


def _without_nulls(value: Any) -> Any:
    """A table gives every object all keys of the column; one that holds null was not there."""
    if isinstance(value, dict):
        return {key: _without_nulls(item) for key, item in value.items() if item is not None}
    return [_without_nulls(item) for item in value] if isinstance(value, list) else value


def _table_row(path: Path, number: int, row: dict[Any, Any]) -> dict[str, Any]:
    """A line of a table. Cells that hold a JSON list or object are read as that: a table has no
    other way to hold a conversation.
    """
    if None in row or None in row.values():
        raise DataError(
            path, number, None, "has another number of cells than the head line", "correct the line"
        )
    return {name: _cell(value) for name, value in row.items()}


def _cell(value: str) -> Any:
    if value[:1] in ("[", "{"):
        try:
            return json.loads(value)
        except json.JSONDecodeError:
            return value
    return value


def _wrap(row: Any, source: Source) -> Any:
    """Text files may hold one bare JSON string a line."""
    return {"text": row} if isinstance(row, str) and source.format == "text" else row


def _hub_rows(path: str, source: Source) -> Iterator[dict[str, Any]]:
    yield from map(_without_nulls, _hub_dataset(path, source))


def hub_fingerprint(path: str, source: Source) -> str:
    """What the `datasets` library calls this content of a data set. Raises DataError as reading."""
    return str(_hub_dataset(path, source)._fingerprint)


def _hub_dataset(path: str, source: Source) -> Any:
    import datasets

    try:
        return datasets.load_dataset(path, source.config, split=source.split)
    # The library raises a dozen unrelated kinds for "not there" and "no network".
    except Exception as error:
        why = next(iter(str(error).splitlines()), type(error).__name__)
        problem = f"is no file here, and could not be loaded as a data set: {why}"
        raise DataError(
            path, None, None, problem, "check the path or hub id, split and config"
        ) from None


def suffix_of(path: Path) -> str:
    """What the name says of the content: `.jsonl` for x.jsonl, x.jsonl.gz, x.jsonl.zst and
    x.ndjson.
    """
    suffix = Path(path.stem).suffix if path.suffix in (".gz", ".zst") else path.suffix
    return {".ndjson": ".jsonl"}.get(suffix, suffix)


def _decode(path: Path) -> str:
    raw = read_bytes(path)
    try:
        return raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _not_utf8(path, raw.count(b"\n", 0, error.start) + 1) from None


def _not_utf8(path: Path, line: int) -> DataError:
    return DataError(path, line, None, "is not UTF-8", "save the file as UTF-8")


def _parse(path: Path, number: int | None, content: str) -> Any:
    try:
        return json.loads(content)
    except RecursionError:
        raise DataError(path, number, None, "is nested too deeply", "correct the line") from None
    except json.JSONDecodeError as error:
        line = number if number is not None else error.lineno
        problem = f"not valid JSON: {error.msg} at column {error.colno}"
        raise DataError(path, line, None, problem, "correct the line") from None
