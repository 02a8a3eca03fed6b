"""An evaluation that is killed or stopped keeps what it made, and ends with the same bits."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from evals.evaluate import Config, main
from evals.pieces import Pieces
from podium.errors import Interrupted
from podium.run.context import StageContext
from tests.evals.conftest import EVALS
from tests.evals.miniature import make_recipe

ROOT = Path(__file__).parents[2]
FILES = ("results.json", "answers.jsonl")
SMALL = EVALS.model_copy(update={"save_steps": 5})
# four models: 12 answers, losses, questions; 24 to pick the best of; then the prompts' distances
PIECES = 4 * (3 + 2) + 5 + 1

RUN = """
import sys
from pathlib import Path
from evals.evaluate import Config
from podium.run.launch import run_stage
from tests.evals.miniature import make_recipe

config = Config.model_validate_json(sys.argv[2])
run_stage(make_recipe(config), "evals", Path(sys.argv[1]))
"""


def evaluate(run_dir: Path, config: Config) -> None:
    stage = StageContext("evals", make_recipe(config), run_dir)
    main(config, stage)
    stage.close()


def outcome(run_dir: Path) -> list[bytes]:
    return [(run_dir / "evals" / "final" / name).read_bytes() for name in FILES]


def newest(stage: Path) -> int:
    """The newest whole checkpoint, counted in pieces."""
    found = stage.glob("checkpoints/*/checkpoint.json")
    return max((int(p.parent.name) for p in found if p.parent.name.isdigit()), default=0)


@pytest.fixture
def fresh_run(copied_run) -> Path:
    """The miniature run before its evaluation."""
    shutil.rmtree(copied_run / "evals")
    return copied_run


@pytest.fixture(scope="module")
def unbroken(mini_run, tmp_path_factory) -> Path:
    """The same run, evaluated by pieces of five answers without a break. Nobody changes it."""
    other = Path(shutil.copytree(mini_run, tmp_path_factory.mktemp("unbroken") / "mini"))
    shutil.rmtree(other / "evals")
    evaluate(other, SMALL)
    return other


@pytest.mark.slow
def test_a_stopped_evaluation_goes_on_after_the_pieces_it_made(fresh_run, unbroken, monkeypatch):
    """Seen red when an attempt forgets what was kept (`kept = 0`)."""
    made = []

    def stopping(self, make, real=Pieces.piece):
        def counted():
            made.append(self.done)
            if len(made) in (3, 8, 20):
                self.stage.signal_seen = signal.SIGTERM
            return make()

        return real(self, counted)

    monkeypatch.setattr(Pieces, "piece", stopping)
    for _ in range(3):
        with pytest.raises(Interrupted, match=r"stopped after piece \d+, which is kept"):
            evaluate(fresh_run, SMALL)
    evaluate(fresh_run, SMALL)
    assert made == list(range(1, PIECES + 1)), "every piece was made once, in order"
    assert outcome(fresh_run) == outcome(unbroken)
    assert not (fresh_run / "evals" / "pieces").exists()
    again = [
        json.loads((run / "evals/final/stage.json").read_text()) for run in (fresh_run, unbroken)
    ]
    assert again[0]["parents"] == again[1]["parents"], "also of models that were not loaded again"


def test_the_size_of_a_piece_changes_no_answer(mini_run, unbroken):
    """Seen red when each piece draws its random numbers from the first row on."""
    said = [
        [json.loads(line)["response"] for line in run.joinpath("evals/final/answers.jsonl").open()]
        for run in (mini_run, unbroken)
    ]
    assert said[0] == said[1] and len(set(said[0])) > 40


@pytest.mark.slow
def test_kill_9_in_the_middle_of_an_evaluation(fresh_run, unbroken):
    """At a model's answers, and at the answers best-of-n picks from. Seen red before there were
    pieces: the evaluation began anew.
    """
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, "-c", RUN, str(fresh_run), SMALL.model_dump_json()]
    stage = fresh_run / "evals"
    kept: dict[Path, int] = {}
    for moment in (3, 12):
        process = subprocess.Popen(
            command, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        )
        while process.poll() is None and newest(stage) < moment:
            time.sleep(0.002)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL, process.communicate()
        assert not (stage / "final").exists()
        assert all(path.stat().st_mtime_ns == time_made for path, time_made in kept.items())
        pieces = [stage / "pieces" / f"{number}.json" for number in range(1, moment + 1)]
        kept = {path: path.stat().st_mtime_ns for path in pieces}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert "goes on after step" in done.stdout
    assert outcome(fresh_run) == outcome(unbroken)
    assert (stage / "logbook.md").read_text().count("resumed after step") == 2
