"""Where GLM's blanks lie in a window of documents, and the row that a model reads for it.

GLM (Du et al. 2022, section 2.1) leaves spans out of a text and asks for them. A document becomes
part A, the text with a mask for each span, and part B, the spans, each between a start and an end:

    Ana lives in the mill.   ->   Ana lives [MASK] mill.   [start] in the [end]

1. A token of part A sees all of part A, before and after it. A token of part B sees part A and what
   comes before it in part B. No token sees another document.
2. What is learned is part B: the spans' tokens and their ends, so a model does not see how long a
   span is.
3. [MASK] stands for short spans, whose lengths are Poisson's, in random order. [gMASK] stands for
   the end of a document from a uniform place on.
4. Each blank's start has the position of its mask, and its tokens count on from there. GLM counts
   the span's tokens by a second kind of position, which no family of transformers has with rotary
   or learned positions; GLM-130B (Zeng et al. 2022, section 2.2) has one kind, too.

Unlike GLM, several documents share a window, and a share of the windows is read causally: what
comes after pretraining reads so. Nothing here knows of a model. What is random follows from the
generator that is given.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "DOCUMENT",
    "IDS",
    "ORDER",
    "POSITION",
    "TARGET",
    "Blank",
    "Infilling",
    "SentinelIds",
    "blanks_at_most",
    "causal_row",
    "document_row",
    "infilled_row",
    "short_blanks",
    "spans_among",
    "split_documents",
    "suffix_blanks",
    "window_tokens",
]

# What a row (5, L) says of each token, by line.
IDS = 0
POSITION = 1
DOCUMENT = 2  # its number; NOWHERE: padding
ORDER = 3  # it sees the tokens of its document whose order is not larger
TARGET = 4  # 1 where the token is predicted
NOWHERE = -1
SENTINELS_PER_BLANK = 3  # its mask, its start and its end

Blank = tuple[int, int]  # first token and the one after the last, counted within the document


class Infilling(BaseModel):
    """How windows are read with blanks to fill in."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    share: float = Field(
        0.5,
        gt=0,
        le=1,
        description="of the windows that have blanks; the others are read causally, as later "
        "stages read; GLM: 1",
    )
    short: float = Field(
        0.3,
        ge=0,
        le=1,
        description="of those, with short spans to fill in; in the others each document's end is "
        "left out; GLM-130B: 0.3",
    )
    mask_rate: float = Field(
        0.15, gt=0, le=0.5, description="of a window's tokens that short spans cover; GLM: 0.15"
    )
    mean_span: float = Field(
        3.0,
        gt=0,
        description="Poisson's mean of a short span's tokens, of which none is empty; GLM: 3",
    )


class SentinelIds(NamedTuple):
    """Ids of the tokens that blanks are written with."""

    mask: int
    suffix_mask: int
    start: int
    end: int


def blanks_at_most(tokens: int, config: Infilling) -> int:
    """How many blanks a window of so many tokens has at most."""
    return math.ceil(tokens * config.mask_rate / _mean_length(config))


def window_tokens(context: int, config: Infilling) -> int:
    """Tokens of the longest window whose row never exceeds `context`, with all its sentinels; 0
    where there is none.
    """
    fitting = (
        tokens
        for tokens in range(context, 1, -1)
        if tokens + SENTINELS_PER_BLANK * blanks_at_most(tokens, config) <= context
    )
    return next(fitting, 0)


def short_blanks(
    lengths: Sequence[int], config: Infilling, rng: np.random.Generator
) -> list[list[Blank]]:
    """Blanks of each document, in their order in the text, at least a token apart; never its first
    token. `lengths` are the documents' tokens.
    """
    expected = np.cumsum([(n - 1) * config.mask_rate / _mean_length(config) for n in lengths])
    # One number rounds for all documents, so that each has its expected number of blanks on
    # average, and the window never more than the next whole number of its own.
    counts = np.diff(np.floor(expected + rng.random()), prepend=0).astype(int)
    return [
        spans_among(n - 1, int(count), config.mean_span, rng)
        for n, count in zip(lengths, counts, strict=True)
    ]


