"""A pretraining run small enough for a test: two hundred sentences, a 0.26M LLaMA, windows of 32
tokens.
"""

import random
from pathlib import Path

import pytest
import yaml

from data.jsonl import write_jsonl
from data.records import Document

NAMES = ("Ana", "Bram", "Cleo", "Dov")
FOODS = ("plum jam", "honey", "oat bread")
PLACES = ("mill", "barn", "tower")


def village_sentences(count: int, seed: int) -> list[str]:
    rng = random.Random(seed)
    return [
        f"{rng.choice(NAMES)} lives in the {rng.choice(PLACES)} and likes {rng.choice(FOODS)}."
        for _ in range(count)
    ]


@pytest.fixture
def make_recipe(tmp_path):
    """`make_recipe(**pretrain_config) -> path` of a recipe whose documents lie in this test's
    folder.
    """

    def make(name: str = "run", **config) -> Path:
        for split, seed, count in (("train", 0, 200), ("validation", 1, 40)):
            documents = [Document(text=text) for text in village_sentences(count, seed)]
            write_jsonl(tmp_path / f"{split}.jsonl", documents)
        small = {
            "preset": "llama-260k",
            "vocab_size": 300,
            "context": 32,
            "tokens": 32 * 4 * 12,
            "batch_size": 4,
            "per_device_train_batch_size": 4,
            "warmup_tokens": 256,
            "eval_steps": 6,
            "eval_tokens": 320,
            "save_steps": 4,
            "learning_rate": 3e-3,
        }
        recipe = {
            "name": name,
            "seed": 3,
            "dtype": "fp32",
            "threads": 1,
            "pretrain": small | config,
            "data": {
                "documents": {s: str(tmp_path / f"{s}.jsonl") for s in ("train", "validation")}
            },
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return make
