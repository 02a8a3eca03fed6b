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
from collections import Counter
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from pydantic import BaseModel, ConfigDict, Field, model_validator
from transformers import AutoConfig, PreTrainedModel, PreTrainedTokenizerBase

from data.template import prepare_tokenizer
from podium.attention import attend_for_training
from podium.engine import (
    EngineConfig,
    full_state_dict,
    init_distributed,
    load_engine,
    make_engine,
    save_engine,
)
from podium.errors import DataError, Interrupted
from podium.lora import LoraConfig, merge_lora, with_lora
from podium.models import context_of, load_tokenizer, moved
from podium.progress import say
from podium.rewards.model import (
    Combine,
    RewardEnsemble,
    is_reward_model,
    new_reward_model,
    save_reward_model,
    started_reward_model,
)
from podium.run.context import StageContext
from podium.run.launch import run_stage_main
from podium.runtime import Dtype, rng_state, set_rng_state
from podium.schedule import cosine_to_fraction
from reward.batches import (
    EncodedRanking,
    Margin,
    encode_rankings,
    epoch_batches,
    shuffled_pairs,
    weights_of_mean_one,
)
from reward.bias import center, zero_point
from reward.evaluate import headline, trust_report
from reward.report import describe, write_report
from reward.sources import RankingSplits, in_half, merge_splits, one_split, read_splits
from reward.updates import LossName, Objective, ScoringModule, update, validate


class RankingSet(BaseModel):
    """One of several sets of rankings, e.g. helpful and harmless ones."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: str = Field(description="a rankings stage or folder, or a JSONL file of rankings")
    weight: float = Field(
        1.0, gt=0, description="how much one of its rankings counts; Bai et al. 2022 tried 1 to 10"
    )


class Config(BaseModel):
    """How to learn the labelers' preferences. The defaults suit the embedded world; the paper's
    value is named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "sft",
        description="where to start: a stage (sft, pretrain), a folder or a hub id; paper: SFT",
    )
    new_head: bool = Field(
        False,
        description="draw a new scalar head although `model` is a reward model and has one; "
        "members of an ensemble always do",
    )
    rankings: str | list[RankingSet] | None = Field(
        "rankings",
        description="a rankings stage, a folder, a JSONL file, weighted sets of these; null = "
        "data.rankings",
    )
    half: Literal["all", "first", "second", "split"] = Field(
        "all",
        description="prompts to learn from; split = the first half, and held_out/ gets a model "
        "of the second",
    )
    members: int = Field(1, ge=1, description="models that differ by seed and are read as one")
    combine: Combine = Field(
        "mean", description="how members become one score: mean, min or mean_minus_variance"
    )
    loss: LossName = Field("pairwise", description="pairwise (the paper's) or plackett_luce")
    margin: Margin = Field(
        "none", description="wider gaps for clear preferences, by likert or strength; paper: none"
    )
    margin_scale: float = Field(
        1.0, gt=0, description="nats of gap asked for per unit of likert or strength"
    )
    batching: Literal["rankings", "shuffled_pairs"] = Field(
        "rankings",
        description="shuffled_pairs is what the paper warns of; a batch then counts pairs",
    )
    num_train_epochs: int = Field(
        1, gt=0, description="passes over the rankings; paper: 1 (the second overfits)"
    )
    batch_size: int = Field(
        64, gt=0, description="rankings an update over all processes; paper: 64 prompts"
    )
    learning_rate: float = Field(3e-4, gt=0, description="peak; paper: 9e-6 for 6B")
    warmup_steps: int = Field(0, ge=0, description="updates of linear warm-up; paper: none")
    min_lr_rate: float = Field(
        0.1, ge=0, le=1, description="fraction of the peak the cosine ends at; paper: 0.1"
    )
    adam_beta1: float = Field(
        0.9, ge=0, lt=1, description="decay of AdamW's first moment; paper: 0.9"
    )
    adam_beta2: float = Field(
        0.95, ge=0, lt=1, description="decay of AdamW's second moment; paper: 0.95"
    )
    adam_epsilon: float = Field(
        1e-8, gt=0, description="keeps AdamW's step finite; not in the paper"
    )
    weight_decay: float = Field(0.0, ge=0, description="on matrices only; not in the paper")
    max_length: int | None = Field(
        None, gt=1, description="tokens of prompt + response; null: the model's context"
    )
    micro_batch_tokens: int = Field(
        4096, gt=0, description="padded tokens a backward pass holds in memory"
    )
    shared_prefix: bool = Field(
        False, description="compute a prompt once for its K answers; pays for long prompts"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass to save memory"
    )
    lora: LoraConfig | None = Field(
        None, description="train low-rank adapters instead of all weights; merged in final/"
    )
    engine: EngineConfig = Field(
        default_factory=EngineConfig, description="ZeRO stage, offload, clipping"
    )
    eval_steps: int = Field(
        10, gt=0, description="updates between looks at the validation rankings; also at the end"
    )
    eval_rankings: int = Field(
        200, gt=0, description="validation rankings read each time; the report reads all"
    )
    save_steps: int = Field(25, gt=0, description="updates between checkpoints")

    @model_validator(mode="after")
    def _one_way_to_save_memory(self) -> "Config":
        if self.shared_prefix and self.gradient_checkpointing:
            raise ValueError(
                "shared_prefix needs the prompt's keys and values, which "
                "gradient_checkpointing throws away; "
                "switch one of them off, or lower micro_batch_tokens"
            )
        return self


