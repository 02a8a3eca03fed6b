"""A finished run, for commands that sample or score in it without being a stage of it."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from podium.run.parents import find_parent
from podium.run.recipe import Recipe

if TYPE_CHECKING:
    import torch

    from podium.sampling.kinds import SamplerConfig


@dataclass(frozen=True)
class Place:
    """What candidates, samplers and rewards ask of the stage they work for, without a lineage."""

    recipe: Recipe
    run_dir: Path
    device: torch.device
    seed: int
    rank: int = 0
    world_size: int = 1

    def sampler(self) -> SamplerConfig:
        """As `StageContext.sampler`."""
        return cast("SamplerConfig", self.recipe.sampler)

    def parent(self, ref: str, same_tokenizer: bool = True) -> Path:
        """As `StageContext.parent`; tokenizers are not compared."""
        return find_parent(ref, self.recipe, self.run_dir)

    def code(self, path: Path) -> None:
        """As `StageContext.code`; there is nothing to make anew."""
