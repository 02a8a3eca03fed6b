"""Between the parts: what `Learner` makes of its formulas, models and keys, against plain torch."""

from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from ppo.config import Config
from ppo.inputs import documents_of
from ppo.update import MiniBatch, UpdateSums, flat_gradient

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13], [16], [17, 18, 19], [21, 22], [23, 24], [26, 27]]
EVERYTHING = {
    "temperature": 0.7,
    "kl_coef": 0.3,
    "gamma": 0.9,
    "gae_lambda": 0.8,
    "scale_scores": True,
    "score_clip": 1.2,
    "missing_eos_penalty": 0.7,
    "whiten_rewards": True,
    "clip_range": 0.1,
    "clip_range_value": 0.05,
    "vf_coef": 3.0,
    "num_mini_batches": 1,
}


def shaken(learner):
    """A rollout whose four readings differ as they do late in training; half of it has ended."""
    batch = learner.rollout(PROMPTS, 1)
    generator = torch.Generator().manual_seed(5)

    def moved(tensor: torch.Tensor, by: float) -> torch.Tensor:
        noise = by * torch.randn(tensor.shape, generator=generator)
        return torch.where(batch.action_mask, tensor + noise, 0.0)

    return replace(
        batch,
        logprobs=moved(batch.logprobs, 0.2),
        ref_logprobs=moved(batch.ref_logprobs, 0.5),
        values=moved(batch.values, 0.1),
        scores=2 * torch.randn(len(PROMPTS), generator=generator),
        finished=torch.arange(len(PROMPTS)) % 2 == 0,
    )


def plain_targets(batch, c: Config) -> tuple[list[torch.Tensor], list[torch.Tensor], torch.Tensor]:
    """Advantages and returns, a row at a time, and the shaped scores; the definitions alone."""
    scores = (batch.scores / batch.scores.std(correction=0)).clamp(-c.score_clip, c.score_clip)
    scores = scores - c.missing_eos_penalty * torch.tensor([float(not f) for f in batch.finished])
    rows = []
    for i, on in enumerate(batch.action_mask):
        reward = -c.kl_coef * (batch.logprobs[i][on] - batch.ref_logprobs[i][on])
        reward[-1] += scores[i]
        rows.append(reward)
    everything = torch.cat(rows)
    mean, std = everything.mean(), everything.std(correction=0)
    rows = [(reward - mean) / std + mean for reward in rows]
    advantages, returns = [], []
    for i, (reward, on) in enumerate(zip(rows, batch.action_mask, strict=True)):
        values, found, after, next_value = batch.values[i][on], [], 0.0, 0.0
        for r, value in zip(reward.flip(0).tolist(), values.flip(0).tolist(), strict=True):
            after = r + c.gamma * next_value - value + c.gamma * c.gae_lambda * after
            next_value = value
            found.append(after)
        advantages.append(torch.tensor(found[::-1]))
        returns.append(advantages[-1] + values)
    whole = torch.cat(advantages)
    return [(a - whole.mean()) / whole.std(correction=0) for a in advantages], returns, scores


def test_targets_and_their_metrics_against_the_definitions(make_learner):
    """Mutations seen red are in tests/mutants.py."""
    learner = make_learner(**EVERYTHING)
    batch = shaken(learner)
    targets, metrics = learner.targets(batch)
    advantages, returns, scores = plain_targets(batch, learner.config)
    kl, k3, entropy = [], [], []
    for i, on in enumerate(batch.action_mask):
        assert torch.allclose(targets.advantages[i][on], advantages[i], atol=1e-4)
        assert torch.allclose(targets.returns[i][on], returns[i], atol=1e-4)
        log_ratio = batch.ref_logprobs[i][on] - batch.logprobs[i][on]
        kl.append(-log_ratio.sum())
        k3.append((log_ratio.exp() - 1 - log_ratio).sum())
        entropy.append(-batch.logprobs[i][on].sum())
    lengths = batch.action_mask.sum(1).float()
    values, flat = batch.values[batch.action_mask], torch.cat(returns)
    expected = {
        "objective/kl": sum(kl) / 8,
        "objective/kl_k3": sum(k3) / 8,
        "objective/entropy": sum(entropy) / 8,
        "policy/entropy_avg": sum(entropy) / lengths.sum(),
        "objective/non_score_reward": -0.3 * sum(kl) / 8,
        "objective/rlhf_reward": scores.mean() - 0.3 * sum(kl) / 8,
        "objective/scores": batch.scores.mean(),
        "objective/scores_std": batch.scores.std(correction=0),
        "objective/shaped_scores": scores.mean(),
        "objective/kl_coef": 0.3,
        "val/num_eos_tokens": 4,
        "val/explained_variance": 1 - (flat - values).var() / flat.var(),
        "rollout/eos_rate": 0.5,
        "rollout/length": lengths.mean(),
        "rollout/length_max": lengths.max(),
        "rollout/tokens": lengths.sum(),
    }
    for name, value in expected.items():
        assert metrics[name] == pytest.approx(float(value), rel=1e-4), name


