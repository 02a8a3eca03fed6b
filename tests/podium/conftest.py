"""Runs of the demonstration stage: in this process for most tests, in another where it is killed or
starved.
"""

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml

HERE = Path(__file__).parent
ROOT = HERE.parent.parent


def replace(table, by):
    """All rows at once: the order of the chain is the order of the table."""
    table.clear()
    table.update(by)


@pytest.fixture
def demo_stages(monkeypatch):
    """The stage table holds only pretrain, sft and evals, all three the demonstration."""
    monkeypatch.syspath_prepend(str(HERE))
    import demo_stage

    from podium.run.registry import STAGES

    table, real = demo_stage.install(), dict(STAGES)
    replace(STAGES, table)
    handlers = {s: signal.getsignal(s) for s in (signal.SIGINT, signal.SIGTERM)}
    yield table
    replace(STAGES, real)
    assert {s: signal.getsignal(s) for s in handlers} == handlers, (
        "a stage must put the signal handlers back"
    )


@pytest.fixture
def write_recipe(tmp_path) -> Callable[..., Path]:
    """Write a recipe named `demo`; keywords are its sections."""

    def write(**sections) -> Path:
        path = tmp_path / "demo.yaml"
        path.write_text(yaml.safe_dump({"threads": 1, "dtype": "fp32"} | sections))
        return path

    return write


@pytest.fixture
def run_demo(demo_stages, tmp_path, write_recipe) -> Callable[..., Path]:
    """Run stages in this process; returns the run folder."""
    from podium.run.launch import opened_run, run_stage
    from podium.run.recipe import load_recipe

    def run(stages=("pretrain",), sets=(), force=False, **sections) -> Path:
        recipe = load_recipe(write_recipe(**(sections or {"pretrain": {}})), sets)
        with opened_run(recipe, tmp_path / "runs") as run_dir:
            run.ran = [stage for stage in stages if run_stage(recipe, stage, run_dir, force)]
        return run_dir

    return run


@pytest.fixture
def start_demo(tmp_path) -> Callable[..., subprocess.Popen]:
    """Start `podium ARGS` with the demonstration stages in a process of its own."""
    started = []

    def start(*args, **options) -> subprocess.Popen:
        command = [sys.executable, str(HERE / "demo_stage.py"), *map(str, args)]
        environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
        process = subprocess.Popen(
            command,
            cwd=tmp_path,
            env=environment,
            text=True,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            **options,
        )
        started.append(process)
        return process

    yield start
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()
