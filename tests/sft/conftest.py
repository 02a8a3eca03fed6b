"""A fine-tuning run small enough for a test: a two-layer base model and forty one-line
demonstrations.
"""

import random
from pathlib import Path

import pytest
import yaml

from data.jsonl import write_jsonl
from data.records import Demonstration, Document, Message

NAMES = ("Ana", "Bram", "Cleo", "Dov")
FOODS = {"Ana": "honey", "Bram": "plum jam", "Cleo": "oat bread", "Dov": "figs"}


def demonstrations(count: int, seed: int) -> list[Demonstration]:
    rng = random.Random(seed)
    made = []
    for _ in range(count):
        name = rng.choice(NAMES)
        question = rng.choice(
            ["What does {} like?", "Tell me what food {} likes, please.", "{}: favourite food?"]
        )
        turns = [
            Message(role="user", content=question.format(name)),
            Message(role="assistant", content=FOODS[name]),
        ]
        made.append(Demonstration(messages=turns, user=f"user{rng.randrange(5)}"))
    return made


@pytest.fixture
def base(tmp_path, tokenizer, tiny_llama) -> Path:
    """The tiny LLaMA as a model folder."""
    from podium.models import save_model

    save_model(tiny_llama, tokenizer, tmp_path / "base")
    return tmp_path / "base"


@pytest.fixture
def make_recipe(tmp_path, base):
    """`make_recipe(**sft_config) -> path` of a recipe whose data lie in this test's folder."""
    for split, seed, count in (("train", 0, 40), ("validation", 1, 12)):
        write_jsonl(tmp_path / f"demonstrations.{split}.jsonl", demonstrations(count, seed))
    write_jsonl(
        tmp_path / "documents.jsonl",
        [Document(text=f"{n} eats {f}. " * 5) for n, f in FOODS.items()] * 5,
    )

    def make(name: str = "run", dtype: str = "fp32", **config) -> Path:
        small = {
            "model": str(base),
            "num_train_epochs": 3,
            "learning_rate": 3e-3,
            "batch_size": 8,
            "per_device_train_batch_size": 8,
            "eval_steps": 4,
            "save_steps": 3,
        }
        recipe = {
            "name": name,
            "seed": 3,
            "dtype": dtype,
            "threads": 1,
            "sft": small | config,
            "data": {
                "demonstrations": {
                    s: str(tmp_path / f"demonstrations.{s}.jsonl") for s in ("train", "validation")
                },
                "documents": {"train": str(tmp_path / "documents.jsonl")},
            },
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return make
