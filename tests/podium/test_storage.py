"""What is written appears whole, and what is read is known by its content."""

import os
import time

import pytest

from podium import storage
from podium.storage import hash_file


@pytest.fixture
def every_file_is_large(monkeypatch, tmp_path):
    monkeypatch.setattr(storage, "REMEMBERED_BYTES", 0)
    monkeypatch.setattr(storage, "SETTLED_SECONDS", 0.05)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


def test_a_large_file_is_hashed_once(every_file_is_large, tmp_path, monkeypatch):
    """Seen red: the note never written."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("honey")
    time.sleep(0.1)
    first = hash_file(path)
    monkeypatch.setattr(storage, "_sha256", None)  # would be called
    assert hash_file(path) == first


def test_an_edit_that_keeps_size_and_time_is_seen(every_file_is_large, tmp_path):
    """Mutation seen red: the time of the last change of the inode left out of what is compared."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("honey")
    time.sleep(0.1)
    before, first = path.stat(), hash_file(path)
    path.write_text("bread")
    os.utime(path, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert path.stat().st_size == before.st_size and hash_file(path) != first


def test_a_file_that_was_just_written_is_not_remembered(every_file_is_large, tmp_path):
    """The clock's grain could hide the next write. Mutation seen red: no wait for it to settle."""
    path = tmp_path / "corpus.jsonl"
    path.write_text("honey")
    hash_file(path)
    assert not list((tmp_path / "cache").rglob("*"))
