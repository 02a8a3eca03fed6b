"""What the reward stage trains on, settled before the first update: the model that training starts
from, and for every model to train (one, the members of an ensemble, the second half's) its rankings
as tokens, cut into the batches of all epochs.
"""

from collections import Counter
from pathlib import Path
from typing import NamedTuple

from transformers import PreTrainedTokenizerBase

from data.special_tokens import SpecialTokens
from data.template import prepare_tokenizer
from podium.errors import DataError
from podium.models import context_of, load_tokenizer, read_config
from podium.progress import say
from podium.run.context import StageContext
from reward.batches import (
    EncodedRanking,
    encode_rankings,
    epoch_batches,
    shuffled_pairs,
    weights_of_mean_one,
)
from reward.config import Config, RankingSet
from reward.sources import RankingSplits, draws_of, in_half, one_split, read_splits


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


def initial_model(
    folder: Path, max_length: int | None, chosen: SpecialTokens = SpecialTokens()
) -> InitialModel:
    """The model of a folder; sequences are no longer than `max_length` or the model's context.
    `chosen`: special tokens by the recipe.
    """
    tokenizer = prepare_tokenizer(load_tokenizer(folder), chosen)
    context = context_of(read_config(folder))
    return InitialModel(folder, tokenizer, min(max_length or 10**9, context or 10**9))


def ranking_sets(
    sources: str | list[RankingSet] | None, stage: StageContext, draws: int = 1
) -> list[tuple[RankingSplits, float]]:
    """Every set of rankings with its weight; no set teaches what another holds back. `draws`: how
    often the recipe's own `data.rankings` are drawn where they mix sources by weight.
    """
    if not isinstance(sources, list):
        sets, weights = [read_splits(stage, sources, draws)], [1.0]
    else:
        sets = [read_splits(stage, entry.source) for entry in sources]
        sets = one_split(sets, "reward.rankings")
        weights = [entry.weight for entry in sources]
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
    # Where the epochs are the draws of a mixture, `sets` hold them all, and are read once.
    epochs = config.num_train_epochs // draws_of(stage, config.rankings, config.num_train_epochs)

    def batches(items: list[EncodedRanking], seed: int) -> list[list[EncodedRanking]]:
        return training_batches(items, epochs, config.batch_size, seed)

    items = training_items(config, stage, sets, initial, half)
    plans = [
        TrainingPlan(batches(items, stage.seed + i), stage.seed + i) for i in range(config.members)
    ]
    if config.half == "split":
        others = training_items(config, stage, sets, initial, "second")
        plans.append(TrainingPlan(batches(others, stage.seed), stage.seed))
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
    items: list[EncodedRanking], epochs: int, batch_size: int, seed: int
) -> list[list[EncodedRanking]]:
    """The batches of all epochs, in an order set by the seed."""
    return [
        batch for epoch in range(epochs) for batch in epoch_batches(items, batch_size, seed, epoch)
    ]


def note_counts(stage: StageContext, counts: Counter[str]) -> None:
    """Tell the user and the logbook what was dropped."""
    for reason, count in counts.items():
        say(f"  {count} {reason}")
        stage.logbook(f"{count} {reason}")
