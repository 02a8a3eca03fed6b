"""Reward modelling: learn what labelers prefer from their rankings of K responses. The result
scores any response.

InstructGPT, section 3.5 and appendix C.2: all pairs of one ranking are one batch element, with one
forward per response; the loss of a ranking is the mean over its untied pairs; a batch is 64
rankings; one epoch, because a second one overfits; afterwards a bias makes the labelers'
demonstrations score mean 0.

Reads   the SFT model (or any other) and rankings: train, validation, and those of held-out
        labelers; demonstrations.
Writes  final/: the reward model (`AutoModelForSequenceClassification`; its score is the logit
        less `reward_bias`), with trust.json, trust.html and trust.png, which say how far to
        believe it. members/ and held_out/ on request.
Run     python -m reward.train RECIPE
        torchrun --nproc-per-node 2 -m reward.train RECIPE
        deepspeed --module reward.train RECIPE

The loss of an update is a mean over the global batch's rankings, however it is cut into
micro-batches and processes. What is left out: early stopping (one epoch is the regulariser) and any
use of labelers' flags.
"""

import time
from functools import partial
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel

from podium.attention import choose_attention
from podium.engine import (
    init_distributed,
    load_engine,
    make_engine,
    save_engine,
    set_clipping,
)
from podium.errors import Interrupted
from podium.guard import SpikeGuard
from podium.lora import merge_lora, with_lora
from podium.models import moved
from podium.products import even_products
from podium.rewards.folders import brings_head
from podium.rewards.model import (
    RewardEnsemble,
    new_reward_model,
    save_reward_model,
    started_reward_model,
)
from podium.rewards.score import check_shared_prefix
from podium.run.context import StageContext
from podium.run.launch import run_stage_main
from podium.run.rollback import go_back, load_guard, save_guard, without_batches
from podium.runtime import Dtype, rng_state, set_rng_state
from podium.schedule import cosine_to_fraction
from podium.sharding import full_state_dict
from reward.batches import (
    EncodedRanking,
    encode_rankings,
)
from reward.bias import center, zero_point
from reward.config import Config
from reward.evaluate import headline, trust_report
from reward.planning import (
    InitialModel,
    TrainingPlan,
    initial_model,
    plan_training,
    ranking_sets,
)
from reward.report import describe, write_report
from reward.sources import draws_of, in_half, merge_splits
from reward.updates import Objective, ScoringModule, update, validate

__all__ = ["Config", "main"]


Weights = dict[str, torch.Tensor]


def main(config: Config, stage: StageContext) -> None:
    """Train the reward model, from the start or from the newest checkpoint, and save it."""
    # 1. Rankings as tokens. What cannot teach is dropped, counted and reported.
    init_distributed()
    initial = initial_model(stage.parent(config.model), config.max_length, stage.special_tokens())
    if brings_head(initial.folder):
        kept = keeps_head(initial.folder, config.new_head, config.members)
        stage.logbook(
            f"'{config.model}' is a reward model: "
            + ("its head is trained on" if kept else "a new head takes the place of its own")
        )
    draws = draws_of(stage, config.rankings, config.num_train_epochs)
    sets = ranking_sets(config.rankings, stage, draws)
    plans = plan_training(config, stage, sets, initial)
    validation = [ranking for splits, _ in sets for ranking in splits.validation]
    validation_items, _ = encode_rankings(
        validation[: config.eval_rankings], initial.tokenizer, initial.max_length
    )

    # 2. Train: one model, the members of an ensemble, or a second one on the other half of the
    #    prompts.
    trained, tokens = train_models(config, stage, initial, plans, validation_items)

    # 3. The bias that makes demonstrations score mean 0, and the report that says how far to
    #    believe the model.
    def save(folder: Path) -> None:
        save_reward_model(reward_model, initial.tokenizer, folder)
        for model in models[config.members :]:
            save_reward_model(model, initial.tokenizer, folder / "held_out")
        write_report(report, folder)

    if not stage.is_main:  # it has given its share of the weights; the main process does the rest
        stage.finish(lambda folder: None, {}, "")
        return
    models = [
        moved(merged_model(new_module(config, initial, plan.seed), weights), stage.device)
        for plan, weights in zip(plans, trained, strict=True)
    ]
    reward_model: PreTrainedModel | RewardEnsemble = models[0]
    if config.members > 1:
        reward_model = RewardEnsemble(models[: config.members], config.combine)
    train_rankings = [ranking for splits, _ in sets for ranking in splits.train]
    zero = zero_point(stage, train_rankings, initial.tokenizer, initial.max_length)
    # The ensemble too, whose rule (the worst, or less the variance) moves the mean again.
    for each in models if config.members == 1 else [*models, reward_model]:
        center(each, initial.tokenizer, zero)
    splits = merge_splits(sets)
    half = "first" if config.half == "split" else config.half
    learned = splits._replace(train=[r for r in splits.train if in_half(r, half)])
    report = trust_report(
        reward_model, initial.tokenizer, learned, stage.world(), initial.max_length
    )

    # 4. The reward model.
    stage.finish(save, headline(report), card(config, report), tokens=tokens)


