"""Where a parent's name leads: a stage of this run, another folder, or the Hugging Face hub."""

import json
import os
import re
from pathlib import Path

from podium.errors import ParentError
from podium.run.lineage import STAGE_FILE
from podium.run.recipe import Recipe
from podium.run.registry import command_of, is_stage

__all__ = [
    "find_parent",
    "is_hub_id",
    "within_stage",
]

# What a folder holds in which a tokenizer was saved without a model.
TOKENIZER_FILES = ("tokenizer.json", "tokenizer_config.json")
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")


def find_parent(ref: str, recipe: Recipe, run_dir: Path) -> Path:
    """The folder with a parent's files: final/ of a stage, a model within it (`reward/held_out`),
    a model folder, that of a tokenizer alone, or a downloaded hub model.

    Raises:
        ParentError: it does not exist (yet); the fix is the command that makes it.
    """
    if is_stage(ref):
        final = run_dir / ref / "final"
        if not (final / STAGE_FILE).is_file():
            raise _missing_stage(ref, recipe, run_dir)
        return final
    stage, inside = within_stage(ref)
    if inside:
        return _inside(find_parent(stage, recipe, run_dir), ref, inside)
    folder = Path(os.path.expandvars(ref)).expanduser()
    if (folder / "final" / STAGE_FILE).is_file():
        return folder / "final"
    if any((folder / name).is_file() for name in (STAGE_FILE, "config.json", *TOKENIZER_FILES)):
        return folder
    if (folder / "adapter_config.json").is_file():
        raise ParentError(
            f"{folder} holds an adapter alone{_base_of(folder)}",
            "merge it into its base first (peft's merge_and_unload, then save_pretrained with the "
            "tokenizer) and give that folder; of a stage of Podium give final/ itself",
        )
    if folder.exists():
        raise ParentError(
            f"{folder} is neither a finished stage (no {STAGE_FILE}) nor a model folder (no "
            f"config.json)",
            "finish the run that writes it, or give a folder in Hugging Face layout",
        )
    if is_hub_id(ref):
        return _download(ref)
    known = ", ".join(recipe.chain()) or "it has none"
    raise ParentError(
        f"there is no parent '{ref}'",
        f"name a stage of this recipe ({known}), a folder, or a hub id like org/model",
    )


def is_hub_id(ref: str) -> bool:
    """Whether a parent can only be a model of the hub: `org/model`, and no folder here."""
    there = Path(os.path.expandvars(ref)).expanduser().exists()
    return _HUB_ID.fullmatch(ref) is not None and not there and within_stage(ref) == (ref, "")


def within_stage(ref: str) -> tuple[str, str]:
    """`reward/held_out` -> ("reward", "held_out"): a model that a stage left beside its main one.
    What is no stage's comes back whole, with nothing inside.
    """
    stage, _, inside = ref.partition("/")
    return (stage, inside) if inside and is_stage(stage) else (ref, "")


def _inside(final: Path, ref: str, inside: str) -> Path:
    folder = final / inside
    if not (folder / "config.json").is_file():
        there = ", ".join(sorted(path.parent.name for path in final.glob("*/config.json")))
        raise ParentError(
            f"there is no model '{ref}': {final} holds {there or 'its own model only'}",
            "reward.half: split makes reward/held_out; make the stage anew with it",
        )
    return folder


def _base_of(adapter: Path) -> str:
    """Which model an adapter belongs to, as far as its config says it."""
    try:
        config = json.loads((adapter / "adapter_config.json").read_text(encoding="utf-8"))
    except ValueError:
        return ""
    base = config.get("base_model_name_or_path") if isinstance(config, dict) else None
    return f", of the base {base}" if base else ""


def _missing_stage(ref: str, recipe: Recipe, run_dir: Path) -> ParentError:
    if ref not in recipe.chain():
        return ParentError(
            f"the parent '{ref}' is no stage of the recipe '{recipe.name}'",
            f"add a section `{ref}:` to the recipe, or name one of "
            f"{', '.join(recipe.chain())}, a folder or a hub id",
        )
    place = "" if run_dir.parent == Path("runs") else f" --runs-dir {run_dir.parent}"
    return ParentError(
        f"the parent '{ref}' has no finished output in {run_dir / ref}",
        f"make it first: {command_of(ref)} {run_dir / 'recipe.yaml'}{place}",
    )


def _download(hub_id: str) -> Path:
    from huggingface_hub import snapshot_download

    try:
        # Weights once, in safetensors where there are any; no other framework's copies.
        return Path(
            snapshot_download(
                hub_id, ignore_patterns=["*.msgpack", "*.h5", "*.ot", "*.onnx", "original/*"]
            )
        )
    except (
        Exception
    ) as error:  # the hub client raises unrelated kinds for no network, no access, no such name
        raise ParentError(
            f"'{hub_id}' is no folder here and could not be fetched from the Hugging Face hub: "
            f"{error}",
            "check the name and the connection, or download it yourself and give its folder",
        ) from error
