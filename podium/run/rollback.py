"""Taking a supervised stage back to its last healthy checkpoint (`podium.guard` decides when)."""

import json
from collections.abc import Callable
from pathlib import Path

from podium.errors import DivergenceError
from podium.guard import SpikeGuard
from podium.run.context import StageContext, planned_checkpoints_of
from podium.storage import write_json

__all__ = ["load_guard", "roll_back", "save_guard"]

GUARD_FILE = "guard.json"


def save_guard(guard: SpikeGuard, stage: StageContext, folder: Path) -> None:
    """The guard's state as a part of the checkpoint in `folder`."""
    if stage.is_main:
        write_json(folder / GUARD_FILE, guard.state_dict())


def load_guard(guard: SpikeGuard, folder: Path) -> None:
    """Put back what `save_guard` wrote; a checkpoint from before there was a guard has none."""
    if (folder / GUARD_FILE).is_file():
        guard.load_state_dict(json.loads((folder / GUARD_FILE).read_text()))


def roll_back(
    guard: SpikeGuard,
    stage: StageContext,
    number: int,
    problem: str,
    load: Callable[[Path], None],
) -> int:
    """Put back the newest healthy checkpoint after update `number` went wrong, on all processes;
    returns the updates it holds. Later checkpoints and lines of the log are forgotten.

    load: puts back what lies in a checkpoint's folder, but for the guard's part. A kill at any
    moment leaves a run that comes to the same breach again, or one that is past it.

    Raises:
        DivergenceError: the guard is told to stop, has gone back too often, or has nowhere to.
    """
    config = guard.config
    found = planned_checkpoints_of(stage.dir)
    if config.on_breach == "stop" or guard.rollbacks >= config.max_rollbacks or not found:
        stage.logbook(f"guard: update {number}: {problem}; stopped, {guard.rollbacks} rollbacks")
        raise DivergenceError(
            f"stage '{stage.name}' diverged at update {number}: {problem}",
            f"lower the learning rate (--set {stage.name}.learning_rate=...) and see "
            f"{stage.dir}/metrics.jsonl; the thresholds are in {stage.name}.guard",
        )
    states = [(folder, json.loads((folder / GUARD_FILE).read_text())) for folder in found]
    folder, state = next((pair for pair in reversed(states) if pair[1]["healthy"]), states[0])
    load(folder)
    guard.slow_down(state, skip=number)
    step = int(folder.name)
    stage.logbook(
        f"guard: update {number}: {problem}; back to the state after update {step}, from now on "
        f"learning rate x {guard.lr_factor:g}, clipping x {guard.clip_factor:g}, and another batch "
        f"for update {number}"
    )
    stage.go_back(step)
    save_guard(guard, stage, folder)
    return step
