"""Every key of the evaluation does something: what it changes, or why that is shown elsewhere."""

import json
import shutil

import pytest

from data.jsonl import read_jsonl
from evals.evaluate import Config, main
from evals.records import Answer
from podium.run.context import StageContext
from tests.evals.miniature import make_recipe
from tests.every_key import EveryKey

REWARDS = "def seven(prompts, responses):\n    return [7.0 for _ in prompts]\n"

# key: another value, what it must change, and what that needs to be seen
CHANGES: dict[str, tuple[object, str, dict]] = {
    "base": ("{run}/ppo/final", "base pretrain_loss", {}),
    "sft": ("{run}/ppo/final", "sft pretrain_loss", {}),
    "reference": ("{run}/ppo/final", "sft kl", {}),
    "reward": ("{run}/rewards.py:seven", "sft reward", {}),
    "prompts": (2, "asked", {}),
    "samples": (2, "answers of sft", {}),
    "best_of": (2, "rows", {}),
    "max_new_tokens": (3, "longest", {}),
    "temperature": (0.0, "texts", {}),
    "top_p": (0.1, "texts", {}),
    "stop": (["e"], "texts", {"max_new_tokens": 30}),
    "documents_tokens": (1500, "sft pretrain_loss", {}),
    "questions": (0, "sft fact_accuracy", {}),
    "familiar_prompts": (0, "far prompts", {}),
    "weights": ("int8", "sft pretrain_loss", {}),
}
ELSEWHERE = {  # key: why not here
    "judge": "test_evaluate.py::test_reward_and_judge_are_what_ppo_s_reward_may_be",
    "tasks": "test_harness.py",
    "task_files": "test_harness.py",
    "num_fewshot": "test_harness.py",
    "task_limit": "test_harness.py",
    "save_steps": "changes no number: test_pieces.py",
}


def test_every_key_is_on_one_of_the_two_lists():
    """A new key must show what it does. Mutation seen red: a field added to Config."""
    assert CHANGES.keys() | ELSEWHERE.keys() == Config.model_fields.keys()
    assert not CHANGES.keys() & ELSEWHERE.keys()


@pytest.fixture
def says(copied_run):
    """`says(**config) -> what an evaluation of base and SFT shows` on three prompts."""
    (copied_run / "rewards.py").write_text(REWARDS)

    def evaluate(_name: str = "", **config) -> dict[str, object]:
        small = {
            "prompts": 3,
            "samples": 1,
            "best_of": 0,
            "max_new_tokens": 6,
            "documents_tokens": 600,
            "questions": 2,
        } | config
        small = {
            key: value.format(run=copied_run) if isinstance(value, str) else value
            for key, value in small.items()
        }
        recipe = make_recipe(Config(**small), ppo=None, ppo_arms={})
        shutil.rmtree(copied_run / "evals", ignore_errors=True)
        stage = StageContext("evals", recipe, copied_run)
        main(stage.config, stage)
        stage.close()
        final = copied_run / "evals" / "final"
        results = json.loads((final / "results.json").read_text())
        rows = results["rows"]
        answers = read_jsonl(final / "answers.jsonl", Answer)
        return {
            "rows": list(rows),
            "far prompts": results["setup"]["far_prompts"],
            "asked": len({answer.prompt_index for answer in answers}),
            "answers of sft": sum(answer.row == "sft" for answer in answers),
            "longest": max(answer.tokens for answer in answers),
            "texts": [answer.response for answer in answers],
        } | {
            f"{row} {name}": value for row, values in rows.items() for name, value in values.items()
        }

    return evaluate


@pytest.fixture(scope="module")
def every_key() -> EveryKey:
    return EveryKey()


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_does_something(says, every_key, key):
    """A key that nobody reads would change nothing."""
    every_key.check(says, key, CHANGES[key])
