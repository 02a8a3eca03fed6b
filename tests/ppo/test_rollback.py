"""The guard in a whole run: what it takes back, what it says, and what the record then counts."""

import json
import math

import pytest
import torch

from podium.errors import DivergenceError, Interrupted
from ppo.learner import Learner
from tests.ppo.runs import assert_same_weights, metrics, stop_after, timeless, train


def test_a_fault_in_the_middle_is_taken_back(make_recipe, tmp_path, monkeypatch):
    """Learning rate x 30 in iteration 3: the guard rolls back once, and the run ends well at half
    the rate. Mutation seen red: the guard not asked after the update.
    """
    original = Learner.update

    def update(self, batch, targets, documents, iteration):
        self.lr_factor *= 30 if iteration == 3 else 1
        return original(self, batch, targets, documents, iteration)

    monkeypatch.setattr(Learner, "update", update)
    guard = {"min_eos_rate": None, "min_explained_variance": None, "lr_factor": 0.5}
    folder = train(
        make_recipe(total_episodes=48, guard=guard, learning_rate=3e-3, num_ppo_epochs=2),
        tmp_path / "runs",
    )
    lines = metrics(folder)
    assert [line["guard/rollbacks"] for line in lines] == [0, 0, 0, 1, 1, 1]
    assert lines[2]["lr"] == pytest.approx(0.09) and lines[3]["lr"] == pytest.approx(0.0015)
    assert "back to the state after iteration 2" in (folder / "logbook.md").read_text()
    assert (folder / "breaches/00003.jsonl").is_file()
    assert all(math.isfinite(value) for value in lines[-1].values())
    assert all(
        line["policy/approxkl_avg"] < 0.05 and line["objective/kl"] < 5 for line in lines[3:]
    )


def test_the_rolled_back_state_is_that_of_the_checkpoint(make_recipe, tmp_path, monkeypatch):
    """Mutation seen red: `learner.load` left out of `roll_back`."""
    states = {}
    original = Learner.rollout

    def rollout(self, prompts, iteration, *others):
        states[iteration] = torch.cat(
            [p.detach().flatten().clone() for p in self.policy.module.parameters()]
        )
        batch = original(self, prompts, iteration, *others)
        if iteration == 4:
            batch.scores[0] = float("nan")
        return batch

    monkeypatch.setattr(Learner, "rollout", rollout)
    train(make_recipe(total_episodes=48, save_steps=2), tmp_path / "runs")
    assert torch.equal(states[5], states[3]) and not torch.equal(states[4], states[3])


def test_resume_after_a_rollback_is_bit_exact(make_recipe, tmp_path, monkeypatch):
    """Pitfall 14 with the guard's state in it. Mutation seen red: `lr_factor` left out of the
    checkpoint.
    """
    original = Learner.rollout

    def rollout(self, prompts, iteration, *others):
        batch = original(self, prompts, iteration, *others)
        if iteration == 2:
            batch.scores[:] = float("inf")
        return batch

    monkeypatch.setattr(Learner, "rollout", rollout)
    whole = train(make_recipe("whole"), tmp_path / "runs")
    recipe = make_recipe("broken")
    with monkeypatch.context() as patch:
        stop_after(patch, 3)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "runs")
    resumed = train(recipe, tmp_path / "runs")
    assert timeless(resumed) == timeless(whole)
    assert_same_weights(resumed, whole)


def test_a_sampler_that_rounds_otherwise_is_noticed_and_mended(make_recipe, tmp_path, monkeypatch):
    """The guard says so, and from then on, over a stop and a rollback too, log-probabilities are
    recomputed. Mutations seen red: nobody looks; `recompute` left out of the checkpoint.
    """
    guard = {"min_eos_rate": None, "min_explained_variance": None, "max_first_error": 1e-4}
    recipe = make_recipe(old_logprobs="sampled", guard=guard)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "runs", "dtype=bf16")
    folder = train(recipe, tmp_path / "runs", "dtype=bf16")
    lines = metrics(folder)
    assert lines[0]["val/ratio_first_error"] > 1e-4
    assert ["rollout/sampler_error" in line for line in lines] == [False, True, True, True]
    logbook = (folder / "logbook.md").read_text()
    assert logbook.count("the sampler's probabilities differ from training's") == 1
    assert "guard.max_first_error" in logbook


