"""Runs of the stage in this process, and what they left behind, to compare."""

import json
import signal
from pathlib import Path

import torch
from safetensors.torch import load_file

from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe


def train(recipe: Path, runs: Path, *sets: str) -> Path:
    """Run the stage here; returns its folder."""
    loaded = load_recipe(recipe, list(sets))
    run_one(loaded, "ppo", runs)
    return runs / loaded.name / "ppo"


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict]:
    """The log without what depends on the clock."""
    return [
        {key: value for key, value in line.items() if not key.startswith("time/")}
        for line in metrics(folder)
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Policy and value model of final/."""
    policy = load_file(folder / "final/model.safetensors")
    value = load_file(folder / "final/value/model.safetensors")
    return policy | {f"value.{name}": tensor for name, tensor in value.items()}


def assert_same_weights(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def stop_after(monkeypatch, iteration: int) -> None:
    """Ctrl-C as seen by the stage at this iteration."""
    original = StageContext.log

    def log(self, step, found):
        original(self, step, found)
        self.signal_seen = signal.SIGINT if step == iteration else self.signal_seen

    monkeypatch.setattr(StageContext, "log", log)
