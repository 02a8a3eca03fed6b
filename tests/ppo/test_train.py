"""The stage end to end on tiny models: what it writes, that it resumes bit for bit, and that the
guard works.
"""

import itertools
import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from podium.errors import DataError, DivergenceError, Interrupted, ParentError, RunFolderError
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from ppo.learner import Learner

ROOT = Path(__file__).resolve().parents[2]
FILLER_BYTES = 6_000_000  # of 8 MiB; the rest holds two checkpoints of 0.9 MB, not three


def train(recipe: Path, runs: Path, *sets: str) -> Path:
    """Run the stage here; returns its folder."""
    loaded = load_recipe(recipe, list(sets))
    run_one(loaded, "ppo", runs)
    return runs / loaded.name / "ppo"


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict]:
    """The log without what depends on the clock."""
    return [
        {key: value for key, value in line.items() if not key.startswith("time/")}
        for line in metrics(folder)
    ]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    """Policy and value model of final/."""
    policy = load_file(folder / "final/model.safetensors")
    value = load_file(folder / "final/value/model.safetensors")
    return policy | {f"value.{name}": tensor for name, tensor in value.items()}


def assert_same_weights(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def stop_after(monkeypatch, iteration: int) -> None:
    """Ctrl-C as seen by the stage at this iteration."""
    original = StageContext.log

    def log(self, step, found):
        original(self, step, found)
        self.signal_seen = signal.SIGINT if step == iteration else self.signal_seen

    monkeypatch.setattr(StageContext, "log", log)


def test_it_writes_policy_value_model_log_and_samples(make_recipe, tmp_path):
    folder = train(make_recipe(), tmp_path / "runs")
    from podium.models import load_causal_lm, load_tokenizer
    from podium.rewards.model import load_reward_model

    load_causal_lm(folder / "final")
    assert load_tokenizer(folder / "final").chat_template
    assert load_reward_model(folder / "final/value")[0].config.reward_bias == 0.25
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    expected = {
        "objective/kl",
        "objective/scores",
        "objective/rlhf_reward",
        "objective/non_score_reward",
        "objective/entropy",
        "policy/clipfrac_avg",
        "policy/approxkl_avg",
        "policy/entropy_avg",
        "loss/policy_avg",
        "loss/value_avg",
        "val/clipfrac_avg",
        "val/ratio",
        "val/ratio_var",
        "val/num_eos_tokens",
        "val/explained_variance",
        "lr",
        "episode",
        "ptx/loss",
        "rollout/eos_rate",
        "time/generate",
        "time/update_policy",
        "time/ptx",
    }
    assert all(expected <= line.keys() for line in lines)
    measured = ["grad_norm/cosine" in line for line in lines]
    assert measured == [True, False, True, False]
    assert lines[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert (folder / "samples/00002.jsonl").is_file() and (folder / "samples/00004.jsonl").is_file()


def test_another_kind_of_sampler_serves_by_a_recipe_key(make_recipe, counting_sampler, tmp_path):
    """Seen red with the embedded sampler constructed in the learner, and with `sampler` left out of
    the lineage: the second call then had nothing to do.
    """
    # by default what an unknown kind says is recomputed, which rounds in the last digit
    recipe = make_recipe(old_logprobs="sampled")
    folder = train(recipe, tmp_path / "runs", "sampler.kind=counting", "sampler.most=8")
    assert counting_sampler == [8, 8, 2, 8, 8, 2]  # four rollouts and, at two of them, samples
    assert json.loads((folder / "final/stage.json").read_text())["sampler"]["most"] == 8
    train(recipe, tmp_path / "runs", "sampler.kind=counting", "sampler.most=8")
    assert len(counting_sampler) == 6
    embedded = train(recipe, tmp_path / "runs")
    assert len(counting_sampler) == 6 and (tmp_path / "runs/run/replaced/ppo-1").is_dir()
    assert_same_weights(embedded, tmp_path / "runs/run/replaced/ppo-1")


def test_final_holds_the_average_or_the_last_weights(make_recipe, tmp_path):
    """Mutation seen red: `swapped_in` left out of `save_final`."""
    average = weights(train(make_recipe("average", ema_decay=0.5), tmp_path / "runs"))
    last = weights(train(make_recipe("last", final_weights="last"), tmp_path / "runs"))
    start = load_file(tmp_path / "policy/model.safetensors")
    name = "model.layers.0.mlp.up_proj.weight"
    assert 0 < (average[name] - start[name]).norm() < (last[name] - start[name]).norm()


def test_value_model_is_read_where_it_is_named(make_recipe, tmp_path, tokenizer):
    """Mutation seen red: the value model always a copy of the reward model."""
    from podium.rewards.model import load_reward_model, save_reward_model

    make_recipe()
    model = load_reward_model(tmp_path / "reward")[0]
    model.config.reward_bias = -7.0
    save_reward_model(model, tokenizer, tmp_path / "other")
    folder = train(
        make_recipe(value_model=str(tmp_path / "other"), total_episodes=8), tmp_path / "runs"
    )
    assert load_reward_model(folder / "final/value")[0].config.reward_bias == -7.0


def test_every_window_is_as_long_as_the_key_says(make_recipe, tmp_path, monkeypatch):
    """And every iteration asks prompts of its own. Mutations seen red: windows of 16 whatever the
    key; every iteration begins at the first prompt.
    """
    shapes, asked = [], []
    rollout, update = Learner.rollout, Learner.update

    def remember_rollout(self, prompts, iteration, *others):
        asked.append(sorted(map(tuple, prompts)))
        return rollout(self, prompts, iteration, *others)

    def remember_update(self, batch, targets, documents, iteration):
        seen = list(itertools.islice(documents, 2))
        shapes.extend(part.shape for part in seen)
        return update(self, batch, targets, iter(seen), iteration)

    monkeypatch.setattr(Learner, "rollout", remember_rollout)
    monkeypatch.setattr(Learner, "update", remember_update)
    train(make_recipe(ptx_context=24, total_episodes=16), tmp_path / "runs")
    assert shapes == [(2, 24)] * 4
    assert not set(asked[0]) & set(asked[1])  # 8 and 8 of 20


def test_the_log_of_a_run_is_the_same_twice(make_recipe, tmp_path):
    a, b = train(make_recipe("a"), tmp_path / "runs"), train(make_recipe("b"), tmp_path / "runs")
    assert timeless(a) == timeless(b)
    assert_same_weights(a, b)


ADAPTIVE = {
    "kl_controller": "adaptive",
    "kl_target": 0.001,
    "kl_horizon": 10,
    "scale_scores": True,
    "num_ppo_epochs": 2,
}


@pytest.mark.parametrize("config", [{}, ADAPTIVE], ids=["default", "adaptive"])
def test_resume_is_bit_exact(make_recipe, tmp_path, monkeypatch, config):
    """Pitfall 14: value model, optimizers, averages, controllers, running scale, positions.
    Mutations seen red, each alone: the value engine, the EMA, the KL controller, the score scale
    not loaded in `Learner.load`.
    """
    whole = train(make_recipe("whole", **config), tmp_path / "runs")
    recipe = make_recipe("broken", **config)
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "runs")
    assert len(metrics(tmp_path / "runs/broken/ppo")) == 2
    resumed = train(recipe, tmp_path / "runs")
    assert timeless(resumed) == timeless(whole)
    assert_same_weights(resumed, whole)


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


@pytest.mark.skipif(
    os.geteuid() != 0 or sys.platform != "linux", reason="mounting a small disk needs root on Linux"
)
def test_a_full_disk_is_a_clear_error_and_the_run_goes_on_to_the_same_weights(
    make_recipe, tmp_path
):
    """A real tmpfs: a later checkpoint does not fit, the one before survives, with room the run
    ends as if nothing had happened. Mutation seen red: `writing` left out of `StageContext._write_folder`.
    """
    config = {"save_steps": 1}
    whole = train(make_recipe("whole", **config), tmp_path / "runs")
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=8m", "tmpfs", str(disk)], capture_output=True
    ).returncode:
        pytest.skip("mounting is not allowed here")
    try:
        recipe, filler = make_recipe("full", **config), disk / "filler"
        filler.write_bytes(bytes(FILLER_BYTES))
        with pytest.raises(RunFolderError, match="the disk is full"):
            train(recipe, disk)
        stage = disk / "full/ppo"
        assert not list(stage.rglob("*.partial")) and not (stage / "final").exists()
        assert any((stage / "checkpoints").iterdir())
        filler.unlink()
        resumed = train(recipe, disk)
        assert timeless(resumed) == timeless(whole)
        assert_same_weights(resumed, whole)
    finally:
        subprocess.run(["umount", "--lazy", str(disk)], check=True)


