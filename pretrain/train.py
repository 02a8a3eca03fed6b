"""Pretraining: learn the language from documents, next token by next token. The result is the base
model.

GPT-3's method (Brown et al. 2020, section 2.3 and appendix B) at any size: documents packed into
full windows with end-of-text between them, AdamW (0.9, 0.95) with weight decay 0.1, linear warm-up
and cosine to a tenth of the peak counted in tokens, gradient clipping, an optional batch ramp.
Unlike GPT-3, documents of one window do not attend to each other (`data.packing` says why). With
`infilling` a share of the windows has blanks to fill in instead (GLM, `pretrain.blanks`).

Reads   documents (train, validation), a preset's name or an existing model (`init_from`).
Writes  final/: the base model with its tokenizer and chat template.
Run     python -m pretrain.train RECIPE
        torchrun --nproc-per-node 2 -m pretrain.train RECIPE
        deepspeed --module pretrain.train RECIPE

The loss of an update is the mean over the global batch's tokens, so one process and many give the
same gradient. What is left out: mixing sources by weight (give a mixture in `data.documents`),
tensor and pipeline parallelism, loss scaling for fp16, and GPT-3's sparse attention.
"""

import math
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.packing import rows_at
from data.special_tokens import document_separator_id
from data.template import prepare_tokenizer
from data.windows import Windows
from podium.attention import choose_attention
from podium.engine import (
    init_distributed,
    load_engine,
    make_engine,
    save_engine,
    set_clipping,
)
from podium.errors import Interrupted, RecipeError
from podium.guard import SpikeGuard
from podium.models import (
    UNSTATED_CONTEXT,
    context_of,
    count_parameters,
    load_causal_lm,
    load_tokenizer,
    resize_for,
    save_model,
)
from podium.products import even_products
from podium.run.context import StageContext
from podium.run.inputs import StageInputs
from podium.run.launch import run_stage_main
from podium.run.rollback import begin_again, go_back, opened_guard, save_guard
from podium.runtime import rng_state, set_rng_state
from podium.schedule import cosine_to_fraction
from podium.sharding import full_state_dict
from pretrain.architecture import build_config, build_model
from pretrain.batches import batch_sizes
from pretrain.config import Config
from pretrain.infilling import Infill, add_sentinels, evaluate_infilling, objective_of
from pretrain.presets import preset
from pretrain.updates import (
    LanguageModel,
    compile_reading,
    evaluate,
    shrink_embedding_gradient,
    update,
)

__all__ = ["Config", "main"]


