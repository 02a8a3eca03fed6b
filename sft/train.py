"""Supervised fine-tuning: learn to answer from demonstrations.

Step 1 of InstructGPT (Ouyang et al. 2022, sections 3.2 and 3.5, appendix C.1): the base model,
fine-tuned on conversations with the loss on the answers alone. The stage `rl_init` is this file
too: two epochs with a tenth of each batch from the pretraining documents (C.3); PPO starts there.

Reads   demonstrations (train, validation), a model (`model`), documents when `aux_share` is above
0. Writes  final/: the model with its tokenizer and chat template; with LoRA also final/adapter/.
Run     python -m sft.train RECIPE        torchrun --nproc-per-node 2 -m sft.train RECIPE

One process trains with the plain trainer, several with DeepSpeed under it (`engine`). What differs
from the paper: rows are grouped by length, and the checkpoint is chosen by validation loss unless a
reward model is given.
"""

import math
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np
from peft import PeftModel
from pydantic import BaseModel, ConfigDict, Field
from transformers import PreTrainedTokenizerBase
from trl import SFTConfig

from data.packing import encode_documents
from data.records import Prompt
from data.template import (
    encode_prompt,
    prepare_tokenizer,
    save_stop_token_ids,
    stop_token_ids,
    turns_in_words,
)
from podium.attention import attend_for_training
from podium.engine import EngineConfig, init_distributed
from podium.errors import DataError, Interrupted, RecipeError
from podium.lora import LoraConfig, merge_lora, peft_config
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
    save_model,
)
from podium.rewards.kinds import make_reward
from podium.rewards.specs import RewardSpec
from podium.run.context import StageContext
from podium.run.launch import run_stage_main
from podium.runtime import seed_everything
from sft.batches import (
    EncodedDemonstrations,
    Row,
    encode_demonstrations,
    fill_with_documents,
    lay_out_batches,
)
from sft.dropout import set_residual_dropout
from sft.trainer import (
    StageCallback,
    StageTrainer,
    forget_deepspeed,
    forget_later_best,
    read_best,
    to_dataset,
    trainer_settings,
)
from sft.validation import RewardScorer, validation_metrics


