"""Tiny reward models and rankings, made in memory."""

from pathlib import Path

import pytest

from data.records import Message, Ranking


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
    from reward.model import new_reward_model

    model = new_reward_model(base_folder, tokenizer, seed=0)
    model.config.reward_bias = 0.25
    return model.eval()


def ranking(prompt: str, responses: list[str], ranks: list[int], **fields) -> Ranking:
    return Ranking(prompt=[Message(role="user", content=prompt)], responses=responses, ranks=ranks, **fields)


@pytest.fixture
def rankings() -> list[Ranking]:
    """Rankings of different K and length, with a tie and a duplicate."""
    owl, lamp, mill = "The owl found a lantern.", "A small lamp.", "The mill."
    return [
        ranking("Tell me a story about an owl and a lantern.", [owl, "I do not know.", lamp, "Bread and jam."], [1, 3, 2, 3]),
        ranking("What food does Bram like?", ["Plum jam.", "He likes the old barn and the mill."], [2, 1]),
        ranking("Who lives here?", ["Ana the baker lives in the mill.", mill, mill, ""], [1, 2, 2, 4]),
        ranking("List three things that fit in a basket.", ["bread, plums, a lamp", "no", "an owl", owl, lamp], [1, 5, 3, 4, 2]),
    ]