class TrainingPlan(NamedTuple):
    """One model to train: what it learns from, update by update, and its seed."""

    batches: list[list[EncodedRanking]]
    seed: int


class InitialModel(NamedTuple):
    """What every trained model starts from: a folder, its tokenizer, and how many tokens a prompt
    and its response may have together.
    """

    folder: Path
    tokenizer: PreTrainedTokenizerBase
    max_length: int


Weights = dict[str, torch.Tensor]


def main(config: Config, stage: StageContext) -> None:
    """Train the reward model, from the start or from the newest checkpoint, and save it."""
    # 1. Rankings as tokens. What cannot teach is dropped, counted and reported.
    init_distributed()
    initial = initial_model(stage.parent(config.model), config.max_length)
    if is_reward_model(initial.folder):
        kept = keeps_head(config, initial.folder)
        stage.logbook(
            f"'{config.model}' is a reward model: "
            + ("its head is trained on" if kept else "a new head takes the place of its own")
        )
    sets = ranking_sets(config, stage)
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
        moved(finished_model(config, initial, plan.seed, weights), stage.device)
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
    report = trust_report(
        reward_model, initial.tokenizer, merge_splits(sets), stage.world(), initial.max_length
    )

    # 4. The reward model.
    stage.finish(save, headline(report), card(config, report), tokens=tokens)


def initial_model(folder: Path, max_length: int | None) -> InitialModel:
    """The model of a folder; sequences are no longer than `max_length` or the model's context."""
    tokenizer = prepare_tokenizer(load_tokenizer(folder))
    context = context_of(AutoConfig.from_pretrained(folder))
    return InitialModel(folder, tokenizer, min(max_length or 10**9, context or 10**9))


def ranking_sets(config: Config, stage: StageContext) -> list[tuple[RankingSplits, float]]:
    """Every set of rankings with its weight; no set teaches what another holds back."""
    if not isinstance(config.rankings, list):
        sets, weights = [read_splits(stage, config.rankings)], [1.0]
    else:
        sets = [read_splits(stage, entry.source) for entry in config.rankings]
        sets = one_split(sets, "reward.rankings")
        weights = [entry.weight for entry in config.rankings]
    for splits in sets:
        note_counts(stage, splits.dropped)
    return list(zip(sets, weights, strict=True))


def plan_training(
    config: Config,
    stage: StageContext,
    sets: list[tuple[RankingSplits, float]],
    initial: InitialModel,
) -> list[TrainingPlan]:
    """What to train, in order: the members, then the model of the second half if one is wanted."""
    half = "first" if config.half == "split" else config.half
    items = training_items(config, stage, sets, initial, half)
    plans = [
        TrainingPlan(training_batches(config, items, stage.seed + i), stage.seed + i)
        for i in range(config.members)
    ]
    if config.half == "split":
        others = training_items(config, stage, sets, initial, "second")
        plans.append(TrainingPlan(training_batches(config, others, stage.seed), stage.seed))
    return plans


def training_items(
    config: Config,
    stage: StageContext,
    sets: list[tuple[RankingSplits, float]],
    initial: InitialModel,
    half: str,
) -> list[EncodedRanking]:
    """The training rankings of one half of the prompts (or all) as tokens, their weights of mean 1;
    drops are told.

    Raises:
        DataError: no ranking is left that could teach anything.
    """
    items: list[EncodedRanking] = []
    counts: Counter[str] = Counter()
    for splits, weight in sets:
        found, dropped = encode_rankings(
            [ranking for ranking in splits.train if in_half(ranking, half)],
            initial.tokenizer,
            initial.max_length,
            margin=config.margin,
            margin_scale=config.margin_scale,
            weight=weight,
        )
        items, counts = items + found, counts + dropped
    note_counts(stage, counts)
    if not items:
        reasons = (
            ", ".join(f"{count} {reason}" for reason, count in counts.items()) or "there are none"
        )
        raise DataError(
            f"stage '{stage.name}'",
            field="rankings",
            problem=f"nothing to learn from: {reasons}",
            fix="give rankings with at least two responses that fit the context and are not "
            "all tied",
        )
    return weights_of_mean_one(
        shuffled_pairs(items) if config.batching == "shuffled_pairs" else items
    )


