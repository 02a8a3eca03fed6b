"""metrics.jsonl, trackers and progress lines."""

import sys

import pytest

from podium import progress
from podium.errors import PlatformError
from podium.metrics import MetricsLog, make_tracker, metric_text, read_metrics, truncate_metrics


def test_lines_reach_the_file_at_once_and_can_be_cut_back(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(1, {"loss": 2.5})
    position = log.position()
    log.write(2, {"loss": 2.0})
    assert read_metrics(log.path) == [{"step": 1, "loss": 2.5}, {"step": 2, "loss": 2.0}]
    log.close()
    truncate_metrics(log.path, position)
    assert read_metrics(log.path) == [{"step": 1, "loss": 2.5}]


def test_what_json_cannot_hold_is_null(tmp_path):
    log = MetricsLog(tmp_path / "metrics.jsonl")
    log.write(1, {"loss": float("nan"), "kl": float("inf")})
    assert read_metrics(log.path) == [{"step": 1, "loss": None, "kl": None}]
    log.close()


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (30_000.0, "30,000"),
        (30_000, "30,000"),
        (1_234_567.8, "1,234,568"),
        (0.0001, "0.0001"),
        (0.70912, "0.7091"),
        (-14.25, "-14.25"),
        (1.0, "1"),
        (-0.0, "0"),
        (float("nan"), "nan"),
        (float("inf"), "inf"),
    ],
)
def test_a_count_is_a_whole_number_and_a_rate_keeps_its_digits(value, text):
    """Seen red with four significant digits alone: 3e+04, 1.235e+06, -0."""
    assert metric_text(value) == text


def test_a_line_still_being_written_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 1}\n{"step": 2, "lo')
    assert read_metrics(tmp_path / "metrics.jsonl") == [{"step": 1}]


@pytest.mark.parametrize("name", ["trackio", "tensorboard", "wandb"])
def test_a_missing_tracker_names_its_extra(name, monkeypatch, tmp_path):
    monkeypatch.setitem(
        sys.modules, "torch.utils.tensorboard" if name == "tensorboard" else name, None
    )
    with pytest.raises(PlatformError, match=rf"podium-rlhf\[{name}\]"):
        make_tracker(name, "run", "sft", tmp_path)


def test_tensorboard_mirrors_the_log(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    tracker = make_tracker("tensorboard", "run", "sft", tmp_path)
    tracker.log(3, {"loss": 0.5})
    tracker.close()
    events = reader.EventAccumulator(str(tmp_path / "tensorboard")).Reload()
    assert [(event.step, event.value) for event in events.Scalars("loss")] == [(3, 0.5)]


def test_progress_is_plain_lines_without_a_terminal(capsys, monkeypatch):
    monkeypatch.setattr(progress, "PLAIN_INTERVAL_SECONDS", 0.0)
    with progress.progress_bar(3, "sft", start=1) as bar:
        bar.advance(tokens=100, loss=1.5)
        bar.advance(tokens=100, loss=1.25)
    lines = capsys.readouterr().out.splitlines()
    assert (
        len(lines) == 2
        and "step 3/3" in lines[1]
        and "loss 1.25" in lines[1]
        and "tokens/s" in lines[1]
    )


def test_only_the_main_process_talks(capsys, monkeypatch):
    monkeypatch.setenv("RANK", "1")
    progress.say("hello")
    with progress.progress_bar(1, "sft") as bar:
        bar.advance()
    assert capsys.readouterr().out == ""
