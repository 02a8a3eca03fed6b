"""PPO on a reward model that shares nothing with the policy but text."""

import json
import shutil

import pytest

from data.records import Prompt
from evals.evaluate import Config as EvalsConfig
from evals.evaluate import main as evaluate
from podium.rewards.kinds import make_reward
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import Recipe, dump_recipe
from ppo.config import Config
from reward.best_of import best_of
from tests.evals.miniature import make_recipe as miniature
from tests.evals.miniature import make_run
from tests.podium.rewards.served import serving
from tests.podium.rewards.strangers import save_stranger
from tests.podium.rewards.test_kinds import Folders
from tests.ppo.runs import metrics, train


def test_the_score_is_the_strangers_own_and_the_critic_starts_anew(make_recipe, tmp_path):
    """Seen red: the recipe refused the section, and before that the parents' tokenizers differed."""
    stranger = save_stranger(tmp_path / "stranger")
    recipe = make_recipe(reward={"model": stranger}, response_length=6)
    folder = train(recipe, tmp_path / "runs")
    samples = [
        json.loads(line) for line in (folder / "samples/00004.jsonl").read_text().splitlines()
    ]
    asked = [Prompt(messages=s["prompt"]) for s in samples]
    expected = make_reward(stranger, Folders())(asked, [s["response"] for s in samples])
    assert [s["score"] for s in samples] == pytest.approx(expected.tolist(), abs=1e-4)
    assert "with a new head" in (folder / "logbook.md").read_text()
    parents = json.loads((folder / "final/stage.json").read_text())["parents"]
    assert stranger in [parent["ref"] for parent in parents], "its weights are in the lineage"
    assert len(metrics(folder)) == 4


def test_on_the_village_ppo_best_of_n_and_evals_take_it(tokenizer, tmp_path):
    """A run of the embedded world, whose gold score judges what the stranger's reward brings."""
    stranger = save_stranger(tmp_path / "stranger", context=512)
    config = EvalsConfig(prompts=4, samples=2, best_of=2, documents_tokens=600, questions=4)
    _, run_dir = make_run(tmp_path, tokenizer, config)
    small = {
        "reward": [{"reward": {"model": stranger}, "weight": 0.5}, {"reward": "reward"}],
        "batch_size": 4,
        "total_episodes": 4,
        "num_mini_batches": 1,
        "response_length": 6,
        "ptx_context": 48,
        "sample_prompts": 1,
        "guard": {"min_eos_rate": None, "min_explained_variance": None},
    }
    chain = miniature(config, ppo=Config(**small), ppo_arms={})
    run_one(chain, "ppo", tmp_path)
    stage = StageContext("evals", chain, run_dir)
    evaluate(config, stage)
    stage.close()
    found = json.loads((run_dir / "evals/final/results.json").read_text())
    assert found["rows"]["ppo_ptx"]["gold"] is not None
    assert found["rows"]["best_of_n"]["reward"] >= found["rows"]["sft"]["reward"] - 1
    alone = Recipe(name="mini", data=chain.data, ppo=chain.ppo)
    (run_dir / "recipe.yaml").write_text(dump_recipe(alone))
    curve = best_of(run_dir, n=2, prompts=2, reward=chain.ppo.reward, max_new_tokens=4)
    assert curve["reward"] == f"0.5 {stranger} + 1 reward"


def test_a_served_model_is_a_reward_and_asked_once_for_an_answer(make_recipe, tmp_path):
    """The second run samples the same answers and asks nothing. Seen red with the cache left out."""
    with serving(lambda question: f"Score: {len(question) % 7}") as server:
        reward = {"endpoint": server.url, "model": "grader"}
        recipe = make_recipe(reward=reward, response_length=6, total_episodes=16)
        first = train(recipe, tmp_path / "runs")
        asked = len(server.questions)
        shutil.rmtree(first)
        again = train(recipe, tmp_path / "runs")
        assert asked > 16 and len(server.questions) == asked
    scores = [line["objective/scores"] for line in metrics(again)]
    assert all(0 <= score <= 6 for score in scores)