def suffix_blanks(
    lengths: Sequence[int], config: Infilling, rng: np.random.Generator
) -> list[list[Blank]]:
    """One blank for each document: from a uniform place after its first token to its end. Where a
    window has more documents than blanks, chance says which stay whole.
    """
    able = [document for document, n in enumerate(lengths) if n > 1]
    chosen = set(rng.permutation(able)[: blanks_at_most(sum(lengths), config)].tolist())
    return [
        [(int(rng.integers(1, n)), n)] if document in chosen else []
        for document, n in enumerate(lengths)
    ]


def causal_row(window: np.ndarray, separator_id: int) -> np.ndarray:
    """(5, T): every token but the first is predicted from those before it in its document."""
    index = np.arange(len(window))
    starts = window == separator_id
    first = np.maximum.accumulate(np.where(starts, index, 0))
    return np.stack([window, index - first, np.cumsum(starts), index, index > 0]).astype(np.int64)


def infilled_row(
    window: np.ndarray,
    separator_id: int,
    sentinels: SentinelIds,
    config: Infilling,
    short: bool,
    rng: np.random.Generator,
) -> np.ndarray:
    """(5, L): each document with its blanks, then what they hold."""
    documents = split_documents(window, separator_id)
    draw = short_blanks if short else suffix_blanks
    blanks = draw([len(ids) for ids in documents], config, rng)
    mask = sentinels.mask if short else sentinels.suffix_mask
    rows = [
        document_row(ids, spans, mask, sentinels, rng.permutation(len(spans)), number)
        for number, (ids, spans) in enumerate(zip(documents, blanks, strict=True))
    ]
    return np.concatenate(rows, axis=1)


def split_documents(window: np.ndarray, separator_id: int) -> list[np.ndarray]:
    """A window's documents, each with the separator before it but for a first one that began in the
    window before.
    """
    begins = np.flatnonzero(window == separator_id)
    return np.split(window, begins[begins > 0])


def document_row(
    ids: np.ndarray,
    blanks: Sequence[Blank],
    mask: int,
    sentinels: SentinelIds,
    told: Sequence[int] | np.ndarray,
    number: int = 0,
) -> np.ndarray:
    """(5, L) of one document: part A, then the blanks in the order `told`. `blanks` are in the
    order of the text.
    """
    visible: list[int] = []
    places: list[int] = []  # of each blank's mask in part A
    after = 0
    for first, end in blanks:
        visible += ids[after:first].tolist()
        places.append(len(visible))
        visible.append(mask)
        after = end
    visible += ids[after:].tolist()
    row_ids, positions, targets = list(visible), [*range(len(visible))], [0] * len(visible)
    for blank in told:
        first, end = blanks[blank]
        span = [*ids[first:end].tolist(), sentinels.end]
        row_ids += [sentinels.start, *span]
        positions += range(places[blank], places[blank] + 1 + len(span))
        targets += [0] + [1] * len(span)
    order = np.maximum(np.arange(len(row_ids)) - len(visible) + 1, 0)  # 0 in all of part A
    return np.stack(
        [
            np.asarray(row_ids),
            np.asarray(positions),
            np.full(len(row_ids), number),
            order,
            np.asarray(targets),
        ]
    ).astype(np.int64)


def _mean_length(config: Infilling) -> float:
    """Tokens of a span on average: Poisson's mean where 0 is drawn again."""
    return config.mean_span / -math.expm1(-config.mean_span)


def spans_among(room: int, count: int, mean_span: float, rng: np.random.Generator) -> list[Blank]:
    """`count` spans among a document's `room` tokens after its first one: fewer where they and a
    token between each two do not fit.
    """
    lengths = [min(_span_length(mean_span, rng), room) for _ in range(count)]
    while sum(lengths) + len(lengths) - 1 > room:
        lengths.pop()
    # Every way to share the tokens that stay visible out among the gaps is as likely.
    free = room - sum(lengths) - max(len(lengths) - 1, 0)
    gaps = np.sort(rng.choice(free + len(lengths), len(lengths), replace=False))
    blanks: list[Blank] = []
    taken = 1  # the first token is no span's
    for i, length in enumerate(lengths):
        start = int(gaps[i]) - i + taken
        blanks.append((start, start + length))
        taken += length + 1
    return blanks


def _span_length(mean: float, rng: np.random.Generator) -> int:
    while True:
        if length := int(rng.poisson(mean)):
            return length
