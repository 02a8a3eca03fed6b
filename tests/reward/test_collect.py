"""Candidates and labelers: the plan is kept, what is off topic is, and a resumed collection equals
an unbroken one.
"""

import json
from collections import Counter
from pathlib import Path

import pytest
import yaml

from data.jsonl import read_jsonl, write_jsonl
from data.records import Message, Prompt, Ranking
from podium.errors import DataError, Interrupted, RecipeError
from podium.rewards.model import load_reward_model, new_reward_model, save_reward_model
from podium.rewards.model_reward import ModelReward
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from reward.candidates import Candidates
from tests.reward.conftest import village_rankings

PROMPTS = [
    Prompt(messages=[Message(role="user", content=f"Tale {i}?")], id=f"p{i}", meta={"n": i})
    for i in range(20)
]


@pytest.fixture
def recipe(tiny_llama, tokenizer, tmp_path):
    """`recipe(world=..., **rankings_config) -> path`, sampling from one tiny model under
    two names.
    """
    tiny_llama.save_pretrained(tmp_path / "model")
    tokenizer.save_pretrained(tmp_path / "model")

    def make(data: dict | None = None, **config) -> Path:
        model = str(tmp_path / "model")
        small = {
            "models": {"sft": model, "base": model},
            "prompts": 12,
            "validation_prompts": 4,
            "max_new_tokens": 6,
            "save_steps": 5,
        }
        tree = {
            "name": "run",
            "seed": 3,
            "dtype": "fp32",
            "threads": 1,
            "rankings": small | config,
            "data": data
            or {
                "world": {
                    "name": "willowbrook",
                    "documents": 50,
                    "validation_documents": 10,
                    "demonstrations": 20,
                    "validation_demonstrations": 5,
                    "test_demonstrations": 5,
                    "prompts": 30,
                    "validation_prompts": 10,
                    "test_prompts": 5,
                }
            },
        }
        path = tmp_path / "recipe.yaml"
        path.write_text(yaml.safe_dump(tree))
        return path

    return make


def collect(recipe: Path, runs: Path) -> Path:
    loaded = load_recipe(recipe)
    run_one(loaded, "rankings", runs)
    return runs / loaded.name / "rankings" / "final"


def test_the_world_s_labelers_rank_k_candidates(recipe, tmp_path):
    final = collect(recipe(), tmp_path / "runs")
    train, validation, heldout = (
        read_jsonl(final / f"rankings.{split}.jsonl", Ranking)
        for split in ("train", "validation", "heldout")
    )
    assert len(train) == 12 and len(validation) == 12 and len(heldout) <= 8
    assert {r.cohort for r in train + validation} == {"train"} and {r.cohort for r in heldout} == {
        "heldout"
    }
    assert all(4 <= r.k <= 9 and "sft" in r.generators and r.likert and r.meta for r in train)
    assert {name for r in train for name in r.generators} == {"sft", "base", "off_topic"}
    candidates = [
        json.loads(line) for line in (final / "candidates.jsonl").read_text().splitlines()
    ]
    assert candidates[0]["responses"] == train[0].responses
    metrics = json.loads((final / "stage.json").read_text())["metrics"]
    assert 0 < metrics["agreement"] <= 1 and metrics["train_rankings"] == 12


def test_another_kind_of_sampler_serves_by_a_recipe_key(recipe, counting_sampler, tmp_path):
    """Seen red with the embedded sampler constructed in reward.candidates."""
    path = recipe()
    expected = collect(path, tmp_path / "embedded")
    assert not counting_sampler
    tree = yaml.safe_load(path.read_text()) | {"sampler": {"kind": "counting"}}
    path.write_text(yaml.safe_dump(tree))
    found = collect(path, tmp_path / "counting")
    name = "rankings.train.jsonl"
    assert len(counting_sampler) == 8  # two models, four blocks
    assert (found / name).read_text() == (expected / name).read_text()


def test_the_labeling_site_can_read_the_candidates(recipe, tmp_path):
    importing = pytest.importorskip("app.labeling.importing")
    final = collect(recipe(), tmp_path / "runs")
    assert len(importing.read_candidates(final / "candidates.jsonl")) == 16


def test_off_topic_answers_were_given_to_another_prompt(recipe, tmp_path):
    """Red with `if j != i` left out of _elsewhere."""
    final = collect(recipe(mix={"sft": 0.5, "off_topic": 0.5}, save_steps=16), tmp_path / "runs")
    records = [json.loads(line) for line in (final / "candidates.jsonl").read_text().splitlines()]
    own = {
        r["id"]: {t for t, g in zip(r["responses"], r["generators"], strict=True) if g == "sft"}
        for r in records
    }
    for record in records:
        for text, generator in zip(record["responses"], record["generators"], strict=True):
            if generator == "off_topic":
                assert any(text in texts for name, texts in own.items() if name != record["id"])


def test_a_stopped_collection_goes_on_to_the_same_rankings(recipe, tmp_path, monkeypatch):
    """Red with a block's seed that does not name the block."""
    path = recipe()
    unbroken = collect(path, tmp_path / "unbroken")
    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "stop_requested", True)
        with pytest.raises(Interrupted):
            collect(path, tmp_path / "broken")
    broken = collect(path, tmp_path / "broken")
    for name in ("rankings.train.jsonl", "rankings.heldout.jsonl", "candidates.jsonl"):
        assert (unbroken / name).read_text() == (broken / name).read_text()


