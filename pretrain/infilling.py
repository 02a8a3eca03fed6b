"""GLM's blank infilling as pretraining's objective: windows to rows with blanks, and how well a
model fills those of held-out windows. `pretrain.blanks` says what a row is.

The model is one that reads from left to right otherwise: what makes part A be read both ways is a
mask given whole, as it is for documents packed into windows. A family that does not follow it is
refused.
"""

from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from data.packing import Apart, additive_mask, looks_everywhere, packs
from data.special_tokens import document_separator_id
from podium.batching import share_of
from podium.engine import all_reduce_sum
from podium.errors import RecipeError
from podium.run.context import StageContext
from pretrain.blanks import (
    DOCUMENT,
    IDS,
    NOWHERE,
    ORDER,
    POSITION,
    TARGET,
    Infilling,
    SentinelIds,
    causal_row,
    infilled_row,
    window_tokens,
)
from pretrain.updates import Causal, Objective

__all__ = [
    "SENTINELS",
    "Infill",
    "add_sentinels",
    "call_inputs",
    "check_infills",
    "evaluate_infilling",
    "held_out_blanks",
    "objective_of",
]

# GLM's tokens in the order of `SentinelIds`; special, so that no text has them and none is written.
SENTINELS = ("[MASK]", "[gMASK]", "<|startofpiece|>", "<|endofpiece|>")
BLANKS = 1  # keeps the blanks' randomness apart from that of the windows' order
HELD_OUT_SEED = 0  # of held-out blanks


def add_sentinels(tokenizer: PreTrainedTokenizerBase) -> SentinelIds:
    """Give the tokenizer, in place, the tokens that blanks are written with; a second call changes
    nothing.
    """
    missing = [token for token in SENTINELS if token not in tokenizer.all_special_tokens]
    tokenizer.add_special_tokens(
        {"additional_special_tokens": missing}, replace_extra_special_tokens=False
    )
    ids = [tokenizer.convert_tokens_to_ids(token) for token in SENTINELS]
    return SentinelIds(*cast("list[int]", ids))


class Infill:
    """Windows as rows of which a share has blanks: a `pretrain.updates.Objective`.

    A batch is (B, 5, L) int64, the lines of `pretrain.blanks`, padded to the longest row. Which
    blanks a window has follows from its place in the endless stream of windows and the seed alone.

    window: tokens of a window: the most that leave room in `context` for the sentinels.
    """

    def __init__(
        self, config: Infilling, context: int, separator_id: int, sentinels: SentinelIds, seed: int
    ) -> None:
        """
        Raises:
            RecipeError: the context has no room for a window and its sentinels.
        """
        self.config, self.context, self.separator_id = config, context, separator_id
        self.sentinels, self.seed = sentinels, seed
        self.window = window_tokens(context, config)
        if self.window == 0:
            raise RecipeError(
                f"pretrain.context {context} has no room for a blank's three sentinels",
                fix="set a larger pretrain.context, or leave pretrain.infilling out",
            )

    def batch(self, windows: Tensor, first: int) -> Tensor:
        """Rows of the windows (B, T) at places first .. first + B of the stream."""
        rows = [self._row(window, first + i) for i, window in enumerate(windows.numpy())]
        longest = max(row.shape[1] for row in rows)
        padded = np.zeros((len(rows), 5, longest), dtype=np.int64)
        padded[:, DOCUMENT] = NOWHERE
        for place, row in zip(padded, rows, strict=True):
            place[:, : row.shape[1]] = row
        return torch.from_numpy(padded)

    def _row(self, window: np.ndarray, place: int) -> np.ndarray:
        rng = np.random.default_rng([self.seed, place, BLANKS])
        infilled, short = rng.random(2) < (self.config.share, self.config.short)
        if not infilled:
            return causal_row(window, self.separator_id)
        return infilled_row(
            window, self.separator_id, self.sentinels, self.config, bool(short), rng
        )

    def targets(self, batch: Tensor) -> int:
        """How many tokens of all processes are predicted."""
        return int(batch[:, TARGET].sum())

    def apart(self, batch: Tensor, model: Any) -> Apart:
        """How the model is to be called on rows of a batch."""
        longest = int((batch[:, DOCUMENT] != NOWHERE).sum(dim=1).max())
        rows = batch[:, :, :longest]
        owners = torch.arange(len(rows), device=rows.device)
        return Apart(call_inputs(rows), rows[:, TARGET].bool(), owners)


