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

from podium.batching import passes_by_length, share_of
from podium.engine import all_reduce_max, all_reduce_sum, backward, step
from podium.models import inside_peft
from ppo.losses import clip_fraction, clipped_policy_loss, clipped_value_loss
from ppo.ptx import next_tokens
from ppo.rollout import RolloutBatch
from ppo.watch import Profile


@dataclass(frozen=True)
class Targets:
    """What the policy and the value model learn from a rollout: advantages and returns, (B, T)
    each, 0 off-action. No returns without a value model.
    """

    advantages: Tensor
    returns: Tensor | None


class UpdateSums:
    """What an update reports: sums over tokens of named quantities, over passes, minibatches and
    processes; `means` divides by the tokens. `critic`: there is a value model to report on.
    """

    POLICY = (
        "loss/policy_avg",
        "policy/approxkl_avg",
        "policy/clipfrac_avg",
        "val/ratio",
        "ratio_squared",
    )
    VALUE = ("loss/value_avg", "val/clipfrac_avg")

    def __init__(self, device: torch.device, critic: bool = True) -> None:
        self.names = self.POLICY + (self.VALUE if critic else ())
        self.values = torch.zeros(len(self.names), dtype=torch.double, device=device)
        self.first_error = torch.zeros((), device=device)  # largest |ratio - 1| before any step
        self.ptx = torch.zeros((), dtype=torch.double, device=device)
        self.tokens = self.ptx_tokens = 0

    def means(self) -> dict[str, float]:
        """The means and the largest error, the same on every process."""
        totals = all_reduce_sum(torch.cat([self.values, self.ptx[None]])).tolist()
        means = {name: total / self.tokens for name, total in zip(self.names, totals, strict=False)}
        # over tokens; TRL's is over the means of micro-batches
        means["val/ratio_var"] = max(0.0, means.pop("ratio_squared") - means["val/ratio"] ** 2)
        means["val/ratio_first_error"] = float(all_reduce_max(self.first_error))
        if self.ptx_tokens:
            means["ptx/loss"] = totals[-1] / self.ptx_tokens
        return means


@dataclass(frozen=True)
class UpdateSettings:
    """The part of the config that an update reads, under the config's names."""

    num_ppo_epochs: int
    num_mini_batches: int
    per_device_train_batch_size: int
    temperature: float
    clip_range: float
    clip_range_value: float
    vf_coef: float
    ptx_coef: float


@dataclass(frozen=True)
class MiniBatch:
    """What one optimizer step learns from, the same on every process."""

    batch: RolloutBatch  # the whole rollout
    targets: Targets
    rows: Tensor  # (b,) the rows of it that this step takes
    windows: Tensor | None  # (D, T) ids of this step's documents; None: no ptx
    first: bool = False  # no step was taken since the rollout, so every ratio should be 1

    @property
    def action_tokens(self) -> int:
        """Over all processes: what the mean losses are divided by."""
        return int(self.batch.action_mask[self.rows].sum())


