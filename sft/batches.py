"""From demonstrations to token rows: what is trained on, what is dropped, and in which order. Pure,
no model.

The whole run's order is laid out before it starts, one list of rows that the trainer reads front to
back. So the position in the data is the step number, a resumed run reads the same rows, and every
consecutive `batch_size` rows are one batch however many processes share it.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from data.records import Demonstration
from data.template import (
    EVERY_ANSWER,
    LossOn,
    encode_conversation,
    encode_prompt,
    examples_of,
    naming_record,
)

__all__ = [
    "IGNORED",
    "EncodedDemonstrations",
    "Row",
    "aux_rows",
    "encode_demonstrations",
    "fill_with_documents",
    "lay_out_batches",
]

IGNORED = -100  # the label Hugging Face's losses skip


@dataclass(frozen=True)
class Row:
    """One training sequence. `labels` equals `input_ids` where the loss looks and IGNORED
    elsewhere.
    """

    input_ids: list[int]
    labels: list[int]


@dataclass(frozen=True)
class EncodedDemonstrations:
    """Rows that fit, and how many conversations did not fit which limit. A demonstration is one
    row, or one for each of its answers (`data.template.examples_of`).
    """

    rows: list[Row]
    long_prompts: int
    long_responses: int
    without_loss: int = 0  # every answer has a weight of 0, or the last one where it alone counts

    @property
    def dropped(self) -> int:
        return self.long_prompts + self.long_responses + self.without_loss


def encode_demonstrations(
    tokenizer: PreTrainedTokenizerBase,
    demonstrations: Sequence[Demonstration],
    *,
    context: int,
    max_prompt_tokens: int | None = None,
    max_response_tokens: int | None = None,
    loss_on: LossOn = EVERY_ANSWER,
) -> EncodedDemonstrations:
    """Tokenise conversations with the chat template; drop what is over a limit rather than cut it.

    A cut response would teach the model to stop in the middle of a sentence, or never to stop. The
    loss covers every assistant turn with its end token, unless `loss_on` or a weight says less: in
    one row, or in one each where the template writes earlier answers unlike last ones. Limits are
    in tokens; `context` bounds the whole conversation.
    """
    rows, long_prompts, long_responses, without_loss = [], 0, 0, 0
    for ids, is_response, prompt_tokens in _encoded(tokenizer, demonstrations, loss_on):
        if not any(is_response):
            without_loss += 1
        elif prompt_tokens > (max_prompt_tokens or context - 1):
            long_prompts += 1
        elif len(ids) > context or len(ids) - prompt_tokens > (max_response_tokens or context):
            long_responses += 1
        else:
            labels = [
                token if counts else IGNORED for token, counts in zip(ids, is_response, strict=True)
            ]
            rows.append(Row(ids, labels))
    return EncodedDemonstrations(rows, long_prompts, long_responses, without_loss)


def _encoded(
    tokenizer: PreTrainedTokenizerBase, demonstrations: Sequence[Demonstration], loss_on: LossOn
) -> Iterator[tuple[list[int], list[bool], int]]:
    """Ids, loss mask and tokens of the prompt of every conversation to learn from (no ids where
    there is nothing to learn); an error names the demonstration that the template refuses.
    """
    for number, demonstration in enumerate(demonstrations, 1):
        with naming_record("demonstrations", number, demonstration.id, demonstration.messages):
            found = [
                (
                    *encode_conversation(tokenizer, part, loss_on),
                    len(encode_prompt(tokenizer, part[:-1])),
                )
                for part in examples_of(tokenizer, demonstration.messages, loss_on)
            ]
        yield from found or [([], [], 0)]


def aux_rows(batches: int, batch_size: int, share: float) -> list[int]:
    """How many auxiliary rows each batch holds: floor((b+1) s) - floor(b s) with s = share *
    batch_size.

    So a share of a batch that is no whole number of rows is exact over the run. At least one row
    stays a demonstration.
    """
    # The tiny addition keeps a product such as 10 * 0.1 * 3 from falling a rounding error short of
    # a whole row.
    owed = np.floor(np.arange(batches + 1) * (share * batch_size) + 1e-9).astype(int)
    return np.minimum(np.diff(owed), batch_size - 1).tolist()


def lay_out_batches(
    lengths: Sequence[int],
    *,
    epochs: float,
    batch_size: int,
    aux_share: float,
    seed: int,
    bucket: int = 8,
) -> list[list[int]]:
    """The demonstrations of every batch of the run, as indices into `lengths`; auxiliary rows fill
    the rest of a batch.

    Every epoch is a fresh permutation; the number of batches is `epochs` rounded to whole batches.
    `bucket` batches at a time are sorted by length and dealt out in random order, so a batch holds
    rows of similar length, little padding.
    """
    rng = np.random.default_rng(seed)
    count = max(round(epochs * len(lengths) / (batch_size * (1.0 - aux_share))), 1)
    sizes = [batch_size - aux for aux in aux_rows(count, batch_size, aux_share)]
    needed = sum(sizes)
    stream = np.concatenate(
        [rng.permutation(len(lengths)) for _ in range(-(-needed // len(lengths)))]
    )[:needed]
    length_of = np.asarray(lengths)

    batches: list[list[int]] = []
    position = 0
    for first in range(0, count, bucket):
        group_sizes = sizes[first : first + bucket]
        group = stream[position : position + sum(group_sizes)]
        position += len(group)
        by_length = group[np.argsort(length_of[group], kind="stable")]
        chunks = np.split(by_length, np.cumsum(group_sizes)[:-1])
        batches += [chunks[i].tolist() for i in rng.permutation(len(chunks))]
    return batches


def fill_with_documents(
    batches: Sequence[Sequence[int]],
    rows: Sequence[Row],
    *,
    batch_size: int,
    documents: Sequence[Sequence[int]],
) -> list[Row]:
    """All rows of the run in training order, `batch_size` to a batch: demonstrations, then pieces
    of `documents`.

    `documents` are token ids, each with its end-of-text before it. A row never holds two of them,
    as in pretraining no document sees another. One longer than the longest demonstration of the
    batch is cut there and goes on in the next row, so the mix widens no batch. The loss covers
    every token (C.3).
    """
    laid_out: list[Row] = []
    number = position = 0  # the next token to read: this one of that document
    for batch in batches:
        laid_out += [rows[i] for i in batch]
        window = max(len(rows[i].input_ids) for i in batch)
        for _ in range(batch_size - len(batch)):
            ids = list(documents[number][position : position + window])
            laid_out.append(Row(ids, ids))
            position += window
            if position >= len(documents[number]):
                number, position = (number + 1) % len(documents), 0
    return laid_out
