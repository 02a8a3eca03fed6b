"""Sides of a race that take turns: each in a process of its own, a step when it is told.

So all of them meet the same machine, whatever else it does, and their ratios say something.
"""

import multiprocessing
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
import torch

# A side's life in its own process: steps on its work, each when the pipe says so.
Side = Callable[[Connection, Any], None]


# ---- in a side's process --------


def serve(side: Side, pipe: Connection, work: Any) -> None:
    """A process's life: one side's steps, each when it is told."""
    sys.stdout = sys.stderr
    torch.set_num_threads(work.threads)
    side(pipe, work)


def take_turns(pipe: Connection, steps: int, step: Callable[[], float]) -> None:
    """Take each step when it is told, and report its seconds, its loss and the MB it grew by."""
    before = ready(pipe)
    for _ in range(steps):
        pipe.recv()
        began = clocks()
        loss = step()
        pipe.send((clocks() - began, loss, peak_mb() - before))


def trainer_turns(pipe: Connection) -> Any:
    """`take_turns` for a Trainer: its callback, timed inside its loop, so that neither set-up nor
    collation counts.
    """
    from transformers import TrainerCallback

    class Turns(TrainerCallback):
        def on_train_begin(self, *args: Any, **kwargs: Any) -> None:
            self.before = ready(pipe)

        def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
            pipe.recv()
            self.began = clocks()

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.seconds = clocks() - self.began

        def on_log(self, *args: Any, logs: dict[str, Any], **kwargs: Any) -> None:
            if "loss" in logs:
                pipe.send((self.seconds, float(logs["loss"]), peak_mb() - self.before))

    return Turns()


def ready(pipe: Connection) -> float:
    """Say so; returns the MB held now, with the peak forgotten."""
    Path("/proc/self/clear_refs").write_text("5")
    pipe.send("ready")
    return peak_mb()


def peak_mb() -> float:
    """The most this process has held, in MB."""
    status = Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def clocks() -> np.ndarray:
    """Wall and processor seconds; they differ where others use the machine."""
    return np.array([time.perf_counter(), time.process_time()])


# ---- in the race's --------


class Racer:
    """A side, as the race sees it. `work` says how many `threads` torch takes.

    python: the interpreter that runs it.
    """

    def __init__(self, side: Side, work: Any, python: str = sys.executable) -> None:
        context = multiprocessing.get_context("spawn")
        context.set_executable(python)
        self.pipe, theirs = context.Pipe()
        self.process = context.Process(target=serve, args=(side, theirs, work), daemon=True)
        self.process.start()
        theirs.close()  # so that a side that dies is an EOFError here, not a wait for ever
        self.pipe.recv()  # ready
        self.seconds: list[np.ndarray] = []  # wall, processor
        self.losses: list[float] = []
        self.growth = 0.0  # MB

    def step(self) -> None:
        self.pipe.send("go")
        seconds, loss, self.growth = self.pipe.recv()
        self.seconds.append(seconds)
        self.losses.append(loss)

    @property
    def pace(self) -> float:
        """Median wall seconds a step; the first one warmed up."""
        return median(wall for wall, _ in self.seconds[1:])

    @property
    def processor_pace(self) -> float:
        """Median processor seconds a step; the first one warmed up."""
        return median(processor for _, processor in self.seconds[1:])

    def __str__(self) -> str:
        walls = [wall for wall, _ in self.seconds[1:]]
        return (
            f"{self.pace:.3f} s a step ({min(walls):.3f} to {max(walls):.3f}; processor "
            f"{self.processor_pace:.3f}), "
            f"{self.growth:.0f} MB"
        )
