"""What a stage was made from: hashes of parents and data, the code and libraries, and what has
changed since.
"""

import functools
import hashlib
import importlib.metadata
import json
import os
import platform
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ValidationError

from podium.errors import RunFolderError
from podium.run.recipe import Recipe, SplitSources
from podium.run.registry import spec_of
from podium.storage import hash_file

FORMAT_VERSION = 1
STAGE_FILE = "stage.json"
SourceJSON = str | dict[str, Any] | list[Any]  # a SourceSpec of the recipe, as JSON
LIBRARIES = ("torch", "transformers", "tokenizers", "trl", "peft", "deepspeed", "datasets", "numpy")


def hash_folder(folder: Path) -> str:
    """SHA-256 that tells whether a parent is still the same. A stage's output is known by its
    stage.json, which is written last and holds a time, so a stage that was made anew counts as
    changed; any other model folder is known by the content of its files.
    """
    if (folder / STAGE_FILE).is_file():
        return hash_file(folder / STAGE_FILE)
    digest = hashlib.sha256()
    for path in sorted(p for p in folder.iterdir() if p.is_file()):
        digest.update(f"{path.name} {hash_file(path)}\n".encode())
    return digest.hexdigest()


def read_stage_file(final: Path) -> dict[str, Any] | None:
    """The stage.json of a finished output; None when there is none (then there is no output).

    Raises:
        RunFolderError: it was written by a newer Podium, or is not JSON.
    """
    path = final / STAGE_FILE
    if not path.is_file():
        return None
    try:
        record = json.loads(path.read_text(encoding="utf-8"))
    except json.JSONDecodeError as error:
        raise RunFolderError(
            f"{path} is not JSON: {error}", "move the stage's folder away to make it again"
        ) from error
    if record.get("format", 0) > FORMAT_VERSION:
        raise RunFolderError(
            f"{path} has format {record['format']}, newer than this Podium", "update Podium"
        )
    return record


def source_of(recipe: Recipe, run_dir: Path, kind: str, split: str | None) -> SourceJSON | None:
    """Where a kind of records comes from: the recipe's own data, else the world's file; None where
    neither has it. The kind "world" is the world itself.

    A kind the recipe gives is never filled up from the world: two splits of different data would
    not belong together. A world has labelers, but no rankings.
    """
    if kind == "world":
        return "world" if recipe.data.world is not None else None
    own: SplitSources | None = getattr(recipe.data, kind)
    if own is not None:
        return own.model_dump(mode="json", exclude_defaults=True).get(str(split))
    if recipe.data.world is None or kind == "rankings":
        return None
    path = (
        run_dir
        / "world"
        / "final"
        / ("questions.jsonl" if kind == "questions" else f"{kind}.{split}.jsonl")
    )
    return relative(path, run_dir)


def source_files(source: SourceJSON, run_dir: Path) -> list[dict[str, Any]]:
    """Path, SHA-256 and size of every local file a source reads (a hub id has none; its records are
    counted).
    """
    files = []
    for path in _local_paths(source, run_dir):
        members = [path]
        if path.is_dir():
            # A folder's hidden files are an editor's or the system's.
            members = sorted(p for p in path.rglob("[!.]*") if p.is_file())
        for file in members:
            files.append(
                {
                    "path": relative(file, run_dir),
                    "sha256": hash_file(file),
                    "bytes": file.stat().st_size,
                }
            )
    return files


def absolute(source: SourceJSON, run_dir: Path) -> SourceJSON:
    """The source with paths inside the run folder made whole, as `data.readers` wants them."""
    if isinstance(source, list):
        return [absolute(part, run_dir) for part in source]
    if isinstance(source, dict):
        return (
            source | {"path": absolute(str(source["path"]), run_dir)}
            if "path" in source
            else source
        )
    # Only the world lies inside the run: every other relative path means the working directory.
    inside = run_dir / source
    return (
        str(inside)
        if source.startswith("world/final/") and inside.exists()
        else str(Path(os.path.expandvars(source)).expanduser())
    )


def _local_paths(source: Any, run_dir: Path) -> Iterator[Path]:
    if isinstance(source, list):
        for part in source:
            yield from _local_paths(part, run_dir)
    elif isinstance(source, dict):
        yield from _local_paths(source.get("path"), run_dir)
    elif source is not None:
        path = Path(str(absolute(str(source), run_dir)))
        if path.exists():
            yield path


def relative(path: Path, run_dir: Path) -> str:
    """Paths inside the run are kept relative to it, so that a run folder can be moved."""
    path = path.resolve()
    return (
        str(path.relative_to(run_dir.resolve()))
        if path.is_relative_to(run_dir.resolve())
        else str(path)
    )


def fingerprint(recipe: Recipe, stage: str) -> dict[str, Any]:
    """The config that decides what a stage makes: its own section, the seed and the number
    format.
    """
    config = recipe.stage_config(stage)
    tree: dict[str, Any] = {"seed": recipe.seed, "dtype": recipe.dtype} | config.model_dump(
        mode="json"
    )
    if spec_of(stage).reads_all:
        # Such a stage reports on every stage before it, so another chain makes another report.
        tree["chain"] = [name for name in recipe.chain() if name != stage]
    return tree


