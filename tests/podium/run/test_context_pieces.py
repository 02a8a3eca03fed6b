"""Each thing that a stage's context tells, keeps and writes, asked for by itself."""

import json
import re
from pathlib import Path

import pytest
import torch

from podium.errors import DivergenceError
from podium.metrics import read_metrics
from podium.run import context as module
from podium.run.context import StageContext, checkpoint_record, checkpoints_of
from podium.run.recipe import Recipe, dump_recipe, validate

TREE = {"name": "run", "seed": 5, "dtype": "fp32", "threads": 1, "sft": {"model": "base"}}


@pytest.fixture
def stage(tmp_path):
    """`stage(**more) -> StageContext` of SFT, opened as a run of its own would."""
    opened = []

    def make(**more) -> StageContext:
        recipe: Recipe = validate({**TREE, **more}, "test")
        opened.append(StageContext("sft", recipe, tmp_path / "runs" / "run"))
        return opened[-1]

    threads = torch.get_num_threads()
    yield make
    torch.set_num_threads(threads)
    for context in opened:
        context.close()


def steps(context: StageContext) -> list[int]:
    return [line["step"] for line in read_metrics(context.dir / "metrics.jsonl")]


def saved(context: StageContext) -> list[int]:
    return [int(folder.name) for folder in checkpoints_of(context.dir)]


def write(folder: Path) -> None:
    (folder / "state").write_text("x")


def log_and_save(context: StageContext, *numbers: int, stopping: bool = False) -> None:
    for number in numbers:
        context.log(number, {"loss": 1.0 / number})
        context.save_checkpoint(number, write, stopping)


def test_what_a_stage_finds_when_it_opens(stage, tmp_path):
    """Mutations seen red: the seed not set; the config of the recipe and not the stage's written."""
    context = stage(seed=7)
    drawn = torch.rand(3)
    torch.manual_seed(7)
    assert torch.equal(drawn, torch.rand(3))
    assert (
        context.dir == tmp_path / "runs" / "run" / "sft" and context.run_dir == context.dir.parent
    )
    assert (context.name, context.seed, context.dtype) == ("sft", 7, "fp32")
    assert (context.rank, context.world_size, context.is_main) == (0, 1, True)
    assert context.device == torch.device("cpu") and context.threads == torch.get_num_threads() == 1
    assert context.config == context.recipe.stage_config("sft") and not context.finished
    assert (context.dir / "config.yaml").read_text() == dump_recipe(context.config)
    assert sorted(p.name for p in context.dir.iterdir()) == [
        "checkpoints", "config.yaml", "metrics.jsonl"
    ]  # fmt: skip
    assert context.latest_checkpoint() is None and checkpoint_record(context.dir) is None
    assert not context.stop_requested
    context.signal_seen = 2
    assert context.stop_requested


def test_a_process_that_is_not_the_main_one_writes_nothing(stage, monkeypatch):
    """Mutation seen red: every process opens the log."""
    monkeypatch.setenv("RANK", "1")
    context = stage()
    assert (context.rank, context.is_main) == (1, False)
    context.log(1, {"loss": 1.0})
    context.logbook("Nobody reads this.")
    assert not context.dir.exists()


def test_one_process_that_was_asked_to_stop_stops_all(stage, tmp_path):
    """The question goes round the group, here a real one of this process alone. Mutation seen red:
    nobody asked, everybody stops.
    """
    store = f"file://{tmp_path / 'store'}"
    torch.distributed.init_process_group("gloo", init_method=store, rank=0, world_size=1)
    try:
        context = stage()
        context.world_size = 2
        assert context.stop_requested is False
        context.signal_seen = 15
        assert context.stop_requested is True
        log_and_save(context, 1)
        assert saved(context) == [1], "the barriers are passed"
    finally:
        torch.distributed.destroy_process_group()


class Heard:
    """A tracker that keeps what it is told."""

    def __init__(self, *made: object) -> None:
        self.made, self.lines, self.closed = made, [], 0

    def log(self, step: int, metrics: dict[str, float]) -> None:
        self.lines.append((step, metrics))

    def close(self) -> None:
        self.closed += 1