def train_models(
    config: Config,
    stage: StageContext,
    initial: InitialModel,
    plans: list[TrainingPlan],
    validation_items: list[EncodedRanking],
) -> tuple[list[Weights], int]:
    """Train one model after the other; returns their weights and the tokens read. Goes on from a
    checkpoint.
    """
    checkpoint = stage.latest_checkpoint()
    done, trained = 0, list[Weights]()
    if checkpoint is not None:
        done, trained = checkpoint[0], torch.load(checkpoint[1] / "trained.pt")
    first = tokens = 0  # updates and tokens of the models before
    with stage.progress(sum(len(plan.batches) for plan in plans), "reward", start=done) as bar:
        for plan in plans:
            end = first + len(plan.batches)
            # A model whose updates are all done lies in the checkpoint's `trained`. Of the one that
            # was cut short the checkpoint holds the engine; the ones after it start anew.
            if end > done:
                fresh = partial(new_engine, config, initial, plan.seed, stage.device, stage.dtype)
                engine, objective = fresh()
                guard = SpikeGuard(config.guard, config.engine.gradient_clipping)
                number = max(first, done)
                if checkpoint is not None and first < done:
                    put_back(engine, stage, checkpoint[1])
                    load_guard(guard, checkpoint[1])
                while number < end:
                    number += 1
                    set_clipping(engine, guard.clip_factor * config.engine.gradient_clipping)
                    rate = guard.lr_factor * learning_rate_at(
                        config, number - first, len(plan.batches)
                    )
                    batches = without_batches(plan.batches, 1, guard.skipped)
                    metrics = one_update(engine, objective, batches[number - first - 1], rate)
                    # Before anything is logged or saved: a checkpoint must never hold a diverged
                    # model.
                    if problem := guard.breach(metrics["loss"], metrics["grad_norm"]):
                        back, folder = go_back(guard, stage, number, problem, start=first)
                        if folder is None:
                            engine, objective = fresh()
                        else:
                            put_back(engine, stage, folder)
                        bar.advance(back - (number - 1))
                        number = back
                        continue
                    if validation_items and (number % config.eval_steps == 0 or number == end):
                        metrics |= validate(engine, validation_items, objective)
                    stage.log(number, metrics)
                    bar.advance(
                        tokens=int(metrics["tokens"]),
                        loss=metrics["loss"],
                        accuracy=metrics["accuracy"],
                    )
                    # At a model's last update there is nothing to save: the next model's first
                    # checkpoint holds its weights, and so does final/.
                    stopping = stage.stop_requested
                    if number < end and (stopping or number % config.save_steps == 0):
                        planned = number % config.save_steps == 0
                        save_progress(stage, engine, guard, number, trained, not planned)
                        if stopping:
                            raise Interrupted(
                                f"reward training stopped at update {number}, checkpoint saved"
                            )
                trained.append(full_state_dict(engine, folder=stage.dir))
            first = end
            tokens += sum(item.tokens for batch in plan.batches for item in batch)
    return trained, tokens


