"""What is thrown away of what a model makes up, by the rules of Self-Instruct (Wang et al. 2022,
section 3.2, and its code).
"""

import re
import string
from collections import Counter
from collections.abc import Sequence
from typing import Any

from podium.errors import PlatformError
from sft.instruct.tasks import Instance

FEWEST_WORDS, MOST_WORDS = 4, 150  # of an instruction
# What a language model cannot do, or was asked for too often.
KEYWORDS = (
    *("image", "images", "graph", "graphs", "picture", "pictures", "file", "files", "map", "maps"),
    *("draw", "plot", "go to"),
)
LIKENESS = 0.7  # ROUGE-L with any instruction that is there, from which a new one is no new one


def fault_of(instruction: str) -> str | None:
    """Why an instruction is thrown away whatever the others are; None if nothing speaks against
    it.
    """
    words = instruction.split()
    if not words:
        return "blank"
    if len(words) < FEWEST_WORDS:
        return "too short"
    if len(words) > MOST_WORDS:
        return "too long"
    if any(re.search(rf"\b{word}\b", instruction, re.IGNORECASE) for word in KEYWORDS):
        return "keyword"
    if instruction.startswith("Write a program"):
        return "asks for a program"
    if instruction[0] in string.punctuation:
        return "begins with punctuation"
    if not instruction[0].isascii():
        return "begins with no English character"
    return None


class Pool:
    """The instructions that there are, and whether a new one is like one of them.

    Raises:
        PlatformError: the package rouge-score is missing.
    """

    def __init__(self, instructions: Sequence[str]) -> None:
        try:
            from rouge_score.rouge_scorer import RougeScorer
            from rouge_score.tokenizers import DefaultTokenizer
        except ImportError as error:
            raise PlatformError(
                "the package rouge-score is not installed", "pip install 'podium-rlhf[instruct]'"
            ) from error
        self._tokenizer: Any = DefaultTokenizer(use_stemmer=False)
        self._scorer: Any = RougeScorer(["rougeL"], tokenizer=self._tokenizer)
        self.instructions: list[str] = []
        self._words: list[Counter[str]] = []
        for instruction in instructions:
            self.add(instruction)

    def add(self, instruction: str) -> None:
        self.instructions.append(instruction)
        self._words.append(Counter(self._tokenizer.tokenize(instruction)))

    def has_like(self, instruction: str) -> bool:
        """Whether one of them has a ROUGE-L (F-measure) above `LIKENESS` with this one."""
        words = Counter(self._tokenizer.tokenize(instruction))
        for other, theirs in zip(self.instructions, self._words, strict=True):
            # No common subsequence is longer than the words in common; most pairs end here.
            most = 2 * (words & theirs).total()
            if most <= LIKENESS * (words.total() + theirs.total()):
                continue
            if self._scorer.score(other, instruction)["rougeL"].fmeasure > LIKENESS:
                return True
        return False


def keep_instances(found: Sequence[Instance | None]) -> tuple[list[Instance], Counter[str]]:
    """The examples of one instruction that are kept, and why the others are not; None stands for
    one that could not be read.

    An output that is the input, or that promises more (ends in a colon), is no answer; of examples
    that give one input different outputs none is right for certain.
    """
    why: Counter[str] = Counter()
    outputs: dict[str, set[str]] = {}
    for one in found:
        if one is not None:
            outputs.setdefault(one.input, set()).add(one.output)
    kept: list[Instance] = []
    for one in found:
        if one is None:
            why["unreadable"] += 1
        elif one.output.endswith(":") or one.input.endswith(":"):
            why["unfinished"] += 1
        elif one.output == one.input:
            why["output repeats the input"] += 1
        elif len(outputs[one.input]) > 1:
            why["one input, several outputs"] += 1
        elif one in kept:
            why["twice"] += 1
        else:
            kept.append(one)
    return kept, why