def changes(record: dict[str, Any], recipe: Recipe, stage: str, run_dir: Path) -> list[str]:
    """What differs between a record (stage.json, checkpoint.json) and now, one sentence each; an
    empty list where nothing does.

    A parent or data file that is gone is no change: an output outlives what it was made from.
    """
    before = completed(record["config"], recipe.stage_config(stage))
    found = _config_changes(before, fingerprint(recipe, stage))
    if (sampler := record.get("sampler")) is not None:  # a stage that sampled
        sampler = completed(sampler, recipe.sampler)
        found += _config_changes(sampler, recipe.sampler.model_dump(mode="json"), "sampler.")
    # Records from before these keys were there say nothing of them: nothing was chosen then.
    if (tokens := record.get("special_tokens", {})) is not None:
        tokens = completed(tokens, recipe.special_tokens)
        found += _config_changes(tokens, recipe.special_tokens.model_dump(), "special_tokens.")
    for parent in record["parents"]:
        folder = run_dir / parent["path"]  # an absolute path stays as it is
        if folder.is_dir() and hash_folder(folder) != parent["sha256"]:
            found.append(f"the parent '{parent['ref']}' was made anew")
    for file in record.get("code", []):
        path = run_dir / file["path"]
        if path.is_file() and hash_file(path) != file["sha256"] and not record.get("code_failed"):
            found.append(f"the code in {path} has other content")
    for entry in record["data"]:
        found += _data_changes(entry, recipe, run_dir)
    return found


def _data_changes(entry: dict[str, Any], recipe: Recipe, run_dir: Path) -> list[str]:
    """What differs between a looked-up source and now. Files are compared by content alone: an
    edit may keep size and time.
    """
    kind, recorded = entry["kind"], {file["path"]: file["sha256"] for file in entry["files"]}
    now: dict[str, str] = {}
    if kind:
        source = source_of(recipe, run_dir, kind, entry["split"])
        if source != entry["source"]:
            name = ".".join(filter(None, ("data", kind, entry["split"])))
            had_none = entry["source"] is None
            return [f"{name} {'had no source and has one' if had_none else 'names another source'}"]
        if source is not None and kind != "world":
            # A folder may hold more files than it did, and a relative path lead elsewhere; the
            # same content in another place (a project that was moved) is no change.
            found = {file["path"]: file["sha256"] for file in source_files(source, run_dir)}
            known = set(recorded.values())
            now = {p: sha256 for p, sha256 in found.items() if p in recorded or sha256 not in known}
    # Data files that no source of the recipe names any more (a stage may read others) are compared
    # where they lie; one that is gone is no change.
    for path in recorded.keys() - now.keys():
        if (run_dir / path).is_file():
            now[path] = hash_file(run_dir / path)
    return [
        f"the data file {path} {'has other content' if recorded.get(path) else 'is new'}"
        for path, sha256 in sorted(now.items())
        if sha256 != recorded.get(path)
    ]


def completed(recorded: dict[str, Any], now: BaseModel) -> dict[str, Any]:
    """A recorded config with the keys that came after it, at their defaults: they did not exist,
    so the stage was made as their defaults make it, and a newer Podium need not make it again.
    """
    section = {key: value for key, value in recorded.items() if key in type(now).model_fields}
    try:
        return recorded | type(now).model_validate(section).model_dump(mode="json")
    except ValidationError:  # a value that is refused today: compared as it was written
        return recorded


def _config_changes(old: dict[str, Any], new: dict[str, Any], prefix: str = "") -> list[str]:
    found = []
    for key in sorted(old.keys() | new.keys()):
        before, after = old.get(key), new.get(key)
        if isinstance(before, dict) and isinstance(after, dict):
            found += _config_changes(before, after, f"{prefix}{key}.")
        elif before != after:
            found.append(f"{prefix}{key} was {json.dumps(before)} and is {json.dumps(after)}")
    return found


@functools.cache
def code_revision() -> str:
    """The commit of this checkout, with `+changes` when files differ from it; 'unknown' outside
    git.
    """
    root = Path(__file__).resolve().parents[2]
    try:
        commit = subprocess.run(
            ["git", "-C", str(root), "rev-parse", "HEAD"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
        dirty = subprocess.run(
            ["git", "-C", str(root), "status", "--porcelain", "--untracked-files=no"],
            capture_output=True,
            text=True,
            check=True,
            timeout=10,
        ).stdout.strip()
    except (OSError, subprocess.SubprocessError):
        return "unknown"
    return commit + ("+changes" if dirty else "")


def library_versions() -> dict[str, str]:
    """Version of Python and of each of `LIBRARIES` that is installed."""
    versions = {"python": platform.python_version()}
    for name in LIBRARIES:
        try:
            versions[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return versions
