"""The update: inner epochs, minibatches, and the two backward passes (PPO and ptx) of one optimizer
step.

The gradient of a step is g_ppo + ptx_coef * g_ptx, where g_ppo is the gradient of the mean policy
loss over all action tokens of the minibatch and g_ptx that of the mean negative log-likelihood over
all target tokens of its documents. Both means are over all processes and micro-batches, so no split
changes them.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from podium.batching import share_of
from podium.engine import all_reduce_max, all_reduce_sum, backward, step
from ppo.config import Config
from ppo.losses import clip_fraction, clipped_policy_loss, clipped_value_loss
from ppo.ptx import next_tokens
from ppo.rollout import RolloutBatch, passes_by_length
from ppo.watch import Profile


@dataclass(frozen=True)
class Targets:
    """What the policy and the value model learn from a rollout: advantages and returns, (B, T)
    each, 0 off-action.
    """

    advantages: Tensor
    returns: Tensor


class Sums:
    """Sums over tokens of named quantities, over passes, minibatches and processes; `means` divides
    by the tokens.
    """

    NAMES = (
        "loss/policy_avg",
        "loss/value_avg",
        "policy/approxkl_avg",
        "policy/clipfrac_avg",
        "val/clipfrac_avg",
        "val/ratio",
        "ratio_squared",
    )

    def __init__(self, device: torch.device) -> None:
        self.values = torch.zeros(len(self.NAMES), dtype=torch.double, device=device)
        self.first_error = torch.zeros((), device=device)  # largest |ratio - 1| before any step
        self.ptx = torch.zeros((), dtype=torch.double, device=device)
        self.tokens = self.ptx_tokens = 0

    def means(self) -> dict[str, float]:
        """The means and the largest error, the same on every process."""
        totals = all_reduce_sum(torch.cat([self.values, self.ptx[None]])).tolist()
        means = {name: total / self.tokens for name, total in zip(self.NAMES, totals, strict=False)}
        # over tokens; TRL's is over the means of micro-batches
        means["val/ratio_var"] = max(0.0, means.pop("ratio_squared") - means["val/ratio"] ** 2)
        means["val/ratio_first_error"] = float(all_reduce_max(self.first_error))
        if self.ptx_tokens:
            means["ptx/loss"] = totals[-1] / self.ptx_tokens
        return means


class Updater:
    """Learns from rollouts with two engines. `documents` gives the ids (D, T) of a minibatch's ptx
    windows.
    """

    def __init__(
        self,
        config: Config,
        policy: Any,
        value: Any,
        world_size: int,
        rank: int,
        bos_token_id: int | None,
    ) -> None:
        self.config = config
        self.policy = policy
        self.value = value
        self.bos_token_id = bos_token_id
        self.world_size, self.rank = world_size, rank

    def __call__(
        self,
        batch: RolloutBatch,
        targets: Targets,
        documents: Iterator[Tensor] | None,
        learning_rates: tuple[float, float],
        seed: tuple[int, int],
        profile: Profile,
        diagnose: bool = False,
    ) -> dict[str, float]:
        """All inner epochs over the whole batch (the same on every process); returns metrics by
        their names.

        `learning_rates`: the policy's and the value model's. `seed`: (run seed, iteration), fixes
        the minibatches. `diagnose` also measures the two gradients of the first step: norms and
        cosine.
        """
        sums = Sums(batch.scores.device)
        norms: list[tuple[float, float]] = []
        gradients: dict[str, float] = {}
        self.policy.train()
        self.value.train()
        for epoch in range(self.config.num_ppo_epochs):
            order = np.random.default_rng([*seed, epoch]).permutation(len(batch.scores))
            for rows in (
                torch.from_numpy(order).to(batch.scores.device).chunk(self.config.num_mini_batches)
            ):
                windows = next(documents) if documents is not None else None
                first = not norms
                found = self._accumulate(
                    batch, targets, rows, windows, sums, profile, first, diagnose and first
                )
                gradients = gradients or found
                with profile.measure("optimizer"):
                    norms.append(
                        (step(self.policy, learning_rates[0]), step(self.value, learning_rates[1]))
                    )
        policy_norm, value_norm = np.mean(norms, axis=0)
        averages = {"grad_norm/policy": float(policy_norm), "grad_norm/value": float(value_norm)}
        return sums.means() | averages | gradients

    def _accumulate(
        self,
        batch: RolloutBatch,
        targets: Targets,
        rows: Tensor,
        windows: Tensor | None,
        sums: Sums,
        profile: Profile,
        first: bool,
        diagnose: bool,
    ) -> dict[str, float]:
        """All backward passes of one step over the minibatch `rows` (global indices) and its ptx
        windows.
        """
        count = int(batch.action_mask[rows].sum())
        mine = rows[share_of(len(rows), self.world_size, self.rank)[0]]
        sorted_passes = passes_by_length(
            batch.attention_mask[mine], self.config.per_device_train_batch_size
        )
        passes = [mine[part] for part in sorted_passes]
        sums.tokens += count
        for number, part in enumerate(passes):
            last = number == len(passes) - 1
            self._ppo_pass(
                batch, targets, part, count, sums, profile, first, last, last and windows is None
            )
        if windows is None:
            return {}
        ppo_gradient = flat_gradient(self.policy) if diagnose else None
        with profile.measure("ptx"):
            self._ptx_passes(windows, sums)
        if ppo_gradient is None:
            return {}
        return compare_gradients(
            all_reduce_sum(ppo_gradient) / self.world_size, flat_gradient(self.policy)
        )

    def _ppo_pass(
        self,
        batch: RolloutBatch,
        targets: Targets,
        rows: Tensor,
        count: int,
        sums: Sums,
        profile: Profile,
        first: bool,
        last: bool,
        policy_last: bool,
    ) -> None:
        """Forward and backward of policy and value on one micro-batch; `count` action tokens are in
        the minibatch.
        """
        part = batch.rows(rows)
        actions = part.action_mask
        width = actions.shape[1]
        old_logprobs, old_values = part.logprobs[actions], part.values[actions]  # (N,)
        advantages = targets.advantages[rows, :width][actions]
        returns = targets.returns[rows, :width][actions]
        # the engine averages over processes; this makes it the global mean
        scale = self.world_size / count
        with profile.measure("update_policy"):
            logprobs = self.policy(
                part.input_ids, part.attention_mask, actions, self.config.temperature
            )
            policy_loss = clipped_policy_loss(
                logprobs, old_logprobs, advantages, self.config.clip_range
            )
            backward(self.policy, policy_loss.sum() * scale, last=policy_last)
        with profile.measure("update_value"):
            values = self.value(part.input_ids, part.attention_mask, actions)
            value_loss = clipped_value_loss(
                values, old_values, returns, self.config.clip_range_value
            )
            backward(self.value, value_loss.sum() * scale * self.config.vf_coef, last=last)
        with torch.no_grad():
            difference = logprobs - old_logprobs
            ratio = difference.exp()
            if first:
                sums.first_error = torch.maximum(sums.first_error, (ratio - 1).abs().max())
            quantities = (
                policy_loss,
                value_loss,
                0.5 * difference**2,
                clip_fraction(ratio - 1, self.config.clip_range),
                clip_fraction(values - old_values, self.config.clip_range_value),
                ratio,
                ratio**2,
            )
            sums.values += torch.stack([quantity.double().sum() for quantity in quantities])

    def _ptx_passes(self, windows: Tensor, sums: Sums) -> None:
        """The second backward pass: documents (D, T), this process's share of them, into the same
        gradient.
        """
        targets = windows.shape[0] * (windows.shape[1] - 1)
        sums.ptx_tokens += targets
        indices, counting = share_of(len(windows), self.world_size, self.rank)
        share = windows[indices].to(sums.ptx.device, torch.long)
        rows = self.config.per_device_train_batch_size
        parts = share.split(rows)
        for number, ids in enumerate(parts):
            mask, positions, target_mask = next_tokens(ids, self.bos_token_id)
            # what only keeps this process in step with the others
            target_mask[max(0, counting - number * rows) :] = False
            nll = -self.policy(ids, mask, target_mask, 1.0, positions).sum()
            scale = self.config.ptx_coef * self.world_size / targets
            backward(self.policy, nll * scale, last=number == len(parts) - 1)
            sums.ptx += nll.detach()


def flat_gradient(engine: Any) -> Tensor:
    """A copy of all gradients of the engine's model in one vector. Needs them whole: ZeRO
    stage 0.
    """
    trained = [p for p in engine.module.parameters() if p.requires_grad]
    return torch.cat(
        [torch.zeros_like(p).flatten() if p.grad is None else p.grad.flatten() for p in trained]
    )


def compare_gradients(ppo: Tensor, total: Tensor) -> dict[str, float]:
    """Norms of PPO's gradient and of ptx's (its coefficient applied), and the cosine
    between them.
    """
    ptx = total - ppo
    cosine = torch.nn.functional.cosine_similarity(ppo, ptx, dim=0)
    return {
        "grad_norm/ppo": float(ppo.norm()),
        "grad_norm/ptx": float(ptx.norm()),
        "grad_norm/cosine": float(cosine),
    }