def test_trackers_hear_what_the_log_holds(stage, monkeypatch):
    """Each of them, named after run and stage. Mutations seen red: the last one alone; never
    closed.
    """
    monkeypatch.setattr(module, "make_tracker", Heard)
    context = stage(trackers=["tensorboard", "wandb"])
    context.log(3, {"loss": 0.5})
    for name, tracker in zip(("tensorboard", "wandb"), context._trackers, strict=True):
        assert tracker.made == (name, "run", "sft", context.dir)
        assert tracker.lines == [(3, {"loss": 0.5})] and not tracker.closed
    context.close()
    assert [tracker.closed for tracker in context._trackers] == [1, 1]
    assert read_metrics(context.dir / "metrics.jsonl") == [{"step": 3, "loss": 0.5}]


def test_the_logbook_is_dated_lines_one_after_the_other(stage):
    context = stage()
    context.logbook("One — two.")
    context.logbook("Three.")
    lines = (context.dir / "logbook.md").read_text(encoding="utf-8").splitlines()
    date = r"- \d{4}-\d\d-\d\d \d\d:\d\d:\d\d [+-]\d{4} "
    assert [re.sub(f"^{date}", "", line) for line in lines] == ["One — two.", "Three."]


def test_a_number_that_is_none_is_told_with_its_step_and_the_key_to_lower(stage):
    """Mutation seen red: the value not given back."""
    context = stage()
    assert context.check_finite("loss", 0.25, 4) == 0.25
    for value in (float("nan"), float("inf"), -float("inf")):
        with pytest.raises(DivergenceError, match=f"sft' diverged: loss is {value} at step 4"):
            context.check_finite("loss", value, 4)
    assert (context.dir / "logbook.md").read_text().count("diverged: loss is") == 3


def test_the_newest_checkpoints_are_kept_those_of_a_stop_beside_them(stage):
    """Two, or as many as the recipe says; one that an interruption made goes when the next planned
    one is there. Mutations seen red: the oldest kept; those of a stop counted among them.
    """
    context = stage()
    log_and_save(context, 1, 2, 3)
    assert saved(context) == [2, 3]
    log_and_save(context, 4, stopping=True)
    assert saved(context) == [2, 3, 4]
    assert [p.name for p in module.planned_checkpoints_of(context.dir)] == ["2", "3"]
    log_and_save(context, 10)
    assert saved(context) == [3, 10], "by number and not by name"
    more = stage(keep_checkpoints=3)
    log_and_save(more, 11, 12, 13)
    assert saved(more) == [11, 12, 13]
    one = stage(keep_checkpoints=1)
    log_and_save(one, 14)
    assert saved(one) == [13, 14], "never fewer than two"


def test_folders_that_are_no_checkpoints_are_none(stage):
    """Half-written ones, and others' files. Mutation seen red: a folder without its record
    counted.
    """
    context = stage()
    log_and_save(context, 2)
    (context.dir / "checkpoints" / "3").mkdir()
    (context.dir / "checkpoints" / "4.partial").mkdir()
    (context.dir / "checkpoints" / "4.partial" / "checkpoint.json").write_text("{}")
    (context.dir / "checkpoints" / "notes.txt").write_text("x")
    assert saved(context) == [2]
    record = checkpoint_record(context.dir)
    assert (record["step"], record["stopping"], record["threads"]) == (2, False, 1)
    assert record["metrics_position"] == (context.dir / "metrics.jsonl").stat().st_size > 0
    assert {"config", "parents", "data", "code", "sampler"} <= record.keys()


def test_a_resumed_stage_goes_on_where_the_newest_checkpoint_was_written(stage, monkeypatch):
    """The log is cut back to it; its threads and what it had cost are its own. Mutations seen red:
    the log kept whole; the time of the attempts before forgotten.
    """
    first = stage(threads=2)
    monkeypatch.setattr(module.time, "monotonic", lambda: first._wall_start + 100.0)
    monkeypatch.setattr(module.time, "process_time", lambda: first._cpu_start + 50.0)
    log_and_save(first, 1, 2)
    first.log(3, {"loss": 9.0})
    first.close()
    monkeypatch.undo()
    assert checkpoint_record(first.dir)["wall_seconds"] == 100.0
    monkeypatch.setattr("podium.runtime.free_threads", lambda: 3)
    again = stage(threads="auto")
    assert again.threads == 2 and steps(again) == [1, 2]
    assert again.latest_checkpoint() == (2, first.dir / "checkpoints" / "2")
    monkeypatch.setattr(module.time, "monotonic", lambda: again._wall_start + 1.0)
    monkeypatch.setattr(module.time, "process_time", lambda: again._cpu_start + 2.0)
    assert again.costs() == {"wall_seconds": 101.0, "cpu_seconds": 52.0}
    other = stage(threads=1)
    assert other.threads == 1, "the recipe's own number counts"