def call_inputs(rows: Tensor) -> dict[str, Any]:
    """What to call a causal LM with on rows (B, 5, L); the mask is (B, 1, L, L)."""
    document, order = rows[:, DOCUMENT], rows[:, ORDER]
    visible = (document[:, :, None] == document[:, None, :]) & (
        order[:, None, :] <= order[:, :, None]
    )
    return {
        "input_ids": rows[:, IDS],
        "position_ids": rows[:, POSITION],
        "attention_mask": additive_mask(visible),
        "use_cache": False,
    }


def held_out_blanks(objective: Infill, held_out: Tensor) -> Tensor:
    """Rows of held-out windows (N, T), all with short blanks, which text on both sides tells of;
    with suffixes where the run has no short ones. The same blanks whatever the run's seed is.
    """
    short = 1.0 if objective.config.short else 0.0
    config = objective.config.model_copy(update={"share": 1.0, "short": short})
    infill = Infill(
        config, objective.context, objective.separator_id, objective.sentinels, HELD_OUT_SEED
    )
    return infill.batch(held_out[:, : infill.window], 0)


@torch.no_grad()
def evaluate_infilling(
    engine: Any, held_out: Tensor, objective: Infill, rows_per_pass: int, stage: StageContext
) -> dict[str, float]:
    """On blanks in held-out windows (N, T), shared out over processes: the mean loss in nats a
    token of part B, and the share of the spans' tokens, without their ends, that the likeliest
    token is.
    """
    batch = held_out_blanks(objective, held_out)
    engine.eval()
    summed = torch.zeros(4, device=stage.device)  # loss, its tokens, right ones, their tokens
    for group in batch.split(stage.world_size * rows_per_pass):
        mine, counting = share_of(len(group), stage.world_size, stage.rank)
        rows = group[mine[: max(1, counting)]].to(stage.device)
        inputs, targets, _ = objective.apart(rows, engine.module.model)
        nll, right = engine(inputs, targets, judge=True)
        words = inputs["input_ids"][targets] != objective.sentinels.end
        found = torch.stack([nll, targets.sum(), (right & words).sum(), words.sum()])
        summed += found * (counting > 0)
    loss, tokens, right_words, words_asked = all_reduce_sum(summed).tolist()
    return {
        "validation_infill_loss": loss / max(tokens, 1),
        "validation_infill_accuracy": right_words / max(words_asked, 1),
    }


def objective_of(
    infilling: Infilling | None,
    seed: int,
    tokenizer: PreTrainedTokenizerBase,
    model: PreTrainedModel,
    context: int,
) -> Objective:
    """What the model learns from windows, and how long they are so that rows fit the context.

    Raises:
        RecipeError: the model cannot learn it, or the context is too short for it.
    """
    separator_id = document_separator_id(tokenizer)
    if infilling is None:
        return Causal(separator_id, context)
    check_infills(model, separator_id, context)
    return Infill(infilling, context, separator_id, add_sentinels(tokenizer), seed)


@torch.no_grad()
def check_infills(model: PreTrainedModel, separator_id: int, context: int) -> None:
    """Whether the model can be made to read part A both ways and part B from left to right,
    measured on a few tokens.

    Raises:
        RecipeError: it cannot; names the family.
    """
    family = model.config.get_text_config().model_type
    why = None
    if not looks_everywhere(model.config, context):
        why = f"some of its layers do not see a whole row of {context} tokens"
    elif not packs(model, separator_id):
        why = "it takes no mask and positions of one's own"
    elif not _reads_both_ways(model, separator_id):
        why = "its tokens never see those after them, whatever the mask"
    if why is not None:
        raise RecipeError(
            f"pretrain.infilling: a model of the family {family} cannot fill blanks: {why}",
            fix="take a preset of OPT, LLaMA, GPT-2 or GPT-NeoX, or leave pretrain.infilling out",
        )


def _reads_both_ways(model: PreTrainedModel, separator_id: int) -> bool:
    """Whether the last token of a row that is all part A changes what the first one's state is."""
    ids = [i for i in range(3, 9) if i != separator_id]
    rows = torch.zeros(2, 5, len(ids), dtype=torch.long, device=model.device)
    rows[:, IDS] = torch.tensor([ids, [*ids[:-1], ids[0]]])
    rows[:, POSITION] = torch.arange(len(ids))
    training = model.training
    model.eval()
    logits = model(**call_inputs(rows)).logits[:, 0].float()
    model.train(training)
    return bool((logits[0] - logits[1]).abs().max() > 1e-4 * logits.abs().max())