def test_people_s_rankings_are_taken_and_split(recipe, tmp_path):
    write_jsonl(tmp_path / "export.jsonl", village_rankings(60, 0))
    final = collect(
        recipe({"rankings": {"train": str(tmp_path / "export.jsonl")}}), tmp_path / "runs"
    )
    train = read_jsonl(final / "rankings.train.jsonl", Ranking)
    validation = read_jsonl(final / "rankings.validation.jsonl", Ranking)
    assert len(train) + len(validation) == 60
    assert not {r.prompt[0].content for r in train} & {r.prompt[0].content for r in validation}


def test_people_s_rankings_replace_the_world_s_when_they_come(recipe, tmp_path):
    """What people said must not lie unused. Seen red with only the sources that were read in the
    stage's record: "up to date".
    """
    collect(recipe(), tmp_path / "runs")
    write_jsonl(tmp_path / "export.jsonl", village_rankings(60, 0))
    tree = yaml.safe_load(recipe().read_text())
    tree["data"]["rankings"] = {"train": str(tmp_path / "export.jsonl")}
    final = collect(recipe(tree["data"]), tmp_path / "runs")
    assert len(read_jsonl(final / "rankings.train.jsonl", Ranking)) > 40


def test_a_reward_ranks_in_the_labelers_place(recipe, tmp_path):
    """No world is needed then. Seen red with the order turned round."""
    (tmp_path / "rewards.py").write_text(
        "def score(prompts, responses):\n    return [len(r) + p.meta['n'] for p, r in zip(prompts, responses)]\n"
    )
    write_jsonl(tmp_path / "prompts.jsonl", PROMPTS)
    where = {split: str(tmp_path / "prompts.jsonl") for split in ("train", "validation")}
    path = recipe({"prompts": where}, reward=f"{tmp_path / 'rewards.py'}:score")
    final = collect(path, tmp_path / "runs")
    train = read_jsonl(final / "rankings.train.jsonl", Ranking)
    assert len(train) == 12 and {r.labeler for r in train} == {"reward"}
    for ranking in train:
        lengths = [len(text) for text in ranking.responses]
        assert ranking.ranks == [1 + sum(other > own for other in lengths) for own in lengths]
    assert len(read_jsonl(final / "rankings.validation.jsonl", Ranking)) == 4


def test_rewards_of_two_chains_rank_together(recipe, tmp_path, tiny_llama, tokenizer, monkeypatch):
    """Each reads the answers as text, by its own template. Mutation seen red: they must share one."""
    folders = [tmp_path / name for name in ("ours", "theirs")]
    for seed, folder in enumerate(folders):
        save_reward_model(new_reward_model(tmp_path / "model", tokenizer, seed), tokenizer, folder)
    template = folders[1] / "chat_template.jinja"
    template.write_text(template.read_text() + "{# theirs #}")
    path = recipe(reward=[{"reward": str(folder)} for folder in folders])
    asked = [
        Candidates(prompt=p.messages, responses=["An owl.", "A mill.", "Jam."], id=p.id, split=split,
                   generators=["sft"] * 3, user=p.user, use_case=None, source=None, meta=p.meta)
        for p, split in zip(PROMPTS, ("train", "validation"), strict=False)
    ]  # fmt: skip
    monkeypatch.setattr("reward.collect.sample", lambda config, stage: (asked, Counter()))
    (ranking,) = read_jsonl(collect(path, tmp_path / "runs") / "rankings.train.jsonl", Ranking)
    models = [ModelReward(*load_reward_model(folder)) for folder in folders]
    scores = sum(model([PROMPTS[0]] * 3, ranking.responses) for model in models).tolist()
    assert ranking.ranks == [1 + sum(other > own for other in scores) for own in scores]


def test_without_labelers_the_candidates_wait_for_people(recipe, tmp_path):
    write_jsonl(tmp_path / "prompts.jsonl", PROMPTS)
    where = {
        "train": str(tmp_path / "prompts.jsonl"),
        "validation": str(tmp_path / "prompts.jsonl"),
    }
    with pytest.raises(DataError, match="nobody to rank"):
        collect(recipe({"prompts": where}), tmp_path / "runs")
    assert (tmp_path / "runs/run/rankings/candidates.jsonl").exists()
    assert not (tmp_path / "runs/run/rankings/final").exists()


def test_prompts_that_leave_no_room_are_told(recipe, tmp_path):
    long = Prompt(messages=[Message(role="user", content="Zq " * 60)])
    write_jsonl(tmp_path / "prompts.jsonl", [*PROMPTS[:3], long])
    where = {
        "train": str(tmp_path / "prompts.jsonl"),
        "validation": str(tmp_path / "prompts.jsonl"),
    }
    with pytest.raises(DataError, match="nobody"):
        collect(recipe({"prompts": where}), tmp_path / "runs")
    assert len((tmp_path / "runs/run/rankings/candidates.jsonl").read_text().splitlines()) == 6


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"mix": {"sft": 1.0, "gpt": 1.0}}, "mix names gpt"),
        ({"main": "gpt"}, "main names gpt"),
        ({"min_k": 5, "max_k": 4}, "min_k 5 is above max_k 4"),
    ],
)
def test_a_mix_that_cannot_be_is_refused(recipe, config, message):
    with pytest.raises(RecipeError, match=message):
        load_recipe(recipe(**config))
