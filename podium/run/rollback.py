"""Taking a supervised stage back to its last healthy checkpoint (`podium.guard` decides when).

Where no checkpoint is healthy the stage goes back to its start. A stage that resumes exactly can go
back by beginning again (`begin_again`), as after a kill.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn, TypeVar

from podium.errors import DivergenceError
from podium.guard import GuardConfig, SpikeGuard
from podium.run.context import StageContext, checkpoints_of, planned_checkpoints_of
from podium.storage import write_json

__all__ = [
    "BeginAgain",
    "begin_again",
    "go_back",
    "load_guard",
    "opened_guard",
    "save_guard",
    "without_batches",
]

GUARD_FILE = "guard.json"

Batch = TypeVar("Batch")


class BeginAgain(Exception):
    """Leaves a stage's `main`, which `podium.run.launch` then calls again."""


def opened_guard(config: GuardConfig, stage: StageContext, clipping: float) -> SpikeGuard:
    """The guard as the stage goes on: as its newest checkpoint holds it, or as it was when the
    stage last went back to its start.
    """
    guard = SpikeGuard(config, clipping)
    found = stage.latest_checkpoint()
    if found is not None:
        load_guard(guard, found[1])
    elif (state := stage.start_state()) is not None:
        guard.load_state_dict(state)
    return guard


def save_guard(guard: SpikeGuard, stage: StageContext, folder: Path) -> None:
    """The guard's state as a part of the checkpoint in `folder`."""
    if stage.is_main:
        write_json(folder / GUARD_FILE, guard.state_dict())


def load_guard(guard: SpikeGuard, folder: Path) -> None:
    """Put back what `save_guard` wrote; a checkpoint from before there was a guard has none."""
    if (folder / GUARD_FILE).is_file():
        guard.load_state_dict(json.loads((folder / GUARD_FILE).read_text()))


def go_back(
    guard: SpikeGuard, stage: StageContext, number: int, problem: str, start: int = 0
) -> tuple[int, Path | None]:
    """Decide where to go on from after update `number` went wrong, on all processes: the newest
    healthy checkpoint, or None, which is the start. Returns its updates and its folder; the
    caller loads it. Later checkpoints and lines of the log are forgotten.

    start: the updates before this model's first one, in a stage that trains several.

    A kill at any moment leaves a run that comes to the same breach again, or one that is past it.

    Raises:
        DivergenceError: the guard is told to stop, or has gone back too often.
    """
    config = guard.config
    if config.on_breach == "stop" or guard.rollbacks >= config.max_rollbacks:
        stage.logbook(f"guard: update {number}: {problem}; stopped, {guard.rollbacks} rollbacks")
        raise DivergenceError(
            f"stage '{stage.name}' diverged at update {number}: {problem}",
            f"lower the learning rate (--set {stage.name}.learning_rate=...) and see "
            f"{stage.dir}/metrics.jsonl; the thresholds are in {stage.name}.guard",
        )
    step, folder, state = _healthy(guard, stage, number, start)
    guard.slow_down(state, skip=number, back_to=step, anew=folder is None)
    stage.logbook(
        f"guard: update {number}: {problem}; back to "
        f"{f'the state after update {step}' if folder else 'the start'}, from now on "
        f"learning rate x {guard.lr_factor:g}, clipping x {guard.clip_factor:g}, and another batch "
        f"for update {number}"
    )
    stage.go_back(step)
    if folder is not None:
        save_guard(guard, stage, folder)
    return step, folder


def begin_again(guard: SpikeGuard, stage: StageContext) -> NoReturn:
    """Leave `main`, so that the stage goes on from where `go_back` took it as it does after a kill.
    Called on all processes.
    """
    if not checkpoints_of(stage.dir):
        stage.save_start(guard.state_dict())
    raise BeginAgain


def _healthy(
    guard: SpikeGuard, stage: StageContext, number: int, start: int
) -> tuple[int, Path | None, dict[str, object]]:
    """Updates, folder and guard's state of the newest healthy checkpoint of this model."""
    for folder in reversed(planned_checkpoints_of(stage.dir)):
        step, file = int(folder.name), folder / GUARD_FILE
        if step >= start and file.is_file() and not guard.doubts(step, number):
            state = json.loads(file.read_text())
            if state["healthy"]:
                return step, folder, state
    return start, None, SpikeGuard(guard.config).state_dict()


def without_batches(rows: Sequence[Batch], batch_size: int, skipped: Sequence[int]) -> list[Batch]:
    """The rows of a run in training order, where the batch of each update in `skipped` gives way to
    that of an update half a run away, the next time to the one after that. It is learned twice.
    """
    result, updates = list(rows), len(rows) // batch_size
    others = [i for i in range(updates) if i + 1 not in skipped]
    for times, number in enumerate(skipped):
        if others:
            before = list(skipped[:times]).count(number)
            ahead = sorted(others, key=lambda i: (i - (number - 1) - updates // 2) % updates)
            other = ahead[before % len(ahead)]
            place = (number - 1) * batch_size
            result[place : place + batch_size] = rows[other * batch_size : (other + 1) * batch_size]
    return result
