"""Weights on their way to another process: a model folder as Hugging Face lays it out, with a
version beside it, which appears whole or not at all.
"""

from __future__ import annotations

import fcntl
import json
import shutil
import tempfile
import time
from contextlib import suppress
from pathlib import Path
from typing import Any, cast

import torch
from torch import Tensor, nn

from podium.models import inside_peft
from podium.sampling.vllm.worker import VERSION
from podium.storage import PARTIAL, publish, writing

PREFIX, OWNER = "podium-weights-", "owner"
SHARED_MEMORY = Path("/dev/shm")
ROOM = 4  # times the weights' size that shared memory must have free before it is used


class Place:
    """A folder for the weights of `model`: in `folder` where a recipe names one, otherwise in
    shared memory where there is room, otherwise among the temporary files.

    Its owner holds a lock in it, which the kernel takes away from a process that is killed: what
    such a one left is removed by the next.
    """

    def __init__(self, model: nn.Module, dtype: torch.dtype, folder: str | None) -> None:
        size = sum(weight.numel() for weight in model.parameters()) * dtype.itemsize
        if folder is not None:
            inside = Path(folder)
            inside.mkdir(parents=True, exist_ok=True)
        elif SHARED_MEMORY.is_dir() and shutil.disk_usage(SHARED_MEMORY).free > ROOM * size:
            inside = SHARED_MEMORY
        else:
            inside = Path(tempfile.gettempdir())
        _sweep(inside)
        self.path = Path(tempfile.mkdtemp(prefix=PREFIX, dir=inside))
        self._owner = (self.path / OWNER).open("w")
        fcntl.flock(self._owner, fcntl.LOCK_EX)

    def remove(self) -> None:
        """The folder is gone, and whatever lies in it."""
        shutil.rmtree(self.path, ignore_errors=True)
        self._owner.close()


def _sweep(inside: Path) -> None:
    """Remove the folders of owners that are no more; a new one gets a minute to take its lock."""
    for left in inside.glob(f"{PREFIX}*"):
        with suppress(OSError):
            if time.time() - left.stat().st_mtime < 60:
                continue
            with (left / OWNER).open("r+") as owner:
                fcntl.flock(owner, fcntl.LOCK_EX | fcntl.LOCK_NB)
                shutil.rmtree(left, ignore_errors=True)


def write_weights(model: nn.Module, folder: Path, version: str, dtype: torch.dtype) -> None:
    """The model as `folder`: config.json, safetensors in `dtype`, and the version. Adapters are
    added into the weights that are written; those of `model` stay as they are.

    Under ZeRO-3 call it where the weights are whole (`podium.sharding.gathered`).
    """
    lm = cast("Any", inside_peft(model))
    partial = folder.with_name(folder.name + PARTIAL)
    with writing(folder.parent):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        lm.save_pretrained(str(partial), state_dict=_plain(lm, dtype))
        (partial / VERSION).write_text(json.dumps({"version": version}))
        publish(partial, folder)


@torch.no_grad()
def _plain(lm: nn.Module, dtype: torch.dtype) -> dict[str, Tensor]:
    """Every weight under the name that it has without peft, adapters added in."""
    deltas: dict[str, Tensor] = {}
    for name, module in lm.named_modules():
        layer = cast("Any", module)
        if hasattr(layer, "get_delta_weight"):
            for adapter in layer.active_adapters:
                delta = layer.get_delta_weight(adapter)
                before = deltas.get(f"{name}.weight")
                deltas[f"{name}.weight"] = delta if before is None else before + delta
    found = {}
    for name, tensor in lm.state_dict().items():
        if ".lora_" in name:
            continue
        plain = name.replace(".base_layer.", ".")
        whole = tensor + deltas[plain] if plain in deltas else tensor
        found[plain] = whole.to(dtype) if whole.is_floating_point() else whole
    return found
