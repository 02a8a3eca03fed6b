"""Documents as token ids on disk, made once and mapped into memory: what a corpus beyond memory is
read from.

    <runs>/.tokens/<key>/
        tokens.bin      every document's ids, one after the other, a separator before each
        ends.bin        int64, where each document ends in them
        store.json      what it was made from; written last, so a folder without it is unfinished

The key is a hash of everything that decides the ids: the files' content, how they are read, the
tokenizer. So a store is never out of date, runs share it, and deleting the folder costs the time to
make it again. A kill loses the documents since the last note in progress.json. Windows do not
depend on the stored form: pretraining, PPO's ptx and perplexity cut the same store at their own
lengths.
"""

import fcntl
import hashlib
import json
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from tokenizers import Tokenizer
from transformers import PreTrainedTokenizerBase

from data.packing import CHUNK, encode_documents
from data.readers import ReadReport, stream_source
from data.records import Document
from data.rows import hub_fingerprint
from data.sources import Source
from data.special_tokens import document_separator_id
from data.tokenizer_training import as_pretrained, learn_bpe
from podium.errors import Interrupted
from podium.storage import hash_file, write_json, write_text, writing

__all__ = [
    "TokenStore",
    "content_of",
    "open_store",
    "open_tokenizer",
    "tokenizer_key",
]

FORMAT = 2  # of the folder; raised when the same key would mean other ids
STORE, PROGRESS, TOKENIZER = "store.json", "progress.json", "tokenizer.json"
PARTS = {"tokens.bin": None, "ends.bin": np.int64}
NOTE_SECONDS = 5.0  # between notes of progress: what a kill can lose
SAY_SECONDS = 15.0
STOPPED = "stopped while documents were made into tokens; what is done is kept"


@dataclass(frozen=True)
class TokenStore:
    """One source's documents: `tokens` (n,) with a separator before each document, `ends` (d,)
    where each ends in them; both mapped, not read.
    """

    tokens: np.ndarray
    ends: np.ndarray
    report: ReadReport

    def __len__(self) -> int:
        return len(self.ends)


def open_store(
    root: Path,
    source: Source,
    content: Any,
    tokenizer: PreTrainedTokenizerBase,
    stopping: Callable[[], bool] = lambda: False,
    tell: Callable[[str], None] = print,
) -> TokenStore:
    """The store of one source, made first when there is none. `content` is JSON that changes when
    the source's content does. Of several processes that want it one makes it, and says now and then
    how far it is; the others wait.

    Raises:
        DataError: from the source. Interrupted: `stopping` said so; the next call goes on.
    """
    how = source.model_dump(mode="json", exclude={"path", "weight"})
    asked = {"source": how, "content": content, "tokenizer": tokenizer_key(tokenizer)}
    folder = root / _key({"format": FORMAT} | asked)
    if not (folder / STORE).is_file():
        with _turn(folder, stopping):
            if not (folder / STORE).is_file():
                _make(folder, source, asked, tokenizer, stopping, tell)
    return _mapped(folder)


def open_tokenizer(
    root: Path, sources: Sequence[Source], vocab_size: int, stopping: Callable[[], bool]
) -> PreTrainedTokenizerBase:
    """The tokenizer learned from the documents of all sources, each once; learned first where it is
    not kept yet.

    Raises:
        DataError: from a source. Interrupted: `stopping` said so.
    """
    how = [part.model_dump(mode="json", exclude={"path", "weight"}) for part in sources]
    asked = {"sources": how, "content": [content_of(part) for part in sources]}
    folder = root / _key({"tokenizer": FORMAT, "vocab_size": vocab_size} | asked)

    def texts() -> Iterator[str]:
        for part in sources:
            for document in stream_source(part, Document, ReadReport()):
                _stop(stopping)
                yield document.text

    if not (folder / TOKENIZER).is_file():
        with _turn(folder, stopping):
            if not (folder / TOKENIZER).is_file():
                write_text(folder / TOKENIZER, learn_bpe(texts(), vocab_size).to_str())
    return as_pretrained(Tokenizer.from_str((folder / TOKENIZER).read_text(encoding="utf-8")))


def content_of(source: Source) -> list[Any]:
    """JSON that changes when the source's content does: the name and hash of each of its files in
    the order in which they are read; of a hub's data set the library's own fingerprint.
    """
    path = Path(os.path.expandvars(source.path)).expanduser()
    if path.is_dir():
        # A folder's hidden files are an editor's or the system's.
        found = sorted(p for p in path.rglob("[!.]*") if p.is_file())
        return [[str(file.relative_to(path)), hash_file(file)] for file in found]
    if path.is_file():
        return [["".join(path.suffixes), hash_file(path)]]
    return [source.path, hub_fingerprint(source.path, source)]


def _key(asked: Any) -> str:
    return hashlib.sha256(json.dumps(asked, sort_keys=True).encode()).hexdigest()[:24]


