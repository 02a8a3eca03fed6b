"""Records in and out of JSON Lines files (also gzipped) and of `datasets.Dataset`.

Reading is all or nothing: one malformed line and no record of the file is used. The error names
file, line, field and fix.
"""

import difflib
import gzip
import io
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, TypeVar, cast

from pydantic import BaseModel, ValidationError

from data.records import note_place
from podium.errors import DataError, RunFolderError

if TYPE_CHECKING:
    from datasets import Dataset

__all__ = [
    "from_dataset",
    "numbered_lines",
    "opened",
    "read_bytes",
    "read_jsonl",
    "stream_jsonl",
    "stream_rows",
    "to_dataset",
    "write_jsonl",
]

RecordType = TypeVar("RecordType", bound=BaseModel)

ERRORS_SHOWN = 5  # enough to see the pattern, few enough to read
FIXES = {
    "json_invalid": "write one JSON object on each line, in double quotes",
    "missing": "add it",
    "model_type": "write a JSON object on each line",
    "string_type": "write it in double quotes",
    "int_type": "write a whole number without quotes",
    "float_type": "write a number without quotes",
    "list_type": "write a JSON list: [...]",
    "too_short": "give more entries, or drop the line",
}


def read_jsonl(path: str | Path, record_type: type[RecordType]) -> list[RecordType]:
    """Read every line of `path` as a `record_type`.

    Blank lines are skipped. Raises DataError for a missing, empty or malformed file, naming up to
    `ERRORS_SHOWN` lines.
    """
    return list(stream_jsonl(path, record_type))


def stream_jsonl(path: str | Path, record_type: type[RecordType]) -> Iterator[RecordType]:
    """As `read_jsonl`, one record after the other, for files beyond memory. The error comes when
    the malformed line is reached, and looks on for more of them.
    """
    path = Path(path)
    faults: list[tuple[int, str, str, str]] = []
    found = False
    for number, line in numbered_lines(path):
        try:
            record = record_type.model_validate_json(line)
        except ValidationError as error:
            faults.append((number, *_explain(error, record_type)))
            if len(faults) > ERRORS_SHOWN:
                break
            continue
        found = True
        if not faults:
            note_place(record, str(path), number)
            yield record
    if faults:
        raise _data_error(path, faults)
    if not found:
        raise DataError(
            path,
            None,
            None,
            "the file is empty",
            f"give at least one {record_type.__name__} a line",
        )


def numbered_lines(path: Path) -> Iterator[tuple[int, str]]:
    """Yield (line number from 1, text) of each line that is not blank; `.gz` and `.zst` are
    unpacked on the way. Only one line is in memory.
    """
    with opened(path) as file:
        for number, raw in enumerate(file, start=1):
            try:
                text = raw.decode("utf-8-sig" if number == 1 else "utf-8")
            except UnicodeDecodeError as error:
                problem = f"byte {error.start + 1} of the line is not UTF-8"
                raise DataError(path, number, None, problem, "save the file as UTF-8") from None
            if line := text.rstrip("\n").strip("\r\t "):
                yield number, line


def read_bytes(path: Path) -> bytes:
    """The whole file, unpacked when its name ends in `.gz` or `.zst`. Raises DataError when it
    cannot be read.
    """
    with opened(path) as file:
        return file.read()


@contextmanager
def opened(path: Path) -> Iterator[BinaryIO]:
    """The file for reading, unpacked on the way where its name ends in `.gz` or `.zst`.

    Raises:
        DataError: it is not there, cannot be read, or breaks off in the middle.
    """
    try:
        with _unpacking(path) as file:
            yield file
    except FileNotFoundError:
        raise DataError(path, None, None, "there is no such file", _nearest_file(path)) from None
    except IsADirectoryError:
        raise DataError(path, None, None, "is a folder", "name a file inside it") from None
    except (gzip.BadGzipFile, zlib.error, EOFError) as error:
        raise DataError(
            path, None, None, f"is not a whole gzip file: {error}", "fetch or pack it again"
        ) from None
    except OSError as error:
        if path.suffix == ".zst" and error.errno is None:
            raise DataError(
                path, None, None, f"is not a whole zstd file: {error}", "fetch or pack it again"
            ) from None
        raise DataError(
            path, None, None, f"cannot be read: {error.strerror}", "check the file's permissions"
        ) from None


def _unpacking(path: Path) -> BinaryIO:
    if path.suffix == ".gz":
        return cast(BinaryIO, gzip.open(path, "rb"))
    if path.suffix == ".zst":
        from pyarrow import CompressedInputStream, OSFile

        return cast(BinaryIO, io.BufferedReader(CompressedInputStream(OSFile(str(path)), "zstd")))
    return path.open("rb")


