"""A DPO run small enough for a test: a two-layer model and forty rankings of four answers, one pair
of each tied.
"""

from pathlib import Path

import pytest
import yaml

from data.jsonl import write_jsonl
from data.records import Message, Ranking

NAMES = ("Ana", "Bram", "Cleo", "Dov")
ANSWERS = ("honey and figs", "plum jam", "oat bread", "nothing at all")


def rankings(count: int, offset: int = 0) -> list[Ranking]:
    """The earlier an answer stands in ANSWERS the better; the middle two are tied."""
    found = []
    for number in range(offset, offset + count):
        question = f"What does {NAMES[number % 4]} like on day {number}?"
        turn = number % 4  # so that the best answer has no fixed place
        order = [(place + turn) % 4 for place in range(4)]
        found.append(
            Ranking(
                prompt=[Message(role="user", content=question)],
                responses=[ANSWERS[i] for i in order],
                ranks=[(1, 2, 2, 4)[i] for i in order],
            )
        )
    return found


@pytest.fixture
def start(tmp_path, tokenizer, tiny_llama) -> Path:
    """The model that the policy starts from."""
    from podium.models import save_model

    save_model(tiny_llama, tokenizer, tmp_path / "start")
    return tmp_path / "start"


@pytest.fixture
def make_recipe(tmp_path, start):
    """`make_recipe(name, **dpo_config) -> path` of a recipe with rankings of its own."""
    for split, count, offset in (("train", 40, 0), ("validation", 8, 100)):
        write_jsonl(tmp_path / f"rankings.{split}.jsonl", rankings(count, offset))

    def make(name: str = "run", **config) -> Path:
        small = {
            "model": str(start),
            "rankings": None,
            "num_train_epochs": 0.4,  # 200 pairs: five updates of sixteen
            "learning_rate": 3e-3,
            "batch_size": 16,
            "per_device_train_batch_size": 8,
            "eval_steps": 3,
            "save_steps": 2,
        }
        files = {s: str(tmp_path / f"rankings.{s}.jsonl") for s in ("train", "validation")}
        recipe = {
            "name": name,
            "seed": 3,
            "dtype": "fp32",
            "threads": 1,
            "dpo": small | config,
            "data": {"rankings": files},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(recipe))
        return path

    return make
