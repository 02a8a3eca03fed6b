"""The examples do what their first lines say, started as they say."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


def run(*words: str) -> str:
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    command = [sys.executable, *words]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.slow
def test_ppo_from_python_learns_to_say_vowels():
    """Seen red with the reward's sign turned: the last ones are then below the first."""
    lines = run("examples/ppo_from_python.py").splitlines()
    rewards = [float(line.split()[2]) for line in lines]
    assert len(rewards) == 30
    assert sum(rewards[-5:]) / 5 > sum(rewards[:5]) / 5 + 0.1


@pytest.mark.slow
def test_a_blank_in_one_language_is_filled_from_the_other(tmp_path):
    """A noun that only the sentence after the blank tells, in the other language. Mutation seen
    red: part B that sees nothing of part A.
    """
    lines = run("examples/bilingual.py", str(tmp_path)).splitlines()
    told = [int(line.rsplit(": ", 1)[1].split()[0]) for line in lines[-2:]]
    assert told[0] > 80 and told[1] < 35, "eight nouns: chance is 12 of 100"


def test_a_run_is_read_without_podium(tmp_path):
    final = tmp_path / "sft" / "final"
    final.mkdir(parents=True)
    record = {"finished": "2026-01-01", "parents": [{"ref": "pretrain"}], "wall_seconds": 12.3}
    (final / "stage.json").write_text(json.dumps(record))
    metrics = [
        {"step": 1, "loss": 2.5, "time": 1},
        {"step": 2, "time": 2},
        {"step": 3, "loss": 1.5},
    ]
    (tmp_path / "sft" / "metrics.jsonl").write_text("\n".join(map(json.dumps, metrics)))
    said = run("examples/read_a_run.py", str(tmp_path))
    assert "sft" in said and "from pretrain" in said and "loss 2.500 -> 1.500" in said
