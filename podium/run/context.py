"""One running stage: a folder in, a folder out. This is all that a stage's `main(config, stage)`
sees of the run.

    runs/<run>/<stage>/
        config.yaml  metrics.jsonl  logbook.md  checkpoints/<step>/  final/ (with stage.json)

What a stage reads is the half in `podium.run.inputs`; here is what it tells, how it stops and goes
on, and what it writes. Folders are written under a temporary name and renamed, and stage.json is
the last file of final/: no stage.json, no output. All processes of a distributed run call the same
methods; only the main one writes.
"""

import json
import math
import os
import shutil
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from datetime import datetime
from pathlib import Path
from typing import Any

import torch

from podium import runtime
from podium.engine import EngineConfig, world_size
from podium.errors import DivergenceError
from podium.mapped import in_fp32
from podium.metrics import (
    MetricsLog,
    Tracker,
    forget_later_metrics,
    make_tracker,
    metric_text,
    truncate_metrics,
)
from podium.progress import Bar, progress_bar
from podium.run import lineage
from podium.run.inputs import StageInputs
from podium.run.recipe import Recipe, dump_recipe
from podium.run.record import model_card, stage_record
from podium.run.registry import spec_of
from podium.storage import PARTIAL, publish, write_json, write_text, writing

__all__ = [
    "StageContext",
    "checkpoint_record",
    "checkpoints_of",
    "planned_checkpoints_of",
]

CHECKPOINT_FILE = "checkpoint.json"
START_FILE = "start.json"  # how a stage begins again that was taken back to its start
AMENDMENTS_FILE = "amendments.json"  # what was changed by hand while the stage ran
FP32_FOLDER = "fp32"  # parents as every process maps them, while the stage runs
KEPT_CHECKPOINTS = 2