def test_going_back_forgets_what_came_after(stage):
    """Checkpoints and lines. Mutations seen red: the one gone back to deleted too; the log's lines
    kept.
    """
    context = stage(keep_checkpoints=9)
    log_and_save(context, 1, 2, 3, 10)
    context.go_back(2)
    assert saved(context) == [1, 2] and steps(context) == [1, 2]
    context.log(3, {"loss": 7.0})
    assert read_metrics(context.dir / "metrics.jsonl")[-1] == {"step": 3, "loss": 7.0}


def test_code_that_failed_may_change_where_there_is_something_to_go_on_from(stage, tmp_path):
    """Mutations seen red: true without a checkpoint; what was mended not told; told of code that is
    as it was.
    """
    file = tmp_path / "mine.py"
    file.write_text("x = 1\n")
    context = stage()
    context.code(file)
    assert not context.code_failed()
    log_and_save(context, 1)
    assert context.code_failed()
    record = json.loads((context.dir / "checkpoints" / "1" / "checkpoint.json").read_text())
    assert record["code_failed"] is True and record["step"] == 1
    same = stage()
    same.code(file)
    assert not (same.dir / "logbook.md").exists()
    file.write_text("x = 2\n")
    mended = stage()
    mended.code(file)
    assert "mine.py was mended after it had failed" in (mended.dir / "logbook.md").read_text()
    none = stage()
    assert not none.code_failed(), "it read no code"


def test_a_finished_stage_says_how_it_was_made(stage, monkeypatch):
    """And leaves no checkpoints unless the recipe keeps them. Mutations seen red: another seed,
    device or thread count in the record; what was changed by hand left out.
    """
    context = stage()
    log_and_save(context, 1, 2)
    by_hand = [{"key": "learning_rate", "was": 1, "is": 2, "after_step": 1}]
    (context.dir / "amendments.json").write_text(json.dumps(by_hand))
    context.finish(write, {"loss": 0.12345, "rows": 12000.0}, "# A card", tokens=77)
    assert context.finished and not (context.dir / "checkpoints").exists()
    final = context.dir / "final"
    assert sorted(p.name for p in final.iterdir()) == ["README.md", "stage.json", "state"]
    record = json.loads((final / "stage.json").read_text())
    told = {name: record[name] for name in ("seed", "dtype", "device", "threads", "processes")}
    assert told == {"seed": 5, "dtype": "fp32", "device": "cpu", "threads": 1, "processes": 1}
    assert record["amendments"] == by_hand and record["tokens"] == 77 and record["stage"] == "sft"
    assert record["metrics"] == {"loss": 0.12345, "rows": 12000.0}
    assert record["wall_seconds"] >= 0 and record["config"]["seed"] == 5
    card = (final / "README.md").read_text()
    assert "# A card" in card and "learning_rate from 1 to 2 after step 1" in card
    logbook = (context.dir / "logbook.md").read_text()
    assert "finished: loss 0.1235, rows 12,000\n" in logbook
    kept = stage(name="kept", keep_checkpoints=1)
    log_and_save(kept, 1)
    kept.finish(write, {}, "A card")
    assert (
        saved(kept) == [1]
        and json.loads((kept.dir / "final/stage.json").read_text())["tokens"] == 0
    )


def test_what_fails_while_it_is_written_leaves_nothing_and_the_one_before_stays(stage):
    """Mutation seen red: the half-written folder left behind."""
    context = stage()
    log_and_save(context, 1)

    def fail(folder: Path) -> None:
        write(folder)
        raise ValueError("no")

    (context.dir / "checkpoints" / "2.partial").mkdir()
    (context.dir / "checkpoints" / "2.partial" / "old").write_text("x")
    with pytest.raises(ValueError, match="no"):
        context.save_checkpoint(2, fail)
    assert [p.name for p in (context.dir / "checkpoints").iterdir()] == ["1"]
    (context.dir / "checkpoints" / "2.partial").mkdir()
    (context.dir / "checkpoints" / "2.partial" / "old").write_text("x")
    context.save_checkpoint(2, write)
    assert sorted(p.name for p in (context.dir / "checkpoints" / "2").iterdir()) == [
        "checkpoint.json", "state"
    ]  # fmt: skip
