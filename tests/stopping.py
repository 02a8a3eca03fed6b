"""A run that is stopped again and again, as by Ctrl-C, and started again with the same command."""

from collections.abc import Callable
from typing import TypeVar

import pytest

from podium.errors import Interrupted
from podium.run.context import StageContext

Result = TypeVar("Result")


def stopped_every(
    asks: int, monkeypatch: pytest.MonkeyPatch, run: Callable[[], Result]
) -> tuple[Result, int]:
    """What `run` returns once nothing stops it any more, and how often it was stopped: each time
    that the stage had asked so often whether it must.
    """
    asked = stops = 0

    def stop_requested(stage: StageContext) -> bool:
        nonlocal asked
        asked += 1
        return asked % asks == 0

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "stop_requested", property(stop_requested))
        while True:
            try:
                return run(), stops
            except Interrupted:
                stops += 1