class StageContext(StageInputs):
    """Given to a stage's `main`. Public attributes: name, dir, run_dir, recipe, config, seed,
    dtype, device, threads, rank, world_size, is_main.
    """

    def __init__(
        self,
        name: str,
        recipe: Recipe,
        run_dir: Path,
        spent: dict[str, float] | None = None,
    ) -> None:
        """`spent`: what this process has put into the stage already (`costs`), when it goes back to
        a checkpoint by beginning again.
        """
        super().__init__(name, recipe, run_dir)
        self.dir = run_dir / name
        self.config = recipe.stage_config(name)
        self.seed = recipe.seed
        self.rank = int(os.environ.get("RANK", "0"))
        self.world_size = world_size() if spec_of(name).distributed else 1
        self.is_main = self.rank == 0
        self.dtype = runtime.resolve_dtype(recipe.dtype)
        self.device = runtime.device()
        self.finished = False
        self._resume = self._newest_checkpoint()
        before = (self._resume[1] if self._resume else {}) | (spent or {})
        self._code_before = before.get("code", [])
        self._wall_before = before.get("wall_seconds", 0.0)
        self._cpu_before = before.get("cpu_seconds", 0.0)
        self._wall_start, self._cpu_start = time.monotonic(), time.process_time()
        # The order in which threads add numbers is part of the result, so a resumed run keeps its
        # thread count.
        wanted = before.get("threads", "auto") if recipe.threads == "auto" else recipe.threads
        self.threads = runtime.set_threads(wanted)
        self._metrics: MetricsLog | None = None
        self._trackers: list[Tracker] = []
        if self.is_main:
            self._open_folder(before.get("metrics_position", 0))
        runtime.seed_everything(self.seed)

    def _open_folder(self, metrics_position: int) -> None:
        with writing(self.run_dir):
            (self.dir / "checkpoints").mkdir(parents=True, exist_ok=True)
        write_text(self.dir / "config.yaml", dump_recipe(self.config))
        truncate_metrics(self.dir / "metrics.jsonl", metrics_position)
        self._metrics = MetricsLog(self.dir / "metrics.jsonl")
        self._trackers = [
            make_tracker(t, self.run_dir.name, self.name, self.dir) for t in self.recipe.trackers
        ]

    # ---- what is read --------

    def parent(self, ref: str, same_tokenizer: bool = True) -> Path:
        """As `StageInputs.parent`. Under ZeRO-3 a parent that was published in fewer bits than 32
        is copied in fp32 beside the stage's output until it is finished, so that no process holds
        a model that it is to share out (`podium.mapped`).
        """
        folder = super().parent(ref, same_tokenizer)
        if not self._shares_out:
            return folder
        place = self.dir / FP32_FOLDER / str(self._parents[ref]["sha256"])[:16]
        return in_fp32(folder, place, writes=self.is_main)

    @property
    def _shares_out(self) -> bool:
        engine: EngineConfig | None = getattr(self.config, "engine", None)
        frozen = getattr(self.config, "frozen_models", None)
        return (engine is not None and engine.zero_stage == 3) or frozen == "sharded"

    # ---- what is told --------

    def log(self, step: int, metrics: dict[str, float]) -> None:
        """One line of metrics.jsonl, mirrored to the trackers. Log a step before saving its
        checkpoint.
        """
        if self._metrics is not None:
            self._metrics.write(step, metrics)
            for tracker in self._trackers:
                tracker.log(step, metrics)

    def logbook(self, text: str) -> None:
        """One dated line of logbook.md: what happened and why."""
        if self.is_main:
            with writing(self.dir), (self.dir / "logbook.md").open("a", encoding="utf-8") as file:
                file.write(f"- {datetime.now().astimezone():%Y-%m-%d %H:%M:%S %z} {text}\n")

    def progress(
        self, total: int, description: str, unit: str = "step", start: int = 0
    ) -> AbstractContextManager[Bar]:
        """A bar (or plain lines): `with stage.progress(...) as bar: bar.advance(tokens=n,
        loss=x)`.
        """
        return progress_bar(total, description, unit, start)

    def check_finite(self, name: str, value: float, step: int) -> float:
        """`value`, if it is a finite number.

        Raises:
            DivergenceError: NaN or infinite; nothing of this step is saved.
        """
        if not math.isfinite(value):
            self.logbook(f"diverged: {name} is {value} at step {step}")
            raise DivergenceError(
                f"stage '{self.name}' diverged: {name} is {value} at step {step}",
                f"lower the learning rate (--set {self.name}.learning_rate=...) and see "
                f"{self.dir}/metrics.jsonl",
            )
        return value

    # ---- stopping and going on --------

    @property
    def stop_requested(self) -> bool:
        """Ctrl-C or SIGTERM was seen: save a checkpoint, then `raise Interrupted()`.

        Ask once a step on every process: they agree, so that all stop at the same step.
        """
        seen = self.signal_seen is not None
        if self.world_size == 1:
            return seen
        flag = torch.tensor(float(seen), device=self.device)
        torch.distributed.all_reduce(flag)
        return bool(flag.item() > 0)

    def save_checkpoint(
        self, step: int, save: Callable[[Path], None], stopping: bool = False
    ) -> None:
        """Everything needed to go on after `step` steps; the two newest are kept, or as many as
        the recipe's `keep_checkpoints` says.

        `save(folder)` is called on every process with the same empty folder. `stopping`: it is
        saved because the run was interrupted, which an unbroken run would not have done. It is not
        counted among those, so that both go back to the same one.

        Raises:
            RunFolderError: the disk refused; the checkpoints before are untouched.
        """
        position = self._metrics.position() if self._metrics else 0

        def describe(folder: Path) -> None:
            state = {
                "step": step,
                "metrics_position": position,
                "threads": self.threads,
                "stopping": stopping,
                **self.costs(),
            }
            write_json(folder / CHECKPOINT_FILE, state | self._inputs())

        self._write_folder(self.dir / "checkpoints" / str(step), save, describe)
        if self.is_main:
            count = max(self.recipe.keep_checkpoints, KEPT_CHECKPOINTS)
            kept = {
                *planned_checkpoints_of(self.dir)[-count:],
                self.dir / "checkpoints" / str(step),
            }
            for old in checkpoints_of(self.dir):
                if old not in kept:
                    shutil.rmtree(old)
        runtime.release_memory()

    def go_back(self, step: int) -> None:
        """Forget the checkpoints after `step` and the log's lines after it. Called on every
        process.
        """
        self._barrier()  # all have read what they need
        if self.is_main:
            for later in checkpoints_of(self.dir):
                if int(later.name) > step:
                    shutil.rmtree(later)
            forget_later_metrics(self.dir / "metrics.jsonl", step)
        self._barrier()

    def save_start(self, state: dict[str, Any]) -> None:
        """Keep `state` for when the stage begins again at its beginning."""
        if self.is_main:
            write_json(self.dir / START_FILE, {"state": state, **self._inputs()})
        self._barrier()

    def start_state(self) -> dict[str, Any] | None:
        """What `save_start` kept; None where it was not called."""
        file = self.dir / START_FILE
        return json.loads(file.read_text())["state"] if file.is_file() else None

    def latest_checkpoint(self) -> tuple[int, Path] | None:
        """Steps done and folder of the newest checkpoint; None = begin at the beginning.

        metrics.jsonl was cut back to that checkpoint when the stage opened, so the resumed log
        equals the unbroken one.
        """
        if self._resume is None:
            return None
        folder, state = self._resume
        return state["step"], folder

    def code_failed(self) -> bool:
        """Let the code change without the stage being made anew, from the newest checkpoint on;
        False where there is none to go on from.
        """
        newest = self._newest_checkpoint()
        if newest is None or not self._code:
            return False
        folder, state = newest
        write_json(folder / CHECKPOINT_FILE, state | {"code_failed": True})
        return True

    def _newest_checkpoint(self) -> tuple[Path, dict[str, Any]] | None:
        found = checkpoints_of(self.dir)
        return (found[-1], json.loads((found[-1] / CHECKPOINT_FILE).read_text())) if found else None

    # ---- what comes out --------

    def finish(
        self, save: Callable[[Path], None], metrics: dict[str, float], card: str, tokens: int = 0
    ) -> None:
        """Write final/: what `save(folder)` writes (called on every process), README.md with
        `card`, stage.json last.

        `metrics` are the headline numbers, `tokens` those trained on. Checkpoints are deleted, as
        they were for resuming, but for those of the recipe's `keep_checkpoints`.

        Raises:
            RunFolderError: the disk refused; nothing half-written is left and the checkpoints are
                untouched.
        """
        costs = self.costs()

        def describe(folder: Path) -> None:
            facts = {
                "seed": self.seed,
                "dtype": self.dtype,
                "device": self.device.type,
                "threads": self.threads,
            }
            record = stage_record(
                self.name, folder, self._inputs(), facts, metrics, tokens, costs, self.world_size
            )
            if (amendments := self.dir / AMENDMENTS_FILE).is_file():
                record["amendments"] = json.loads(amendments.read_text())
            write_text(folder / "README.md", model_card(card, record))
            write_json(folder / lineage.STAGE_FILE, record)

        self._write_folder(self.dir / "final", save, describe)
        if self.is_main and not self.recipe.keep_checkpoints:
            shutil.rmtree(self.dir / "checkpoints", ignore_errors=True)
        if self.is_main:
            (self.dir / START_FILE).unlink(missing_ok=True)
            shutil.rmtree(self.dir / FP32_FOLDER, ignore_errors=True)
        self.finished = True
        told = ", ".join(f"{name} {metric_text(float(v))}" for name, v in metrics.items())
        self.logbook(f"finished: {told}")

    def _write_folder(
        self, folder: Path, save: Callable[[Path], None], describe: Callable[[Path], None]
    ) -> None:
        """Fill a partial folder on all processes, describe it on the main one, publish it under its
        real name.
        """
        partial = folder.with_name(folder.name + PARTIAL)
        try:
            with writing(folder.parent):
                if self.is_main:
                    shutil.rmtree(partial, ignore_errors=True)
                    partial.mkdir(parents=True)
                self._barrier()
                save(partial)
                self._barrier()
                if self.is_main:
                    describe(partial)
                    publish(partial, folder)
        except BaseException:
            shutil.rmtree(partial, ignore_errors=True)
            raise
        self._barrier()

    def _barrier(self) -> None:
        if self.world_size > 1:
            torch.distributed.barrier()

    def costs(self) -> dict[str, float]:
        """Seconds by the clock and of the processor, with those from before it was resumed."""
        return {
            "wall_seconds": round(self._wall_before + time.monotonic() - self._wall_start, 2),
            "cpu_seconds": round(self._cpu_before + time.process_time() - self._cpu_start, 2),
        }

    def close(self) -> None:
        """Close the log and the trackers (podium.run.launch does)."""
        if self._metrics is not None:
            self._metrics.close()
        for tracker in self._trackers:
            tracker.close()


def checkpoints_of(stage_dir: Path) -> list[Path]:
    """Complete checkpoints, oldest first."""
    folders = [
        p
        for p in stage_dir.glob("checkpoints/*")
        if p.name.isdigit() and (p / CHECKPOINT_FILE).is_file()
    ]
    return sorted(folders, key=lambda p: int(p.name))


def planned_checkpoints_of(stage_dir: Path) -> list[Path]:
    """Those that an unbroken run has too, oldest first: what a guard goes back to."""
    return [
        folder
        for folder in checkpoints_of(stage_dir)
        if not json.loads((folder / CHECKPOINT_FILE).read_text()).get("stopping")
    ]


def checkpoint_record(stage_dir: Path) -> dict[str, Any] | None:
    """What the newest checkpoint was made from, or a start that the stage was taken back to; None
    without either.
    """
    found = [folder / CHECKPOINT_FILE for folder in checkpoints_of(stage_dir)]
    found = found or [file for file in [stage_dir / START_FILE] if file.is_file()]
    return json.loads(found[-1].read_text()) if found else None
