"""PPO-ptx: raise the reward, keep the language.

Step 3 of InstructGPT (Ouyang et al. 2022, section 3.5, appendix C.4). The policy starts from a
fine-tuned model, which stays as the reference; it answers prompts, the reward model scores the
answers, every token pays for its distance from the reference, and the gradient of the pretraining
documents joins PPO's in each step (ptx).

Reads   prompts (train), documents (train) when `ptx_coef` is above 0, a model (`model`), a
        `reward`.
Writes  final/: the policy; final/value/: the value model, where there is one; with LoRA also
        final/adapter/; samples/: answers to fixed prompts; breaches/: the iterations that the
        guard took back.
Run     python -m ppo.train RECIPE        torchrun --nproc-per-node 2 -m ppo.train RECIPE

The loop reads as the algorithm does: sample prompts, roll out, score, shape the rewards by the KL,
compute advantages, update, log. The maths is in `advantages.py` and `losses.py`; `RolloutBatch` in
`rollout.py` is what passes from rollout to update; `inputs.py` reads models, prompts and documents.
The recipe's section `sampler:` says who samples (`podium.sampling.kinds`). Reward models that score
every token are left out.
"""

from pathlib import Path
from typing import Any

import numpy as np
from transformers import PreTrainedTokenizerBase

from data.packing import batches
from data.records import Prompt
from data.special_tokens import document_separator_id
from data.template import (
    decode_response,
    save_stop_token_ids,
    stop_token_ids,
    turns_in_words,
)
from podium.errors import DivergenceError, Interrupted
from podium.lora import merge_lora, with_lora
from podium.models import (
    absent_token_ids,
    load_causal_lm,
    save_model,
)
from podium.rewards.model import (
    save_reward_model,
)
from podium.run.context import StageContext, planned_checkpoints_of
from podium.run.launch import run_stage_main
from podium.run.registry import label_of
from podium.sharding import full_state_dict
from ppo.config import Config
from ppo.guard import GuardConfig, breaches
from ppo.inputs import (
    documents_of,
    fixed_prompts,
    load_models,
    load_prompts,
    load_value_model,
    load_windows,
    prompt_limit,
)
from ppo.learner import Learner
from ppo.watch import gold_metrics, write_samples

__all__ = ["Config", "main"]


def main(config: Config, stage: StageContext) -> None:
    """Train the policy, from the start or from the newest checkpoint, and save it."""
    # 1. Tokenizer, four models, engines; go on from a checkpoint if there is one.
    tokenizer, models = load_models(config, stage)
    learner = Learner(
        config,
        models,
        pad_token_id=tokenizer.pad_token_id,
        stop_token_ids=stop_token_ids(tokenizer, models.policy),
        seed=stage.seed,
        dtype=stage.dtype,
        device=stage.device,
        separator_id=document_separator_id(tokenizer),
        sampler=stage.sampler(),
        decode=lambda ids: decode_response(tokenizer, ids),
        absent_token_ids=absent_token_ids(tokenizer, models.policy.config),
    )
    done = resume(learner, stage)

    # 2. Prompts and documents. Their order follows from the seed and the number of the iteration.
    limit = prompt_limit(models, config.max_prompt_tokens, config.response_length)
    wanted = config.iterations * config.prompts_per_iteration
    prompts, prompt_ids = load_prompts(stage, tokenizer, limit, config.response_length, wanted)
    windows = load_windows(config, stage, tokenizer)
    fixed = fixed_prompts(config.sample_prompts, stage, tokenizer)
    world = stage.world() if stage.is_main else None  # gold scores are logged, never trained on

    # 3. The loop.
    # the iteration of the newest checkpoint that an unbroken run has, which the guard goes back to
    saved = int(planned_checkpoints_of(stage.dir)[-1].name)
    with stage.progress(config.iterations, "ppo", unit="iteration", start=done) as progress:
        for iteration in range(done + 1, config.iterations + 1):
            drawn = next(
                batches(len(prompts), config.prompts_per_iteration, stage.seed, start=iteration - 1)
            )
            rows = np.repeat(drawn, config.num_generations)  # answers to one prompt are neighbours
            asked = [prompts[i] for i in rows]
            # samples, log-probs, scores, values
            batch = learner.rollout([prompt_ids[i] for i in rows], iteration, asked)
            targets, metrics = learner.targets(batch)  # KL-shaped rewards, advantages
            # The guard looks twice: a rollout that is wrong must not be learned from, and an update
            # that went wrong must be undone.
            problems = breaches(metrics, config.guard, iteration)
            if not problems:
                documents = documents_of(
                    windows,
                    config.steps_per_iteration,
                    config.windows_per_step,
                    stage.seed,
                    iteration,
                )
                metrics |= learner.update(batch, targets, documents, iteration)
                problems = breaches(metrics, config.guard, iteration)

            texts = [decode_response(tokenizer, ids) for ids in batch.responses()]
            metrics |= {
                "episode": iteration * config.batch_size,
                "guard/rollbacks": learner.rollbacks,
            }
            if world is not None:
                with learner.profile.measure("gold"):
                    metrics |= gold_metrics(world, asked, texts)
            if fixed and (iteration % config.sample_steps == 0 or iteration == config.iterations):
                show_samples(learner, tokenizer, fixed, stage, iteration)
            stage.log(iteration, metrics | learner.profile.drain())
            progress.advance(
                tokens=int(metrics["rollout/tokens"]), score=metrics["objective/scores"]
            )

            # A rollback undoes the iteration's learning but not its number: the run goes on with
            # the next prompts and other random numbers, or it would meet the same breach again.
            if problems:
                if stage.is_main:
                    write_samples(
                        stage.dir / "breaches", iteration, asked, texts, batch.scores.tolist()
                    )
                roll_back(learner, config.guard, stage, iteration, problems, saved)
            else:
                learner.metrics = metrics
            watch_sampler(learner, config.guard.max_first_error, stage, iteration, metrics)
            # After a rollback too: a resumed run must know of it, and of the lower learning rates.
            stopping, planned = stage.stop_requested, iteration % config.save_steps == 0
            if (planned or stopping or problems) and iteration < config.iterations:
                only_to_stop = not planned and not problems
                with learner.profile.measure("checkpoint"):
                    stage.save_checkpoint(iteration, learner.save, only_to_stop)
                if not only_to_stop:
                    saved = iteration
                if stopping:
                    raise Interrupted(
                        f"PPO stopped at iteration {iteration} of {config.iterations}, "
                        f"checkpoint saved"
                    )

    # 4. The policy (its average, by default) and the value model.
    stage.finish(
        lambda folder: save_final(learner, tokenizer, config, stage, folder),
        headline(learner),
        card(config, learner, tokenizer),
        tokens=learner.tokens,
    )