def test_an_update_s_metrics_against_the_definitions(make_learner):
    """Before any step, so that all can be read beforehand. Mutations seen red are in
    tests/mutants.py.
    """
    learner = make_learner(**EVERYTHING)
    batch = shaken(learner)
    # most ratios below 1, so that errors on that side count too
    lifted = torch.where(batch.action_mask, batch.logprobs + 0.5, 0.0)
    batch = replace(batch, logprobs=lifted)
    targets, _ = learner.targets(batch)
    logprobs, values = [], []
    for i, on in enumerate(batch.action_mask):
        ids = batch.input_ids[i][batch.attention_mask[i]]
        with torch.no_grad():
            logits = learner.policy.module.model(ids[None]).logits[0] / 0.7
            hidden = learner.value.module.model.base_model(ids[None]).last_hidden_state[0]
            read = learner.value.module.model.score(hidden)[:, 0] - 0.25  # reward_bias
        on = on[: len(ids)]
        logprobs.append(-F.cross_entropy(logits[:-1], ids[1:], reduction="none")[on[1:]])
        values.append(read[:-1][on[1:]])
    new, value = torch.cat(logprobs), torch.cat(values)
    mask = batch.action_mask
    old, old_value = batch.logprobs[mask], batch.values[mask]
    advantages, returns = targets.advantages[mask], targets.returns[mask]
    ratio, held = (new - old).exp(), old_value + (value - old_value).clamp(-0.05, 0.05)
    expected = {
        "loss/policy_avg": -torch.minimum(advantages * ratio, advantages * ratio.clamp(0.9, 1.1)),
        "loss/value_avg": torch.maximum((value - returns) ** 2, (held - returns) ** 2) / 2,
        "policy/approxkl_avg": (new - old) ** 2 / 2,
        "policy/clipfrac_avg": ((ratio - 1).abs() > 0.1).float(),
        "val/clipfrac_avg": ((value - old_value).abs() > 0.05).float(),
        "val/ratio": ratio,
    }
    found = learner.update(batch, targets, None, 1)
    for name, quantity in expected.items():
        assert found[name] == pytest.approx(float(quantity.mean()), rel=1e-3, abs=1e-5), name
    assert found["val/ratio_var"] == pytest.approx(float(ratio.var(correction=0)), rel=1e-3)
    assert found["val/ratio_first_error"] == pytest.approx(float((ratio - 1).abs().max()), rel=1e-3)


def test_the_value_model_s_gradient_is_that_of_the_clipped_loss_times_its_coefficient(make_learner):
    """Mutations seen red are in tests/mutants.py."""
    learner = make_learner(**EVERYTHING)
    batch = shaken(learner)
    targets, _ = learner.targets(batch)
    parameters = [p for p in learner.value.module.parameters() if p.requires_grad]
    mask = batch.action_mask
    values, old = learner.value.module(batch.input_ids, batch.attention_mask, mask), batch.values
    held = old[mask] + (values - old[mask]).clamp(-0.05, 0.05)
    returns = targets.returns[mask]
    loss = torch.maximum((values - returns) ** 2, (held - returns) ** 2).mean() / 2
    expected = torch.cat([g.flatten() for g in torch.autograd.grad(3.0 * loss, parameters)])
    learner.value.train()
    sums = UpdateSums(torch.device("cpu"))
    learner._update.accumulate(MiniBatch(batch, targets, torch.arange(8), None, first=True), sums)
    found = flat_gradient(learner.value)
    assert torch.allclose(found, expected, atol=1e-4 * float(expected.abs().max()))


def test_every_iteration_reads_windows_of_its_own(windows):
    """One after the other, through all of them. Mutation seen red: every iteration begins at the
    first.
    """
    config = Config(ptx_coef=1.0, ptx_ratio=0.0625, num_mini_batches=4)  # 2 windows a step
    marked = torch.arange(16)[:, None].expand(16, 4).contiguous()
    seen = []
    for iteration in (1, 2):
        documents = documents_of(
            marked, config.steps_per_iteration, config.windows_per_step, 0, iteration
        )
        seen += [int(row[0]) for _ in range(4) for row in next(documents)]
    assert sorted(seen) == list(range(16))


# ---- every key does something --------


def says(learner, windows) -> dict[str, object]:
    """Two iterations on the same prompts, and what each part shows of them."""
    found: dict[str, object] = {}
    for iteration in (1, 2):
        batch = learner.rollout(PROMPTS, iteration)
        targets, metrics = learner.targets(batch)
        metrics |= learner.update(batch, targets, iter([windows] * 8), iteration)
        found |= {f"{name} {iteration}": value for name, value in metrics.items()}
        found |= {
            f"samples {iteration}": batch.responses(),
            f"advantages {iteration}": targets.advantages[batch.action_mask].tolist(),
            f"policy {iteration}": next(learner.policy.module.parameters()).tolist(),
            f"value {iteration}": learner.value
            and next(learner.value.module.parameters()).tolist(),
            f"average {iteration}": learner.ema.average[0].tolist() if learner.ema.average else [],
        }
    learner.targets(replace(batch, ref_logprobs=batch.logprobs - 5.0))  # far from the reference
    return found | {"coefficient after": learner.kl.kl_coef}


