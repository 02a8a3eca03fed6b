"""Rewards as a user gives them: one key of the recipe, the command, and a file outside Podium."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from safetensors.torch import load_file

from podium.errors import FunctionError, Interrupted, RecipeError
from podium.run.recipe import load_recipe
from tests.ppo.runs import assert_same_weights, metrics, stop_after, timeless, train

ROOT = Path(__file__).resolve().parents[2]
# Ten lines that a user might write.
LETTERS = '''"""The more of the letter e, the better."""

WEIGHT = 0.1


def score(prompts, responses):
    assert len(prompts) == len(responses)
    found = []
    for prompt, response in zip(prompts, responses):
        found.append(WEIGHT * response.count("e") + len(prompt.user) / 100)
    return found
'''


@pytest.fixture
def podium(make_recipe, tmp_path):
    """`podium("ppo", reward=..., **ppo_config)` starts the command in this test's folder, with
    `function` in rewards.py beside it.
    """

    def start(*command: str, function: str = LETTERS, sets: tuple[str, ...] = (), **config):
        (tmp_path / "rewards.py").write_text(function)
        recipe = make_recipe("run", **config)
        arguments = [*command, str(recipe), *(part for s in sets for part in ("--set", s))]
        return subprocess.run(
            [sys.executable, "-m", "podium.cli", *arguments, "--runs-dir", "runs"],
            cwd=tmp_path,
            env=os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            timeout=500,
        )

    return start


@pytest.mark.slow
def test_a_function_in_a_file_trains_ppo_by_one_key(podium, tmp_path):
    """Without a reward model the critic starts from the policy's start with a new head, and the
    logbook says so. Seen red with prompt and answer handed to the function as its answer.
    """
    done = podium("ppo", reward="rewards.py:score")
    assert done.returncode == 0, done.stderr
    stage = tmp_path / "runs/run/ppo"
    assert [line["step"] for line in metrics(stage)] == [1, 2, 3, 4]
    breach = (stage / "samples/00004.jsonl").read_text().splitlines()
    for line in map(json.loads, breach):
        assert line["score"] == pytest.approx(
            0.1 * line["response"].count("e") + len(line["prompt"][-1]["content"].split()[1]) / 100,
            abs=1e-6,
        )
    assert "starts from" in (stage / "logbook.md").read_text()
    (code,) = json.loads((stage / "final/stage.json").read_text())["code"]
    assert code["path"] == str(tmp_path / "rewards.py")
    head = load_file(stage / "final/value/model.safetensors")["score.weight"]
    assert head.shape == (1, 32)


@pytest.mark.slow
def test_another_function_makes_ppo_anew_and_the_same_does_not(podium, tmp_path):
    """Seen red with `code` left out of `lineage.changes`."""
    small = {"reward": "rewards.py:score", "total_episodes": 8}
    assert podium("ppo", **small).returncode == 0
    again = podium("ppo", **small)
    assert "nothing to do" in again.stdout + again.stderr
    changed = podium("ppo", function=LETTERS.replace("0.1", "0.2"), **small)
    assert changed.returncode == 0 and (tmp_path / "runs/run/replaced/ppo-1").is_dir()
    assert "other content" in changed.stdout + changed.stderr


def test_a_weighted_sum_of_reward_model_and_function(make_recipe, reward_folder, tmp_path):
    """Its scores are those of the parts. Seen red with the weight of the model on the function."""
    (tmp_path / "rewards.py").write_text(LETTERS)
    function = f"{tmp_path / 'rewards.py'}:score"
    both = [{"reward": str(reward_folder), "weight": 2.0}, {"reward": function, "weight": -1.0}]
    first = {
        name: metrics(train(make_recipe(name, reward=reward, total_episodes=8), tmp_path / "runs"))
        for name, reward in (("both", both), ("model", str(reward_folder)), ("function", function))
    }
    scores = {name: lines[0]["objective/scores"] for name, lines in first.items()}
    expected = 2 * scores["model"] - scores["function"]
    assert scores["both"] == pytest.approx(expected, abs=1e-4)
    config = json.loads((tmp_path / "runs/both/ppo/final/value/config.json").read_text())
    assert config["reward_bias"] == 0.25  # the critic starts from the reward model of the sum


@pytest.mark.parametrize(
    ("function", "problem"),
    [
        (LETTERS.replace("return found", "return found[1:]"), "scores for"),
        (LETTERS.replace("WEIGHT *", "float('nan') *"), "returned nan for the answer"),
        (LETTERS.replace("prompt.user", "prompt.nobody"), "AttributeError"),
    ],
)
@pytest.mark.slow
def test_a_wrong_answer_ends_the_command_with_the_function_and_the_prompt(
    podium, tmp_path, function, problem
):
    """Exit code 2, and the checkpoint stays. Seen red without FunctionReward's checks."""
    done = podium("ppo", function=function, reward="rewards.py:score")
    assert done.returncode == 2, done.stderr
    said = done.stdout + done.stderr
    assert "'rewards.py:score'" in said and problem in said and "Tell " in said
    assert "Traceback" not in said
    assert (tmp_path / "runs/run/ppo/checkpoints/0").is_dir()