class Updater:
    """Learns from rollouts with two engines, the policy's and the value model's (None: there is
    none). `separator_id` begins each document of a ptx window; None: a window is one document.
    """

    def __init__(
        self,
        settings: UpdateSettings,
        policy: Any,
        value: Any,
        world_size: int,
        rank: int,
        separator_id: int | None,
        profile: Profile,
    ) -> None:
        self.settings = settings
        self.policy = policy
        self.value = value
        self.engines = {"policy": policy} | ({} if value is None else {"value": value})
        self.separator_id = separator_id
        self.world_size, self.rank = world_size, rank
        self.profile = profile

    def __call__(
        self,
        batch: RolloutBatch,
        targets: Targets,
        documents: Iterator[Tensor] | None,
        learning_rates: dict[str, float],
        seed: tuple[int, int],
        diagnose: bool = False,
    ) -> dict[str, float]:
        """All inner epochs over the whole batch (the same on every process); returns metrics by
        their names.

        `documents`: the ids (D, T) of every step's ptx windows. `learning_rates`: of "policy" and,
        where there is a value model, of "value". `seed`: (run seed, iteration), fixes the
        minibatches. `diagnose` also measures the two gradients of the first step: norms and cosine.
        """
        sums = UpdateSums(batch.scores.device, critic=self.value is not None)
        norms: list[list[float]] = []
        gradients: dict[str, float] = {}
        for engine in self.engines.values():
            engine.train()
        for rows in self._minibatches(len(batch.scores), seed):
            windows = next(documents) if documents is not None else None
            rows = rows.to(batch.scores.device)
            minibatch = MiniBatch(batch, targets, rows, windows, first=not norms)
            gradients |= self.accumulate(minibatch, sums, diagnose and minibatch.first)
            with self.profile.measure("optimizer"):
                norms.append(
                    [step(engine, learning_rates[name]) for name, engine in self.engines.items()]
                )
        averages = {
            f"grad_norm/{name}": float(norm)
            for name, norm in zip(self.engines, np.mean(norms, axis=0), strict=True)
        }
        return sums.means() | averages | gradients

    def _minibatches(self, episodes: int, seed: tuple[int, int]) -> Iterator[Tensor]:
        """Rows of every step. Each inner epoch deals the whole batch out anew, in an order that the
        seed fixes, so that every process and a resumed run takes the same.
        """
        for epoch in range(self.settings.num_ppo_epochs):
            order = np.random.default_rng([*seed, epoch]).permutation(episodes)
            yield from torch.from_numpy(order).chunk(self.settings.num_mini_batches)

    def accumulate(
        self, minibatch: MiniBatch, sums: UpdateSums, diagnose: bool = False
    ) -> dict[str, float]:
        """All backward passes of one step. The gradients of PPO and of ptx add up in the engine,
        which averages over processes at the last backward.

        Returns `compare_gradients` of the two where it is to `diagnose` and there are documents.
        """
        settings = self.settings
        mine = minibatch.rows[share_of(len(minibatch.rows), self.world_size, self.rank)[0]]
        mask = minibatch.batch.attention_mask[mine]
        passes = [
            mine[part] for part in passes_by_length(mask, settings.per_device_train_batch_size)
        ]
        sums.tokens += minibatch.action_tokens
        for number, rows in enumerate(passes):
            self._ppo_pass(minibatch, rows, sums, last=number == len(passes) - 1)
        if minibatch.windows is None:
            return {}
        # A snapshot before ptx adds to the same gradient; the difference is ptx's own.
        ppo_gradient = flat_gradient(self.policy) if diagnose else None
        with self.profile.measure("ptx"):
            self._ptx_passes(minibatch.windows, sums)
        if ppo_gradient is None:
            return {}
        return compare_gradients(
            all_reduce_sum(ppo_gradient) / self.world_size, flat_gradient(self.policy)
        )

    def _ppo_pass(self, minibatch: MiniBatch, rows: Tensor, sums: UpdateSums, last: bool) -> None:
        """Forward and backward of policy and value on `rows`, a micro-batch; `last` of the
        minibatch.
        """
        settings = self.settings
        part = minibatch.batch.rows(rows)
        actions = part.action_mask
        width = actions.shape[1]
        old_logprobs = part.logprobs[actions]  # (N,)
        advantages = minibatch.targets.advantages[rows, :width][actions]
        # The engine averages gradients over processes; with this factor the local sums make the
        # global mean.
        scale = self.world_size / minibatch.action_tokens
        with self.profile.measure("update_policy"):
            logprobs = self.policy(
                part.input_ids, part.attention_mask, actions, settings.temperature
            )
            policy_loss = clipped_policy_loss(
                logprobs, old_logprobs, advantages, settings.clip_range
            )
            # With ptx the policy's last backward is the last one over documents.
            policy_last = last and minibatch.windows is None
            backward(self.policy, policy_loss.sum() * scale, last=policy_last)
        of_value: tuple[Tensor, ...] = ()
        if minibatch.targets.returns is not None:
            returns = minibatch.targets.returns[rows, :width][actions]
            with self.profile.measure("update_value"):
                of_value = self._value_pass(part, returns, scale, last)
        with torch.no_grad():
            difference = logprobs - old_logprobs
            ratio = difference.exp()
            if minibatch.first:
                sums.first_error = torch.maximum(sums.first_error, (ratio - 1).abs().max())
            of_policy = (
                policy_loss,
                0.5 * difference**2,
                clip_fraction(ratio - 1, settings.clip_range),
                ratio,
                ratio**2,
            )
            sums.values += torch.stack(
                [quantity.double().sum() for quantity in (*of_policy, *of_value)]
            )

    def _value_pass(
        self, part: RolloutBatch, returns: Tensor, scale: float, last: bool
    ) -> tuple[Tensor, Tensor]:
        """Forward and backward of the value model on a micro-batch; returns what `UpdateSums.VALUE`
        names, (N,) each.
        """
        settings, actions = self.settings, part.action_mask
        assert part.values is not None
        old_values = part.values[actions]  # (N,)
        values = self.value(part.input_ids, part.attention_mask, actions)
        value_loss = clipped_value_loss(values, old_values, returns, settings.clip_range_value)
        backward(self.value, value_loss.sum() * scale * settings.vf_coef, last=last)
        clipped = clip_fraction(values.detach() - old_values, settings.clip_range_value)
        return value_loss.detach(), clipped

    def _ptx_passes(self, windows: Tensor, sums: UpdateSums) -> None:
        """The second backward pass: documents (D, T), this process's share of them, into the same
        gradient.
        """
        targets = windows.shape[0] * (windows.shape[1] - 1)
        sums.ptx_tokens += targets
        indices, counting = share_of(len(windows), self.world_size, self.rank)
        share = windows[indices].to(sums.ptx.device, torch.long)
        rows = self.settings.per_device_train_batch_size
        parts = share.split(rows)
        for number, ids in enumerate(parts):
            part = next_tokens(ids, self.separator_id, inside_peft(self.policy.module.model))
            # what only keeps this process in step with the others
            part.targets[part.window >= counting - number * rows] = False
            nll = -self.policy(
                part.ids, part.attention_mask, part.targets, 1.0, part.positions
            ).sum()
            scale = self.settings.ptx_coef * self.world_size / targets
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
