"""Direct preference optimisation: learn from the rankings without a reward model. A baseline beside
PPO.

Rafailov et al. 2023. The policy starts from the SFT model, which stays as the reference; of every
two responses that a labeler did not tie, the preferred one is made more likely than the other,
compared with the reference. It reads the rankings that the reward model would read, so the two ways
can be compared at equal data.

Reads   rankings (a rankings stage, files, or `data.rankings`), a model (`model`).
Writes  final/: the policy; with LoRA also final/adapter/.
Run     podium dpo RECIPE        python -m dpo.train RECIPE

TRL's DPOTrainer takes the step. What differs from the paper: AdamW with a cosine and not RMSprop,
pairs of K-way rankings, and a checkpoint chosen by validation loss. Left out: the losses that came
after, and the held-out labelers' rankings, which only the reward model's report reads.
"""

import shutil
from collections import Counter
from collections.abc import Sequence
from typing import Any

from transformers import PreTrainedTokenizerBase
from trl import DPOConfig

from data.template import (
    prepare_tokenizer,
    save_stop_token_ids,
    stop_token_ids,
    turns_in_words,
)
from dpo.config import Config
from dpo.pairs import Pair, encode_pairs, lay_out
from dpo.trainer import PreferenceTrainer
from podium.attention import choose_attention
from podium.errors import DataError, Interrupted
from podium.lora import peft_config
from podium.models import (
    UNSTATED_CONTEXT,
    absent_in_words,
    absent_token_ids,
    context_of,
    count_parameters,
    load_causal_lm,
    load_tokenizer,
    remove_dropout,
    resize_for,
)
from podium.products import even_products
from podium.run.context import StageContext
from podium.run.launch import run_stage_main
from podium.run.lineage import hash_folder
from podium.run.rollback import opened_guard, without_batches
from podium.run.trainer import (
    StageCallback,
    forget_deepspeed,
    forget_later_best,
    read_best,
    save_best,
    trainer_arguments,
)
from podium.runtime import seed_everything
from reward.sources import draws_of, read_splits

__all__ = ["Config", "main"]