@pytest.mark.parametrize(
    ("reward", "problem"),
    [
        ("rewards.py:scor", "did you mean 'rewards.py:score'?"),
        ("reward.py:score", "there is no file"),
        ("no.such.module:score", "importing 'no.such.module' raised ModuleNotFoundError"),
        ("nowhere", "there is no parent 'nowhere'"),
    ],
)
@pytest.mark.slow
def test_a_reward_that_is_not_there_ends_the_chain_before_anything_runs(
    podium, tmp_path, reward, problem
):
    """Seen red with `rewards` left out of `check_parents`: the chain began."""
    done = podium("run", reward=reward)
    assert done.returncode == 2 and problem in done.stdout + done.stderr
    assert not (tmp_path / "runs/run/ppo").exists()


def test_a_mended_function_goes_on_from_the_checkpoint(make_recipe, tmp_path):
    """It failed at the third iteration: what it scored before stands, and the logbook tells. Seen
    red without `code_failed`: everything was made anew.
    """
    file = tmp_path / "rewards.py"
    recipe = make_recipe(reward=f"{file}:score")
    file.write_text(LETTERS)
    unbroken = train(recipe, tmp_path / "unbroken")
    late = LETTERS.replace(
        "    found = []", "    found = []\n    CALLS.append(1)\n    assert len(CALLS) < 12"
    )
    file.write_text(late.replace("WEIGHT = 0.1", "WEIGHT = 0.1\nCALLS = []"))
    with pytest.raises(FunctionError, match="AssertionError") as caught:
        train(recipe, tmp_path / "runs")
    assert "goes on from the last checkpoint" in caught.value.fix
    file.write_text(LETTERS)
    folder = train(recipe, tmp_path / "runs")
    assert "mended" in (folder / "logbook.md").read_text()
    assert not (tmp_path / "runs/run/replaced").exists()
    assert timeless(folder) == timeless(unbroken)
    assert_same_weights(folder, unbroken)


@pytest.mark.slow
def test_a_stopped_run_with_a_function_resumes_bit_for_bit(make_recipe, tmp_path, monkeypatch):
    """And one whose function was changed meanwhile is made anew. Seen red with the value model's
    head drawn without a seed.
    """
    file = tmp_path / "rewards.py"
    file.write_text(LETTERS)
    recipe = make_recipe(reward=f"{file}:score")
    unbroken = train(recipe, tmp_path / "unbroken")
    for runs in ("stopped", "changed"):
        with monkeypatch.context() as patch:
            stop_after(patch, 2)
            with pytest.raises(Interrupted):
                train(recipe, tmp_path / runs)
    resumed = train(recipe, tmp_path / "stopped")
    assert timeless(resumed) == timeless(unbroken)
    assert_same_weights(resumed, unbroken)
    file.write_text(LETTERS + "\n")
    train(recipe, tmp_path / "changed")
    assert (tmp_path / "changed/run/replaced/ppo-1").is_dir()


def test_the_old_key_is_an_error_that_names_the_new_one(make_recipe):
    path = make_recipe()
    tree = yaml.safe_load(path.read_text())
    tree["ppo"]["reward_model"] = tree["ppo"].pop("reward")
    path.write_text(yaml.safe_dump(tree))
    with pytest.raises(RecipeError, match=r"'ppo\.reward_model': unknown key") as caught:
        load_recipe(path)
    assert caught.value.fix == "did you mean 'ppo.reward'?"


def test_a_mistyped_part_of_a_sum_is_named(make_recipe):
    path = make_recipe(reward=[{"reward": "reward", "wieght": 2}])
    with pytest.raises(RecipeError, match=r"ppo\.reward\.0\.wieght': unknown key") as caught:
        load_recipe(path)
    assert "weight" in caught.value.fix


def test_the_example_of_a_reward_function_trains(make_recipe, tmp_path):
    """examples/reward_function.py as its docstring says."""
    reward = f"{ROOT / 'examples/reward_function.py'}:score"
    folder = train(make_recipe(reward=reward, total_episodes=8), tmp_path / "runs")
    assert 0 <= metrics(folder)[0]["objective/scores"] <= 1