def write_jsonl(path: str | Path, records: Iterable[BaseModel]) -> int:
    """Write one record a line, defaults left out, and return how many.

    The file appears whole or not at all. Raises RunFolderError when the disk is full or the folder
    is not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    count = 0
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with temporary.open("w", encoding="utf-8", newline="\n") as file:
            for record in records:
                file.write(record.model_dump_json(exclude_defaults=True) + "\n")
                count += 1
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(path)
    except OSError as error:
        problem = f"{path} cannot be written: {error.strerror}"
        raise RunFolderError(problem, "free space or choose another folder") from error
    finally:
        with suppress(OSError):
            temporary.unlink()
    return count


def to_dataset(records: Sequence[BaseModel]) -> "Dataset":
    """Records as a `datasets.Dataset` with one column a field; `meta`, the arguments of tool calls
    and the definitions of tools, free in form, travel as JSON text.
    """
    from datasets import Dataset

    rows = [record.model_dump() for record in records]
    for row in rows:
        if "meta" in row:
            row["meta"] = json.dumps(row["meta"], ensure_ascii=False)
        for message in row.get("messages") or row.get("prompt") or []:
            if "tools" in message:
                message["tools"] = [json.dumps(t, ensure_ascii=False) for t in message["tools"]]
            for call in message.get("tool_calls", []):
                function = call["function"]
                function["arguments"] = json.dumps(function["arguments"], ensure_ascii=False)
    return Dataset.from_list(rows)


def from_dataset(
    rows: "Dataset | Iterable[dict[str, Any]]",
    record_type: type[RecordType],
    name: str | Path = "dataset",
) -> list[RecordType]:
    """The inverse of `to_dataset`; any rows will do. Raises DataError naming the row and field that
    do not fit.
    """
    return list(stream_rows(rows, record_type, name))


def stream_rows(
    rows: Iterable[Any], record_type: type[RecordType], name: str | Path
) -> Iterator[RecordType]:
    """As `from_dataset`, one record after the other."""
    for number, row in enumerate(rows, start=1):
        fields = {key: value for key, value in row.items() if value is not None}
        if isinstance(fields.get("meta"), str):
            fields["meta"] = json.loads(fields["meta"])
        try:
            record = record_type.model_validate(fields)
        except ValidationError as error:
            raise _data_error(Path(name), [(number, *_explain(error, record_type))]) from None
        note_place(record, str(name), number)
        yield record


def _explain(error: ValidationError, record_type: type[BaseModel]) -> tuple[str, str, str]:
    """(field, problem, fix) of what is wrong with a line; an unknown key first, for it often
    explains a missing one.
    """
    errors = error.errors(include_url=False)
    first = next((e for e in errors if e["type"] == "extra_forbidden"), errors[0])
    kind, field = first["type"], ".".join(str(part) for part in first["loc"])
    fix = FIXES.get(kind, "correct the value or drop the line")
    if kind == "extra_forbidden":
        return field, "unknown key", _nearest_key(first["loc"], record_type)
    if kind == "json_invalid":
        said = str(first["ctx"]["error"]).replace(" at line 1 column", " at column")
        return field, f"not valid JSON: {said}", fix
    if kind == "missing":
        return field, "the key is missing", fix
    if kind == "too_short":
        return (
            field,
            f"has {first['ctx']['actual_length']} entries, needs at least "
            f"{first['ctx']['min_length']}",
            fix,
        )
    if kind == "value_error":  # raised by a record's own check, which leads with the field's name
        name, _, problem = str(first["ctx"]["error"]).rpartition(": ")
        return field or name, problem, fix
    return (
        field,
        f"{first['msg'][0].lower()}{first['msg'][1:]} (it is {_shorten(first['input'])})",
        fix,
    )


def _nearest_key(location: tuple[int | str, ...], record_type: type[BaseModel]) -> str:
    """Suggest the known key most like the unknown one; nested keys belong to a Message."""
    from data.records import Message

    known = list((record_type if len(location) == 1 else Message).model_fields)
    near = difflib.get_close_matches(str(location[-1]), known, n=1, cutoff=0.6)
    if near:
        return f"did you mean {near[0]!r}?"
    listed = ", ".join(known)
    return f"remove it (known keys: {listed}), or name the file's format if it is another one"


def _nearest_file(path: Path) -> str:
    if not path.parent.is_dir():
        return f"the folder {path.parent} does not exist either"
    near = difflib.get_close_matches(
        path.name, [other.name for other in path.parent.iterdir()], n=1
    )
    return f"did you mean {path.with_name(near[0])}?" if near else "check the path"


def _shorten(value: object, limit: int = 40) -> str:
    text = repr(value)
    return text if len(text) <= limit else text[: limit - 3] + "..."


def _data_error(path: Path, faults: list[tuple[int, str, str, str]]) -> DataError:
    """One error for the first fault; the others follow in its text, one a line."""
    number, field, problem, fix = faults[0]
    also = [
        f"\n  also line {n}{f', field {f!r}' if f else ''}: {p}"
        for n, f, p, _ in faults[1:ERRORS_SHOWN]
    ]
    more = ["\n  and more"] if len(faults) > ERRORS_SHOWN else []
    return DataError(path, number, field or None, problem + "".join(also + more), fix)
