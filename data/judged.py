"""Answers with a verdict beside them: two answers and which is better, or an answer a row with its
score. HelpSteer (Wang et al. 2023, 2024), SHP (Ethayarajh et al. 2022), PKU-SafeRLHF, Arena votes.
"""

import json
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from data.formats import (
    Malformed,
    Row,
    Unusable,
    as_prompt,
    compared,
    get_string,
    number_of,
    score_of,
    trl_preference,
    with_system,
)
from data.records import Comparison, Ranking

PROMPTS = ("prompt", "instruction", "question", "context", "history", "input")
ANSWERS = ("response", "output", "completion", "answer")
# What the two answers are called, the first and the second.
PAIRS = (
    ("response_1", "response_2"), ("response1", "response2"), ("response_0", "response_1"),
    ("response_a", "response_b"), ("human_ref_A", "human_ref_B"), ("answer_a", "answer_b"),
    ("output_1", "output_2"),
    ("conversation_a", "conversation_b"),
)  # fmt: skip
WINNERS = {"model_a": True, "a": True, "model_b": False, "b": False}


class Group(list[Row]):
    """Rows of one prompt."""


def judged_pair(row: Row) -> Iterator[Comparison]:
    """{prompt, response_1, response_2, preference_strength}: two answers and which is better.

    HelpSteer2 and 3 ({context, response1, response2, overall_preference}; below 0 the first is
    better), SHP ({history, human_ref_A, human_ref_B, labels}; 1: A is), PKU-SafeRLHF ({response_0,
    response_1, better_response_id}), Arena votes ({conversation_a, conversation_b, winner}). Rows
    without a preference are left out.
    """
    if not isinstance(row, dict):
        raise Malformed(PAIRS[0][0], "the row is not a JSON object")
    names = next((pair for pair in PAIRS if pair[0] in row and pair[1] in row), None)
    if names is None:
        known = ", ".join(" and ".join(pair) for pair in PAIRS)
        raise Malformed(PAIRS[0][0], f"two answers are missing ({known})")
    first, strength = _verdict(row)
    better, worse = names if first else reversed(names)
    if isinstance(row[better], list):
        [found] = trl_preference({"chosen": row[better], "rejected": row[worse]})
    else:
        prompt = with_system(row, as_prompt(row, *PROMPTS))
        found = compared(prompt, get_string(row, better), get_string(row, worse))
    yield found.model_copy(update={"strength": strength})


def _verdict(row: Row) -> tuple[bool, float | None]:
    """Whether the first answer is better, and how sure that is where the row says so."""
    for key, read in VERDICTS.items():
        if row.get(key) is not None:
            return read(key, row[key])
    if empty := next((key for key in VERDICTS if key in row), None):
        raise Unusable(f"null for {empty}")
    known = list(VERDICTS)
    raise Malformed(known[0], f"the key is missing (or {', '.join(known[1:])})")


def _signed(key: str, value: Any) -> tuple[bool, float | None]:
    """HelpSteer: -3 the first is much better ... 3 the second is."""
    number = number_of(value)
    if number is None:
        raise Unusable(f"{key} is no number")
    if number == 0:
        raise Unusable("neither answer is better")
    return number < 0, abs(number)


def _one_of(first: int) -> Callable[[str, Any], tuple[bool, float | None]]:
    """A number, 0 or 1; `first` says that the first answer is better."""

    def read(key: str, value: Any) -> tuple[bool, float | None]:
        number = number_of(value)
        if number not in (0, 1):
            raise Unusable(f"{key} is neither 0 nor 1")
        return number == first, None

    return read


def _first_or_second(key: str, value: Any) -> tuple[bool, float | None]:
    """1 or 2, and between them for a judge who is not sure (AlpacaEval): 1.5 is a tie."""
    number = number_of(value)
    if number is None or not 1 <= number <= 2:
        raise Unusable(f"{key} is neither 1 nor 2")
    if number == 1.5:
        raise Unusable("neither answer is better")
    return number < 1.5, None


def _winner(key: str, value: Any) -> tuple[bool, float | None]:
    if not isinstance(value, str):
        raise Malformed(key, f"is {type(value).__name__} but must be a string")
    if value.lower() not in WINNERS:
        raise Unusable(
            "neither answer is better" if value.startswith("tie") else f"{key} names neither answer"
        )
    return WINNERS[value.lower()], None


VERDICTS: dict[str, Callable[[str, Any], tuple[bool, float | None]]] = {
    "preference_strength": _signed,
    "overall_preference": _signed,
    "labels": _one_of(1),
    "better_response_id": _one_of(0),
    "winner": _winner,
    "label": _first_or_second,
    "preference": _first_or_second,
}


def scored_rows(row: Row | Group) -> Iterator[Ranking]:
    """{prompt, response, score}: an answer a row; the rows of one prompt are a ranking (`by_prompt`
    puts them together). HelpSteer's `helpfulness` is read as the score.
    """
    if not isinstance(row, Group):
        _answer(row)  # what is wrong with it, if anything is
        row = Group([row])
    if len(row) < 2:
        raise Unusable("one answer alone to its prompt")
    answers = [_answer(one) for one in row]
    scores = [score for _, score in answers]
    ordered = sorted(set(scores), reverse=True)
    models = [one.get("model") for one in row]
    yield Ranking(
        prompt=with_system(row[0], as_prompt(row[0], *PROMPTS)),
        responses=[text for text, _ in answers],
        ranks=[ordered.index(score) + 1 for score in scores],
        generators=[str(model) for model in models] if all(models) else None,
        meta={"scores": scores},
    )


def by_prompt(rows: Iterable[tuple[int, Any]]) -> Iterator[tuple[int, Any]]:
    """Rows of one prompt as a `Group`, under the number of the first; a row that is no answer with
    a score comes alone, so that its own line is named or counted.
    """
    groups: dict[str, tuple[int, Group]] = {}
    for number, row in rows:
        try:
            _answer(row)
        except (Malformed, Unusable, AttributeError, LookupError, TypeError, ValueError):
            yield number, row  # what is wrong with it is told when it is converted
            continue
        said = [row.get("system"), *(row.get(name) for name in PROMPTS)]
        _, group = groups.setdefault(
            json.dumps(said, sort_keys=True, default=str), (number, Group())
        )
        group.append(row)
    yield from groups.values()


def _answer(row: Row) -> tuple[str, float]:
    """The answer in a row and its score, the prompt looked at too."""
    text = get_string(row, *ANSWERS)
    as_prompt(row, *PROMPTS)
    if not any(key in row for key in ("score", "overall_score", "rating", "rank", "helpfulness")):
        raise Malformed("score", "the key is missing (or helpfulness, overall_score, rating, rank)")
    return text, score_of(row)
