"""Supervised fine-tuning: learn to answer from demonstrations.

Step 1 of InstructGPT (Ouyang et al. 2022, sections 3.2 and 3.5, appendix C.1): the base model,
fine-tuned on conversations with the loss on the answers alone. The stage `rl_init` is this file
too: two epochs with a tenth of each batch from the pretraining documents (C.3); PPO starts there.

Reads   demonstrations (train, validation), a model (`model`), documents when `aux_share` is above
        0.
Writes  final/: the model with its tokenizer and chat template; with LoRA also final/adapter/.
Run     python -m sft.train RECIPE        torchrun --nproc-per-node 2 -m sft.train RECIPE

One process trains with the plain trainer, several with DeepSpeed under it (`engine`). What differs
from the paper: rows are grouped by length, and the checkpoint is chosen by validation loss unless a
reward model is given.
"""

import shutil
from collections.abc import Sequence
from typing import Any

import numpy as np
from datasets import Dataset
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig, SFTTrainer

from data.packing import encode_documents
from data.records import Prompt
from data.special_tokens import document_separator_id
from data.template import (
    EVERY_ANSWER,
    LossOn,
    encode_prompt,
    prepare_tokenizer,
    save_stop_token_ids,
    stop_token_ids,
    turns_in_words,
)
from podium.attention import choose_attention
from podium.errors import DataError, Interrupted, RecipeError
from podium.lora import peft_config
from podium.models import (
    UNSTATED_CONTEXT,
    absent_in_words,
    absent_token_ids,
    context_of,
    count_parameters,
    load_causal_lm,
    load_tokenizer,
    moved,
    resize_for,
)
from podium.products import even_products
from podium.rewards.kinds import make_reward
from podium.run.context import StageContext
from podium.run.launch import run_stage_main
from podium.run.rollback import opened_guard, without_batches
from podium.run.trainer import (
    StageCallback,
    StageTrainer,
    forget_deepspeed,
    forget_later_best,
    read_best,
    save_best,
    trainer_arguments,
)
from podium.runtime import seed_everything
from sft.batches import (
    EncodedDemonstrations,
    Row,
    encode_demonstrations,
    fill_with_documents,
    lay_out_batches,
)
from sft.config import Config
from sft.dropout import set_residual_dropout
from sft.validation import RewardScorer, validation_metrics

__all__ = ["Config", "main"]


class FineTuner(StageTrainer, SFTTrainer):
    """`trl.SFTTrainer` as a stage."""