def main(config: Config, stage: StageContext) -> None:
    """Learn from the comparisons, from the start or from the newest checkpoint, and save."""
    # 1. Model and tokenizer. Dropout would make policy and reference differ from the start.
    parent = stage.parent(config.model)
    tokenizer = load_tokenizer(parent)
    known_ids = set(tokenizer.get_vocab().values())
    prepare_tokenizer(tokenizer, stage.special_tokens())
    model = remove_dropout(load_causal_lm(parent))
    resize_for(tokenizer, model)
    if absent := absent_token_ids(tokenizer, model.config):
        stage.logbook(absent_in_words(absent))
    parameters = count_parameters(model)
    model.config.pad_token_id = tokenizer.pad_token_id
    save_stop_token_ids(tokenizer, model)
    context = context_of(model.config) or UNSTATED_CONTEXT
    choose_attention(model, stage.device)
    even_products(model, stage.device)

    # 2. Rankings to pairs, in the order of the whole run.
    draws = draws_of(stage, config.rankings, config.num_train_epochs)
    pairs, dropped = read_pairs(
        config.rankings, stage, tokenizer, min(config.max_length or context, context), draws
    )
    order = lay_out(
        len(pairs["train"]),
        epochs=config.num_train_epochs / draws,  # of all that the draws of a mixture hold
        batch_size=config.batch_size,
        seed=stage.seed,
    )
    guard = opened_guard(config.guard, stage, config.engine.gradient_clipping)
    order = without_batches(order, config.batch_size, guard.skipped)
    steps, steps_per_epoch = (
        len(order) // config.batch_size,
        len(pairs["train"]) / config.batch_size,
    )

    # 3. Train, from the newest checkpoint if there is one. The reference is read on the way.
    found = stage.latest_checkpoint()
    forget_later_best(stage, found[0] if found else -1)
    seed_everything(stage.seed)  # anew: nothing that was drawn while loading changes the adapters
    trainer = PreferenceTrainer(
        stage=stage,
        guard=guard,
        pairs=pairs,
        order=order,
        reference_key=hash_folder(parent),
        rows=2 * config.per_device_train_batch_size,
        select_by=selection(config, pairs),
        higher_is_better=config.select_by == "validation_accuracy",
        model=model,
        args=DPOConfig(
            **trainer_arguments(config, stage, guard, round(steps_per_epoch), parameters),
            beta=config.beta,
            disable_dropout=False,  # it is, but for the adapters' own
            precompute_ref_log_probs=True,
        ),
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
    tokens = [pairs["train"][i].tokens for i in order]
    by_step = [
        sum(tokens[i : i + config.batch_size]) for i in range(0, len(order), config.batch_size)
    ]
    with stage.progress(steps, stage.name, start=found[0] if found else 0) as bar:
        callback = StageCallback(stage, guard, bar, by_step, steps_per_epoch)
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

    # 4. The best model.
    best = read_best(stage)
    assert best is not None, "the last update is always evaluated"
    headline = {
        **best,
        "parameters": parameters,
        "trained_parameters": sum(p.numel() for p in model.parameters() if p.requires_grad),
        "pairs": len(pairs["train"]),
        "dropped_pairs": sum(dropped.values()),
        "tokens_per_second": callback.tokens_per_second,
        "rollbacks": guard.rollbacks,
    }
    text = card(config, headline, tokenizer, stop_token_ids(tokenizer, model))
    stage.finish(
        lambda folder: save_best(stage, tokenizer, parent, config.lora, folder),
        headline,
        text,
        sum(tokens),
    )
    if stage.is_main:
        for kept in (stage.dir / "best", *stage.dir.glob("reference-*")):
            shutil.rmtree(kept)


def read_pairs(
    rankings: str | None,
    stage: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    draws: int = 1,
) -> tuple[dict[str, list[Pair]], Counter[str]]:
    """The pairs by split ("train", "validation"), and what of the training rankings was dropped. A
    mixture by weight is drawn `draws` times.

    Raises:
        DataError: no pair is left to learn from.
    """
    splits = read_splits(stage, rankings, draws)
    train, dropped = encode_pairs(splits.train, tokenizer, max_length)
    validation, _ = encode_pairs(splits.validation, tokenizer, max_length)
    for reason, count in (splits.dropped + dropped).items():
        stage.logbook(f"{count} {reason}")
    if not train:
        reasons = ", ".join(f"{count} {reason}" for reason, count in dropped.items())
        raise DataError(
            f"stage '{stage.name}'",
            field="rankings",
            problem=f"nothing to learn from: {reasons or 'there are none'}",
            fix="give rankings with two responses that are not tied and fit the context",
        )
    if not validation:
        stage.logbook("no validation pairs: the last model is taken")
    return {"train": train, "validation": validation}, dropped


def selection(config: Config, pairs: dict[str, list[Pair]]) -> str | None:
    """The metric that chooses the model; None: the last one is taken."""
    return None if config.select_by == "last" or not pairs["validation"] else config.select_by


def card(
    config: Config,
    headline: dict[str, Any],
    tokenizer: PreTrainedTokenizerBase,
    stops: Sequence[int],
) -> str:
    """The model card's text."""
    how = f"LoRA rank {config.lora.r}" if config.lora else "all weights"
    measured = (
        f"On the validation pairs: loss {headline['validation_loss']:.4f} (0.6931 at the start), "
        f"the chosen response preferred in {headline['validation_accuracy']:.1%}."
        if "validation_loss" in headline
        else "There were no validation pairs."
    )
    return (
        f"A policy trained with DPO from `{config.model}` on {headline['pairs']:.0f} pairs of "
        f"ranked responses for {config.num_train_epochs:g} epochs, beta {config.beta:g} ({how}); "
        f"no reward model was used.\n\nTaken at update {headline['step']:.0f}. {measured}\n\n"
        f"{turns_in_words(tokenizer, stops)}\n"
    )


if __name__ == "__main__":
    run_stage_main("dpo")
