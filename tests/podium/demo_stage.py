"""A complete stage in miniature for the tests: a seeded random walk that goes through the whole
contract.

A resumed walk can be compared bit by bit with an unbroken one. As a script this is the `podium`
command with the walk standing in for pretrain, sft and evals: tests kill, starve and signal it from
outside.
"""

import sys
import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field

from podium.errors import Interrupted
from podium.run.context import StageContext
from podium.run.registry import STAGES, StageSpec
from podium.runtime import rng_state, set_rng_state


class Config(BaseModel):
    """What the demonstration learns."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str | None = Field(None, description="parent")
    steps: int = Field(6, gt=0, description="how many updates")
    learning_rate: float = Field(0.1, gt=0, description="length of a step of the walk")
    save_steps: int = Field(2, gt=0, description="updates between checkpoints")
    size: int = Field(4, gt=0, description="numbers in the walk")
    seconds: float = Field(0.0, description="how long an update takes")
    nan_at: int | None = Field(None, description="the update whose loss is NaN")
    reads: bool = Field(False, description="whether it reads data.documents")
    asks: list[str] = Field([], description="kinds of records that it reads where there are any")


def main(config: Config, stage: StageContext) -> None:
    # 1. What goes in.
    if config.model:
        stage.parent(config.model)
    documents = stage.records("documents") if config.reads else []
    for kind in config.asks:
        if kind == "world":
            stage.world()
        elif kind.endswith(".jsonl"):
            stage.has_file(Path(kind))
        elif stage.has_records(kind):
            stage.records(kind)
    # 2. Go on from a checkpoint.
    weights, done = torch.zeros(config.size), 0
    found = stage.latest_checkpoint()
    if found:
        done, folder = found
        state = torch.load(folder / "state.pt", weights_only=False)
        weights = state["weights"]
        set_rng_state(state["rng"])
    # 3. Train.
    with stage.progress(config.steps, stage.name, start=done) as bar:
        for step in range(done + 1, config.steps + 1):
            weights += config.learning_rate * torch.randn(config.size)
            time.sleep(config.seconds)
            loss = float("nan") if step == config.nan_at else float(weights.norm())
            stage.log(step, {"loss": stage.check_finite("loss", loss, step)})
            bar.advance(loss=loss)
            stop = stage.stop_requested

            if step % config.save_steps == 0 or stop:
                state = {"weights": weights, "rng": rng_state()}
                stage.save_checkpoint(step, partial(save, state))
            if stop:
                raise Interrupted(f"stopped at update {step}")
    # 4. What comes out.
    stage.finish(
        lambda folder: torch.save(weights, folder / "weights.pt"),
        {"loss": float(weights.norm()), "documents": len(documents)},
        "# A random walk",
        tokens=config.steps,
    )


def save(state: dict[str, Any], folder: Path) -> None:
    torch.save(state, folder / "state.pt")


def install() -> dict[str, StageSpec]:
    """The stage table with this module for the three stages the tests use."""
    return {
        "pretrain": StageSpec("demo_stage", "walk at random"),
        "sft": StageSpec("demo_stage", "walk on", ("model",)),
        "evals": StageSpec("demo_stage", "look back", reads_all=True),
    }


if __name__ == "__main__":
    sys.path.insert(0, str(Path(__file__).parent))
    STAGES.clear()
    STAGES.update(install())
    from podium.cli.main import app

    app()
