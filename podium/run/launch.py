"""Run one stage: decide whether it must run, open its folder, call its `main`, leave the run clean
whatever happens.

Every stage file ends in `run_stage_main("<stage>")`, so one stage runs alone or under any launcher:

    python -m pretrain.train RECIPE --set a.b=c
    torchrun --nproc-per-node 2 -m pretrain.train RECIPE
    deepspeed --module pretrain.train RECIPE
"""

import argparse
import os
import shutil
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import torch

from podium.engine import end_process, init_distributed, leave_distributed
from podium.errors import FunctionError, Interrupted, PodiumError, RecipeError
from podium.progress import quieten_libraries, say
from podium.run import lineage
from podium.run.context import StageContext, checkpoint_record
from podium.run.fitting import check_memory
from podium.run.recipe import Recipe, dump_recipe, load_recipe
from podium.run.registry import spec_of
from podium.run.rollback import BeginAgain
from podium.runtime import forget_peak_memory, release_memory
from podium.storage import lock, remove_partial, write_text

__all__ = [
    "opened_run",
    "run_one",
    "run_stage",
    "run_stage_main",
]


def run_stage(recipe: Recipe, name: str, run_dir: Path, force: bool = False) -> bool:
    """Bring one stage up to date; True if it ran, False if its output was still right.

    The caller holds the run folder's lock (`opened_run`).

    Raises:
        PodiumError: anything the user can fix; Interrupted carries the signal's exit code.
    """
    if recipe.stage_config(name) is None:
        raise RecipeError(
            f"the recipe '{recipe.name}' has no section '{name}'", f"add one, e.g. `{name}: {{}}`"
        )
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        init_distributed()
    if not _decide(lambda: _prepare(recipe, name, run_dir, force)):
        return False
    if not spec_of(name).distributed and int(os.environ.get("RANK", "0")) != 0:
        torch.distributed.barrier()
        return True
    forget_peak_memory()  # that of the stages before in this process
    stage = StageContext(name, recipe, run_dir)
    while not _run_to_its_end(stage):
        seen = stage.signal_seen
        stage = StageContext(name, recipe, run_dir, spent=stage.costs())
        stage.signal_seen = seen
    if not stage.finished:
        raise RuntimeError(f"stage '{name}' ended without stage.finish(...)")
    if stage.signal_seen is not None:
        # It came when the last step was over: this stage is whole, and the next must not begin.
        late = Interrupted(f"stage '{name}' is finished, and no further one was begun")
        late.caught(stage.signal_seen)
        late.fix = "nothing is lost: the same command goes on from here"
        raise late
    if not spec_of(name).distributed and torch.distributed.is_initialized():
        torch.distributed.barrier()
    return True


def _run_to_its_end(stage: StageContext) -> bool:
    """Call the stage's `main`, from the start or from the newest checkpoint; False if its guard
    took it back (`podium.run.rollback`) and it must begin again.
    """
    resumed = stage.latest_checkpoint()
    stage.logbook(
        f"resumed after step {resumed[0]}" if resumed else f"started with seed {stage.seed}"
    )
    if resumed:
        say(f"  goes on after step {resumed[0]}")
    try:
        main = spec_of(stage.name).load().main
        quieten_libraries()
        with _stop_signals(stage):
            main(stage.config, stage)
    except BeginAgain:
        return False
    except FunctionError as error:
        if stage.code_failed():
            error.fix = (
                f"{error.fix}; nothing is lost: the same command goes on from the last checkpoint"
            )
        stage.logbook(f"stopped: {error.message}")
        raise
    except Interrupted as stop:
        stop.caught(stage.signal_seen or stop.signum)
        stop.fix = "nothing is lost: the same command goes on from the last checkpoint"
        stage.logbook(f"stopped by {signal.Signals(stop.signum).name}")
        raise
    finally:
        stage.close()
        leave_distributed()
        # stages share one process; what one leaves behind must not add to the next one's peak
        release_memory()
    return True


