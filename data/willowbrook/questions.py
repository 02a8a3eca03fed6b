"""Multiple-choice questions that measure what a model knows: facts in one and two hops, sums, and
the order of names.

The documents answer the facts ("Question: Where does Ana live?\\nAnswer: the mill"). Sums and names
are skills that no prompt or demonstration touches; what alignment does to them is the tax.
"""

import random

from data.records import Question
from data.willowbrook import phrases, words
from data.willowbrook.documents import MAX_ADDEND, question
from data.willowbrook.village import HOP_RELATIONS, RELATIONS, Village, as_answer

CHOICES = 4
SUM_QUESTIONS, NAME_QUESTIONS = 100, 100


def eval_sets(village: Village, seed: int) -> dict[str, list[Question]]:
    """Questions by set: `one_hop` and `two_hop` ask every fact of the village, `sums` and `names` a
    hundred each.
    """
    rng = random.Random(f"questions-{seed}")
    return {
        "one_hop": [
            _fact(village, name, relation, 1, rng)
            for name in village.names
            for relation in RELATIONS
        ],
        "two_hop": [
            _fact(village, name, relation, 2, rng)
            for name in village.names
            for relation in HOP_RELATIONS
        ],
        "sums": [_sum(rng) for _ in range(SUM_QUESTIONS)],
        "names": [_names(village, rng) for _ in range(NAME_QUESTIONS)],
    }


def _fact(village: Village, name: str, relation: str, hops: int, rng: random.Random) -> Question:
    truth = village.value(name, relation, hops)
    others = [value for value in village.values(relation) if value not in (truth, name)]
    choices = [as_answer(relation, value) for value in [truth, *rng.sample(others, CHOICES - 1)]]
    source = "one_hop" if hops == 1 else "two_hop"
    meta = {"name": name, "relation": relation}
    return _shuffled(question(name, relation, hops, rng), choices, source, rng, meta)


def _sum(rng: random.Random) -> Question:
    a, b = rng.randint(0, MAX_ADDEND), rng.randint(0, MAX_ADDEND)
    others = [number for number in range(2 * MAX_ADDEND + 1) if number != a + b]
    choices = [words.NUMBERS[number] for number in [a + b, *rng.sample(others, CHOICES - 1)]]
    asked = phrases.SUM_QUESTION.format(a=words.NUMBERS[a], b=words.NUMBERS[b])
    return _shuffled(asked, choices, "sums", rng, {})


def _names(village: Village, rng: random.Random) -> Question:
    names = rng.sample(village.names, CHOICES)
    asked = phrases.NAME_QUESTION.format(names=", ".join(names[:-1]), last=names[-1])
    return _shuffled(asked, sorted(names), "names", rng, {})


def _shuffled(
    asked: str, choices: list[str], source: str, rng: random.Random, meta: dict[str, str]
) -> Question:
    """The question with its choices in random order; the right one comes in first."""
    order = rng.sample(range(len(choices)), len(choices))
    return Question(
        question=asked,
        choices=[choices[i] for i in order],
        answer=order.index(0),
        source=source,
        meta=meta,
    )