def main(config: Config, stage: StageContext) -> None:
    """Fine-tune the model, from the start or from the newest checkpoint, and save it."""
    # 1. Model and tokenizer.
    parent = stage.parent(config.model)
    tokenizer = load_tokenizer(parent)
    known_ids = set(tokenizer.get_vocab().values())
    prepare_tokenizer(tokenizer, stage.special_tokens())
    model = load_causal_lm(parent)
    resize_for(tokenizer, model)
    if absent := absent_token_ids(tokenizer, model.config):
        stage.logbook(absent_in_words(absent))
    parameters = count_parameters(model)
    model.config.pad_token_id = tokenizer.pad_token_id
    save_stop_token_ids(tokenizer, model)
    set_residual_dropout(model, config.residual_dropout)
    context = context_of(model.config) or UNSTATED_CONTEXT
    if context_of(model.config) is None:
        stage.logbook(
            f"the model states no longest sequence: {context} tokens are taken "
            "(max_prompt_tokens and max_response_tokens lower it)"
        )
    choose_attention(model, stage.device)
    even_products(model, stage.device)

    # 2. Demonstrations to rows, in the order of the whole run.
    limits = config.max_prompt_tokens, config.max_response_tokens
    draws = stage.draws("demonstrations", config.num_train_epochs)
    loss_on = LossOn(config.loss_on == "last_answer", config.loss_on_thinking)
    train = encode(stage, tokenizer, context, "train", limits, draws, loss_on)
    validation = encode(stage, tokenizer, context, "validation", limits, loss_on=loss_on)
    epochs = config.num_train_epochs / draws  # of all that the draws of a mixture hold
    rows, aux_tokens = lay_out(
        stage, tokenizer, train.rows, epochs, config.batch_size, config.aux_share
    )
    guard = opened_guard(config.guard, stage, config.engine.gradient_clipping)
    rows = without_batches(rows, config.batch_size, guard.skipped)
    steps_per_epoch = len(train.rows) / (config.batch_size * (1 - config.aux_share))

    # 3. How a checkpoint is judged.
    measure = make_measure(config, stage, tokenizer, validation.rows, context)

    # 4. Train, from the newest checkpoint if there is one.
    found = stage.latest_checkpoint()
    forget_later_best(stage, found[0] if found else -1)
    steps = len(rows) // config.batch_size
    # Anew, so that nothing that was drawn while loading changes the adapters or the dropout.
    seed_everything(stage.seed)
    trainer = FineTuner(
        stage=stage,
        guard=guard,
        measure=measure,
        select_by=None if config.select_by == "last" else config.select_by,
        higher_is_better=config.select_by == "reward_score",
        model=model,
        args=SFTConfig(
            **trainer_arguments(config, stage, guard, round(steps_per_epoch), parameters)
        ),
        train_dataset=to_dataset(rows),
        eval_dataset=to_dataset(validation.rows),
        processing_class=tokenizer,
        peft_config=peft_config(
            config.lora,
            "CAUSAL_LM",
            sorted(set(tokenizer.get_vocab().values()) - known_ids),
            model,
        )
        if config.lora
        else None,
    )
    with stage.progress(steps, stage.name, start=found[0] if found else 0) as bar:
        callback = StageCallback(
            stage, guard, bar, tokens_by_step(rows, config.batch_size), steps_per_epoch
        )
        trainer.add_callback(callback)
        try:
            trainer.train(
                resume_from_checkpoint=str(found[1] / f"checkpoint-{found[0]}") if found else None
            )
        finally:
            forget_deepspeed()
    if trainer.state.global_step < steps:
        raise Interrupted(
            f"{stage.name} stopped at update {trainer.state.global_step} of {steps}, "
            f"checkpoint saved"
        )

    # 5. The best model.
    best = read_best(stage)
    assert best is not None, "the last update is always evaluated"
    tokens = sum(len(row.input_ids) for row in rows)
    headline = {
        **best,
        "parameters": parameters,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "demonstrations": len(train.rows),
        "dropped_demonstrations": train.dropped,
        "aux_token_share": aux_tokens / tokens,
        "tokens_per_second": callback.tokens_per_second,
        "rollbacks": guard.rollbacks,
    }
    text = card(config, headline, tokenizer, stop_token_ids(tokenizer, model))
    stage.finish(
        lambda folder: save_best(stage, tokenizer, parent, config.lora, folder),
        headline,
        text,
        tokens,
    )
    if stage.is_main:
        shutil.rmtree(stage.dir / "best")


def encode(
    stage: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    split: str,
    limits: tuple[int | None, int | None],
    draws: int = 1,
    loss_on: LossOn = EVERY_ANSWER,
) -> EncodedDemonstrations:
    """The demonstrations of a split as rows; what is too long is dropped, counted and told.
    `limits` are the most tokens of a prompt and of an answer; a mixture is drawn `draws` times.

    Raises:
        DataError: none fits.
    """
    demonstrations = stage.records("demonstrations", split, draws)
    encoded = encode_demonstrations(
        tokenizer,
        demonstrations,
        context=context,
        max_prompt_tokens=limits[0],
        max_response_tokens=limits[1],
        loss_on=loss_on,
    )
    if encoded.dropped:
        stage.logbook(
            f"{split}: dropped {encoded.dropped} of {len(demonstrations)} demonstrations "
            f"({encoded.long_prompts} prompts and {encoded.long_responses} answers over the "
            f"limit in tokens, {encoded.without_loss} with nothing to learn)"
        )
    if not encoded.rows:
        raise DataError(
            f"demonstrations ({split})",
            problem=f"all {len(demonstrations)} are longer than the limits allow, or have no "
            f"answer to learn ({encoded.without_loss})",
            fix=f"raise {stage.name}.max_prompt_tokens and max_response_tokens; the context is "
            f"{context} tokens",
        )
    return encoded


