"""Several answers to a prompt, and PPO without a critic: `advantage: rloo | grpo | reinforce++`."""

import json
import signal
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from podium.errors import Interrupted
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from ppo.learner import Learner
from ppo.watch import rollout_metrics

TWO = [[5, 6, 7]] * 4 + [[8, 9]] * 4  # two prompts, four answers each
WITHOUT = [
    {"advantage": "rloo", "num_generations": 4},
    {"advantage": "grpo", "num_generations": 4},
    {"advantage": "reinforce++"},
    {"advantage": "reinforce++", "num_generations": 4},
]
NAMES = ["rloo", "grpo", "reinforce++", "reinforce++ in groups"]
OF_A_CRITIC = ("value", "lr_value", "val/explained_variance", "val/clipfrac_avg")


def train(recipe: Path, runs: Path) -> Path:
    loaded = load_recipe(recipe)
    run_one(loaded, "ppo", runs)
    return runs / loaded.name / "ppo"


def timeless(folder: Path) -> list[dict]:
    lines = map(json.loads, (folder / "metrics.jsonl").read_text().splitlines())
    return [{k: v for k, v in line.items() if not k.startswith("time/")} for line in lines]


def shaken(learner):
    """A rollout of two prompts whose readings differ as they do late in training."""
    batch = learner.rollout(TWO, 1)
    generator = torch.Generator().manual_seed(5)
    noise = 0.5 * torch.randn(batch.logprobs.shape, generator=generator)
    return replace(
        batch,
        ref_logprobs=torch.where(batch.action_mask, batch.logprobs + noise, 0.0),
        scores=2 * torch.randn(len(TWO), generator=generator),
        finished=torch.arange(len(TWO)) % 2 == 0,
    )


def rewards_of(batch, penalty: float, kl_coef: float) -> list[torch.Tensor]:
    """The reward of every token, a row at a time."""
    rows = []
    for i, on in enumerate(batch.action_mask):
        reward = -kl_coef * (batch.logprobs[i][on] - batch.ref_logprobs[i][on])
        reward[-1] += batch.scores[i] - (0.0 if batch.finished[i] else penalty)
        rows.append(reward)
    return rows


@pytest.mark.parametrize("config", WITHOUT[:3], ids=NAMES[:3])
def test_targets_hold_score_penalty_and_kl(make_learner, config):
    """The definitions, from the rollout to the advantage of every token. Mutations seen red:
    `rloo` and `grpo` exchanged in `Learner._advantages`; advantages whitened once more; the KL left
    out (`kl_coef` 0).
    """
    learner = make_learner(kl_coef=0.3, missing_eos_penalty=0.7, **{"num_generations": 4} | config)
    batch = shaken(learner)
    targets, _ = learner.targets(batch)
    rows = rewards_of(batch, 0.7, 0.3)
    totals = torch.stack([row.sum() for row in rows])
    everything = torch.cat([row.flip(0).cumsum(0).flip(0) for row in rows])
    for i, row in enumerate(rows):
        group = totals[i - i % 4 : i - i % 4 + 4]
        expected = {
            "rloo": (totals[i] - (group.sum() - totals[i]) / 3).expand(len(row)),
            "grpo": ((totals[i] - group.mean()) / (group.std() + 1e-4)).expand(len(row)),
            "reinforce++": (row.flip(0).cumsum(0).flip(0) - everything.mean())
            / everything.std(correction=0),
        }[config["advantage"]]
        found = targets.advantages[i][batch.action_mask[i]]
        assert torch.allclose(found, expected, atol=1e-4)
    assert targets.returns is None


@pytest.mark.parametrize("config", WITHOUT, ids=NAMES)
def test_no_critic_is_made_read_or_trained(make_learner, windows, config):
    """Seen red with the value engine made all the same; mutation seen red: `critic` of `UpdateSums`
    always true, which reports a value loss of 0.
    """
    learner = make_learner(ptx_coef=0.5, **config)
    assert learner.value is None
    prompts = TWO if config.get("num_generations") else [[5 + i, 6] for i in range(8)]
    batch = learner.rollout(prompts, 1)
    targets, metrics = learner.targets(batch)
    metrics |= learner.update(batch, targets, iter([windows] * 2), 1)
    metrics |= learner.profile.drain()
    assert batch.values is None and "ptx/loss" in metrics and "val/ratio" in metrics
    assert not [name for name in metrics if name in OF_A_CRITIC or "value" in name]


def test_gae_says_that_it_needs_a_critic(make_learner, policy_folder, reward_folder):
    from podium.models import load_causal_lm
    from podium.rewards.model import load_reward_model
    from podium.rewards.model_reward import ModelReward
    from ppo.config import Config
    from ppo.learner import Models

    reward = ModelReward(load_reward_model(reward_folder)[0])
    with pytest.raises(ValueError, match=r"gae needs a value model"):
        Learner(Config(), Models(load_causal_lm(policy_folder), reward, None), 1, (3,), 0)


def test_answers_to_one_prompt_are_neighbours(make_learner):
    """Mutation seen red: the check left out of `rollout`; eight strangers were compared."""
    learner = make_learner(**WITHOUT[0])
    with pytest.raises(ValueError, match=r"ppo.num_generations 4 every prompt comes 4 times"):
        learner.rollout([[5 + i, 6] for i in range(8)], 1)
    with pytest.raises(ValueError, match=r"every prompt comes 4 times"):
        learner.rollout(TWO[:6], 1)
    assert len(set(map(tuple, learner.rollout(TWO, 1).responses()))) > 4  # and they differ


