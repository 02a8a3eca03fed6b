"""`podium iterate`: rounds of rankings, reward model and PPO, each a run of the chain."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml

from data.jsonl import read_jsonl, write_jsonl
from data.records import Ranking
from evals.rounds import AwaitsPeople, Plan, iterate, round_tree
from podium.errors import PodiumError, RecipeError
from podium.run.recipe import load_recipe, validate

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 900
# About ten optimizer steps a stage.
TINY = {
    "name": "tiny",
    "seed": 7,
    "dtype": "fp32",
    "threads": 1,
    "data": {
        "world": {
            "name": "willowbrook",
            "documents": 300,
            "validation_documents": 20,
            "demonstrations": 80,
            "validation_demonstrations": 8,
            "test_demonstrations": 8,
            "prompts": 48,
            "validation_prompts": 12,
            "test_prompts": 12,
        }
    },
    "pretrain": {"vocab_size": 512, "tokens": 5000, "warmup_tokens": 1000, "eval_tokens": 1000},
    "sft": {"batch_size": 16, "per_device_train_batch_size": 8, "num_train_epochs": 1},
    "rankings": {"prompts": 32, "validation_prompts": 8, "max_k": 4, "max_new_tokens": 8},
    "reward": {"batch_size": 4, "eval_rankings": 4},
    "ppo": {
        "total_episodes": 32,
        "batch_size": 16,
        "num_mini_batches": 2,
        "num_ppo_epochs": 1,
        "per_device_train_batch_size": 8,
        "per_device_eval_batch_size": 8,
        "rollout_batch_size": 16,
        "response_length": 8,
        "warmup_iterations": 1,
        "guard": {
            "min_eos_rate": None,
            "min_explained_variance": None,
            "max_near_identical": None,
        },
    },
}


@pytest.fixture
def recipe(tmp_path) -> Path:
    path = tmp_path / "tiny.yaml"
    path.write_text(yaml.safe_dump(TINY))
    return path


def test_a_later_rounds_recipe_names_the_models_and_rankings_before_it(recipe, tmp_path):
    """The newest policy answers most, SFT and the policy before some; all rankings teach, older
    ones less where told; reward model and PPO start from SFT. The recipe is one that `podium run`
    takes. Mutations seen red: the decay's exponent counts from the first round; PPO always starts
    from the last policy.
    """
    tree, plan = load_recipe(recipe).model_dump(mode="json"), Plan(3, decay=0.5)

    def final(number: int, stage: str) -> str:
        return str(tmp_path / f"round-{number}" / stage / "final")

    first, third = (round_tree(tree, plan, number, tmp_path) for number in (1, 3))
    assert first["reward"]["half"] == "split" and first["pretrain"] == tree["pretrain"]
    assert (first["seed"], third["seed"], third["name"]) == (7, 9, "round-3")
    loaded = validate(third, "third")
    assert loaded.chain() == ["world", "rankings", "reward", "ppo"]
    assert loaded.rankings.models == {
        "policy": final(2, "ppo"),
        "earlier": final(1, "ppo"),
        "sft": final(1, "sft"),
    }
    assert [(one.source, one.weight) for one in loaded.reward.rankings] == [
        (final(1, "rankings"), 0.25),
        (final(2, "rankings"), 0.5),
        ("rankings", 1.0),
    ]
    assert loaded.reward.model == loaded.ppo.model == final(1, "sft")
    assert loaded.ppo.reward == "reward"
    goes_on = round_tree(tree, Plan(3, start="policy"), 3, tmp_path)
    assert goes_on["ppo"]["model"] == final(2, "ppo")
    assert tree == load_recipe(recipe).model_dump(mode="json")  # the given recipe is not changed


def test_a_recipe_that_has_no_rounds_is_refused_by_name(recipe, tmp_path):
    for sets, words in (
        (["ppo=null"], "no section 'ppo:'"),
        (["data.rankings.train=a.jsonl"], "data.rankings is a file"),
    ):
        with pytest.raises(RecipeError, match=words):
            iterate(load_recipe(recipe, sets), Plan(2), tmp_path)


@pytest.fixture
def chains(monkeypatch):
    """What is run, (name, chain) each, in the place of training: of every stage its folder alone.
    The slow tests below train. And what is compared, with whom.
    """
    ran, compared = [], []

    def run_chain(recipe, folder):
        ran.append((recipe.name, recipe.chain()))
        for stage in recipe.chain():
            (folder / recipe.name / stage / "final").mkdir(parents=True)

    def compare(settings, runs_dir, out):
        compared.append((settings, runs_dir, out.name))
        score = {"value": 1.0, "low": 0.5, "high": 1.5}
        models = [{"name": name, "score": score} for name in settings.models]
        return {"judge": f"judge {len(compared)}", "models": models, "elo": {}}

    monkeypatch.setattr("evals.rounds.run_chain", run_chain)
    monkeypatch.setattr("evals.rounds.compare", compare)
    return ran, compared


def test_every_round_is_run_and_all_policies_so_far_are_compared(recipe, tmp_path, chains):
    """By the held-out half's model and by gold. Mutations seen red: the first round's judge in the
    second; the last policy alone; SFT left out.
    """
    ran, compared = chains
    folder = iterate(load_recipe(recipe), Plan(2, prompts=8, samples=3), tmp_path)
    assert folder == tmp_path / "tiny"
    first = ["world", "pretrain", "sft", "rankings", "reward", "ppo"]
    assert ran == [("round-1", first), ("round-2", ["world", "rankings", "reward", "ppo"])]
    models = [str(folder / part) for part in ("round-1/sft", "round-1/ppo", "round-2/ppo")]
    assert [list(settings.models) for settings, _, _ in compared] == [
        models[:2], models[:2], models, models
    ]  # fmt: skip
    held_out = [str(folder / f"round-{n}" / "reward" / "final" / "held_out") for n in (1, 2)]
    assert [settings.judge for settings, _, _ in compared] == [held_out[0], None, held_out[1], None]
    assert {(s.prompts, s.samples, place) for s, place, _ in compared} == {(8, 3, folder)}
    assert [out for _, _, out in compared] == [
        f"compare-{n}-{judge}" for n in (1, 2) for judge in ("held-out", "gold")
    ]
    report = json.loads((folder / "rounds.json").read_text())
    assert report["rounds"] == 2 and report["judges"]["gold"]["judge"] == "judge 4"
    page = (folder / "rounds.md").read_text()
    assert page.startswith("# After round 2") and "judge 3" in page and "round-2 ppo" in page


def test_people_are_waited_for_with_the_file_and_asked_beside_the_round(recipe, tmp_path, chains):
    """What they said is the round's rankings once it is there. Mutations seen red: asked although
    it is there; the round itself run before they answered.
    """
    ran, compared = chains
    loaded, plan = load_recipe(recipe), Plan(2, people=True)
    for number, chain in (
        (1, ["world", "pretrain", "sft", "rankings"]),
        (2, ["world", "rankings"]),
    ):
        ran.clear()
        with pytest.raises(AwaitsPeople, match=f"round {number} waits for people") as waiting:
            iterate(loaded, plan, tmp_path)
        assert ran[-1] == (f"round-{number}-candidates", chain)
        assert len(ran) == number  # the rounds before are brought up to date first
        place = tmp_path / "tiny"
        beside = place / f"round-{number}-candidates" / "rankings" / "final"
        assert str(beside / "candidates.jsonl") in str(waiting.value)
        assert str(place / f"round-{number}.rankings.jsonl") in str(waiting.value.fix)
        (place / f"round-{number}.rankings.jsonl").write_text("")
        for folder in place.glob("round-*/"):
            shutil.rmtree(folder)
    ran.clear()
    iterate(loaded, plan, tmp_path)
    assert [name for name, _ in ran] == ["round-1", "round-2"] and len(compared) == 6


def test_without_a_world_people_are_asked_about_what_the_stage_left(recipe, tmp_path, monkeypatch):
    """Nobody ranks there, so the stage ends with the candidates beside its final/. What else went
    wrong is told as it is. Mutations seen red: final/ asked for all the same; every error taken for
    a want of people.
    """
    place = tmp_path / "tiny" / "round-1-candidates" / "rankings"

    def run_chain(made, folder):
        raise PodiumError("it ended", "mend it")

    monkeypatch.setattr("evals.rounds.run_chain", run_chain)
    loaded, plan = load_recipe(recipe), Plan(1, people=True)
    with pytest.raises(PodiumError, match="it ended"):
        iterate(loaded, plan, tmp_path)
    place.mkdir(parents=True)
    (place / "candidates.jsonl").write_text("")
    with pytest.raises(AwaitsPeople) as waiting:
        iterate(loaded, plan, tmp_path)
    assert f"podium label import {place / 'candidates.jsonl'};" in str(waiting.value.fix)


@pytest.mark.slow
def test_two_rounds_killed_in_two_places_end_as_if_unbroken(recipe, tmp_path):
    """kill -9 while the first round's PPO trains, and in the second round after its rankings; then
    the same command goes on. What was finished is not made again.
    """
    command = [sys.executable, "-m", "podium.cli", "iterate", str(recipe), "--rounds", "2"]
    command += ["--prompts", "8", "--samples", "1"]
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    folder = tmp_path / "runs" / "tiny"

    def start() -> subprocess.Popen:
        return subprocess.Popen(
            command, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True
        )

    for place in ("round-1/ppo/metrics.jsonl", "round-2/rankings/final/stage.json"):
        process = start()
        deadline = time.monotonic() + PATIENCE_SECONDS
        while not (folder / place).is_file():
            assert process.poll() is None and time.monotonic() < deadline, process.communicate()
            time.sleep(0.05)
        process.send_signal(signal.SIGKILL)
        process.communicate()
    made = (folder / "round-2/rankings/final/stage.json").read_text()
    process = start()
    said, _ = process.communicate(timeout=PATIENCE_SECONDS)
    assert process.returncode == 0, said
    assert (folder / "round-2/rankings/final/stage.json").read_text() == made
    record = json.loads((folder / "round-2/reward/final/stage.json").read_text())
    parents = {Path(parent["path"]).parts[-3:] for parent in record["parents"]}
    assert {("round-1", "rankings", "final"), ("round-1", "sft", "final")} <= parents
    report = json.loads((folder / "rounds.json").read_text())
    for judge in ("gold", "held_out"):
        names = [Path(model["name"]).parts[-2:] for model in report["judges"][judge]["models"]]
        assert names == [("round-1", "sft"), ("round-1", "ppo"), ("round-2", "ppo")]
        assert len(report["judges"][judge]["elo"]) in (1, 3)  # one: why there are no ratings
    assert "round-2 ppo" in (folder / "rounds.md").read_text()


@pytest.mark.slow
def test_with_people_it_waits_for_their_rankings_and_goes_on(recipe, tmp_path):
    """It stops with the file to rank and the place of the export; once that is there it trains on
    it. Mutation seen red: the world's labelers rank all the same.
    """
    plan, loaded = Plan(1, people=True, prompts=8, samples=1), load_recipe(recipe)
    with pytest.raises(AwaitsPeople, match="round 1 waits for people") as waiting:
        iterate(loaded, plan, tmp_path)
    place = tmp_path / "tiny"
    beside = place / "round-1-candidates" / "rankings" / "final"
    assert str(beside / "candidates.jsonl") in str(waiting.value)
    people = [
        ranking.model_copy(update={"labeler": "lea"})
        for ranking in read_jsonl(beside / "rankings.train.jsonl", Ranking)
    ]
    write_jsonl(place / "round-1.rankings.jsonl", people)
    iterate(loaded, plan, tmp_path)
    taught = read_jsonl(place / "round-1/rankings/final/rankings.train.jsonl", Ranking)
    assert {ranking.labeler for ranking in taught} == {"lea"}
