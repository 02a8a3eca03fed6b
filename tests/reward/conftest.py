"""Tiny reward models and rankings, made in memory."""

import random
from pathlib import Path

import pytest
import yaml

from data.jsonl import write_jsonl
from data.records import Demonstration, Message, Ranking


@pytest.fixture(params=["opt", "llama"])
def base_folder(request, tokenizer, tmp_path) -> Path:
    """A tiny OPT, then a tiny LLaMA, in Hugging Face layout: what SFT would hand over."""
    model = request.getfixturevalue(f"tiny_{request.param}")
    folder = tmp_path / request.param
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


@pytest.fixture
def reward_model(base_folder, tokenizer):
    """A fresh reward model on each family, with a bias that is not 0."""
    from podium.rewards.model import new_reward_model

    model = new_reward_model(base_folder, tokenizer, seed=0)
    model.config.reward_bias = 0.25
    return model.eval()


def ranking(prompt: str, responses: list[str], ranks: list[int], **fields) -> Ranking:
    return Ranking(
        prompt=[Message(role="user", content=prompt)], responses=responses, ranks=ranks, **fields
    )


@pytest.fixture
def rankings() -> list[Ranking]:
    """Rankings of different K and length, with a tie and a duplicate."""
    owl, lamp, mill = "The owl found a lantern.", "A small lamp.", "The mill."
    return [
        ranking(
            "Tell me a story about an owl.",
            [owl, "I do not know.", lamp, "Bread and jam."],
            [1, 3, 2, 3],
        ),
        ranking(
            "What food does Bram like?",
            ["Plum jam.", "He likes the old barn and the mill."],
            [2, 1],
        ),
        ranking(
            "Who lives here?", ["Ana the baker lives in the mill.", mill, mill, ""], [1, 2, 2, 4]
        ),
        ranking(
            "List things for a basket.",
            ["bread, plums, a lamp", "no", "an owl", owl, lamp],
            [1, 5, 3, 4, 2],
        ),
    ]


WORDS = [
    "owl",
    "lantern",
    "mill",
    "barn",
    "honey",
    "bread",
    "jam",
    "lamp",
    "basket",
    "story",
    "Ana",
    "old",
    "small",
]


def village_rankings(count: int, seed: int, **fields) -> list[Ranking]:
    """K = 2..5 answers of a few words; people like owls and dislike jam, so there is something to
    learn.
    """
    rng = random.Random(seed)
    found = []
    for number in range(count):
        answers = [
            " ".join(rng.choices(WORDS, k=rng.randint(1, 6))) for _ in range(rng.randint(2, 5))
        ]
        rating = [text.count("owl") - text.count("jam") for text in answers]
        ranks = [1 + sum(other > own for other in rating) for own in rating]
        found.append(
            ranking(f"Story {seed} {number}?", answers, ranks, labeler=f"l{number % 3}", **fields)
        )
    return found


@pytest.fixture
def make_recipe(tiny_llama, tokenizer, tmp_path):
    """`make_recipe(**reward_config) -> path` of a recipe whose rankings and demonstrations lie
    beside it.
    """
    tiny_llama.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    stranger = village_rankings(12, 2, cohort="heldout")
    records = [
        *village_rankings(60, 0),
        *[r.model_copy(update={"labeler": "stranger"}) for r in stranger],
    ]
    write_jsonl(tmp_path / "rankings.jsonl", records)
    turns = (
        [("user", "Tell a tale."), ("assistant", "An owl.")],
        [("user", "Who?"), ("assistant", "Ana, in the mill.")],
    )
    shown = [
        Demonstration(messages=[Message(role=role, content=text) for role, text in pair])
        for pair in turns
    ]
    write_jsonl(tmp_path / "demonstrations.jsonl", shown)

    def make(name: str = "run", **config) -> Path:
        small = {
            "model": str(tmp_path / "base"),
            "rankings": str(tmp_path / "rankings.jsonl"),
            "batch_size": 8,
            "num_train_epochs": 2,
            "learning_rate": 3e-3,
            "eval_steps": 4,
            "save_steps": 3,
        }
        recipe = {
            "name": name,
            "seed": 3,
            "dtype": "fp32",
            "threads": 1,
            "reward": small | config,
            "data": {"demonstrations": {"train": str(tmp_path / "demonstrations.jsonl")}},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return make