def test_lora_trains_adapters_and_its_reference_is_the_adapter_switched_off(make_recipe, tmp_path):
    """KL 0 at the start and the base weights untouched. Mutation seen red: `disable_adapter` left
    out (KL stays 0).
    """
    folder = train(
        make_recipe(lora={"r": 4}, learning_rate=1e-2, final_weights="last"), tmp_path / "runs"
    )
    lines = metrics(folder)
    assert lines[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert lines[-1]["objective/kl_k3"] > 1e-4
    start = load_file(tmp_path / "policy/model.safetensors")
    final = load_file(folder / "final/model.safetensors")
    assert start.keys() == final.keys()
    assert torch.equal(start["model.embed_tokens.weight"], final["model.embed_tokens.weight"])
    difference = (
        final["model.layers.0.self_attn.q_proj.weight"]
        - start["model.layers.0.self_attn.q_proj.weight"]
    )
    assert 0 < torch.linalg.matrix_rank(difference, rtol=1e-3) <= 4
    assert (folder / "final/adapter/adapter_config.json").is_file()


def test_lora_resumes_bit_exactly(make_recipe, tmp_path, monkeypatch):
    """Mutation seen red: the policy's engine not loaded in `Learner.load`."""
    whole = train(make_recipe("whole", lora={"r": 4}), tmp_path / "runs")
    recipe = make_recipe("broken", lora={"r": 4})
    with monkeypatch.context() as patch:
        stop_after(patch, 2)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "runs")
    assert_same_weights(train(recipe, tmp_path / "runs"), whole)


