"""The state of a PPO run and its three moves: `rollout`, `targets`, `update`. What a checkpoint
must hold is all here.

It knows models and token ids, not stages or recipes, so a script can drive it (`ppo.trl_inputs`,
`benchmarks.ppo`).
"""

import copy
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import PreTrainedModel

from data.records import Prompt
from podium import runtime
from podium.attention import choose_attention
from podium.batching import share_of
from podium.compilation import compile_layers
from podium.engine import (
    all_reduce_max,
    init_distributed,
    load_engine,
    make_engine,
    save_engine,
    world_size,
)
from podium.errors import RecipeError
from podium.lora import with_lora
from podium.models import count_parameters, remove_dropout
from podium.products import even_products
from podium.rewards.protocol import Reward
from podium.rewards.sampled import read_scores
from podium.runtime import Dtype, rng_state, set_rng_state
from podium.sampling.kinds import EmbeddedConfig, SamplerConfig, make_sampler
from podium.sampling.protocol import SamplingParams
from podium.schedule import constant_with_warmup
from podium.sharding import gathered
from ppo.advantages import gae, grpo, kl_shaped_rewards, reinforce_plus_plus, rloo, whiten
from ppo.config import Config
from ppo.controllers import EMA, AdaptiveKL, FixedKL, RunningScale
from ppo.models import (
    AdapterOff,
    Frozen,
    Policy,
    ValueFunction,
)
from ppo.rollout import RolloutBatch, episodes, gather, read_tokens
from ppo.update import Targets, Updater, UpdateSettings
from ppo.watch import Profile, rollout_metrics

__all__ = [
    "Learner",
    "Models",
    "sampling_seed",
]

BF16_COPY_FROM = 32_000_000  # parameters; measured at 4M (no gain) and at 125M


@dataclass
class Models:
    """Freshly loaded models, each a copy of its own. `value` is read with `advantage: gae` alone.
    `reference` None: a copy of the policy as it is now.
    """

    policy: PreTrainedModel
    reward: Reward
    value: PreTrainedModel | None
    reference: PreTrainedModel | None = None


def sampling_seed(seed: int, iteration: int) -> int:
    """Names the streams that the rollouts of an iteration (from 1) draw from."""
    return seed * 1_000_003 + iteration