def _prepare(recipe: Recipe, name: str, run_dir: Path, force: bool) -> bool:
    """Clean what a kill left behind, and find out whether the stage must run. Nothing finished is
    ever deleted.
    """
    stage_dir = run_dir / name
    remove_partial(stage_dir)
    remove_partial(stage_dir / "checkpoints")
    final = stage_dir / "final"
    record = lineage.read_stage_file(final) or checkpoint_record(stage_dir)
    if final.is_dir() and lineage.read_stage_file(final) is None:
        shutil.rmtree(final)
    if record is None:
        return True
    reasons = ["--force"] if force else lineage.changes(record, recipe, name, run_dir)
    if reasons:
        aside = _move_aside(stage_dir, run_dir)
        say(f"  made anew, because {'; '.join(reasons)}")
        say(f"  the old one is kept in {aside}")
        return True
    return not final.is_dir()


def _move_aside(stage_dir: Path, run_dir: Path) -> Path:
    """Keep an outdated stage in replaced/<stage>-<n>; the user deletes it."""
    kept = run_dir / "replaced"
    kept.mkdir(exist_ok=True)
    number = 1
    while (kept / f"{stage_dir.name}-{number}").exists():
        number += 1
    return stage_dir.rename(kept / f"{stage_dir.name}-{number}")


def _decide(prepare: Callable[[], bool]) -> bool:
    """The main process decides for all."""
    if not torch.distributed.is_initialized() or torch.distributed.get_world_size() == 1:
        return prepare()
    answer = [prepare() if torch.distributed.get_rank() == 0 else None]
    torch.distributed.broadcast_object_list(answer, src=0)
    return bool(answer[0])


@contextmanager
def _stop_signals(stage: StageContext) -> Iterator[None]:
    """The first Ctrl-C or SIGTERM asks the stage to stop after its step; a second one stops at
    once.
    """

    def handler(signum: int, frame: object) -> None:
        if stage.signal_seen is not None:
            raise Interrupted("stopped at once, the last checkpoint stays", signum)
        stage.signal_seen = signum
        say("\n  stopping after this step (once more: at once) ...")

    before = {s: signal.signal(s, handler) for s in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for signum, old in before.items():
            signal.signal(signum, old)


@contextmanager
def opened_run(recipe: Recipe, runs_dir: Path) -> Iterator[Path]:
    """The run folder, locked against other podiums, with the resolved recipe in it."""
    run_dir = runs_dir / recipe.name
    if int(os.environ.get("RANK", "0")) != 0:
        yield run_dir
        return
    with lock(run_dir):
        remove_partial(run_dir)
        write_text(run_dir / "recipe.yaml", dump_recipe(recipe))
        yield run_dir


def run_one(recipe: Recipe, name: str, runs_dir: Path, force: bool = False) -> bool:
    """One stage in its run folder; the embedded world is written first when the recipe has one."""
    check_memory(recipe, [name], runs_dir / recipe.name)
    with opened_run(recipe, runs_dir) as run_dir:
        if recipe.data.world is not None and name != "world":
            run_stage(recipe, "world", run_dir)
        ran = run_stage(recipe, name, run_dir, force)
        say(
            f"{name}: {'done' if ran else 'nothing to do, its output is up to date'}: "
            f"{run_dir / name / 'final'}"
        )
        return ran


def run_stage_main(default_stage: str) -> None:
    """The entry of every stage file."""
    parser = argparse.ArgumentParser(description=f"Run the stage '{default_stage}' of a recipe.")
    parser.add_argument("recipe", help="a YAML file, or the bare name of one in recipes/")
    parser.add_argument(
        "--set", action="append", default=[], metavar="a.b=c", help="override one key"
    )
    parser.add_argument(
        "--stage", default=default_stage, help="a stage that shares this module, e.g. rl_init"
    )
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument(
        "--force", action="store_true", help="make it anew although nothing changed"
    )
    # DeepSpeed's launcher adds it
    parser.add_argument("--local_rank", "--local-rank", help=argparse.SUPPRESS)
    options = parser.parse_args()
    exit_code = 0
    try:
        run_one(
            load_recipe(options.recipe, options.set), options.stage, options.runs_dir, options.force
        )
    except PodiumError as error:
        say(f"error: {error}")
        exit_code = error.exit_code
    end_process(exit_code)
