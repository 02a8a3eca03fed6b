"""Which rewards a model was trained on, by what the stages before it noted; and which run and stage
a name means.
"""

import json
from pathlib import Path

import pytest
import yaml

from evals.contestants import find_contestant, identities, model_of, optimised_rewards
from evals.runs import planned_stages
from podium.errors import PodiumError
from podium.run.recipe import Recipe


def made(run: Path, stage: str, config: dict | None = None, parents: list | None = None, **more):
    """A finished stage, as its stage.json tells it."""
    final = run / stage / "final"
    final.mkdir(parents=True)
    record = {
        "format": 1,
        "stage": stage,
        "finished": "2026-01-01",
        "config": config or {},
        "parents": [{"ref": r, "path": str(p), "sha256": f"sha-{r}"} for r, p in parents or []],
    }
    (final / "stage.json").write_text(json.dumps(record | more))
    return final


def test_a_policy_was_trained_on_what_its_start_and_its_rankings_were_too(tmp_path):
    """The second round's PPO starts from the first's, which was trained on a function; its own
    reward model learned from rankings that a served model made. Mutations seen red: the last
    parent's alone; its own alone; the parents' parents left out.
    """
    old, new = tmp_path / "old", tmp_path / "new"
    code = [{"path": "somewhere/mine.py", "sha256": "abc"}, {"path": "else.py", "sha256": "def"}]
    sft = made(old, "sft")
    first = made(old, "ppo", {"reward": "mine.py:longest"}, [("sft", "sft/final")], code=code)
    served = {"endpoint": "http://localhost:1/v1", "model": "grader"}
    made(new, "rankings", {"reward": served, "models": {}}, [("sft", sft)])
    made(new, "reward", {}, [("rankings", "rankings/final"), ("sft", sft)])
    policy = made(
        new, "ppo", {"reward": [{"reward": "reward", "weight": 2.0}]},
        [("first", first), ("reward", "reward/final"), ("sft", sft)],
    )  # fmt: skip
    assert optimised_rewards(first) == {"longest in abc"}
    assert optimised_rewards(policy) == {
        "sha-reward", "longest in abc", "grader at http://localhost:1/v1"
    }  # fmt: skip
    assert optimised_rewards(sft) == optimised_rewards(tmp_path) == set()
    # an evaluation scores by a reward, which trains nothing; a world is made from nothing
    assert optimised_rewards(made(new, "evals", {"reward": "reward"})) == set()
    assert optimised_rewards(made(new, "world", {}, [("first", first)])) == set()
    bare = made(tmp_path / "bare", "ppo", {"reward": "mine.py:longest"})
    assert optimised_rewards(bare) == {"longest in mine.py:longest"}, "no code was noted"


def test_a_function_s_identity_is_its_name_and_its_code(tmp_path):
    """Mutation seen red: the path instead of the code."""
    for name, text in (("a", "return [1.0]"), ("b", "return [1.0]"), ("c", "return [2.0]")):
        (tmp_path / f"{name}.py").write_text(f"def f(prompts, responses):\n    {text}\n")
    recipe = Recipe(name="model")
    a, b, c = (identities(f"{tmp_path / name}.py:f", recipe, tmp_path) for name in "abc")
    assert a == b != c and len(a) == 1
    both = [{"reward": f"{tmp_path / name}.py:f", "weight": 1.0} for name in "ac"]
    from pydantic import TypeAdapter

    from podium.rewards.specs import RewardSpec

    assert identities(TypeAdapter(RewardSpec).validate_python(both), recipe, tmp_path) == a | c


@pytest.mark.parametrize(
    ("finished", "model"),
    [
        (["pretrain"], "pretrain"),
        (["pretrain", "sft", "reward"], "sft"),
        (["sft", "ppo_plain"], "ppo_plain"),
        (["sft", "ppo_plain", "ppo"], "ppo"),
        (["sft", "dpo"], "dpo"),
    ],
)
def test_of_a_run_its_policy_stands_for_it_else_the_newest_model(tmp_path, finished, model):
    """Mutations seen red: an arm before the stage itself; the reward model taken for one that
    answers.
    """
    for stage in finished:
        made(tmp_path / "run", stage)
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump({"name": "run", "sft": {}}))
    assert model_of(tmp_path / "run") == model
    found = find_contestant("run", tmp_path)
    assert (found.name, found.run) == ("run", tmp_path / "run")
    assert found.folder == tmp_path / "run" / model / "final" and found.recipe.name == "run"


def test_a_run_that_has_no_model_yet_says_how_to_make_one(tmp_path):
    made(tmp_path / "run", "reward")
    (tmp_path / "run" / "recipe.yaml").write_text(yaml.safe_dump({"name": "run", "sft": {}}))
    with pytest.raises(PodiumError, match="has no finished model") as error:
        model_of(tmp_path / "run")
    assert str(tmp_path / "run" / "recipe.yaml") in str(error.value.fix)


def test_a_recipe_s_chain_is_planned_with_its_arms_and_its_world(tmp_path):
    """Mutation seen red: stages that are null, and a world that is not there, planned too."""
    assert planned_stages(tmp_path) == []
    tree = {"name": "run", "sft": {}, "evals": None, "ppo": {}, "ppo_arms": {"free": {}}}
    for data, first in (({"world": {}}, ["world"]), ({}, []), (None, [])):
        (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree | {"data": data}))
        assert planned_stages(tmp_path) == [*first, "sft", "ppo", "ppo_free"]