def training_batches(
    config: Config, items: list[EncodedRanking], seed: int
) -> list[list[EncodedRanking]]:
    """The batches of all epochs, in an order set by the seed."""
    epochs = range(config.num_train_epochs)
    return [
        batch for epoch in epochs for batch in epoch_batches(items, config.batch_size, seed, epoch)
    ]


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
                engine, objective = new_engine(
                    config, initial, plan.seed, stage.device, stage.dtype
                )
                if checkpoint is not None and first < done:
                    load_engine(engine, checkpoint[1])
                    set_rng_state(
                        torch.load(checkpoint[1] / f"rng-{stage.rank}.pt", weights_only=False)
                    )
                for number in range(max(first, done) + 1, end + 1):
                    metrics = one_update(config, engine, objective, plan.batches, number - first)
                    # Before anything is logged or saved: a checkpoint must never hold a diverged
                    # model.
                    for name in ("loss", "grad_norm"):
                        stage.check_finite(name, metrics[name], number)
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
                        save_progress(stage, engine, number, trained)
                        if stopping:
                            raise Interrupted(
                                f"reward training stopped at update {number}, checkpoint saved"
                            )
                trained.append(full_state_dict(engine))
            first = end
            tokens += sum(item.tokens for batch in plan.batches for item in batch)
    return trained, tokens


def new_engine(
    config: Config, initial: InitialModel, seed: int, device: torch.device, dtype: Dtype
) -> tuple[Any, Objective]:
    """A fresh reward model under an engine, and what it minimises."""
    module = new_module(config, initial, seed)
    attend_for_training(module.reward_model, device, initial.max_length)
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


def keeps_head(config: Config, folder: Path) -> bool:
    """Whether training goes on with the parent's own head. Members of an ensemble differ by their
    heads, so they draw new ones.
    """
    return is_reward_model(folder) and not config.new_head and config.members == 1


def new_module(config: Config, initial: InitialModel, seed: int) -> ScoringModule:
    """The parent with a fresh head, or the head it has where it is a reward model itself (and
    adapters), as the engine wants it; the same seed gives the same numbers.
    """
    if keeps_head(config, initial.folder):
        model = started_reward_model(initial.folder, initial.tokenizer)
    else:
        model = new_reward_model(initial.folder, initial.tokenizer, seed)
    return ScoringModule(with_lora(model, config.lora, "SEQ_CLS", seed))


def one_update(
    config: Config,
    engine: Any,
    objective: Objective,
    batches: list[list[EncodedRanking]],
    number: int,
) -> dict[str, float]:
    """Update `number` (from 1) of the planned ones, with its metrics."""
    began = time.perf_counter()
    rate = config.learning_rate * cosine_to_fraction(
        number, len(batches), config.warmup_steps, config.min_lr_rate
    )
    batch = batches[number - 1]
    metrics = update(engine, batch, rate, objective)
    tokens = sum(item.tokens for item in batch)
    return metrics | {"tokens": tokens, "tokens_per_second": tokens / (time.perf_counter() - began)}


def save_progress(stage: StageContext, engine: Any, number: int, trained: list[Weights]) -> None:
    """A checkpoint: every process its part of the engine, the main one also the weights of the
    models that are finished.
    """

    def write(folder: Path) -> None:
        save_engine(engine, folder)
        torch.save(rng_state(), folder / f"rng-{stage.rank}.pt")
        if stage.is_main:
            torch.save(trained, folder / "trained.pt")

    stage.save_checkpoint(number, write)


def finished_model(
    config: Config, initial: InitialModel, seed: int, weights: Weights
) -> PreTrainedModel:
    """The plain reward model of trained weights, adapters merged, in eval mode."""
    module = new_module(config, initial, seed)
    module.load_state_dict(weights)
    return merge_lora(module.model).eval()


def note_counts(stage: StageContext, counts: Counter[str]) -> None:
    """Tell the user and the logbook what was dropped."""
    for reason, count in counts.items():
        say(f"  {count} {reason}")
        stage.logbook(f"{count} {reason}")


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
