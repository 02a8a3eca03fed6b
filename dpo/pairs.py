"""From rankings to pairs of token ids: what is learned from, what is dropped, and in which order.
Pure, no model.

A ranking of K responses gives a pair for every two of them that are not tied
(`Ranking.comparisons`). As in SFT the order of the whole run is laid out before it starts, so the
number of the update is the position in the data.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from transformers import PreTrainedTokenizerBase

from data.records import Ranking
from data.template import encode_prompt, encode_response, naming_record


@dataclass(frozen=True)
class Pair:
    """One comparison as token ids; both responses end with the end token."""

    prompt: tuple[int, ...]
    chosen: tuple[int, ...]
    rejected: tuple[int, ...]

    @property
    def tokens(self) -> int:
        """Tokens of both sequences."""
        return 2 * len(self.prompt) + len(self.chosen) + len(self.rejected)


def encode_pairs(
    rankings: Sequence[Ranking], tokenizer: PreTrainedTokenizerBase, max_length: int
) -> tuple[list[Pair], Counter[str]]:
    """The pairs of all rankings, in their order, and what was dropped, by reason.

    A pair with a response over `max_length` tokens (its prompt with it) is dropped rather than cut:
    a cut response is not what the labeler ranked.
    """
    pairs: list[Pair] = []
    dropped: Counter[str] = Counter()
    for number, ranking in enumerate(rankings, 1):
        with naming_record("rankings", number, ranking.id, ranking.prompt):
            prompt = tuple(encode_prompt(tokenizer, ranking.prompt))
        comparisons = ranking.comparisons()
        dropped["ties (dropped)"] += ranking.k * (ranking.k - 1) // 2 - len(comparisons)
        for comparison in comparisons:
            chosen, rejected = (
                tuple(encode_response(tokenizer, text))
                for text in (comparison.chosen, comparison.rejected)
            )
            if len(prompt) + max(len(chosen), len(rejected)) > max_length:
                dropped["pairs over the context (dropped)"] += 1
            elif chosen == rejected:
                dropped["pairs of equal texts (dropped)"] += 1
            else:
                pairs.append(Pair(prompt, chosen, rejected))
    return pairs, +dropped


def lay_out(count: int, *, epochs: float, batch_size: int, seed: int) -> list[int]:
    """The pairs of the whole run in training order, as indices; every `batch_size` are one update.

    Every epoch is a fresh permutation; the number of updates is `epochs` rounded to whole batches.
    """
    rng = np.random.default_rng(seed)
    needed = max(round(epochs * count / batch_size), 1) * batch_size
    stream = [rng.permutation(count) for _ in range(-(-needed // count))]
    return np.concatenate(stream)[:needed].tolist()
