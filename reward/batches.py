"""Rankings -> token ids -> micro-batches: K sequences a ranking, each distinct response forwarded
once.

1. `encode_rankings` turns records into `EncodedRanking`s and counts whatever it has to drop.
2. `epoch_batches` shuffles them into batches counted in rankings (the paper's 64 prompts a batch).
3. `micro_batches` cuts one batch into pieces of at most so many tokens, rankings whole, for every
   process.
4. `collate` pads one piece on the right, sequences of like length together.

Nothing here touches a model, and the loss does not depend on how step 3 cuts: see `reward.loss`.
"""

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Literal, NamedTuple

import numpy as np
import torch
from torch import Tensor
from transformers import PreTrainedTokenizerBase

from data.packing import epoch_order
from data.records import Ranking
from data.template import encode_prompt, encode_response, naming_record
from podium.batching import batches_by_length, pad_right

__all__ = [
    "EncodedRanking",
    "Margin",
    "MicroBatch",
    "Sequences",
    "SharedPrefix",
    "collate",
    "encode_rankings",
    "epoch_batches",
    "micro_batches",
    "shuffled_pairs",
    "tie_duplicates",
    "weights_of_mean_one",
]

Margin = Literal["none", "strength", "likert"]


@dataclass(frozen=True)
class EncodedRanking:
    """One ranking as tokens. `responses` are distinct and end with the end token; K counts
    duplicates too.
    """

    prompt: tuple[int, ...]
    responses: tuple[tuple[int, ...], ...]  # (U,) distinct
    response_index: tuple[int, ...]  # (K,) answer k of the record is responses[response_index[k]]
    ranks: tuple[float, ...]  # (K,) 1 is best, duplicates share the mean of their ranks
    ratings: tuple[float, ...] | None = None  # (K,) see `pairwise_losses`
    weight: float = 1.0  # of its loss in a sum over rankings

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt + response."""
        return len(self.prompt) + max(map(len, self.responses))

    @property
    def tokens(self) -> int:
        """Tokens of a padded forward over the distinct responses."""
        return self.longest * len(self.responses)


def encode_rankings(
    rankings: Sequence[Ranking],
    tokenizer: PreTrainedTokenizerBase,
    max_length: int,
    *,
    margin: Margin = "none",
    margin_scale: float = 1.0,
    weight: float = 1.0,
) -> tuple[list[EncodedRanking], Counter[str]]:
    """Items for the rankings that can teach something, and what was dropped or worth saying, by
    reason.

    A response that does not fit `max_length` tokens with its prompt leaves its ranking; a ranking
    left with fewer than two responses, or with nothing but ties, is dropped. An empty response
    stays: its end token is scored, and PPO needs to know what saying nothing is worth.
    """
    items: list[EncodedRanking] = []
    counts: Counter[str] = Counter()
    for number, ranking in enumerate(rankings, 1):
        with naming_record("rankings", number, ranking.id, ranking.prompt):
            prompt = tuple(encode_prompt(tokenizer, ranking.prompt))
        responses = [tuple(encode_response(tokenizer, text)) for text in ranking.responses]
        # Dropped rather than cut: a cut response is not what the labeler ranked.
        fits = [k for k, ids in enumerate(responses) if len(prompt) + len(ids) <= max_length]
        counts["responses over the context (dropped)"] += len(responses) - len(fits)
        counts["empty responses (kept)"] += sum(not ranking.responses[k].strip() for k in fits)
        if len(fits) < 2:
            counts["rankings with fewer than two responses (dropped)"] += 1
            continue
        # `dict.fromkeys` keeps the order, so the same record always makes the same item.
        distinct = list(dict.fromkeys(responses[k] for k in fits))
        response_index = tuple(distinct.index(responses[k]) for k in fits)
        counts["duplicate responses (forwarded once)"] += len(response_index) - len(distinct)
        ranks = tie_duplicates([ranking.ranks[k] for k in fits], response_index)
        if len(set(ranks)) < 2:  # no strict pair, so no loss and no gradient
            counts["rankings with nothing but ties (dropped)"] += 1
            continue
        ratings = _ratings(ranking, fits, ranks, margin, margin_scale)
        if margin != "none" and ratings is None:
            counts[f"rankings without {margin} (trained without a margin)"] += 1
        items.append(
            EncodedRanking(prompt, tuple(distinct), response_index, ranks, ratings, weight)
        )
    return items, +counts


def tie_duplicates(ranks: Sequence[float], response_index: Sequence[int]) -> tuple[float, ...]:
    """Give identical responses the mean of their ranks: whatever told them apart was not the text.
    Both (K,).
    """
    sums, counts = np.bincount(response_index, weights=ranks), np.bincount(response_index)
    return tuple(float(sums[u] / counts[u]) for u in response_index)


def _ratings(
    ranking: Ranking, fits: list[int], ranks: Sequence[float], margin: Margin, scale: float
) -> tuple[float, ...] | None:
    """Per-response ratings whose differences are the pairs' margins; None where the record does not
    say.
    """
    if margin == "likert" and ranking.likert is not None:
        return tuple(scale * ranking.likert[k] for k in fits)
    if margin == "strength" and ranking.strength is not None:
        # A ranking has one strength, not one a pair: the margin of neighbours is scale * strength
        # (all there is at K = 2), and each further place adds as much.
        places = sorted(set(ranks))
        return tuple(-scale * ranking.strength * places.index(rank) for rank in ranks)
    return None


def shuffled_pairs(items: Sequence[EncodedRanking]) -> list[EncodedRanking]:
    """Every strict pair as a ranking of two: what the paper warns of (section 3.5), kept for the
    comparison.

    Each response then takes part in up to K-1 updates of an epoch, and is forwarded as often.
    """
    pairs = []
    for item in items:
        for i, j in zip(*np.nonzero(np.less.outer(item.ranks, item.ranks)), strict=True):
            both = (item.responses[item.response_index[i]], item.responses[item.response_index[j]])
            ratings = (item.ratings[i], item.ratings[j]) if item.ratings else None
            pairs.append(
                replace(
                    item, responses=both, response_index=(0, 1), ranks=(1.0, 2.0), ratings=ratings
                )
            )
    return pairs


def weights_of_mean_one(items: Sequence[EncodedRanking]) -> list[EncodedRanking]:
    """The items with weights divided by their mean over all of them; weights of 1 stay bit for
    bit.

    A batch cannot do this for itself: one of light rankings alone would count as much as one of
    heavy rankings, and the light set would gain a share of the gradient that nobody gave it.
    """
    mean = math.fsum(item.weight for item in items) / len(items)
    return [replace(item, weight=item.weight / mean) for item in items]


def epoch_batches(
    items: Sequence[EncodedRanking], batch_size: int, seed: int, epoch: int
) -> Iterator[list[EncodedRanking]]:
    """One epoch's batches of `batch_size` rankings over all processes, in an order set by (seed,
    epoch) alone.
    """
    order = epoch_order(len(items), seed, epoch)
    for start in range(0, len(items), batch_size):
        yield [items[i] for i in order[start : start + batch_size]]


def micro_batches(
    batch: Sequence[EncodedRanking], max_tokens: int, processes: int = 1
) -> list[list[list[EncodedRanking]]]:
    """Cut a batch into micro-batches, the same number for every process: result[process][i] is a
    list of items.

    Items of like length share a micro-batch of at most `max_tokens` padded tokens; one item larger
    than that stands alone. Every process plans for all and so needs no message. Where the count
    does not divide, large micro-batches are halved; where items run out, an item is repeated with
    weight 0, which adds nothing to loss or gradient.
    """
    cut: list[list[EncodedRanking]] = []
    for item in sorted(batch, key=lambda item: item.longest):
        sequences = len(item.responses) + (
            sum(len(other.responses) for other in cut[-1]) if cut else 0
        )
        if cut and sequences * item.longest <= max_tokens:
            cut[-1].append(item)
        else:
            cut.append([item])
    # Every process must run as many backward passes as the others, or they would wait for ever in
    # the engine's exchange of gradients.
    while len(cut) % processes:
        largest = max(cut, key=len)
        if len(largest) > 1:
            cut.remove(largest)
            cut += [largest[::2], largest[1::2]]
        else:
            cut.append([replace(largest[0], weight=0.0)])
    # Sorted, micro-batches of like size run at the same time, one on each process.
    cut.sort(key=lambda items: sum(item.tokens for item in items), reverse=True)
    return [cut[process::processes] for process in range(processes)]


class Sequences(NamedTuple):
    """Sequences forwarded together: (B, T) ids and mask, padded on the right."""

    input_ids: Tensor
    attention_mask: Tensor


class SharedPrefix(NamedTuple):
    """Prompts and their responses for `score_shared_prefix`."""

    prompt_ids: Tensor  # (P, Tp)
    prompt_mask: Tensor
    response_ids: Tensor  # (B, Tr)
    response_mask: Tensor
    prompt_of: Tensor  # (B,)


class MicroBatch(NamedTuple):
    """What one backward needs. N counts responses of all rankings, R rankings."""

    # forwarded one after the other; their scores are concatenated
    chunks: list[Sequences | SharedPrefix]
    sequence_of: Tensor  # (N,) which of the concatenated scores is response n's
    ranks: Tensor  # (N,)
    ranking_ids: Tensor  # (N,) in [0, R)
    ratings: Tensor | None  # (N,)
    weights: Tensor  # (R,)


def collate(
    items: Sequence[EncodedRanking],
    pad_token_id: int,
    *,
    chunk_tokens: int | None = None,
    shared_prefix: bool = False,
) -> MicroBatch:
    """Pad some items on the right.

    chunk_tokens: sort sequences by length and forward at most so many padded tokens at a time
    (None: all at once). A CPU is fastest at a few thousand, and sorting by sequence saves padding
    that whole rankings cannot avoid.
    """
    owner = [(r, u) for r, item in enumerate(items) for u in range(len(item.responses))]
    if shared_prefix:
        chunks: list[Sequences | SharedPrefix] = [_shared_prefix(items, pad_token_id)]
        order = list(range(len(owner)))
    else:
        tokens = [[*items[r].prompt, *items[r].responses[u]] for r, u in owner]
        order, chunks = _by_length(tokens, pad_token_id, chunk_tokens)
    place = {owner[i]: n for n, i in enumerate(order)}
    ratings = None
    if any(item.ratings is not None for item in items):
        ratings = torch.tensor(
            [m for item in items for m in item.ratings or [0.0] * len(item.ranks)]
        )
    return MicroBatch(
        chunks=chunks,
        sequence_of=torch.tensor(
            [place[r, u] for r, item in enumerate(items) for u in item.response_index]
        ),
        ranks=torch.tensor([rank for item in items for rank in item.ranks]),
        ranking_ids=torch.tensor([r for r, item in enumerate(items) for _ in item.response_index]),
        ratings=ratings,
        weights=torch.tensor([item.weight for item in items]),
    )


def _by_length(
    tokens: list[list[int]], pad_token_id: int, chunk_tokens: int | None
) -> tuple[list[int], list[Sequences | SharedPrefix]]:
    """The order in which sequences are forwarded, longest first, and the padded chunks."""
    cut = batches_by_length([len(ids) for ids in tokens], chunk_tokens)
    chunks: list[Sequences | SharedPrefix] = [
        Sequences(*pad_right([tokens[i] for i in rows], pad_token_id)) for rows in cut
    ]
    return [i for rows in cut for i in rows], chunks


def _shared_prefix(items: Sequence[EncodedRanking], pad_token_id: int) -> SharedPrefix:
    prompts = pad_right([item.prompt for item in items], pad_token_id)
    responses = pad_right([ids for item in items for ids in item.responses], pad_token_id)
    prompt_of = torch.tensor([r for r, item in enumerate(items) for _ in item.responses])
    return SharedPrefix(*prompts, *responses, prompt_of)
