"""What can be said of sampled answers without a judge: length, ending, repetition, sameness,
overlap, pass@k.

Reward hacking shows here first: answers that never end, loop, or say the same to every prompt.
"""

import re
from collections import Counter
from collections.abc import Hashable, Sequence
from math import comb

import numpy as np

from podium.sampling.protocol import Sample

LONGEST_LOOP_UNIT = 8  # tokens; a longer phrase said twice is a refrain rather than a loop
_PUNCTUATION = re.compile(r"[!\"#$%&()*+,-./:;<=>?@\[\]\\^`{|}~_']")
_ARTICLES = re.compile(r"\b(a|an|the)\b")


def describe(samples: Sequence[Sample], texts: Sequence[str]) -> dict[str, float]:
    """Means over answers: length in tokens with the end token, EOS rate, looping share,
    distinct-1/2 and answers.

    `distinct_answers` is the share of different texts; near 0 with many different prompts, the
    policy has collapsed.
    """
    return {
        "length": float(np.mean([len(sample.tokens) for sample in samples])),
        "eos_rate": float(np.mean([sample.finished for sample in samples])),
        "loop_share": float(
            np.mean([longest_loop(s.tokens) / max(len(s.tokens), 1) for s in samples])
        ),
        "distinct_1": distinct_n(texts, 1),
        "distinct_2": distinct_n(texts, 2),
        "distinct_answers": len(set(texts)) / len(texts),
    }


def distinct_n(texts: Sequence[str], n: int) -> float:
    """Different word n-grams divided by all word n-grams of all texts (Li et al. 2016); 0 when
    there is none.
    """
    grams = [gram for text in texts for gram in _grams(text.split(), n)]
    return len(set(grams)) / len(grams) if grams else 0.0


def longest_loop(tokens: Sequence[Hashable]) -> int:
    """Tokens covered by the longest phrase of up to 8 tokens that is said again at once; 0 without
    any repetition.
    """
    longest = 0
    for unit in range(1, LONGEST_LOOP_UNIT + 1):
        run = 0
        for earlier, later in zip(tokens, tokens[unit:], strict=False):
            run = run + 1 if earlier == later else 0
            if run >= unit:
                longest = max(longest, run + unit)
    return longest


def unigram_f1(answer: str, references: Sequence[str]) -> float:
    """ParlAI's F1 between the words of an answer and of its best reference, 0 without a common word
    (OPT's UF1).
    """
    return max(
        _f1(normalise(answer).split(), normalise(reference).split()) for reference in references
    )


def normalise(text: str) -> str:
    """Lower case, punctuation to spaces, articles out, single spaces (ParlAI)."""
    return " ".join(_ARTICLES.sub(" ", _PUNCTUATION.sub(" ", text.lower())).split())


def pass_at_k(samples: int, correct: int, k: int) -> float:
    """Chance that one of k answers is right, from `samples` tries of which `correct` were (Chen et
    al. 2021).

    ValueError when k exceeds the number of tries: nothing is known there, and 1.0 would be a lie.
    """
    if not 1 <= k <= samples or not 0 <= correct <= samples:
        raise ValueError(
            f"pass@{k} needs 1 <= k <= {samples} tries, and 0 <= {correct} right <= {samples}"
        )
    return 1.0 - comb(samples - correct, k) / comb(samples, k)


def _grams(words: Sequence[str], n: int) -> list[tuple[str, ...]]:
    return [tuple(words[i : i + n]) for i in range(len(words) - n + 1)]


def _f1(answer: list[str], reference: list[str]) -> float:
    common = (Counter(answer) & Counter(reference)).total()
    if common == 0:
        return 0.0
    precision, recall = common / len(answer), common / len(reference)
    return 2 * precision * recall / (precision + recall)
