"""Worlds: generators that make everything a chain reads, so that the default run needs no download.

A world writes ordinary JSONL records; every stage reads those, or a user's own in their place. The
world itself stays at hand for two things only: its gold score, which is logged and never trained
on, and its simulated labelers.

As the stage "world" this module writes `documents.{train,validation}.jsonl`, `demonstrations` and
`prompts.{train,validation,test}.jsonl`, `questions.jsonl`, `world.json` and the data card
`README.md`.

    podium world --out DIR          (or, as the first stage of a chain: podium run RECIPE)
"""

import json
import random
from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol

from pydantic import BaseModel, ConfigDict, Field

from data.jsonl import write_jsonl
from data.records import Demonstration, Document, Prompt, Question
from data.willowbrook.card import data_card
from data.willowbrook.world import Willowbrook
from podium.errors import DataError

__all__ = [
    "Config",
    "Labeler",
    "LabelerJudgement",
    "Output",
    "World",
    "load_world",
    "main",
    "make_records",
    "open_world",
    "write_world",
]

FORMAT = 1  # of world.json; a change of the generator that changes its records raises it
SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")
WORLDS = {"willowbrook": Willowbrook}


class LabelerJudgement(Protocol):
    """What one labeler says about K responses; everything is empty when `skipped` names a
    reason.
    """

    ranks: list[int]  # 1 = best, equal = tie
    likert: list[int]  # 1-7
    flags: list[list[str]]
    skipped: str | None


class Labeler(Protocol):
    """A simulated person who ranks."""

    @property
    def name(self) -> str: ...

    @property
    def cohort(self) -> str: ...

    def rank(self, prompt: Prompt, responses: Sequence[str], rng: random.Random) -> Any:
        """A LabelerJudgement of the responses to one prompt."""
        ...


class World(Protocol):
    """What a chain needs of a world. Every method is deterministic in its arguments, across
    processes too.
    """

    name: str

    def documents(self, rng: random.Random) -> Iterator[Document]: ...
    def prompts(
        self, rng: random.Random, split: Literal["train", "validation", "test"] = ...
    ) -> Iterator[Prompt]: ...
    def demonstration(self, prompt: Prompt, rng: random.Random) -> Demonstration: ...
    def oracle(self, prompt: Prompt, rng: random.Random | None = None) -> str: ...
    def features(self, prompt: Prompt, response: str) -> dict[str, float]: ...
    def gold(self, prompt: Prompt, response: str) -> float: ...
    def labelers(self, seed: int = 0) -> Sequence[Labeler]: ...
    def eval_sets(self) -> dict[str, list[Question]]: ...