def test_answers_alike_to_one_prompt_are_no_sign_of_hacking(make_learner):
    """The guard compares prompts. Mutation seen red: pairs taken from all responses."""
    batch = make_learner(**WITHOUT[0]).rollout(TWO, 1)
    ids = batch.input_ids.clone()
    for first in (0, 4):  # every prompt has one answer, four times
        ids[first : first + 4] = ids[first]
    width = batch.action_mask.shape[1]
    mask = (torch.arange(width) >= 3).expand(8, width)  # of any one length
    batch = replace(batch, input_ids=ids, action_mask=mask)
    scores = torch.tensor([0.0, 0.0, 2.0, 2.0, 1.0, 1.0, 1.0, 1.0])
    by_prompt = rollout_metrics(batch, scores, None, 0.1, num_generations=4)
    assert by_prompt["rollout/near_identical"] == 0.0
    assert rollout_metrics(batch, scores, None, 0.1)["rollout/near_identical"] > 0.4
    assert by_prompt["objective/group_std"] == pytest.approx((4 / 3) ** 0.5 / 2)


def test_gae_takes_several_answers_too(make_learner):
    """The critic judges each by itself: the order of the prompts is all that differs."""
    batch = make_learner(num_generations=4).rollout(TWO, 1)
    alone = make_learner().rollout(TWO, 1)
    assert torch.equal(batch.input_ids, alone.input_ids)


class ShortIsGood:
    """A reward that says: the shorter, the better."""

    def ready(self):
        return nullcontext(lambda asked, said, ids, mask: -mask.sum(1).float() / 40)


@pytest.mark.parametrize("config", WITHOUT[:3], ids=NAMES[:3])
def test_the_policy_learns_to_stop_when_short_answers_are_rewarded(make_learner, config):
    """To the end, without a critic. Mutation seen red: the sign of each advantage."""
    prompts = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [16], [17, 18, 19], [21, 22], [23, 24], [26]]
    learner = make_learner(
        batch_size=64,
        total_episodes=64,
        num_mini_batches=4,
        learning_rate=1e-2,
        per_device_train_batch_size=64,
        kl_coef=0.0,
        response_length=24,
        **config | {"num_generations": 8},
    )
    learner.reward = ShortIsGood()
    ended = []
    for iteration in range(1, 13):
        batch = learner.rollout([prompt for prompt in prompts for _ in range(8)], iteration)
        ended.append(float(batch.finished.float().mean()))
        learner.update(batch, learner.targets(batch)[0], None, iteration)
    assert ended[0] < 0.2 and ended[-1] > 0.5


# ---- the stage --------


@pytest.mark.parametrize("config", WITHOUT[:3], ids=NAMES[:3])
def test_the_stage_asks_fewer_prompts_and_saves_no_value_model(
    make_recipe, tmp_path, monkeypatch, config
):
    """Mutations seen red: `batch_size` prompts drawn and each repeated; `final/value` written."""
    asked = []
    rollout = Learner.rollout

    def remember(self, prompts, iteration, *others):
        asked.append(prompts)
        return rollout(self, prompts, iteration, *others)

    monkeypatch.setattr(Learner, "rollout", remember)
    folder = train(make_recipe(total_episodes=16, **config), tmp_path / "runs")
    k = config.get("num_generations", 1)
    for prompts in asked:
        assert len(prompts) == 8 and len(set(map(tuple, prompts))) == 8 // k
    assert not {tuple(p) for p in asked[0]} & {tuple(p) for p in asked[1]}
    assert (folder / "final/model.safetensors").is_file() and not (folder / "final/value").exists()
    lines = timeless(folder)
    assert all(line["episode"] == 8 * line["step"] and "ptx/loss" in line for line in lines)
    card = (folder / "final/README.md").read_text()
    assert f"{config['advantage'].upper()}-ptx" in card and "no value model" in card


@pytest.mark.parametrize(
    ("config", "lora"), [(WITHOUT[0], None), (WITHOUT[1], {"r": 4})], ids=["full", "lora"]
)
def test_resume_is_bit_exact(make_recipe, tmp_path, monkeypatch, config, lora):
    """Policy, optimizer, average, controllers. Mutation seen red: the EMA not loaded."""
    config = config | {"lora": lora, "num_ppo_epochs": 2, "scale_scores": True}
    whole = train(make_recipe("whole", **config), tmp_path / "runs")
    recipe = make_recipe("broken", **config)
    original = StageContext.log

    def log(self, step, found):
        original(self, step, found)
        self.signal_seen = signal.SIGINT if step == 2 else self.signal_seen

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "log", log)
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "runs")
    assert not list((tmp_path / "runs/broken/ppo/checkpoints").glob("*/value"))
    resumed = train(recipe, tmp_path / "runs")
    assert timeless(resumed) == timeless(whole)
    left, right = (load_file(f / "final/model.safetensors") for f in (resumed, whole))
    assert left.keys() == right.keys() and all(torch.equal(left[n], right[n]) for n in left)


def test_a_batch_that_holds_no_whole_groups_is_refused_by_name(make_recipe):
    from podium.errors import RecipeError

    with pytest.raises(RecipeError, match=r"num_generations 3 answers"):
        load_recipe(make_recipe(advantage="rloo", num_generations=3))