class Learner:
    """Policy and value engines, frozen reference and reward, sampler, controllers. Without a
    critic (`Config.has_critic`) there is no value engine: `value` is None.

    Every process of a distributed run makes one. After `rollout` each holds the whole batch;
    updates share it out. `separator_id` begins each document of the ptx windows and keeps them
    apart; None: a window is one document. `decode` makes a response's ids a text, for a reward that
    reads text; `rollout` and `answer` want the prompts as records then. `absent_token_ids` are
    never drawn.
    """

    def __init__(
        self,
        config: Config,
        models: Models,
        pad_token_id: int,
        stop_token_ids: tuple[int, ...],
        seed: int,
        dtype: Dtype = "fp32",
        device: torch.device | None = None,
        separator_id: int | None = None,
        sampler: SamplerConfig = EmbeddedConfig(),
        decode: Callable[[list[int]], str] | None = None,
        absent_token_ids: tuple[int, ...] = (),
    ) -> None:
        init_distributed()
        self.config, self.seed, self.dtype = config, seed, dtype
        self.device = device or runtime.device()
        self.pad_token_id, self.stop_token_ids = pad_token_id, stop_token_ids
        self.absent_token_ids = absent_token_ids
        self.world_size = world_size()
        self.rank = torch.distributed.get_rank()
        if config.batch_size % (config.num_mini_batches * self.world_size):
            raise RecipeError(
                f"ppo.batch_size {config.batch_size} cannot be split over "
                f"{config.num_mini_batches} minibatches and "
                f"{self.world_size} processes",
                "make it a multiple of num_mini_batches times the processes",
            )
        self.decode, self.reads_text = decode, models.reward.reads_text
        self.profile = Profile(self.device)
        self._make_models(models, sampler)
        # The average is a second copy of all weights, so it is of no parameters where final/ holds
        # the last weights.
        averaged = self.policy.module.parameters() if config.final_weights == "ema" else ()
        self.ema = EMA(averaged, config.ema_decay)
        self.kl = (
            AdaptiveKL(config.kl_coef, config.kl_target, config.kl_horizon)
            if config.kl_controller == "adaptive"
            else FixedKL(config.kl_coef)
        )
        self.score_scale = RunningScale()
        self.lr_factor = 1.0  # the guard lowers it
        self.rollbacks = 0
        # In bf16 the sampler decodes in fp32 or from a rounded copy, and training autocasts: their
        # probabilities differ by tens of percent, so ratios would be clipped before any step. What
        # another kind of sampler rounds is not known here.
        unlike = dtype == "bf16" or not sampler.exact
        self.recompute = config.old_logprobs == "recomputed" or (
            config.old_logprobs == "auto" and unlike
        )
        # Largest |ratio - 1| of the sampler's and the trainer's probabilities in the last rollout;
        # known where log-probabilities are recomputed.
        self.sampler_error = 0.0
        # What was learned from to come to these weights: a rollback takes the counts back, too.
        self.episodes = self.tokens = 0
        self.metrics: dict[str, float] = {}  # of the last iteration that was learned from
        self._update = Updater(
            UpdateSettings(
                num_ppo_epochs=config.num_ppo_epochs,
                num_mini_batches=config.num_mini_batches,
                per_device_train_batch_size=config.per_device_train_batch_size,
                temperature=config.temperature,
                clip_range=config.clip_range,
                clip_range_value=config.clip_range_value,
                vf_coef=config.vf_coef,
                ptx_coef=config.ptx_coef,
            ),
            self.policy,
            self.value,
            self.world_size,
            self.rank,
            separator_id,
            self.profile,
        )

    def _make_models(self, models: Models, sampler: SamplerConfig) -> None:
        config = self.config
        for model in (models.policy, models.value, models.reward, models.reference):
            if model is not None:
                # The ratio of PPO compares two passes over the same tokens; with dropout they
                # would differ before anything was learned.
                remove_dropout(model)
                even_products(model, self.device)
        for model in filter(None, (models.policy, models.value, models.reference)):
            choose_attention(model, self.device)
        if config.lora is None:
            reference = models.reference or copy.deepcopy(models.policy)
            self.reference: Any = Frozen(
                Policy(reference), config.frozen_models, self.device, self.dtype
            )
        self.reward = Frozen(models.reward, config.frozen_models, self.device, self.dtype)
        policy = with_lora(models.policy, config.lora, "CAUSAL_LM", self.seed)
        if config.gradient_checkpointing:
            models.policy.gradient_checkpointing_enable()
        # The sampler reads the policy's own weights but in three cases, where it keeps a copy:
        # ZeRO-3 shards them; compiled layers are compiled for training, and decoding compiles a
        # whole step instead; and in bf16 a copy in bf16 is faster where reading weights dominates
        # decoding. (On a CPU 125M parameters decode 2.7 times faster than in fp32, 4M no faster.)
        keeps_copy = config.engine.zero_stage == 3 or config.compile
        copies_in_bf16 = self.dtype == "bf16" and (
            self.device.type == "cuda" or count_parameters(policy) > BF16_COPY_FROM
        )
        copy_dtype = torch.bfloat16 if copies_in_bf16 else torch.float32
        self.sampler = make_sampler(
            sampler,
            policy.to(self.device),
            self.pad_token_id,
            config.rollout_batch_size,
            dtype=copy_dtype if keeps_copy or copies_in_bf16 else None,
            compiled=config.compile,
        )
        adam: dict[str, Any] = {
            "betas": (config.adam_beta1, config.adam_beta2),
            "eps": config.adam_epsilon,
            "weight_decay": config.weight_decay,
            "dtype": self.dtype,
        }
        self.policy = make_engine(
            Policy(policy), config.engine, learning_rate=config.learning_rate, **adam
        )
        self.value: Any = None
        if config.has_critic:
            self.value = self._make_critic(models.value, adam)
        if config.lora is not None:
            self.reference = AdapterOff(self.policy)
        if config.compile:
            for part in filter(None, (self.policy, self.value, self.reward)):
                compile_layers(part.module)
            if config.lora is None:
                compile_layers(self.reference.module)

    def _make_critic(self, model: PreTrainedModel | None, adam: dict[str, Any]) -> Any:
        """The value model's engine."""
        config = self.config
        if model is None:
            raise ValueError("ppo.advantage gae needs a value model: give `Models.value`")
        value = with_lora(model, config.lora, "SEQ_CLS", self.seed)
        if config.gradient_checkpointing:
            model.gradient_checkpointing_enable()
        return make_engine(
            ValueFunction(value), config.engine, learning_rate=config.value_learning_rate, **adam
        )

    # ---- the three moves: rollout, targets, update --------

    def rollout(
        self,
        prompts: Sequence[list[int]],
        iteration: int,
        asked: Sequence[Prompt] | None = None,
    ) -> RolloutBatch:
        """Answer the prompts (ids of the whole batch, the same on every process) and read the four
        models. `asked`: the same prompts as records, for a reward that reads text.

        `iteration` (from 1) and the run's seed fix what is said: equal again, different from any
        other iteration.

        Raises:
            ValueError: several processes cannot share the prompts and their minibatches evenly, or
                the answers to one prompt are not `num_generations` neighbours.
        """
        in_row = self.config.num_generations
        if len(prompts) % in_row or any(
            prompt != prompts[i - i % in_row] for i, prompt in enumerate(prompts)
        ):
            raise ValueError(
                f"with ppo.num_generations {in_row} every prompt comes {in_row} times in a row"
            )
        if self.world_size > 1 and len(prompts) != self.config.batch_size:
            raise ValueError(f"{len(prompts)} prompts, not batch_size {self.config.batch_size}")
        mine = share_of(len(prompts), self.world_size, self.rank)[0]
        asked = asked and [asked[i] for i in mine]
        with self.profile.measure("generate"):
            parts: dict[str, Any] = dict(
                self._sample([prompts[i] for i in mine], self.sampling(iteration, mine[0]))
            )
        ids, mask, actions = parts["input_ids"], parts["attention_mask"], parts["action_mask"]
        rows, temperature = self.config.per_device_eval_batch_size, self.config.temperature
        self.policy.eval()
        parts["values"] = None
        with torch.no_grad():
            if self.recompute:
                with self.profile.measure("old_logprobs"):
                    recomputed = read_tokens(
                        lambda *batch: self.policy(*batch, temperature), ids, mask, actions, rows
                    )
                ratios = (recomputed - parts["logprobs"])[actions].exp()
                self.sampler_error = float(all_reduce_max((ratios - 1).abs().max()))
                parts["logprobs"] = recomputed
            with self.profile.measure("reference"), self.reference.ready() as reference:
                parts["ref_logprobs"] = read_tokens(
                    lambda *batch: reference(*batch, temperature), ids, mask, actions, rows
                )
            with self.profile.measure("reward"):
                parts["scores"] = self._scores(parts, asked)
            if self.value is not None:
                self.value.eval()
                with self.profile.measure("value"):
                    parts["values"] = read_tokens(self.value, ids, mask, actions, rows)
        return gather(RolloutBatch(**parts), self.world_size)

    def targets(self, batch: RolloutBatch) -> tuple[Targets, dict[str, float]]:
        """Scores to KL-shaped rewards to advantages, over the whole batch; and what to log.

        The score is scaled, then clipped, then reduced for a missing end. The running scale and the
        KL controller learn from the batch, so call it once a rollout.
        """
        config, scores = self.config, batch.scores
        if config.scale_scores:
            self.score_scale.update(scores)
            scores = scores / self.score_scale.std
        if config.score_clip is not None:
            scores = scores.clamp(-config.score_clip, config.score_clip)
        if self.stop_token_ids:
            scores = scores - config.missing_eos_penalty * (~batch.finished)
        kl_coef = self.kl.kl_coef
        rewards = kl_shaped_rewards(
            scores, batch.logprobs, batch.ref_logprobs, batch.action_mask, kl_coef
        )
        if config.whiten_rewards:
            rewards = whiten(rewards, batch.action_mask, shift_mean=False)
        targets = self._advantages(rewards, batch)
        metrics = rollout_metrics(batch, scores, targets.returns, kl_coef, config.num_generations)
        if self.recompute:
            metrics["rollout/sampler_error"] = self.sampler_error
        self.kl.update(metrics["objective/kl"], len(batch.scores))
        return targets, metrics

    def _advantages(self, rewards: Tensor, batch: RolloutBatch) -> Targets:
        """What `advantage` makes of the rewards (B, T) of the whole batch."""
        config, mask = self.config, batch.action_mask
        if config.advantage == "rloo":
            return Targets(rloo(rewards, mask, config.num_generations), None)
        if config.advantage == "grpo":
            return Targets(grpo(rewards, mask, config.num_generations), None)
        if config.advantage == "reinforce++":
            return Targets(reinforce_plus_plus(rewards, mask), None)
        assert batch.values is not None
        advantages, returns = gae(rewards, batch.values, mask, config.gamma, config.gae_lambda)
        return Targets(whiten(advantages, mask), returns)

    def update(
        self,
        batch: RolloutBatch,
        targets: Targets,
        documents: Iterator[Tensor] | None,
        iteration: int,
    ) -> dict[str, float]:
        """Inner epochs of PPO with the ptx windows (D, T) that `documents` yields a step, then the
        weight average.
        """
        warm = constant_with_warmup(iteration - 1, self.config.warmup_iterations) * self.lr_factor
        rates = {"policy": self.config.learning_rate * warm}
        if self.config.has_critic:
            rates["value"] = self.config.value_learning_rate * warm
        diagnose = (
            self.config.engine.zero_stage == 0 and (iteration - 1) % self.config.gradient_steps == 0
        )
        metrics = self._update(batch, targets, documents, rates, (self.seed, iteration), diagnose)
        with self.profile.measure("ema"):
            self.ema.update()
        self.episodes += len(batch.scores)
        self.tokens += int(batch.action_mask.sum())
        names = {"policy": "lr", "value": "lr_value"}
        return metrics | {names[engine]: rate for engine, rate in rates.items()}

    # ---- what is around them --------

    def sampling(self, iteration: int, first_row: int = 0) -> SamplingParams:
        """How the rollouts of an iteration are sampled."""
        return SamplingParams(
            self.config.response_length,
            self.config.temperature,
            stop_token_ids=self.stop_token_ids,
            absent_token_ids=self.absent_token_ids,
            seed=sampling_seed(self.seed, iteration),
            first_row=first_row,
        )

    def answer(
        self,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        asked: Sequence[Prompt] | None = None,
    ) -> tuple[list[list[int]], list[float]]:
        """Responses and their scores, outside of training. Every process answers all of them."""
        parts = self._sample(prompts, params)
        scores = self._scores(parts, asked)
        rows_and_masks = zip(parts["input_ids"], parts["action_mask"], strict=True)
        return [ids[mask].tolist() for ids, mask in rows_and_masks], scores.tolist()

    def _sample(self, prompts: Sequence[list[int]], params: SamplingParams) -> dict[str, Tensor]:
        """Sample from the policy as it is now. Sharded weights are gathered once for all tokens,
        into the copy.
        """
        with gathered(self.policy):
            self.sampler.update_weights(self.policy.module.model)
        return episodes(
            prompts, self.sampler.generate(prompts, params), self.pad_token_id, self.device
        )

    def _scores(self, parts: dict[str, Tensor], asked: Sequence[Prompt] | None) -> Tensor:
        """The reward of sampled answers, (B,). Their texts are decoded where the reward reads
        text.
        """
        texts = None
        if self.reads_text:
            assert self.decode is not None and asked is not None, "a reward of texts needs texts"
            rows = zip(parts["input_ids"], parts["action_mask"], strict=True)
            texts = [self.decode(ids[mask].tolist()) for ids, mask in rows]
        with self.reward.ready() as reward:
            return read_scores(
                reward,
                parts["input_ids"],
                parts["attention_mask"],
                parts["finished"],
                self.stop_token_ids,
                self.config.per_device_eval_batch_size,
                asked,
                texts,
            )

    def save(self, folder: Path) -> None:
        """All state into `folder`, every process its part."""
        save_engine(self.policy, folder / "policy")
        if self.value is not None:
            save_engine(self.value, folder / "value")
        state = {
            "ema": self.ema.state_dict(),
            "kl": self.kl.state_dict(),
            "score_scale": self.score_scale.state_dict(),
            "lr_factor": self.lr_factor,
            "rollbacks": self.rollbacks,
            "recompute": self.recompute,
            "episodes": self.episodes,
            "tokens": self.tokens,
            "metrics": self.metrics,
            "rng": rng_state(),
        }
        torch.save(state, folder / f"learner-{self.rank}.pt")

    def load(self, folder: Path) -> None:
        """Put back what `save` wrote, bit for bit."""
        load_engine(self.policy, folder / "policy")
        if self.value is not None:
            load_engine(self.value, folder / "value")
        state = torch.load(folder / f"learner-{self.rank}.pt", weights_only=False)
        self.ema.load_state_dict(state["ema"])
        self.kl.load_state_dict(state["kl"])
        self.score_scale.load_state_dict(state["score_scale"])
        self.lr_factor, self.rollbacks = state["lr_factor"], state["rollbacks"]
        self.recompute, self.metrics = state["recompute"], state["metrics"]
        self.episodes, self.tokens = state["episodes"], state["tokens"]
        set_rng_state(state["rng"])
