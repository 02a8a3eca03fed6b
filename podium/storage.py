"""Writing so that a kill, a full disk or a second process never leaves half a file or half a folder
behind.
"""

import errno
import fcntl
import hashlib
import json
import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from podium.errors import PodiumError, RunFolderError

PARTIAL = ".partial"  # the suffix of everything that is still being written
PROBE_BYTES = 4 * 2**20
REMEMBERED_BYTES = 64 * 2**20
SETTLED_SECONDS = 2.0

_CAUSES = {
    errno.ENOSPC: "the disk is full",
    errno.EDQUOT: "the disk quota is used up",
    errno.EFBIG: "the file would be larger than this system allows",
    errno.EROFS: "the file system is read-only",
    errno.EACCES: "permission denied",
    errno.EPERM: "permission denied",
}


@contextmanager
def writing(folder: Path) -> Iterator[None]:
    """Turn what the disk refuses into one clear error.

    Libraries hide the system's error: safetensors turns it into text, torch.save into "unexpected
    pos". So the text is searched where there is no errno, and after any other failure a few
    megabytes are tried.

    Raises:
        RunFolderError: full disk, quota, read-only or no permission.
    """
    try:
        yield
    except (
        Exception
    ) as error:  # any kind: the cause is looked for, and the error goes on as it is without one
        cause = None if isinstance(error, PodiumError) else _disk_cause(error) or _refusal(folder)
        if cause is None:
            raise
        raise RunFolderError(
            f"cannot write in {folder}: {cause}",
            "free space or choose another place with --runs-dir, then give the same command: "
            "it goes on where it was",
        ) from error


def _disk_cause(error: BaseException) -> str | None:
    if isinstance(error, OSError) and error.errno in _CAUSES:
        return _CAUSES[error.errno]
    text = str(error)
    for number, cause in _CAUSES.items():
        if os.strerror(number) in text or f"os error {number}" in text:
            return cause
    return None


def _refusal(folder: Path) -> str | None:
    """Why the disk takes no more; None if it does."""
    probe = folder / f".probe{PARTIAL}"
    try:
        probe.write_bytes(bytes(PROBE_BYTES))
    except OSError as error:
        return _disk_cause(error)
    finally:
        probe.unlink(missing_ok=True)
    return None


def hash_file(path: Path) -> str:
    """SHA-256 of the file's bytes, in hexadecimal. That of a large file is remembered in the user's
    cache for as long as its inode, size and both times are the same: writing to a file changes the
    second, which no program can put back.
    """
    about = path.stat()
    known = [about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns]
    if about.st_size < REMEMBERED_BYTES:
        return _sha256(path)
    cache = Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "podium" / "hashes"
    note = cache / hashlib.sha256(str(path.resolve()).encode()).hexdigest()
    with suppress(OSError, ValueError):
        found = json.loads(note.read_text())
        if found["file"] == known:
            return str(found["sha256"])
    sha256 = _sha256(path)
    # A change within the clock's grain of the last one would not show in the times.
    if time.time() - about.st_ctime > SETTLED_SECONDS and path.stat().st_ctime_ns == known[3]:
        with suppress(OSError, RunFolderError):
            write_json(note, {"path": str(path.resolve()), "file": known, "sha256": sha256})
    return sha256


def _sha256(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def write_text(path: Path, text: str) -> None:
    """The whole file or nothing: written beside its place, synced, renamed."""
    partial = path.with_name(path.name + PARTIAL)
    with writing(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with partial.open("w", encoding="utf-8") as file:
                file.write(text)
                file.flush()
                os.fsync(file.fileno())
            partial.replace(path)
        except BaseException:
            partial.unlink(missing_ok=True)
            raise


def write_json(path: Path, value: Any) -> None:
    """Write `value` with `write_text`; NaN and infinity raise ValueError, they are not JSON."""
    write_text(path, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def publish(partial: Path, folder: Path) -> None:
    """Sync every file of `partial` to the disk, then give the folder its real name in one
    rename.
    """
    for path in sorted(partial.rglob("*")):
        if path.is_file():
            _fsync(path)
    _fsync(partial)
    if folder.exists():
        shutil.rmtree(folder)
    partial.replace(folder)
    _fsync(folder.parent)


def _fsync(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def remove_partial(folder: Path) -> list[Path]:
    """Delete what a killed process left half-written directly in `folder`; returns what was
    there.
    """
    found = sorted(folder.glob(f"*{PARTIAL}")) if folder.is_dir() else []
    for path in found:
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    return found


@contextmanager
def lock(run_dir: Path) -> Iterator[None]:
    """Hold `run_dir` for this process; the kernel frees it when the process dies, so no lock is
    ever stale.

    Raises:
        RunFolderError: another podium works in the folder, or it cannot be written.
    """
    path = run_dir / ".lock"
    with writing(run_dir):
        run_dir.mkdir(parents=True, exist_ok=True)
        handle = path.open("a+", encoding="utf-8")
    with handle:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            handle.seek(0)
            holder = handle.read().strip() or "unknown"
            raise RunFolderError(
                f"another podium (process {holder}) works in {run_dir}",
                "wait for it, stop it, or give the recipe another name: --set name=...",
            ) from error
        handle.truncate(0)
        handle.write(f"{os.getpid()}\n")
        handle.flush()
        yield