# ---- helpers, in the order of use --------


def resume(learner: Learner, stage: StageContext) -> int:
    """Put back the newest checkpoint and return its iteration; without one save the start, the
    guard's way back.
    """
    found = stage.latest_checkpoint()
    if found is None:
        stage.save_checkpoint(0, learner.save)
        return 0
    learner.load(found[1])
    return found[0]


def show_samples(
    learner: Learner,
    tokenizer: PreTrainedTokenizerBase,
    fixed: list[tuple[Prompt, list[int]]],
    stage: StageContext,
    step: int,
) -> None:
    """Answer the fixed prompts, always with the same random numbers, and write
    samples/<step>.jsonl.
    """
    asked = [prompt for prompt, _ in fixed]
    responses, scores = learner.answer([ids for _, ids in fixed], learner.sampling(0), asked)
    if stage.is_main:
        texts = [decode_response(tokenizer, ids) for ids in responses]
        write_samples(stage.dir / "samples", step, asked, texts, scores)


def roll_back(
    learner: Learner,
    guard: GuardConfig,
    stage: StageContext,
    iteration: int,
    problems: list[str],
    saved: int,
) -> None:
    """Take the learner back to the checkpoint of iteration `saved` and lower its learning rates.

    Raises:
        DivergenceError: the guard is told to stop, or has gone back too often.
    """
    reason, rollbacks = "; ".join(problems), learner.rollbacks
    if guard.on_breach == "stop" or rollbacks >= guard.max_rollbacks:
        stage.logbook(
            f"guard: iteration {iteration}: {reason}; stopped after {rollbacks} rollbacks"
        )
        raise DivergenceError(
            f"stage '{stage.name}' stopped at iteration {iteration}: {reason}",
            f"read {stage.dir}/breaches/{iteration:05d}.jsonl; lower ppo.learning_rate, raise "
            f"ppo.kl_coef, or mend the "
            "reward model; the thresholds are in ppo.guard",
        )
    learner.load(stage.dir / "checkpoints" / str(saved))
    learner.lr_factor *= guard.lr_factor
    learner.rollbacks += 1
    stage.logbook(
        f"guard: iteration {iteration}: {reason}; back to the state after iteration {saved}, "
        f"learning rates from now "
        f"on x {learner.lr_factor:g}"
    )


