"""For users of TRL's PPOTrainer (removed in 1.13): the same inputs, our loop.
docs/use/migrating-from-trl.md has the names.

learner = learner_from_trl(args, tokenizer, model, ref_model, reward_model, value_model)
for metrics in iterations(learner, prompts_from_trl(train_dataset, tokenizer.pad_token_id)):
    print(metrics["objective/scores"], metrics["objective/kl"])
model.save_pretrained("policy")
"""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.packing import batches
from podium.errors import RecipeError
from podium.rewards.model_reward import ModelReward
from ppo.config import Config
from ppo.learner import Learner, Models

__all__ = [
    "config_from_trl",
    "iterations",
    "learner_from_trl",
    "prompts_from_trl",
]

SAME_NAME = (
    "total_episodes",
    "num_mini_batches",
    "num_ppo_epochs",
    "response_length",
    "temperature",
    "kl_coef",
    "vf_coef",
    "gamma",
    "whiten_rewards",
    "per_device_train_batch_size",
    "gradient_checkpointing",
    "weight_decay",
    "adam_beta1",
    "adam_beta2",
    "adam_epsilon",
)
RENAMED = {
    "cliprange": "clip_range",
    "cliprange_value": "clip_range_value",
    "lam": "gae_lambda",
    "local_rollout_forward_batch_size": "rollout_batch_size",
}


def config_from_trl(args: Any, processes: int = 1) -> Config:
    """Our config of a TRL PPOConfig (or of a mapping with its names): plain PPO, no ptx, no
    average, constant rate.

    Raises:
        RecipeError: a setting that we do not have.
    """
    given = dict(args) if isinstance(args, Mapping) else vars(args)
    if given.get("kl_estimator", "k1") != "k1":
        raise RecipeError(
            "kl_estimator 'k3' is only logged here (objective/kl_k3), the reward takes k1",
            "leave kl_estimator out: k1 is unbiased, and so is its gradient",
        )
    ours = {name: given[name] for name in SAME_NAME if given.get(name) is not None}
    ours |= {new: given[old] for old, new in RENAMED.items() if given.get(old) is not None}
    rate = given.get("learning_rate", 3e-6)
    rows = (
        given.get("per_device_train_batch_size", 8)
        * given.get("gradient_accumulation_steps", 1)
        * processes
    )
    if isinstance(max_norm := given.get("max_grad_norm"), int | float) and max_norm > 0:
        ours["engine"] = {"gradient_clipping": max_norm}
    return Config(
        **ours,
        batch_size=rows,
        learning_rate=rate,
        value_learning_rate=rate,
        ptx_coef=0.0,
        final_weights="last",
        warmup_iterations=given.get("warmup_steps") or 0,
        missing_eos_penalty=given.get("missing_eos_penalty") or 0.0,
    )


def learner_from_trl(
    args: Any,
    processing_class: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    ref_model: PreTrainedModel | None,
    reward_model: PreTrainedModel,
    value_model: PreTrainedModel,
) -> Learner:
    """A learner on TRL's four models. `model` and `value_model` are trained in place.

    The reward and value models are `AutoModelForSequenceClassification` with one label. Without
    `ref_model` the policy as it is now is copied.
    """
    given = dict(args) if isinstance(args, Mapping) else vars(args)
    stop = given.get("stop_token_id")
    if given.get("stop_token") == "eos":
        stop = processing_class.eos_token_id
    return Learner(
        config_from_trl(args),
        Models(model, ModelReward(reward_model), value_model, ref_model),
        processing_class.pad_token_id,
        () if stop is None else (stop,),
        seed=given.get("seed", 42),
        dtype="bf16" if given.get("bf16") else "fp32",
    )


def prompts_from_trl(
    train_dataset: Iterable[Mapping[str, Any]], pad_token_id: int
) -> list[list[int]]:
    """Token ids of the prompts: the column `input_ids`, padding on the left or right taken off."""
    prompts = []
    for row in train_dataset:
        ids = list(row["input_ids"])
        while ids and ids[0] == pad_token_id:
            ids.pop(0)
        while ids and ids[-1] == pad_token_id:
            ids.pop()
        prompts.append(ids)
    return prompts


def iterations(learner: Learner, prompts: Sequence[list[int]]) -> Iterator[dict[str, float]]:
    """Train; yields the metrics of each iteration, under the names that TRL logs and more."""
    for iteration in range(1, learner.config.iterations + 1):
        rows = next(
            batches(len(prompts), learner.config.batch_size, learner.seed, start=iteration - 1)
        )
        batch = learner.rollout([prompts[i] for i in rows], iteration)
        targets, metrics = learner.targets(batch)
        metrics |= learner.update(batch, targets, None, iteration)
        yield metrics | learner.profile.drain()