class Config(BaseModel):
    """Which world, and how much of it. The paper's data: 13k demonstrations, 31k PPO prompts (Table
    6).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    name: Literal["willowbrook"] = Field("willowbrook", description="the world to make")
    seed: int = Field(
        0, ge=0, description="fixes who lives there and every record; apart from the run's seed"
    )
    villagers: int = Field(
        64, ge=64, le=96, description="people with a job, home, food, pet and best friend each"
    )
    users: int = Field(
        300, ge=30, description="simulated people who ask; each is in one split only"
    )
    documents: int = Field(30_000, ge=1, description="to pretrain on, about 55 tokens each")
    validation_documents: int = Field(600, ge=1, description="held out from pretraining")
    demonstrations: int = Field(
        8_000, ge=1, description="to imitate in SFT, on prompts of their own"
    )
    validation_demonstrations: int = Field(300, ge=1, description="to choose the SFT checkpoint by")
    test_demonstrations: int = Field(300, ge=1, description="to report on")
    prompts: int = Field(6_000, ge=1, description="to collect rankings for and to sample in PPO")
    validation_prompts: int = Field(600, ge=1, description="to choose by")
    test_prompts: int = Field(600, ge=1, description="to report on")

    def counts(self, kind: str) -> dict[str, int]:
        """How many records of a kind each split gets."""
        fields = {split: kind if split == "train" else f"{split}_{kind}" for split in SPLITS}
        return {
            split: getattr(self, field)
            for split, field in fields.items()
            if field in type(self).model_fields
        }


def load_world(name: str, **config: Any) -> World:
    """The world of that name; `config` is its seed and sizes.

    Raises:
        DataError: there is no such world.
    """
    if name not in WORLDS:
        known = ", ".join(WORLDS)
        raise DataError(
            "recipe", None, "data.world.name", f"there is no world '{name}'", f"use one of: {known}"
        )
    return WORLDS[name](**config)


def open_world(folder: str | Path) -> World:
    """The world whose files are in `folder`, rebuilt from its world.json.

    Raises:
        DataError: no world.json, or one of another format.
    """
    path = Path(folder) / "world.json"
    try:
        written = json.loads(path.read_text(encoding="utf-8"))
        if written["format"] != FORMAT:
            raise DataError(
                path,
                None,
                "format",
                f"is not {FORMAT}: another Podium wrote it",
                "make the world again",
            )
        return _world_of(Config.model_validate(written["config"]))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            path, None, None, f"is no world: {error}", "make one with `podium world --out DIR`"
        ) from error


def _world_of(config: Config) -> World:
    return load_world(config.name, seed=config.seed, villagers=config.villagers, users=config.users)


def make_records(config: Config) -> dict[str, list[Any]]:
    """All records of the world by file name, in reading order."""
    world = _world_of(config)
    files: dict[str, list[Any]] = dict(_documents(world, config))
    for split in SPLITS:
        rng = random.Random(f"prompts-{split}-{config.seed}")
        shown, asked = config.counts("demonstrations")[split], config.counts("prompts")[split]
        prompts = _distinct(world.prompts(rng, split), shown + asked)
        shown_to = _named(prompts[:shown], f"d-{split}")
        files[f"demonstrations.{split}.jsonl"] = [
            world.demonstration(prompt, rng) for prompt in shown_to
        ]
        files[f"prompts.{split}.jsonl"] = list(_named(prompts[shown:], f"p-{split}"))
    files["questions.jsonl"] = [
        question for questions in world.eval_sets().values() for question in questions
    ]
    return files


def write_world(config: Config, out: Path) -> dict[str, int]:
    """Write all files of the world into `out`, with a data card, and return how many records each
    has.
    """
    files = make_records(config)
    _write_files(config, files, out)
    (out / "README.md").write_text(data_card(config.model_dump(), files), encoding="utf-8")
    return {name: len(records) for name, records in files.items()}


def _write_files(config: Config, files: dict[str, list[Any]], out: Path) -> None:
    """Records first, world.json last: a folder with world.json is whole."""
    for name, records in files.items():
        write_jsonl(out / name, records)
    written = {"format": FORMAT, "config": config.model_dump()}
    (out / "world.json").write_text(json.dumps(written, indent=2) + "\n", encoding="utf-8")


def _documents(world: World, config: Config) -> dict[str, list[Document]]:
    """Documents of both splits by file name; no validation text is also a training text."""
    held_out = list(
        islice(
            world.documents(random.Random(f"validation-{config.seed}")), config.validation_documents
        )
    )
    seen = {document.text for document in held_out}
    stream = world.documents(random.Random(f"documents-{config.seed}"))
    train = list(
        islice((document for document in stream if document.text not in seen), config.documents)
    )
    return {"documents.train.jsonl": train, "documents.validation.jsonl": held_out}


def _distinct(prompts: Iterable[Prompt], count: int) -> list[Prompt]:
    """The first `count` prompts that differ in what is said."""
    found: dict[tuple[str, ...], Prompt] = {}
    for prompt in prompts:
        found.setdefault(tuple(message.content for message in prompt.messages), prompt)
        if len(found) == count:
            break
    return list(found.values())


def _named(prompts: Sequence[Prompt], prefix: str) -> Iterator[Prompt]:
    """The prompts with ids: the prefix and a number."""
    for number, prompt in enumerate(prompts):
        yield prompt.model_copy(update={"id": f"{prefix}-{number:05d}"})


class Output(Protocol):
    """Of the stage's context, what this stage needs; the context itself opens worlds."""

    def finish(
        self, save: Callable[[Path], None], metrics: dict[str, float], card: str, tokens: int = 0
    ) -> None: ...


def main(config: Config, stage: Output) -> None:
    """The stage "world": all files in final/, the data card as its card."""
    files = make_records(config)
    counts = {name.removesuffix(".jsonl"): float(len(records)) for name, records in files.items()}
    stage.finish(
        lambda folder: _write_files(config, files, folder),
        counts,
        data_card(config.model_dump(), files),
    )