@pytest.mark.parametrize("broken", [None, 1, 3, 4])
def test_the_record_counts_what_was_learned_from(make_recipe, tmp_path, monkeypatch, broken):
    """Four iterations of 8 episodes; the guard takes one back, and with it what was not yet saved.
    Seen red: the last length times all episodes, the planned number of episodes, the numbers of
    the iteration that was taken back; mutation seen red: the counts left out of the checkpoint.
    """
    original = Learner.rollout

    def rollout(self, prompts, iteration, *others):
        batch = original(self, prompts, iteration, *others)
        if iteration == broken:
            batch.scores[0] = float("nan")
        return batch

    monkeypatch.setattr(Learner, "rollout", rollout)
    recipe = make_recipe(save_steps=2, total_episodes=39)  # not five iterations: 32 episodes
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "runs")
    folder = train(recipe, tmp_path / "runs")
    lines = metrics(folder)
    learned = [line for line in lines if line["step"] != broken]
    if broken == 4:
        learned = learned[:2]  # back to the checkpoint of iteration 2
    record = json.loads((folder / "final/stage.json").read_text())
    assert record["tokens"] == sum(line["rollout/tokens"] for line in learned)
    assert record["metrics"]["score"] == learned[-1]["objective/scores"]
    assert record["metrics"]["length"] == learned[-1]["rollout/length"]
    assert record["metrics"]["rollbacks"] == (broken is not None)
    text = (folder / "final/README.md").read_text()
    assert f": {8 * len(learned)} episodes in {len(learned)} iterations" in text


def test_a_run_whose_every_iteration_is_taken_back_says_so(make_recipe, tmp_path, monkeypatch):
    """Seen red: the card told the numbers of an iteration that nothing is left of."""
    original = Learner.rollout

    def rollout(self, prompts, iteration, *others):
        batch = original(self, prompts, iteration, *others)
        batch.scores[0] = float("nan")
        return batch

    monkeypatch.setattr(Learner, "rollout", rollout)
    folder = train(make_recipe(total_episodes=16), tmp_path / "runs")
    text = (folder / "final/README.md").read_text()
    assert "0 episodes in 0 iterations" in text and "The guard took every iteration back" in text
    assert json.loads((folder / "final/stage.json").read_text())["tokens"] == 0


def test_a_reward_that_stays_nan_stops_the_run_with_the_reason(make_recipe, tmp_path, monkeypatch):
    """Mutation seen red: the guard looks at thresholds only."""
    original = Learner.rollout

    def rollout(self, prompts, iteration, *others):
        batch = original(self, prompts, iteration, *others)
        batch.scores[3] = float("nan")
        return batch

    monkeypatch.setattr(Learner, "rollout", rollout)
    with pytest.raises(DivergenceError, match="objective/scores is nan"):
        train(make_recipe(total_episodes=80, guard={"max_rollbacks": 2}), tmp_path / "runs")
    log = (tmp_path / "runs/run/ppo/logbook.md").read_text()
    assert (
        log.count("back to the state after iteration") == 2 and "stopped after 2 rollbacks" in log
    )
    assert not (tmp_path / "runs/run/ppo/final").exists()


def test_a_guard_that_is_told_to_stop_goes_back_never(make_recipe, tmp_path, monkeypatch):
    """Mutation seen red: `on_breach` not asked."""
    original = Learner.rollout

    def rollout(self, prompts, iteration, *others):
        batch = original(self, prompts, iteration, *others)
        batch.scores[0] = float("nan")
        return batch

    monkeypatch.setattr(Learner, "rollout", rollout)
    with pytest.raises(DivergenceError, match="objective/scores is nan"):
        train(make_recipe(total_episodes=16, guard={"on_breach": "stop"}), tmp_path / "runs")
    assert "stopped after 0 rollbacks" in (tmp_path / "runs/run/ppo/logbook.md").read_text()


@pytest.mark.slow
def test_a_reward_model_that_likes_one_token_is_detected_as_hacking(
    make_recipe, tmp_path, monkeypatch
):
    """Reward = share of token 50: the policy learns to repeat it, and the guard says so before the
    end.
    """

    def one_token(reward, ids, mask, *_):
        return 10 * ((ids == 50) & mask).sum(1) / mask.sum(1)

    monkeypatch.setattr("ppo.learner.read_scores", one_token)
    guard = {
        "min_eos_rate": None,
        "min_explained_variance": None,
        "max_kl": None,
        "on_breach": "stop",
    }
    recipe = make_recipe(
        batch_size=64,
        total_episodes=64 * 60,
        learning_rate=1e-2,
        value_learning_rate=1e-2,
        clip_range_value=100.0,
        per_device_train_batch_size=64,
        kl_coef=0.0,
        ptx_coef=0.0,
        guard=guard,
    )
    with pytest.raises(DivergenceError, match=r"near-identical|entropy"):
        train(recipe, tmp_path / "runs")
