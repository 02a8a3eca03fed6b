"""Which code and libraries a record names, and what of a config it is compared by."""

import importlib.metadata
import platform
import subprocess

import pytest
from pydantic import BaseModel, ConfigDict, Field

from podium.errors import RunFolderError
from podium.run import lineage
from podium.run.lineage import code_revision, completed, fingerprint, hash_folder, read_stage_file
from podium.run.recipe import validate
from podium.run.registry import STAGES
from podium.storage import hash_file


@pytest.fixture
def checkout(tmp_path, monkeypatch):
    """`checkout(*arguments)` runs git in a repository whose podium/run/lineage.py is the running
    one, as far as it knows.
    """
    monkeypatch.setattr(lineage, "__file__", str(tmp_path / "podium" / "run" / "lineage.py"))
    (tmp_path / "podium" / "run").mkdir(parents=True)

    def git(*arguments: str) -> str:
        who = ["-c", "user.name=A", "-c", "user.email=a@b.c"]
        command = ["git", "-C", str(tmp_path), *who, *arguments]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()

    yield git
    code_revision.cache_clear()


def test_the_code_is_told_by_its_commit_and_whether_files_differ(checkout, tmp_path):
    """Mutations seen red: another commit; new files taken for changes; changes not looked for."""

    def told() -> str:
        code_revision.cache_clear()
        return code_revision()

    assert told() == "unknown", "outside git"
    checkout("init", "-q")
    assert told() == "unknown", "no commit yet"
    for text in ("x = 1\n", "x = 2\n"):
        (tmp_path / "podium" / "a.py").write_text(text)
        checkout("add", ".")
        checkout("commit", "-q", "-m", "More")
    assert told() == checkout("rev-parse", "HEAD")
    (tmp_path / "notes.txt").write_text("Nobody's.")
    assert told() == checkout("rev-parse", "HEAD"), "a new file is nobody's code"
    (tmp_path / "podium" / "a.py").write_text("x = 3\n")
    assert told() == checkout("rev-parse", "HEAD") + "+changes"


def test_without_git_the_code_is_unknown(checkout, monkeypatch, tmp_path):
    """Mutation seen red: a missing program ends the stage."""
    monkeypatch.setenv("PATH", str(tmp_path))
    code_revision.cache_clear()
    assert code_revision() == "unknown"


def test_versions_are_those_of_what_is_installed(monkeypatch):
    monkeypatch.setattr(lineage, "LIBRARIES", ("torch", "no-such-library", "numpy"))
    assert lineage.library_versions() == {
        "python": platform.python_version(),
        "torch": importlib.metadata.version("torch"),
        "numpy": importlib.metadata.version("numpy"),
    }


def test_a_folder_is_known_by_its_record_or_else_by_its_files(tmp_path):
    """Mutations seen red: names left out of the hash; folders inside hashed as files."""
    (tmp_path / "b.txt").write_text("two")
    (tmp_path / "a.txt").write_text("one")
    (tmp_path / "deep").mkdir()
    known = hash_folder(tmp_path)
    assert known == hash_folder(tmp_path) and len(known) == 64
    (tmp_path / "deep" / "c.txt").write_text("three")
    assert hash_folder(tmp_path) == known
    (tmp_path / "b.txt").rename(tmp_path / "c.txt")
    assert hash_folder(tmp_path) != known
    (tmp_path / "stage.json").write_text('{"format": 1}')
    assert hash_folder(tmp_path) == hash_file(tmp_path / "stage.json")


def test_a_record_is_read_where_it_is_whole_and_no_newer_than_this_podium(tmp_path):
    assert read_stage_file(tmp_path) is None
    file = tmp_path / "stage.json"
    for text, found in (('{"format": 1, "x": "é"}', {"format": 1, "x": "é"}), ("{}", {})):
        file.write_text(text, encoding="utf-8")
        assert read_stage_file(tmp_path) == found
    file.write_text('{"format": 2}')
    with pytest.raises(RunFolderError, match="format 2, newer"):
        read_stage_file(tmp_path)
    file.write_text('{"format": ')
    with pytest.raises(RunFolderError, match="is not JSON"):
        read_stage_file(tmp_path)


class Shapes(BaseModel):
    """A config with values that JSON writes otherwise."""

    model_config = ConfigDict(extra="forbid", frozen=True)
    sides: tuple[int, ...] = Field((1, 2), description="lengths")
    times: int = Field(3, description="how often")


def test_a_config_is_compared_as_json_holds_it(monkeypatch):
    """A pair comes back from a file as a list. Mutations seen red: compared as Python values; a
    recorded value replaced by today's default.
    """
    assert completed({"sides": [5, 6]}, Shapes()) == {"sides": [5, 6], "times": 3}
    assert completed({"sides": [5], "times": 4, "gone": 1}, Shapes()) == {
        "sides": [5], "times": 4, "gone": 1
    }  # fmt: skip
    assert completed({"times": "refused"}, Shapes()) == {"times": "refused"}
    recipe = validate({"name": "run", "seed": 5, "dtype": "bf16", "sft": {"model": "base"}}, "test")
    monkeypatch.setattr(type(recipe), "stage_config", lambda self, stage: Shapes())
    assert "sft" in STAGES
    assert fingerprint(recipe, "sft") == {"seed": 5, "dtype": "bf16", "sides": [1, 2], "times": 3}