# key: another value, what it must change, and what that needs to be seen
CHANGES: dict[str, tuple[object, str, dict]] = {
    "num_mini_batches": (4, "policy 1", {}),
    "num_ppo_epochs": (2, "policy 1", {}),
    "response_length": (5, "samples 1", {}),
    "temperature": (0.5, "samples 1", {}),
    "old_logprobs": ("recomputed", "rollout/sampler_error 1", {}),
    "kl_coef": (0.9, "objective/kl_coef 1", {}),
    "kl_controller": (
        "adaptive",
        "objective/kl_coef 2",
        {"kl_target": 0.1, "kl_horizon": 9.0},
    ),
    "kl_target": (1e9, "coefficient after", {"kl_controller": "adaptive"}),
    "kl_horizon": (9.0, "objective/kl_coef 2", {"kl_controller": "adaptive"}),
    "missing_eos_penalty": (3.0, "objective/shaped_scores 1", {}),
    "score_clip": (0.01, "objective/shaped_scores 1", {}),
    "scale_scores": (True, "objective/shaped_scores 1", {}),
    "whiten_rewards": (True, "val/explained_variance 1", {}),
    "advantage": ("reinforce++", "advantages 1", {}),
    "gamma": (0.5, "advantages 1", {}),
    "gae_lambda": (0.1, "advantages 1", {}),
    "clip_range": (1e-4, "policy/clipfrac_avg 1", {}),
    "clip_range_value": (1e-5, "val/clipfrac_avg 1", {}),
    "vf_coef": (7.0, "grad_norm/value 1", {}),
    "learning_rate": (1e-2, "policy 1", {}),
    "value_learning_rate": (1e-2, "value 1", {}),
    "warmup_iterations": (5, "lr 1", {}),
    "adam_beta1": (0.1, "policy 2", {}),
    "adam_beta2": (0.1, "policy 2", {}),
    "adam_epsilon": (1.0, "policy 1", {}),
    "weight_decay": (0.5, "policy 1", {}),
    "ptx_coef": (3.0, "policy 1", {"ptx_coef": 0.5}),
    "ema_decay": (0.1, "average 1", {}),
    "final_weights": ("last", "average 1", {}),
    "gradient_steps": (1, "grad_norm/cosine 2", {"ptx_coef": 0.5}),
    "engine": ({"gradient_clipping": 1e-9}, "policy 1", {}),
    "lora": ({"r": 4}, "policy 1", {}),
}
ELSEWHERE = {  # key: why not here
    "preset": "test_config.py: the papers' numbers and keys beside a preset",
    "model": "a folder: test_train.py reads its weights back from final/",
    "reward": "a folder or a function: test_rewards.py",
    "value_model": "a folder: test_value_model_is_read_where_it_is_named",
    "frozen_models": "changes no number: test_where_things_lie_changes_no_number",
    "total_episodes": "test_config.py: iterations; test_train.py: steps of the log",
    "batch_size": "test_distributed.py and every rollout's rows",
    "per_device_train_batch_size": "changes no number: test_metrics_do_not_depend_on_the_split",
    "per_device_eval_batch_size": "changes no number: test_reading_in_passes_changes_nothing",
    "num_generations": "test_groups.py",
    "max_prompt_tokens": "test_prompts_that_do_not_fit_are_dropped_and_counted",
    "rollout_batch_size": "changes no number: tests/podium/sampling",
    "ptx_ratio": "test_config.py: windows_per_step",
    "ptx_context": "test_every_window_is_as_long_as_the_key_says",
    "gradient_checkpointing": "changes no number: test_where_things_lie_changes_no_number",
    "compile": "changes no number: test_compile.py",
    "guard": "test_guard.py, and the faults of test_train.py",
    "save_steps": "test_the_rolled_back_state_is_that_of_the_checkpoint",
    "sample_steps": "test_it_writes_policy_value_model_log_and_samples",
    "sample_prompts": "test_it_writes_policy_value_model_log_and_samples",
}


def test_every_key_is_on_one_of_the_two_lists():
    """A new key must show what it does. Mutation seen red: a field added to Config."""
    assert CHANGES.keys() | ELSEWHERE.keys() == Config.model_fields.keys()
    assert not CHANGES.keys() & ELSEWHERE.keys()


@pytest.mark.parametrize("key", CHANGES)
def test_every_key_does_something(make_learner, windows, key):
    """Mutations seen red are in tests/mutants.py: keys that nobody reads."""
    value, observed, needed = CHANGES[key]
    plain = says(make_learner(**needed), windows)
    changed = says(make_learner(**{**needed, key: value}), windows)
    assert plain.get(observed) != changed.get(observed)
