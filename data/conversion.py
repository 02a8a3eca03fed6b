"""Turn one kind of record into another, where that makes sense: the table below is all there is."""

from collections.abc import Callable
from typing import Any

from data.records import (
    Comparison,
    Demonstration,
    Document,
    Message,
    Prompt,
    Question,
    Ranking,
    TrainingRecord,
)

AnyRecord = TrainingRecord | Question


def convert(record: AnyRecord, wanted: type[AnyRecord]) -> list[AnyRecord]:
    """`record` as `wanted`s: one, several (a ranking holds many comparisons) or none (every rank is
    a tie).

    Raises KeyError where no sense can be made of it; `convertible` tells before.
    """
    if isinstance(record, wanted):
        return [record]
    return CONVERSIONS[type(record), wanted](record)


def convertible(given: type[AnyRecord], wanted: type[AnyRecord]) -> bool:
    """Whether `convert` can make `wanted` from `given`."""
    return given is wanted or (given, wanted) in CONVERSIONS


def _prompt_of_demonstration(record: Demonstration) -> list[Prompt]:
    return [
        Prompt(
            messages=record.messages[:-1],
            user=record.user,
            use_case=record.use_case,
            source=record.source,
            id=record.id,
            meta=record.meta,
        )
    ]


def _prompt_of_preference(record: Ranking | Comparison) -> list[Prompt]:
    return [Prompt(messages=record.prompt, source=record.source, meta=record.meta)]


def _prompt_of_document(record: Document) -> list[Prompt]:
    return [
        Prompt(
            messages=[Message(role="user", content=record.text)], source=record.source, id=record.id
        )
    ]


def _demonstrations_of_ranking(record: Ranking) -> list[Demonstration]:
    """The best response is worth imitating; the first of them where several tie."""
    best = record.responses[record.ranks.index(min(record.ranks))]
    if not best.strip():
        return []
    answer = Message(role="assistant", content=best)
    return [
        Demonstration(
            messages=[*record.prompt, answer], source=record.source, id=record.id, meta=record.meta
        )
    ]


CONVERSIONS: dict[tuple[type, type], Callable[[Any], list[Any]]] = {
    (Document, Prompt): _prompt_of_document,
    (Demonstration, Prompt): _prompt_of_demonstration,
    (Ranking, Prompt): _prompt_of_preference,
    (Ranking, Demonstration): _demonstrations_of_ranking,
    (Ranking, Comparison): Ranking.comparisons,
    (Comparison, Prompt): _prompt_of_preference,
    (Comparison, Ranking): lambda record: [record.ranking()],
    (Comparison, Demonstration): lambda record: _demonstrations_of_ranking(record.ranking()),
}
