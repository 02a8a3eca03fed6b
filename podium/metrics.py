"""metrics.jsonl, one JSON object a step and the source of truth, the optional trackers that mirror
it, and how a metric is written where people read it.
"""

import importlib
import json
import math
import os
from pathlib import Path
from typing import Any, Protocol

from podium.errors import PlatformError
from podium.storage import writing


def metric_text(value: float) -> str:
    """A metric for people: counts and thousands as whole numbers, all else with four digits.

    30,000 documents, not 3e+04; a rate of 0.0001 stays that.
    """
    if float(value).is_integer() or abs(value) >= 1000:
        return f"{value + 0.0:,.0f}"  # + 0.0: no minus before a zero
    return f"{value:.4g}"


class MetricsLog:
    """Appends to metrics.jsonl; every line reaches the file system before the next step begins."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with writing(path.parent):
            self._file = path.open("a", encoding="utf-8")

    def write(self, step: int, metrics: dict[str, float]) -> None:
        """One line. NaN and infinity become null, which JSON can hold."""
        line = {"step": step} | {
            k: (float(v) if math.isfinite(v) else None) for k, v in metrics.items()
        }
        with writing(self.path.parent):
            self._file.write(json.dumps(line) + "\n")
            self._file.flush()

    def position(self) -> int:
        """Bytes written so far, safely on the disk; a checkpoint keeps this number."""
        with writing(self.path.parent):
            self._file.flush()
            os.fsync(self._file.fileno())
        return self.path.stat().st_size

    def close(self) -> None:
        self._file.close()


def truncate_metrics(path: Path, position: int) -> None:
    """Forget the lines after a checkpoint, so that the log of a resumed run equals that of an
    unbroken one.
    """
    if path.is_file():
        with writing(path.parent), path.open("r+b") as file:
            file.truncate(position)


def forget_later_metrics(path: Path, step: int) -> None:
    """Forget the lines of the steps after `step`."""
    if not path.is_file():
        return
    position = 0
    with path.open("rb") as file:
        for line in file:
            if json.loads(line)["step"] > step:
                break
            position += len(line)
    truncate_metrics(path, position)


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """Every complete line of a metrics.jsonl (a line still being written is left out)."""
    text = path.read_text(encoding="utf-8") if path.is_file() else ""
    return [json.loads(line) for line in text.splitlines(keepends=True) if line.endswith("\n")]


class Tracker(Protocol):
    """A dashboard that mirrors metrics.jsonl."""

    def log(self, step: int, metrics: dict[str, float]) -> None: ...

    def close(self) -> None: ...


class TensorBoard:
    """Event files in the stage folder's tensorboard/."""

    def __init__(self, run: str, stage: str, folder: Path) -> None:
        module = _require("torch.utils.tensorboard", "tensorboard")
        self._writer = module.SummaryWriter(log_dir=str(folder / "tensorboard"))

    def log(self, step: int, metrics: dict[str, float]) -> None:
        for name, value in metrics.items():
            self._writer.add_scalar(name, value, step)

    def close(self) -> None:
        self._writer.close()


class WandbLike:
    """Weights & Biases, or trackio, which has the same three calls and keeps everything on this
    machine.
    """

    def __init__(self, library: str, run: str, stage: str) -> None:
        module = _require(library, library)
        self._module = module
        module.init(
            project="podium",
            name=f"{run}-{stage}",
            **({"resume": "allow"} if library == "trackio" else {}),
        )

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self._module.log(metrics, step=step)

    def close(self) -> None:
        self._module.finish()


def make_tracker(name: str, run: str, stage: str, folder: Path) -> Tracker:
    """The tracker of that name: tensorboard, trackio or wandb.

    Raises:
        PlatformError: its package is not installed; names the extra.
    """
    return TensorBoard(run, stage, folder) if name == "tensorboard" else WandbLike(name, run, stage)


def _require(module: str, extra: str) -> Any:
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise PlatformError(
            f"the tracker '{extra}' is not installed",
            f"pip install 'podium-rlhf[{extra}]', or remove it from trackers",
        ) from error