@pytest.mark.parametrize(
    "config",
    [{"frozen_models": "offload"}, {"gradient_checkpointing": True}, {"engine": {"zero_stage": 2}}],
    ids=["offload", "checkpointing", "zero2"],
)
def test_where_things_lie_changes_no_number(make_recipe, tmp_path, config):
    """Offloaded frozen models, recomputed activations, ZeRO: the same run. Mutation seen red:
    offloaded models read in bf16.
    """
    plain = metrics(train(make_recipe("plain"), tmp_path / "runs"))
    other = metrics(train(make_recipe("other", **config), tmp_path / "runs"))
    for name in (
        "objective/scores",
        "objective/kl",
        "loss/policy_avg",
        "loss/value_avg",
        "ptx/loss",
    ):
        assert [line[name] for line in other] == pytest.approx(
            [line[name] for line in plain], rel=1e-4, abs=1e-6
        ), name


def test_prompts_that_do_not_fit_are_dropped_and_counted(make_recipe, tmp_path):
    """Mutation seen red: every prompt kept."""
    folder = train(make_recipe(max_prompt_tokens=14), tmp_path / "runs")
    assert "of 20 prompts are longer than 14 tokens: dropped" in (folder / "logbook.md").read_text()
    with pytest.raises(DataError, match="none of 20 is as short as 2 tokens"):
        train(make_recipe("none", max_prompt_tokens=2), tmp_path / "runs")


def test_a_tokenizer_whose_pad_is_its_end_is_refused(make_recipe, policy_folder, tmp_path):
    """Pitfall 1, at the door. Mutation seen red: only a missing pad token refused."""
    from podium.models import load_tokenizer

    for folder in (policy_folder, tmp_path / "reward"):
        tokenizer = load_tokenizer(folder)
        tokenizer.pad_token = tokenizer.eos_token
        tokenizer.save_pretrained(folder)
    with pytest.raises(ParentError, match="endings cannot be learned"):
        train(make_recipe(), tmp_path / "runs")


def start(recipe: Path, runs: Path) -> subprocess.Popen:
    """The stage in a process of its own, which writes what it says to output.txt."""
    command = [sys.executable, "-m", "ppo.train", str(recipe), "--runs-dir", str(runs)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with (runs.parent / "output.txt").open("w") as output:
        return subprocess.Popen(
            command, cwd=runs.parent, env=environment, stdout=output, stderr=output
        )


def wait_for_a_new_line(process: subprocess.Popen, log: Path) -> None:
    """Until the process has logged an iteration that was not there before, or has ended."""
    before, deadline = log.read_bytes() if log.exists() else b"", time.time() + 90
    while (log.read_bytes() if log.exists() else b"") == before and process.poll() is None:
        assert time.time() < deadline, "no iteration in 90 seconds"
        time.sleep(0.01)


def test_sigterm_ends_the_iteration_saves_and_exits_143(make_recipe, tmp_path):
    """A real signal to a real process, and a new one goes on to the same bits. Mutation seen red:
    `stop_requested` is not asked.
    """
    config = {"total_episodes": 8 * 40, "save_steps": 1000}  # no other checkpoint
    whole = train(make_recipe("whole", **config), tmp_path / "runs")
    recipe, folder = make_recipe("stopped", **config), tmp_path / "runs/stopped/ppo"
    process = start(recipe, tmp_path / "runs")
    wait_for_a_new_line(process, folder / "metrics.jsonl")
    process.terminate()
    assert process.wait(timeout=90) == 143
    assert "the same command goes on" in (tmp_path / "output.txt").read_text()
    done = metrics(folder)[-1]["step"]
    assert done < 40 and (folder / "checkpoints" / str(done)).is_dir()
    assert start(recipe, tmp_path / "runs").wait(timeout=90) == 0
    assert timeless(folder) == timeless(whole)
    assert_same_weights(folder, whole)


@pytest.mark.slow
def test_kill_9_at_random_moments_gives_the_same_final_weights(make_recipe, tmp_path):
    """PODIUM_KILLS=20 for the long version. Mutation seen red: the random state's position left
    out, i.e. rollouts numbered from the restart on.
    """
    kills = int(os.environ.get("PODIUM_KILLS", "3"))
    config = {"total_episodes": 8 * 10 * (kills + 2), "save_steps": 1}
    whole = train(make_recipe("whole", **config), tmp_path / "runs")
    recipe = make_recipe("killed", **config)
    folder = tmp_path / "runs/killed/ppo"
    rng = random.Random(0)
    for _ in range(kills):
        process = start(recipe, tmp_path / "runs")
        wait_for_a_new_line(process, folder / "metrics.jsonl")
        time.sleep(rng.random())  # anywhere in the next iterations and their checkpoints
        assert process.poll() is None, "the run ended before it was killed"
        process.kill()
        process.wait()
    assert start(recipe, tmp_path / "runs").wait(timeout=300) == 0
    assert timeless(folder) == timeless(whole)
    assert_same_weights(folder, whole)