def watch_sampler(
    learner: Learner,
    limit: float | None,
    stage: StageContext,
    iteration: int,
    metrics: dict[str, float],
) -> None:
    """Before the first step every ratio is 1, unless sampler and trainer disagree on what the
    policy said; then its log-probabilities are recomputed from now on.
    """
    error = metrics.get("val/ratio_first_error", 0.0)
    if limit is None or error <= limit or learner.recompute:
        return
    learner.recompute = True
    stage.logbook(
        f"guard: iteration {iteration}: the sampler's probabilities differ from training's by up "
        f"to {error:.0%} before any step, above {limit:g} (guard.max_first_error); from now on "
        f"they are recomputed, as with ppo.old_logprobs: recomputed"
    )


def save_final(
    learner: Learner,
    tokenizer: PreTrainedTokenizerBase,
    config: Config,
    stage: StageContext,
    folder: Path,
) -> None:
    """The policy into `folder`, the value model (where there is one) into value/, LoRA's adapter
    into adapter/. All processes call it.
    """
    with learner.ema.swapped_in():
        policy_weights = full_state_dict(learner.policy, inside="model.", folder=stage.dir)
    if learner.value is not None:
        save_value_model(learner, tokenizer, config, stage, folder / "value")
    if not stage.is_main:
        return
    if config.lora is None:
        save_stop_token_ids(tokenizer, learner.policy.module.model)
        save_model(learner.policy.module.model, tokenizer, folder, policy_weights)
        return
    # Rebuilt from the parents, so that merging works whatever the ZeRO stage.
    policy: Any = with_lora(
        load_causal_lm(stage.parent(config.model)), config.lora, "CAUSAL_LM", stage.seed
    )
    policy.load_state_dict(policy_weights)
    policy.save_pretrained(str(folder / "adapter"))
    merged = merge_lora(policy)
    save_stop_token_ids(tokenizer, merged)
    save_model(merged, tokenizer, folder)


def save_value_model(
    learner: Learner,
    tokenizer: PreTrainedTokenizerBase,
    config: Config,
    stage: StageContext,
    folder: Path,
) -> None:
    """The value model in a reward model's layout. All processes call it."""
    weights = full_state_dict(learner.value, inside="model.", folder=stage.dir)
    if not stage.is_main:
        return
    if config.lora is None:
        save_reward_model(learner.value.module.model, tokenizer, folder, weights)
        return
    value = with_lora(load_value_model(config, stage), config.lora, "SEQ_CLS", stage.seed)
    value.load_state_dict(weights)
    save_reward_model(merge_lora(value), tokenizer, folder)


def headline(learner: Learner) -> dict[str, float]:
    """The numbers of stage.json, from the last iteration that was learned from."""
    metrics = learner.metrics | {"guard/rollbacks": learner.rollbacks}
    names = {
        "score": "objective/scores",
        "gold": "objective/gold",
        "kl": "objective/kl",
        "length": "rollout/length",
        "eos_rate": "rollout/eos_rate",
        "ptx_loss": "ptx/loss",
        "rollbacks": "guard/rollbacks",
    }
    return {short: metrics[name] for short, name in names.items() if name in metrics}


def card(config: Config, learner: Learner, tokenizer: PreTrainedTokenizerBase) -> str:
    """The model card's text: what was learned from, not what was planned."""
    metrics, iterations = learner.metrics, learner.episodes // config.batch_size
    name = label_of("ppo", config.model_dump())
    kind = (
        f"{name} (coefficient {config.ptx_coef:g})"
        if config.ptx_coef
        else f"{name} without the pretraining mix"
    )
    if config.num_generations > 1:
        kind += f", {config.num_generations} answers a prompt"
    weights = (
        f"the average of decay {config.ema_decay:g}"
        if config.final_weights == "ema"
        else "the last"
    )
    last = (
        f"In the last iteration: reward {metrics['objective/scores']:.3f}, "
        f"{metrics['objective/kl']:.2f} nats a response from its start, "
        f"{metrics['rollout/length']:.1f} tokens, {metrics['rollout/eos_rate']:.0%} ended by "
        f"themselves. "
        if metrics
        else "The guard took every iteration back. "
    )
    beside = (
        "`value/` holds the value model (a reward model's layout)."
        if config.has_critic
        else f"There is no value model: advantages are {config.advantage}'s."
    )
    return (
        f"A policy trained with {kind}: {learner.episodes:,} episodes in "
        f"{iterations} iterations, KL "
        f"coefficient {config.kl_coef:g}, learning rate {config.learning_rate:g}; the weights "
        f"are {weights}.\n\n{last}{beside}\n\n{turns_in_words(tokenizer, learner.stop_token_ids)}\n"
    )


if __name__ == "__main__":
    run_stage_main("ppo")