def tokenizer_key(tokenizer: PreTrainedTokenizerBase) -> str:
    """A hash of what decides a text's ids."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    rules = backend.to_str() if backend is not None else json.dumps(tokenizer.get_vocab())
    return hashlib.sha256(f"{rules} {document_separator_id(tokenizer)}".encode()).hexdigest()


def _id_type(tokenizer: PreTrainedTokenizerBase) -> np.dtype[Any]:
    return np.dtype(np.uint16 if len(tokenizer) <= 2**16 else np.int32)


@contextmanager
def _turn(folder: Path, stopping: Callable[[], bool]) -> Iterator[None]:
    """Hold the folder for this process. Waiting asks no collective of the other processes, so no
    time limit of theirs can pass, and a signal is obeyed.
    """
    with writing(folder.parent):
        folder.mkdir(parents=True, exist_ok=True)
        handle = (folder / ".lock").open("w")
    with handle:
        while True:
            try:
                fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
                break
            except OSError:
                _stop(stopping)
                time.sleep(0.2)
        yield


def _stop(stopping: Callable[[], bool]) -> None:
    if stopping():
        raise Interrupted(STOPPED)


def _make(
    folder: Path,
    source: Source,
    asked: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    stopping: Callable[[], bool],
    tell: Callable[[str], None],
) -> None:
    """Read, tokenize and append, from the first document that is not noted as written."""
    report = ReadReport()
    documents = stream_source(source, Document, report)
    done = _progress(folder)
    if done["documents"]:
        tell(f"  documents to tokens: goes on after {done['documents']:,} documents")
    began = noted = said = time.monotonic()
    start = done["characters"]
    separator = document_separator_id(tokenizer)  # once: it reads the whole vocabulary
    with writing(folder), _appending(folder, done) as files:
        for _ in islice(documents, done["documents"]):
            _stop(stopping)
        while chunk := [document.text for document in islice(documents, CHUNK)]:
            _append(files, chunk, tokenizer, separator, done)
            now = time.monotonic()
            stop = stopping()
            if stop or now - noted > NOTE_SECONDS:
                _note(folder, files, done)
                noted = now
            if stop:
                raise Interrupted(STOPPED)
            if now - said > SAY_SECONDS:
                rate = (done["characters"] - start) / (now - began) / 1e6
                tell(
                    f"  documents to tokens: {done['documents']:,} documents, "
                    f"{done['tokens.bin'] / _id_type(tokenizer).itemsize:,.0f} tokens, "
                    f"{rate:.1f} million characters/s"
                )
                said = now
        _note(folder, files, done)
    counts = {"kept": report.kept, "dropped": dict(report.dropped)}
    kind = _id_type(tokenizer).name
    write_json(folder / STORE, asked | {"path": source.path, "ids": kind} | counts)
    (folder / PROGRESS).unlink()


def _append(
    files: dict[str, BinaryIO],
    texts: list[str],
    tokenizer: PreTrainedTokenizerBase,
    separator: int,
    done: dict[str, int],
) -> None:
    before, kind = np.asarray([separator]), _id_type(tokenizer)
    ids = encode_documents(tokenizer, texts)
    lengths = np.asarray([len(row) + 1 for row in ids], dtype=np.int64)
    whole = np.concatenate([part for row in ids for part in (before, row)]).astype(kind)
    written = {
        "tokens.bin": whole,
        "ends.bin": np.cumsum(lengths) + done["tokens.bin"] // kind.itemsize,
    }
    for name, values in written.items():
        files[name].write(values.tobytes())
        done[name] += values.nbytes
    done["documents"] += len(texts)
    done["characters"] += sum(map(len, texts))


def _progress(folder: Path) -> dict[str, int]:
    """Documents and bytes that are surely on the disk."""
    path = folder / PROGRESS
    if path.is_file():
        found: dict[str, int] = json.loads(path.read_text())
        return found
    return dict.fromkeys(("documents", "characters", *PARTS), 0)


def _note(folder: Path, files: dict[str, BinaryIO], done: dict[str, int]) -> None:
    for file in files.values():
        file.flush()
        os.fsync(file.fileno())
    write_json(folder / PROGRESS, done)


@contextmanager
def _appending(folder: Path, done: dict[str, int]) -> Iterator[dict[str, BinaryIO]]:
    """The files, cut back to what is noted: a kill may have left more than that, or half of it."""
    files: dict[str, BinaryIO] = {}
    try:
        for name in PARTS:
            files[name] = (folder / name).open("ab")
            files[name].truncate(done[name])
        yield files
    finally:
        for file in files.values():
            file.close()


def _mapped(folder: Path) -> TokenStore:
    about = json.loads((folder / STORE).read_text())
    kinds = PARTS | {"tokens.bin": np.dtype(about["ids"])}
    tokens, ends = (np.memmap(folder / name, dtype=kind, mode="r") for name, kind in kinds.items())
    report = ReadReport(about["kept"])
    report.dropped.update(about["dropped"])
    return TokenStore(tokens, ends, report)
