"""Candidates for a batch from the checkpoints of a run, sampled by the reward stage's own code.

This is the one module here that needs torch, and only inside its function: the server starts it as
a process of its own (`podium label sample`), so that labelers never wait for a model.
"""

import random
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, cast

from app.labeling.importing import Candidates, storable_candidates
from data.jsonl import read_jsonl
from data.records import Prompt
from podium.errors import ParentError

if TYPE_CHECKING:
    from podium.run.context import StageContext

OFF_TOPIC_SHARE = 0.15  # as in the reward stage's default mix


def sample_candidates(
    run_dir: Path,
    models: list[str],
    prompts: int,
    k: int,
    off_topic: bool,
    seed: int,
    prompt_file: Path | None = None,
    max_new_tokens: int = 64,
    temperature: float = 1.0,
    stop: Sequence[str] = (),
) -> list[Candidates]:
    """K answers to each of the first `prompts` training prompts: one by `models[0]`, the others by
    models in turn of chance, and with `off_topic` some that answer another prompt. An answer ends
    before any of the texts of `stop`.

    Raises:
        ParentError: a checkpoint is missing, or the run has no prompts.
    """
    from podium.run.place import Place
    from podium.run.recipe import load_recipe
    from podium.runtime import device
    from podium.sampling.protocol import SamplingParams
    from reward.candidates import OFF_TOPIC, block, fits, load_writer, plan

    place = cast(
        "StageContext", Place(load_recipe(str(run_dir / "recipe.yaml")), run_dir, device(), seed)
    )
    source = prompt_file or run_dir / "world" / "final" / "prompts.train.jsonl"
    if not source.is_file():
        raise ParentError(
            f"{source} is not there", "name a file of prompts: --prompt-file PROMPTS.jsonl"
        )
    writers = {name: load_writer(place, name, max_batch=64) for name in models}
    asked = [p for p in read_jsonl(source, Prompt) if fits(p, writers, max_new_tokens)][:prompts]
    share = (1 - OFF_TOPIC_SHARE) / len(models) if off_topic else 1 / len(models)
    mix = dict.fromkeys(models, share) | ({OFF_TOPIC: OFF_TOPIC_SHARE} if off_topic else {})
    rng = random.Random(f"{seed}-plans")
    plans = [plan(models[0], mix, k, rng) for _ in asked]
    params = SamplingParams(max_new_tokens, temperature=temperature)
    pairs = [("train", prompt) for prompt in asked]
    found, _ = block(place, writers, pairs, plans, params, "labeling", stop)
    return storable_candidates([Candidates.model_validate(c.model_dump()) for c in found])