def new_engine(
    config: Config, initial: InitialModel, seed: int, device: torch.device, dtype: Dtype
) -> tuple[Any, Objective]:
    """A fresh reward model under an engine, and what it minimises."""
    module = new_module(config, initial, seed)
    choose_attention(module.reward_model, device)
    even_products(module, device)
    if config.shared_prefix:
        check_shared_prefix(module.reward_model, initial.max_length)
    if config.gradient_checkpointing:
        module.reward_model.gradient_checkpointing_enable()
    engine = make_engine(
        module.to(device),
        config.engine,
        learning_rate=config.learning_rate,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        dtype=dtype,
    )
    pad = int(initial.tokenizer.pad_token_id)
    return engine, Objective(
        config.loss, config.micro_batch_tokens, config.shared_prefix, pad, dtype
    )


def keeps_head(folder: Path, new_head: bool, members: int) -> bool:
    """Whether training goes on with the parent's own head. Members of an ensemble differ by their
    heads, so they draw new ones.
    """
    return brings_head(folder) and not new_head and members == 1


def new_module(config: Config, initial: InitialModel, seed: int) -> ScoringModule:
    """The parent with a fresh head, or the head it has where it is a reward model itself (and
    adapters), as the engine wants it; the same seed gives the same numbers.
    """
    if keeps_head(initial.folder, config.new_head, config.members):
        model = started_reward_model(initial.folder, initial.tokenizer)
    else:
        model = new_reward_model(initial.folder, initial.tokenizer, seed)
    return ScoringModule(with_lora(model, config.lora, "SEQ_CLS", seed))


def learning_rate_at(config: Config, number: int, updates: int) -> float:
    """The learning rate of update `number` (from 1) of so many."""
    return config.learning_rate * cosine_to_fraction(
        number, updates, config.warmup_steps, config.min_lr_rate
    )


def one_update(
    engine: Any, objective: Objective, batch: list[EncodedRanking], learning_rate: float
) -> dict[str, float]:
    """One update and its metrics."""
    began = time.perf_counter()
    metrics = update(engine, batch, learning_rate, objective)
    tokens = sum(item.tokens for item in batch)
    return metrics | {"tokens": tokens, "tokens_per_second": tokens / (time.perf_counter() - began)}


def put_back(engine: Any, stage: StageContext, folder: Path) -> None:
    """What `save_progress` wrote of the model that is being trained."""
    load_engine(engine, folder)
    set_rng_state(torch.load(folder / f"rng-{stage.rank}.pt", weights_only=False))


def save_progress(
    stage: StageContext,
    engine: Any,
    guard: SpikeGuard,
    number: int,
    trained: list[Weights],
    stopping: bool,
) -> None:
    """A checkpoint: every process its part of the engine, the main one also the weights of the
    models that are finished.
    """

    def write(folder: Path) -> None:
        save_engine(engine, folder)
        torch.save(rng_state(), folder / f"rng-{stage.rank}.pt")
        if stage.is_main:
            torch.save(trained, folder / "trained.pt")
        save_guard(guard, stage, folder)

    stage.save_checkpoint(number, write, stopping)


def merged_model(module: ScoringModule, weights: Weights) -> PreTrainedModel:
    """The plain reward model of trained weights, adapters merged, in eval mode. `module` is a fresh
    one of the same shape.
    """
    module.load_state_dict(weights)
    return merge_lora(module.model).eval()


def card(config: Config, report: dict[str, Any]) -> str:
    """The model card: what was learned from what, and how far to trust it."""
    how = f"{config.loss} loss" + (
        f", margin by {config.margin}" if config.margin != "none" else ""
    )
    several = f" An ensemble of {config.members} ({config.combine})." if config.members > 1 else ""
    return (
        "A reward model: scores a response to a prompt; only differences between answers to "
        "one prompt mean much."
        f"{several} Trained from `{config.model}` on rankings of K responses ({how}; epochs: "
        f"{config.num_train_epochs})."
        "\n\n"
        "Score = logit of `AutoModelForSequenceClassification` at the last token, less "
        "`reward_bias` in config.json; "
        "the training demonstrations score mean 0.\n\n"
        f"{describe(report)}"
    )


if __name__ == "__main__":
    run_stage_main("reward")