def main(config: Config, stage: StageContext) -> None:
    """Train the base model, from the start or from the newest checkpoint, and save it."""
    # 1. Tokenizer and model.
    init_distributed()
    tokenizer, model, peak = start_model(config, stage)
    separator_id = document_separator_id(tokenizer)
    if config.embedding_gradient < 1:
        shrink_embedding_gradient(model, config.embedding_gradient)

    # 2. Documents to full windows. Everything about the data's order follows from the seed and the
    #    step.
    context = min(config.context, context_of(model.config) or config.context)
    objective = objective_of(config.infilling, stage.seed, tokenizer, model, context)
    window = objective.window
    sizes = plan(config, window, stage.world_size)
    train = windows_of(stage, tokenizer, window)
    draws = stage.draws("documents", sum(sizes) / len(train))
    if draws > 1:
        train = windows_of(stage, tokenizer, window, passes=draws)
    validation = windows_of(stage, tokenizer, context, "validation")
    held_out = validation[: max(config.eval_tokens // context, 1)]  # (N, T)
    read_before = [0]  # windows read before step i
    for size in sizes:
        read_before.append(read_before[-1] + size)
    total_tokens = read_before[-1] * window

    # 3. Engine; go on from a checkpoint if there is one.
    choose_attention(model, stage.device)
    even_products(model, stage.device)
    if config.gradient_checkpointing:
        model.gradient_checkpointing_enable()
    engine = make_engine(
        LanguageModel(model),
        config.engine,
        learning_rate=peak,
        betas=(config.adam_beta1, config.adam_beta2),
        eps=config.adam_epsilon,
        weight_decay=config.weight_decay,
        dtype=stage.dtype,
    )
    if config.compile:
        compile_reading(engine.module, train[:1], separator_id)
    guard = opened_guard(config.guard, stage, config.engine.gradient_clipping)
    number, checkpoint = stage.latest_checkpoint() or (0, None)  # updates done
    if checkpoint is not None:
        put_back(engine, stage, checkpoint)
    set_clipping(engine, guard.clip_factor * config.engine.gradient_clipping)

    # 4. Train.
    rows_per_pass = config.per_device_train_batch_size
    metrics: dict[str, float] = {}
    busy_seconds, busy_tokens = 0.0, 0  # of the updates alone: neither evaluation nor saving
    with stage.progress(len(sizes), "pretrain", start=number) as progress:
        while number < len(sizes):
            number += 1
            began = time.perf_counter()
            # Pure functions of the update's number and of the batches that the guard left out, so a
            # resumed run reads the same windows.
            first = first_window(number, read_before, guard.skipped)
            rows = rows_at(first, sizes[number - 1], len(train), stage.seed)
            tokens_after = read_before[number] * window
            learning_rate = (guard.lr_factor * peak) * cosine_to_fraction(
                tokens_after,
                config.decay_tokens or total_tokens,
                config.warmup_tokens,
                config.min_lr_rate,
            )
            batch = objective.batch(train[rows], first)
            loss, grad_norm = update(engine, batch, objective, learning_rate, rows_per_pass, stage)
            # Before anything is logged or saved: a checkpoint must never hold a diverged model.
            if problem := guard.breach(loss, grad_norm):
                back, checkpoint = go_back(guard, stage, number, problem)
                if checkpoint is None:
                    begin_again(guard, stage)
                put_back(engine, stage, checkpoint)
                set_clipping(engine, guard.clip_factor * config.engine.gradient_clipping)
                progress.advance(back - (number - 1))
                number = back
                continue
            busy_seconds += time.perf_counter() - began
            busy_tokens += len(rows) * window
            metrics = {
                "loss": loss,
                "learning_rate": learning_rate,
                "grad_norm": grad_norm,
                "batch_size": len(rows),
                "tokens": tokens_after,
                "tokens_per_second": busy_tokens / busy_seconds,
            }
            if number % config.eval_steps == 0 or number == len(sizes):
                metrics |= evaluate(engine, held_out, separator_id, rows_per_pass, stage)
                if isinstance(objective, Infill):
                    metrics |= evaluate_infilling(engine, held_out, objective, rows_per_pass, stage)
                if config.engine.zero_stage < 3:  # sharded weights would need all processes' help
                    write_sample(engine, tokenizer, config.sample_prompt, stage, number)
            stage.log(number, metrics)
            progress.advance(tokens=len(rows) * window, loss=loss)
            # Asked once an update, so that the checkpoint and the interruption agree even when the
            # signal comes between them. After the last update final/ is the checkpoint.
            stopping = stage.stop_requested
            planned = number % config.save_steps == 0
            if (planned or stopping) and number < len(sizes):
                save(engine, stage, guard, number, stopping=not planned)
                if stopping:
                    raise Interrupted(
                        f"pretraining stopped at update {number} of {len(sizes)}, checkpoint saved"
                    )

    # 5. The base model.
    weights = full_state_dict(engine, inside="model.", folder=stage.dir)
    headline = {
        **{name: value for name, value in metrics.items() if name.startswith("validation_")},
        "loss": metrics["loss"],
        "tokens_per_second": metrics["tokens_per_second"],
        "parameters": count_parameters(model),
        "epochs": read_before[-1] / len(train),
        "rollbacks": guard.rollbacks,
    }
    stage.finish(
        lambda folder: save_model(model, tokenizer, folder, weights),
        headline,
        card(config, headline, total_tokens),
        tokens=total_tokens,
    )


def windows_of(
    stage: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    split: str = "train",
    passes: int = 1,
) -> Windows:
    """The documents of a split as full windows of `context` tokens, read when they are used."""
    documents = stage.document_tokens(tokenizer, split, passes)
    return Windows(documents, context, split=split, field="pretrain.context")


def open_tokenizer(config: Config, inputs: StageInputs) -> PreTrainedTokenizerBase:
    """The existing model's, the one that is named, or one learned from the documents."""
    ref = config.init_from or config.tokenizer
    if ref is None:
        tokenizer = inputs.trained_tokenizer(config.vocab_size)
    else:
        tokenizer = load_tokenizer(inputs.parent(ref))
    prepare_tokenizer(tokenizer, inputs.special_tokens())
    if config.infilling is not None:
        add_sentinels(tokenizer)
    return tokenizer


def start_model(
    config: Config, stage: StageContext
) -> tuple[PreTrainedTokenizerBase, PreTrainedModel, float]:
    """Tokenizer, model, and the peak learning rate: a new model of a preset, or an existing one."""
    tokenizer = open_tokenizer(config, stage)
    if config.init_from is not None:
        model = load_causal_lm(stage.parent(config.init_from))
        resize_for(tokenizer, model)
        if config.learning_rate is None:
            raise RecipeError(
                "pretrain.learning_rate is not set, and an existing model has no preset to "
                "take it from",
                fix="set it, for example to a tenth of the rate the model was first trained at",
            )
        return tokenizer, model, config.learning_rate
    shape = build_config(config.preset, len(tokenizer), config.context, config.initializer_range)
    shape.bos_token_id, shape.eos_token_id = tokenizer.bos_token_id, tokenizer.eos_token_id
    shape.pad_token_id = tokenizer.pad_token_id
    return (
        tokenizer,
        build_model(shape),
        config.learning_rate or preset(config.preset).learning_rate,
    )


def plan(config: Config, context: int, world_size: int) -> list[int]:
    """Windows of every update, over all processes."""
    if config.batch_size % world_size:
        raise RecipeError(
            f"pretrain.batch_size {config.batch_size} cannot be split evenly over {world_size} "
            f"processes",
            fix=f"set it to a multiple of {world_size}",
        )
    return batch_sizes(
        config.tokens,
        context=context,
        batch_size=config.batch_size,
        ramp=config.batch_ramp,
        multiple=world_size,
    )


def write_sample(
    engine: Any,
    tokenizer: PreTrainedTokenizerBase,
    sample_prompt: str,
    stage: StageContext,
    number: int,
) -> None:
    """Put a text of the model's own into the logbook. Its randomness does not touch training's."""
    if not stage.is_main:
        return
    separator_id = document_separator_id(tokenizer)
    prompt = [separator_id, *tokenizer(sample_prompt, add_special_tokens=False)["input_ids"]]
    ids = torch.tensor([prompt], device=stage.device)
    room = (context_of(engine.module.model.config) or UNSTATED_CONTEXT) - len(prompt)
    with torch.random.fork_rng():
        torch.manual_seed(stage.seed)
        written = engine.module.model.generate(
            ids,
            attention_mask=torch.ones_like(ids),
            do_sample=True,
            max_new_tokens=min(60, room),
            eos_token_id=separator_id,
            pad_token_id=tokenizer.pad_token_id,
        )
    stage.logbook(
        f"update {number} writes: {tokenizer.decode(written[0, 1:], skip_special_tokens=True)!r}"
    )


def first_window(number: int, read_before: list[int], skipped: list[int]) -> int:
    """Where in the endless stream of windows update `number` begins to read: after those of the
    updates before it, or, if its own batch is left out, after all that the run plans to read.
    """
    if number not in skipped:
        return read_before[number - 1]
    largest = max(after - before for before, after in pairwise(read_before))
    # The newest breach counts: a batch may be left out, and the one in its place too.
    place = max(i for i, other in enumerate(skipped) if other == number)
    return read_before[-1] + place * largest


def save(
    engine: Any, stage: StageContext, guard: SpikeGuard, number: int, stopping: bool = False
) -> None:
    """A checkpoint to resume from, every process its part."""

    def write(folder: Path) -> None:
        save_engine(engine, folder)
        torch.save(rng_state(), folder / f"rng-{stage.rank}.pt")
        save_guard(guard, stage, folder)

    stage.save_checkpoint(number, write, stopping)


def put_back(engine: Any, stage: StageContext, folder: Path) -> None:
    """What `save` wrote, but for the guard."""
    load_engine(engine, folder)
    set_rng_state(torch.load(folder / f"rng-{stage.rank}.pt", weights_only=False))


def card(config: Config, headline: dict[str, float], tokens: int) -> str:
    """The model card's text."""
    origin = (
        f"continued from `{config.init_from}`" if config.init_from else f"preset `{config.preset}`"
    )
    fills = ""
    if (right := headline.get("validation_infill_accuracy")) is not None:
        fills = (
            f"It also learned to fill blanks (GLM): {right:.1%} of held-out blanks' tokens right, "
            f"loss {headline['validation_infill_loss']:.4f}.\n"
        )
    return (
        f"A base language model: {origin}, {headline['parameters']:,.0f} parameters, "
        f"{tokens:,} tokens "
        f"({headline['epochs']:.2f} epochs) in windows of {config.context}.\n\n"
        f"Validation loss {headline['validation_loss']:.4f} nats a token (perplexity "
        f"{math.exp(headline['validation_loss']):.2f}). It continues text; it does not follow "
        f"instructions.\n{fills}"
    )


if __name__ == "__main__":
    run_stage_main("pretrain")
