"""Weights in files that are mapped into memory, for models that no process is to hold whole.

What is mapped from a file and only read takes no memory of the process's own: all processes of a
node share the pages, and the kernel drops them when it needs room. transformers maps safetensors
whose type is asked for. Models are trained from fp32, and most are published in bf16, so
`in_fp32` writes them in fp32 once for all processes; `mapped_numbers` is the way back, for weights
that are gathered from shares and saved.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from podium.storage import PARTIAL, publish, write_json, writing

__all__ = ["in_fp32", "mapped_numbers"]

PART_BYTES = 2**30  # of fp32 weights that are written as one file, and held while they are
INDEX = "model.safetensors.index.json"
LOW = {"BF16", "F16"}
WAIT_SECONDS = 0.1
# Weights in other forms, which the copy has no need of.
LEFT_OUT = {".safetensors", ".bin", ".pt", ".pth", ".gguf", ".h5", ".msgpack"}


def in_fp32(folder: Path, place: Path, writes: bool = True) -> Path:
    """`place` with the model of `folder` in fp32; `folder` itself where nothing is in fewer bits
    or its weights are no safetensors. A copy that is there already is taken. Of several processes
    one `writes`; the others wait for it, without a collective, since what the main process reads
    alone comes through here too.

    Raises:
        RunFolderError: the disk refused.
    """
    try:
        low = any(kind in LOW for kind in _types(folder))
    except SafetensorError:  # loading tells what is wrong with the file
        low = False
    if not low:
        return folder
    if writes and not place.is_dir():
        _write_in_fp32(folder, place)
    while not place.is_dir():  # a launcher ends all processes where the writing one failed
        time.sleep(WAIT_SECONDS)
    return place


def _write_in_fp32(folder: Path, place: Path) -> None:
    partial = place.with_name(place.name + PARTIAL)
    with writing(place.parent):
        shutil.rmtree(partial, ignore_errors=True)
        partial.mkdir(parents=True)
        for file in folder.iterdir():
            if file.is_file() and file.suffix not in LEFT_OUT and file.name != INDEX:
                shutil.copy(file, partial / file.name)
        names: dict[str, str] = {}
        for number, part in enumerate(_parts(folder)):
            file = partial / f"model-{number:05}.safetensors"
            save_file(part, file, metadata={"format": "pt"})
            names |= dict.fromkeys(part, file.name)
        write_json(partial / INDEX, {"metadata": {}, "weight_map": names})
        publish(partial, place)


def mapped_numbers(shapes: list[torch.Size], folder: Path) -> list[Tensor]:
    """Empty fp32 tensors of these shapes in a file of `folder` that has lost its name: its room is
    free again when the last of them is gone, and a kill leaves nothing.

    Raises:
        RunFolderError: the disk has no room for them.
    """
    numbers = sum(shape.numel() for shape in shapes)
    with writing(folder), tempfile.NamedTemporaryFile(dir=folder, suffix=PARTIAL) as file:
        # A full disk would otherwise be found out by a signal that ends the process.
        os.posix_fallocate(file.fileno(), 0, max(4 * numbers, 1))
        whole = torch.from_file(file.name, shared=True, size=numbers, dtype=torch.float32)
    parts = whole.split([shape.numel() for shape in shapes])
    return [part.view(shape) for part, shape in zip(parts, shapes, strict=True)]


def _types(folder: Path) -> Iterator[str]:
    """The type of every weight, as safetensors writes it."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dict
                yield opened.get_slice(name).get_dtype()


def _parts(folder: Path) -> Iterator[dict[str, Tensor]]:
    """All weights in fp32, those of other types as they are, up to `PART_BYTES` at a time."""
    part: dict[str, Tensor] = {}
    size = 0
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as opened:
            for name in opened.keys():  # noqa: SIM118 - it is no dict
                weight = opened.get_tensor(name)
                # A copy of whatever type: the next file's opening must not pull the map away.
                weight = weight.float() if weight.is_floating_point() else weight.clone()
                if part and size + weight.nbytes > PART_BYTES:
                    yield part
                    part, size = {}, 0
                part[name], size = weight, size + weight.nbytes
    if part:
        yield part