class Config(BaseModel):
    """What to fine-tune and how. The defaults suit the embedded world; the paper's value is
    named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(
        "pretrain", description="a stage of this run, a stage or model folder, or a hub id"
    )
    num_train_epochs: float = Field(
        4, gt=0, description="passes over the demonstrations; C.1: 16, C.3: 2"
    )
    learning_rate: float = Field(
        1e-3, gt=0, description="peak; C.1: 9.65e-6 (1.3B, 6B), 5.03e-6 (175B); C.3: 5e-6"
    )
    batch_size: int = Field(
        32, gt=0, description="rows an update over all processes; C.1: 32 (1.3B, 6B), 8 (175B)"
    )
    per_device_train_batch_size: int = Field(
        32, gt=0, description="rows a forward pass: what memory allows"
    )
    warmup_ratio: float = Field(
        0.0, ge=0, lt=1, description="share of the updates to warm up in; C.1: none"
    )
    min_lr_rate: float = Field(
        0.1, ge=0, le=1, description="fraction of the peak the cosine ends at; C.1: 0.1"
    )
    adam_beta1: float = Field(
        0.9, ge=0, lt=1, description="decay of AdamW's first moment; appendix C: 0.9"
    )
    adam_beta2: float = Field(
        0.95, ge=0, lt=1, description="decay of AdamW's second moment; appendix C: 0.95"
    )
    weight_decay: float = Field(0.0, ge=0, description="on matrices only; the paper names none")
    residual_dropout: float = Field(0.0, ge=0, lt=1, description="on each block's output; C.1: 0.2")
    max_prompt_tokens: int | None = Field(
        None, gt=0, description="longer ones are dropped; C: 1,024; null: context"
    )
    max_response_tokens: int | None = Field(
        None, gt=0, description="longer answers are dropped; C: 1,024"
    )
    aux_share: float = Field(
        0.0, ge=0, lt=1, description="share of each batch's rows from the documents; C.3: 0.1"
    )
    lora: LoraConfig | None = Field(
        None, description="train adapters only; null trains every weight"
    )
    select_by: Literal["validation_loss", "reward_score", "last"] = Field(
        "validation_loss", description="how the checkpoint is chosen; C.1: reward_score"
    )
    reward: RewardSpec | None = Field(
        None,
        description="for select_by: reward_score; a reward stage's folder, or as in ppo.reward",
    )
    reward_prompts: int = Field(
        128, gt=0, description="validation prompts answered for the reward score"
    )
    eval_steps: int | None = Field(
        None, gt=0, description="updates between evaluations; null: once an epoch"
    )
    save_steps: int | None = Field(
        None, gt=0, description="updates between checkpoints; null: as eval_steps"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass to save memory"
    )
    engine: EngineConfig = Field(
        default_factory=EngineConfig, description="clipping; ZeRO and offload under DeepSpeed"
    )


def main(config: Config, stage: StageContext) -> None:
    """Fine-tune the model, from the start or from the newest checkpoint, and save it."""
    # 1. Model and tokenizer.
    parent = stage.parent(config.model)
    tokenizer = load_tokenizer(parent)
    known_ids = set(tokenizer.get_vocab().values())
    tokenizer, model = prepare_tokenizer(tokenizer), load_causal_lm(parent)
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
    attend_for_training(model, stage.device, context)

    # 2. Demonstrations to rows, in the order of the whole run.
    train = encode(config, stage, tokenizer, context, "train")
    validation = encode(config, stage, tokenizer, context, "validation")
    rows, aux_tokens = lay_out(config, stage, tokenizer, train.rows, context)
    steps_per_epoch = len(train.rows) / (config.batch_size * (1 - config.aux_share))

    # 3. How a checkpoint is judged.
    measure = make_measure(config, stage, tokenizer, validation.rows, context)

    # 4. Train, from the newest checkpoint if there is one.
    found = stage.latest_checkpoint()
    forget_later_best(stage, found[0] if found else -1)
    steps = len(rows) // config.batch_size
    # Anew, so that nothing that was drawn while loading changes the adapters or the dropout.
    seed_everything(stage.seed)
    trainer = StageTrainer(
        stage=stage,
        measure=measure,
        select_by=None if config.select_by == "last" else config.select_by,
        higher_is_better=config.select_by == "reward_score",
        model=model,
        args=trainer_arguments(config, stage, round(steps_per_epoch)),
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
            stage, bar, tokens_by_step(rows, config.batch_size), steps_per_epoch
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
    }
    text = card(config, headline, tokenizer, stop_token_ids(tokenizer, model))
    stage.finish(
        lambda folder: save_final(config, stage, tokenizer, parent, folder), headline, text, tokens
    )
    if stage.is_main:
        shutil.rmtree(stage.dir / "best")


def passes_of(config: Config, stage: StageContext, split: str) -> int:
    """How many draws of a mixture the epochs take; 1 for a source that is read whole each epoch."""
    if split != "train" or not stage.is_mixture("demonstrations", split):
        return 1
    return math.ceil(config.num_train_epochs)


def encode(
    config: Config,
    stage: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    context: int,
    split: str,
) -> EncodedDemonstrations:
    """The demonstrations of a split as rows; what is too long is dropped, counted and told.

    Raises:
        DataError: none fits.
    """
    demonstrations = stage.records("demonstrations", split, passes_of(config, stage, split))
    encoded = encode_demonstrations(
        tokenizer,
        demonstrations,
        context=context,
        max_prompt_tokens=config.max_prompt_tokens,
        max_response_tokens=config.max_response_tokens,
    )
    if encoded.dropped:
        stage.logbook(
            f"{split}: dropped {encoded.dropped} of {len(demonstrations)} demonstrations "
            f"({encoded.long_prompts} prompts and {encoded.long_responses} answers over the "
            f"limit in tokens)"
        )
    if not encoded.rows:
        raise DataError(
            f"demonstrations ({split})",
            problem=f"all {len(demonstrations)} are longer than the limits allow",
            fix=f"raise {stage.name}.max_prompt_tokens and max_response_tokens; the context is "
            f"{context} tokens",
        )
    return encoded


def lay_out(
    config: Config,
    stage: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    rows: list[Row],
    context: int,
) -> tuple[list[Row], int]:
    """All rows of the run in training order, and how many of their tokens come from the documents
    (C.3's mix).
    """
    batches = lay_out_batches(
        [len(row.input_ids) for row in rows],
        epochs=config.num_train_epochs / passes_of(config, stage, "train"),
        batch_size=config.batch_size,
        aux_share=config.aux_share,
        seed=stage.seed,
    )
    documents: list[list[int]] = []
    if config.aux_share > 0:
        texts = [document.text for document in stage.records("documents", "train")]
        order = np.random.default_rng(stage.seed).permutation(len(texts))
        encoded = encode_documents(tokenizer, [texts[i] for i in order])
        documents = [[tokenizer.bos_token_id, *ids.tolist()] for ids in encoded]
    demonstrated = sum(len(rows[i].input_ids) for batch in batches for i in batch)
    laid_out = fill_with_documents(batches, rows, batch_size=config.batch_size, documents=documents)
    return laid_out, sum(len(row.input_ids) for row in laid_out) - demonstrated


def tokens_by_step(rows: list[Row], batch_size: int) -> list[int]:
    """Tokens of every update, prompts included, padding not."""
    lengths = [len(row.input_ids) for row in rows]
    return [sum(lengths[i : i + batch_size]) for i in range(0, len(lengths), batch_size)]


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


def trainer_arguments(config: Config, stage: StageContext, steps_per_epoch: int) -> SFTConfig:
    """Our fields in the trainer's words, with everything off that would talk, upload or shuffle.

    Raises:
        RecipeError: the batch cannot be split evenly.
    """
    rows_a_pass = min(config.per_device_train_batch_size, config.batch_size // stage.world_size)
    if rows_a_pass == 0 or config.batch_size % (rows_a_pass * stage.world_size):
        raise RecipeError(
            f"{stage.name}.batch_size {config.batch_size} is no multiple of "
            f"{config.per_device_train_batch_size} rows "
            f"a pass on {stage.world_size} processes",
            fix="choose per_device_train_batch_size so that it divides each process's share of "
            "the batch",
        )
    eval_steps = config.eval_steps or max(steps_per_epoch, 1)
    engine = config.engine
    with_deepspeed = stage.world_size > 1 or engine.zero_stage > 0 or engine.offload
    if with_deepspeed:
        init_distributed()  # a lone process needs a group too, and the trainer makes none
    return SFTConfig(
        output_dir=str(stage.dir / "checkpoints"),
        seed=stage.seed,
        use_cpu=stage.device.type == "cpu",
        bf16=stage.dtype == "bf16" and not with_deepspeed,
        num_train_epochs=1,  # the laid-out rows hold all epochs
        train_sampling_strategy="sequential",
        max_length=None,  # what is too long was dropped
        per_device_train_batch_size=rows_a_pass,
        gradient_accumulation_steps=config.batch_size // (rows_a_pass * stage.world_size),
        learning_rate=config.learning_rate,
        lr_scheduler_type="cosine_with_min_lr",
        lr_scheduler_kwargs={"min_lr_rate": config.min_lr_rate},
        warmup_steps=config.warmup_ratio,  # below 1 the trainer reads a ratio
        adam_beta1=config.adam_beta1,
        adam_beta2=config.adam_beta2,
        weight_decay=config.weight_decay,
        max_grad_norm=engine.gradient_clipping,
        gradient_checkpointing=config.gradient_checkpointing,
        deepspeed=trainer_settings(engine, stage.dtype) if with_deepspeed else None,
        eval_strategy="steps",
        eval_steps=eval_steps,
        save_strategy="steps",
        save_steps=config.save_steps or eval_steps,
        logging_steps=1,
        logging_nan_inf_filter=False,  # a NaN must end the run, not be averaged away
        disable_tqdm=True,
        report_to="none",
    )


def save_final(
    config: Config,
    stage: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    parent: Path,
    folder: Path,
) -> None:
    """The best model as a plain folder; adapters are merged into the base and kept beside it in
    adapter/.
    """
    if not stage.is_main:
        return
    best = stage.dir / "best"
    if config.lora is None:
        tuned = load_causal_lm(best)
        save_stop_token_ids(tokenizer, tuned)
        save_model(tuned, tokenizer, folder)
        return
    base = load_causal_lm(parent)
    resize_for(tokenizer, base)
    save_stop_token_ids(tokenizer, base)
    save_model(merge_lora(PeftModel.from_pretrained(base, str(best))), tokenizer, folder)
    shutil.copytree(
        best,
        folder / "adapter",
        ignore=shutil.ignore_patterns("best.json", "training_args.bin", "*.md"),
    )


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
