"""Whether a run can fit, before hours are spent on the stages in front of the one that cannot.

What is refused is certain: weights, gradients, optimizer states and frozen models alone are more
than the machine has. What a step takes beside them hangs on the length of the rows; `podium plan
memory` says that, too.
"""

import importlib
import os
from collections.abc import Iterable
from pathlib import Path

import psutil
import torch

from podium.errors import PodiumError, RecipeError
from podium.run.lineage import STAGE_FILE
from podium.run.recipe import Recipe
from podium.run.registry import PLANNER
from podium.runtime import device, resolve_dtype

__all__ = ["check_memory", "memory_of_a_process"]

# A parent that is not there or cannot be read as a model: the stage itself says what is wrong.
NOT_KNOWN = (PodiumError, OSError, ValueError, KeyError, AttributeError)
CGROUP_LIMIT = Path("/sys/fs/cgroup/memory.max")


def check_memory(recipe: Recipe, stages: Iterable[str], run_dir: Path) -> None:
    """Refuse a training stage that cannot fit on what each process has. Stages that are finished
    are not looked at, nor is one whose parent's shape is not known yet.

    Raises:
        RecipeError: names the stage, both sizes and the change that would make it fit.
    """
    planner = importlib.import_module(PLANNER)
    gpu = device().type == "cuda"
    processes = int(os.environ.get("WORLD_SIZE", "1"))
    has = memory_of_a_process()
    dtype = resolve_dtype(recipe.dtype)
    for stage in stages:
        if (run_dir / stage / "final" / STAGE_FILE).is_file():
            continue
        place = planner.Place(recipe, run_dir, processes, gpu, dtype, at_rest=True)
        try:
            needs = sum(sizes.total for sizes in planner.plan_memory(place, only=stage))
        except NOT_KNOWN:
            continue
        if needs > has:
            raise RecipeError(
                f"{stage} cannot fit: weights, gradients, optimizer and frozen models alone take "
                f"{needs / 1e9:.1f} GB on a process, which has {has / 1e9:.1f} GB",
                planner.ways_at_rest(place, stage, has),
            )


def memory_of_a_process() -> int:
    """Bytes that each process of this machine can have at most: its card's, or its share of the
    host's with swap, within the container's limit.
    """
    if device().type == "cuda":
        return torch.cuda.get_device_properties(device()).total_memory
    host = psutil.virtual_memory().total + psutil.swap_memory().total
    try:
        limit = CGROUP_LIMIT.read_text().strip()
    except OSError:  # not Linux, or no control groups
        limit = "max"
    if limit.isdigit():
        host = min(host, int(limit))
    return host // int(os.environ.get("LOCAL_WORLD_SIZE", "1"))
