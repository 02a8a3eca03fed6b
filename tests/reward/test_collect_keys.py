"""Every key of the stage `rankings` does something: what it changes, or why that is shown
elsewhere.
"""

from collections import Counter
from pathlib import Path

import pytest
import yaml

from data.jsonl import write_jsonl
from data.records import Message, Prompt
from data.worlds import load_world
from podium.run.context import StageContext
from podium.run.recipe import load_recipe
from reward.collect import Config, rank, sample
from tests.every_key import EveryKey

# key: another value, what it must change, and what that needs to be seen
CHANGES: dict[str, tuple[object, str, dict]] = {
    "models": ({"sft": "{other}", "base": "{model}"}, "texts", {}),
    "mix": ({"sft": 1.0}, "generators", {}),
    "main": ("base", "generators", {"mix": {"sft": 0.5, "base": 0.5}}),
    "prompts": (3, "train prompts", {}),
    "validation_prompts": (1, "validation prompts", {}),
    "min_k": (9, "k", {}),
    "max_k": (4, "k", {}),
    "labelers_per_prompt": (2, "train labelers", {}),
    "labelers_per_validation_prompt": (1, "validation labelers", {}),
    "max_new_tokens": (2, "texts", {}),
    "temperature": (0.2, "texts", {}),
    "top_p": (0.1, "texts", {}),
    "stop": (["e"], "texts", {"max_new_tokens": 30}),
    "save_steps": (4, "checkpoints", {}),
}
ELSEWHERE = {  # key: why not here
    "reward": "test_collect.py::test_a_reward_ranks_in_the_labelers_place",
    "max_batch": "changes no number: tests/podium/sampling",
}


def test_every_key_is_on_one_of_the_two_lists():
    """A new key must show what it does. Mutation seen red: a field added to Config."""
    assert CHANGES.keys() | ELSEWHERE.keys() == Config.model_fields.keys()
    assert not CHANGES.keys() & ELSEWHERE.keys()


@pytest.fixture
def says(tiny_llama, tiny_opt, tokenizer, tmp_path):
    """`says(name, **config) -> what sampling and ranking show` on eight prompts."""
    for name, model in (("model", tiny_llama), ("other", tiny_opt)):
        model.save_pretrained(tmp_path / name)
        tokenizer.save_pretrained(tmp_path / name)
    asked = [
        Prompt(messages=[Message(role="user", content=f"Tale {i}?")], id=f"p{i}") for i in range(8)
    ]
    write_jsonl(tmp_path / "prompts.jsonl", asked)
    where = {split: str(tmp_path / "prompts.jsonl") for split in ("train", "validation")}

    def collect(name: str, **config) -> dict[str, object]:
        small = {
            "models": {"sft": "{model}", "base": "{model}"},
            "prompts": 5,
            "validation_prompts": 2,
            "max_new_tokens": 5,
        } | config
        small["models"] = {
            row: path.format(model=tmp_path / "model", other=tmp_path / "other")
            for row, path in small["models"].items()
        }
        tree = {"name": name, "seed": 3, "dtype": "fp32", "threads": 1, "rankings": small}
        path = Path(tmp_path / f"{name}.yaml")
        path.write_text(yaml.safe_dump(tree | {"data": {"prompts": where}}))
        stage = StageContext("rankings", load_recipe(path), tmp_path / "runs" / name)
        candidates, counts = sample(stage.config, stage)
        labelers = load_world("willowbrook").labelers(0)
        rankings = rank(stage.config, labelers, candidates, 3, Counter(counts))
        checkpoints = stage.dir / "checkpoints"
        stage.close()
        return {
            "texts": [one.responses for one in candidates],
            "generators": [one.generators for one in candidates],
            "k": [len(one.responses) for one in candidates],
            "checkpoints": sorted(p.name for p in checkpoints.iterdir())
            if checkpoints.exists()
            else [],
        } | {
            f"{split} {what}": found
            for split in ("train", "validation")
            for what, found in (
                ("prompts", len({r.prompt[0].content for r in rankings[split]})),
                ("labelers", Counter(r.task for r in rankings[split])),
            )
        }

    return collect


def test_no_candidate_holds_a_stop_text(says):
    """Seen red with the stop texts not handed on to the models that answer."""
    found = says("stopped", stop=["e", "a"], max_new_tokens=30)["texts"]
    assert not any("e" in text or "a" in text for texts in found for text in texts)


@pytest.fixture(scope="module")
def every_key() -> EveryKey:
    return EveryKey()


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_does_something(says, every_key, key):
    """A key that nobody reads would change nothing."""
    every_key.check(says, key, CHANGES[key])
