"""What a person sees while a stage runs: a bar with rate and time left, or plain lines where there
is no terminal.
"""

import logging
import os
import sys
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from podium.metrics import metric_text

PLAIN_INTERVAL_SECONDS = 15.0


def say(text: str = "") -> None:
    """Print a line on the main process; text is never read as markup."""
    if int(os.environ.get("RANK", "0")) == 0:
        Console(soft_wrap=True, highlight=False).print(text, markup=False)


class Bar(Protocol):
    """What `stage.progress(...)` gives."""

    def advance(self, n: int = 1, *, tokens: int = 0, **shown: float) -> None:
        """`n` more units done. `tokens` adds to a tokens/s rate; `shown` are numbers to show, e.g.
        loss=1.23.
        """


@contextmanager
def progress_bar(total: int, description: str, unit: str = "step", start: int = 0) -> Iterator[Bar]:
    """A bar on a terminal, a line every quarter minute elsewhere, silence on all but the main
    process.

    `start` is where a resumed loop begins; it does not count in the rates.
    """
    if int(os.environ.get("RANK", "0")) != 0:
        yield _Silent()
    elif sys.stdout.isatty():
        with Progress(
            TextColumn("  {task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[shown]}"),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            transient=True,
        ) as progress:
            task = progress.add_task(
                f"{description} ({unit}s)", total=total, completed=start, shown=""
            )
            rates = _Rates(total, start)

            def redraw() -> None:
                progress.update(task, completed=rates.done, shown=rates.shown())

            yield _Live(rates, redraw)
    else:
        yield _Plain(_Rates(total, start), description, unit)


class _Rates:
    """Counts units and tokens and turns them into the numbers shown."""

    def __init__(self, total: int, start: int) -> None:
        self.total, self.start, self.done, self.tokens = total, start, start, 0
        self.began = time.monotonic()
        self.values: dict[str, float] = {}

    def add(self, n: int, tokens: int, values: dict[str, float]) -> None:
        self.done += n
        self.tokens += tokens
        self.values.update(values)

    def shown(self) -> str:
        parts = [f"{name} {metric_text(value)}" for name, value in self.values.items()]
        if self.tokens:
            parts.append(f"{self.tokens / max(time.monotonic() - self.began, 1e-9):,.0f} tokens/s")
        return "  ".join(parts)

    def seconds_left(self) -> float:
        rate = (self.done - self.start) / max(time.monotonic() - self.began, 1e-9)
        return (self.total - self.done) / rate if rate else 0.0


class _Silent:
    def advance(self, n: int = 1, *, tokens: int = 0, **shown: float) -> None:
        pass


class _Live:
    def __init__(self, rates: _Rates, redraw: Callable[[], None]) -> None:
        self._rates, self._redraw = rates, redraw

    def advance(self, n: int = 1, *, tokens: int = 0, **shown: float) -> None:
        self._rates.add(n, tokens, shown)
        self._redraw()


class _Plain:
    def __init__(self, rates: _Rates, description: str, unit: str) -> None:
        self._rates, self._description, self._unit = rates, description, unit
        self._printed = time.monotonic()

    def advance(self, n: int = 1, *, tokens: int = 0, **shown: float) -> None:
        self._rates.add(n, tokens, shown)
        if (
            time.monotonic() - self._printed < PLAIN_INTERVAL_SECONDS
            and self._rates.done < self._rates.total
        ):
            return
        self._printed = time.monotonic()
        rates = self._rates
        say(
            f"  {self._description}: {self._unit} {rates.done}/{rates.total}  {rates.shown()}"
            f"  {rates.seconds_left():.0f} s left"
        )


def quieten_torchao() -> None:
    """Wherever it is installed peft and transformers import torchao, which warns of kernels for
    cards that are not here; so before they do.
    """
    for name in ("torchao", "torch.utils._pytree"):
        logging.getLogger(name).setLevel(logging.ERROR)


def quieten_libraries() -> None:
    """A bar for every file that transformers reads or writes hides our own; its warnings are for
    our tests to read.
    """
    quieten_torchao()
    warnings.filterwarnings("ignore", category=FutureWarning)
    if "transformers" in sys.modules:
        from transformers.utils.logging import disable_progress_bar

        disable_progress_bar()
