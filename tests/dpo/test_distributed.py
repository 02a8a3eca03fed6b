"""Two processes, and DeepSpeed under the trainer, give the numbers of one plain process."""

import json
from pathlib import Path

import pytest
from safetensors.torch import load_file

from tests.launching import launch


def train(recipe: Path, runs: Path, processes: int, torchrun: bool = False) -> Path:
    """Run the stage in so many processes; returns its folder."""
    options = recipe, "--runs-dir", runs
    launch("dpo.train", *options, processes=processes, folder=runs.parent, torchrun=torchrun)
    return runs / recipe.stem / "dpo"


def lines_of(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 2, 3])
def test_two_processes_give_the_numbers_of_one(make_recipe, tmp_path, zero_stage):
    """Each reads its share of the reference and of the validation pairs."""
    small = {"learning_rate": 1e-4, "per_device_train_batch_size": 4}
    expected = train(make_recipe("one", **small), tmp_path / "runs", 1)
    recipe = make_recipe("two", engine={"zero_stage": zero_stage}, **small)
    found = train(recipe, tmp_path / "runs", 2, torchrun=zero_stage == 2)
    for line, reference in zip(lines_of(found), lines_of(expected), strict=True):
        for name in ("loss", "rewards/margins", "validation_loss", "validation_margin"):
            if name in reference:
                assert line[name] == pytest.approx(reference[name], rel=2e-3, abs=1e-4), name
    left, right = (load_file(f / "final/model.safetensors") for f in (found, expected))
    assert left.keys() == right.keys()
    assert all((left[name] - right[name]).abs().max() < 2e-4 for name in left)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_two_processes_that_diverge_begin_again_together(make_recipe, tmp_path, zero_stage):
    """In the same processes, from the same checkpoint, at the same lower rate."""
    wild = {
        "learning_rate": 1.0,
        "num_train_epochs": 0.8,  # ten updates
        "warmup_ratio": 0.9,
        "per_device_train_batch_size": 4,
        "engine": {"zero_stage": zero_stage},
        "guard": {"window": 1, "max_loss_rise": 0.3, "max_grad_norm": None, "max_rollbacks": 9},
    }
    folder = train(make_recipe("wild", **wild), tmp_path / "runs", 2)
    said = [x for x in (folder / "logbook.md").read_text().splitlines() if "guard: update" in x]
    assert said and "back to the state after update 2" in said[0]
    lines = lines_of(folder)
    assert [line["step"] for line in lines] == list(range(1, 11))
    times = sum("after update 2," in line for line in said)
    assert lines[2]["learning_rate"] == pytest.approx(0.3**times * 2 / 9)