def lay_out(
    stage: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Row],
    epochs: float,
    batch_size: int,
    aux_share: float,
) -> tuple[list[Row], int]:
    """All rows of the run in training order, and how many of their tokens come from the documents
    (C.3's mix).
    """
    batches = lay_out_batches(
        [len(row.input_ids) for row in rows],
        epochs=epochs,
        batch_size=batch_size,
        aux_share=aux_share,
        seed=stage.seed,
    )

    separator_id = document_separator_id(tokenizer)

    def read(draws: int) -> list[list[int]]:
        texts = [document.text for document in stage.records("documents", "train", draws)]
        order = np.random.default_rng(stage.seed).permutation(len(texts))
        encoded = encode_documents(tokenizer, [texts[i] for i in order])
        return [[separator_id, *ids.tolist()] for ids in encoded]

    def fill(documents: list[list[int]]) -> tuple[list[Row], int]:
        filled = fill_with_documents(batches, rows, batch_size=batch_size, documents=documents)
        return filled, sum(len(row.input_ids) for row in filled) - demonstrated

    demonstrated = sum(len(rows[i].input_ids) for batch in batches for i in batch)
    documents = read(1) if aux_share > 0 else []
    laid_out, aux_tokens = fill(documents)
    if aux_share > 0:
        draws = stage.draws("documents", aux_tokens / sum(map(len, documents)))
        if draws > 1:
            laid_out, aux_tokens = fill(read(draws))
    return laid_out, aux_tokens


def tokens_by_step(rows: list[Row], batch_size: int) -> list[int]:
    """Tokens of every update, prompts included, padding not."""
    lengths = [len(row.input_ids) for row in rows]
    return [sum(lengths[i : i + batch_size]) for i in range(0, len(lengths), batch_size)]


def to_dataset(rows: Sequence[Row]) -> Dataset:
    """Rows as the trainer takes them: its collator pads `labels` and uses them as they are."""
    return Dataset.from_dict(
        {"input_ids": [row.input_ids for row in rows], "labels": [row.labels for row in rows]}
    )


def make_measure(
    config: Config,
    stage: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Row],
    context: int,
) -> Any:
    """The function from a model to its validation metrics."""
    scorer = None
    if config.select_by == "reward_score":
        if config.reward is None or config.engine.zero_stage == 3:
            raise RecipeError(
                f"{stage.name}.select_by: reward_score needs a reward and whole weights "
                f"(not ZeRO-3)",
                fix=f"set {stage.name}.reward to a reward stage's folder, or select_by: "
                f"validation_loss",
            )
        demonstrations = stage.records("demonstrations", "validation")
        room = config.max_response_tokens or context // 2
        prompts = [
            Prompt(messages=d.messages[:-1], user=d.user, use_case=d.use_case, meta=d.meta)
            for d in demonstrations
        ]
        fitting = [
            p for p in prompts if len(encode_prompt(tokenizer, p.messages)) + room <= context
        ]
        asked = fitting[: config.reward_prompts]
        scorer = RewardScorer(
            moved(make_reward(config.reward, stage), stage.device),
            tokenizer,
            asked,
            room,
            config.per_device_train_batch_size,
            stage,
        )

    def measure(model: Any) -> dict[str, float]:
        metrics = validation_metrics(
            model,
            rows,
            pad_token_id=tokenizer.pad_token_id,
            batch_size=config.per_device_train_batch_size,
            stage=stage,
        )
        return metrics | ({"reward_score": scorer(model)} if scorer else {})

    return measure


def card(
    config: Config,
    headline: dict[str, float],
    tokenizer: PreTrainedTokenizerBase,
    stops: Sequence[int],
) -> str:
    """The model card's text."""
    how = f"LoRA rank {config.lora.r}" if config.lora else "all weights"
    mix = (
        f", {config.aux_share:.0%} of each batch from the pretraining documents"
        if config.aux_share
        else ""
    )
    return (
        f"A model that follows instructions, fine-tuned from `{config.model}` on "
        f"{headline['demonstrations']:.0f} "
        f"demonstrations for {config.num_train_epochs:g} epochs ({how}{mix}); the loss covers "
        f"the answers alone.\n\n"
        f"Chosen by {config.select_by.replace('_', ' ')} at update {headline['step']:.0f}: "
        f"validation loss "
        f"{headline['validation_loss']:.4f} nats a response token, token accuracy "
        f"{headline['token_accuracy']:.3f}.\n\n{turns_in_words(tokenizer, stops)}\n"
    )


if __name__ == "__main__":
    run_stage_main("sft")
