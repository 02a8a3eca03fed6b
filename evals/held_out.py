"""Prompts that several models can be asked and none was trained on."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np

from data.readers import read_source
from data.records import Demonstration, Message, Prompt
from evals.contestants import Contestant
from podium.errors import DataError
from podium.run.lineage import absolute, source_of
from podium.run.recipe import load_recipe

Asked = tuple[tuple[str, str], ...]  # (role, text) of each message


def held_out_prompts(run: Path, splits: Sequence[str] = ("test", "validation")) -> list[Prompt]:
    """A run's held-out prompts: the first of the splits that it has.

    Raises:
        DataError: it has none.
    """
    recipe = load_recipe(run / "recipe.yaml")
    for split in splits:
        source = source_of(recipe, run, "prompts", split)
        if source is not None:
            return read_source(absolute(source, run), Prompt)
    raise DataError(
        run / "recipe.yaml",
        None,
        "data.prompts",
        f"no {' or '.join(splits)} prompts to ask",
        f"add data.prompts.{splits[0]}, or give a file of prompts",
    )


def trained_on(contestants: Sequence[Contestant]) -> set[Asked]:
    """What the runs of the contestants had answered or were rewarded for: the prompts and
    demonstrations of their training splits.
    """
    seen: set[Asked] = set()
    for run in {contestant.run for contestant in contestants if contestant.run is not None}:
        recipe = load_recipe(run / "recipe.yaml")
        if (source := source_of(recipe, run, "prompts", "train")) is not None:
            for prompt in read_source(absolute(source, run), Prompt):
                seen |= _asked_in(prompt.messages)
        if (source := source_of(recipe, run, "demonstrations", "train")) is not None:
            for shown in read_source(absolute(source, run), Demonstration):
                seen |= _asked_in(shown.messages)
    return seen


def _asked_in(messages: Sequence[Message]) -> set[Asked]:
    """Every beginning of a conversation that ends with the user: each was answered."""
    return {key_of(messages[: i + 1]) for i, one in enumerate(messages) if one.role == "user"}


def key_of(messages: Sequence[Message]) -> Asked:
    """What makes two prompts the same one: who said what."""
    return tuple((message.role, message.content.strip()) for message in messages)


def draw(prompts: Sequence[Prompt], count: int, seed: int) -> list[Prompt]:
    """`count` of them, the same ones for a seed, in their order."""
    chosen = np.random.default_rng(seed).permutation(len(prompts))[:count]
    return [prompts[i] for i in sorted(chosen)]
