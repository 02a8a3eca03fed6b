"""Open Assistant's message trees: people's questions, several answers to each, and the order people
put them in.

Source: Kopf et al. 2023 (OpenAssistant Conversations). Roles there are `prompter` and `assistant`;
ranks count from 0.
"""

import math
from collections.abc import Iterable, Iterator
from typing import Any

from data.formats import ROLES, Row, Unusable, get_list, get_string, with_system
from data.records import Demonstration, Message, Prompt, Ranking

Node = dict[str, Any]


def oasst_tree(row: Row, wanted: type) -> Iterator[Demonstration | Ranking | Prompt]:
    """A tree as one kind of record.

    Demonstration: every conversation along best-ranked answers, to its last answer. Prompt: every
    question with what was said before. Ranking: every question with two or more ranked answers.
    Deleted and rejected messages stay out.
    """
    root = row.get("prompt", row)
    if root.get("parent_id"):
        raise Unusable("a message whose parent is not in the file")
    if get_string(root, "role") != "prompter":
        raise Unusable("a tree that does not begin with a question")
    get_string(root, "text")
    walks: dict[type, Any] = {Demonstration: _demonstrations, Prompt: _prompts}
    walk = walks.get(wanted, _rankings)
    found = list(walk(root, []))
    if not found:
        raise Unusable(
            "no two ranked answers in the tree"
            if wanted is Ranking
            else "nothing usable in the tree"
        )
    yield from found


def oasst_kway(row: Row) -> Iterator[Ranking]:
    """{history: [{role, text}], responses: [{text, rank, synthetic}]}: the rankings cut out of the
    trees.
    """
    prompt = with_system(row, [_message(turn) for turn in get_list(row, "history")])
    yield _ranking(prompt, get_list(row, "responses"))


def _demonstrations(node: Node, history: list[Message]) -> Iterator[Demonstration]:
    history = [*history, _message(node)]
    following = _children(node) if node["role"] == "assistant" else _best(_children(node))
    longer = [found for child in following for found in _demonstrations(child, history)]
    if longer:
        yield from longer
    elif node["role"] == "assistant":
        yield Demonstration(messages=history, id=node.get("message_id"))


def _prompts(node: Node, history: list[Message]) -> Iterator[Prompt]:
    history = [*history, _message(node)]
    if node["role"] == "prompter":
        yield Prompt(messages=history, id=node.get("message_id"))
    for child in _children(node):
        yield from _prompts(child, history)


def _rankings(node: Node, history: list[Message]) -> Iterator[Ranking]:
    history = [*history, _message(node)]
    ranked = [child for child in _children(node) if child.get("rank") is not None]
    if node["role"] == "prompter" and len(ranked) >= 2:
        yield _ranking(history, ranked, id=node.get("message_id"))
    for child in _children(node):
        yield from _rankings(child, history)


def _ranking(prompt: list[Message], answers: list[Node], id: str | None = None) -> Ranking:
    if len(answers) < 2:
        raise Unusable("fewer than two answers")
    return Ranking(
        prompt=prompt,
        responses=[get_string(answer, "text") for answer in answers],
        ranks=[_rank(answer) + 1 for answer in answers],
        generators=["model" if answer.get("synthetic") else "human" for answer in answers],
        id=id,
    )


def _rank(answer: Node) -> int:
    rank = answer.get("rank")
    if isinstance(rank, bool) or not isinstance(rank, int | float):
        raise Unusable("an answer without a rank")
    if not math.isfinite(rank) or rank != int(rank):
        raise Unusable("a rank that is no whole number")
    return int(rank)


def trees_of(messages: Iterable[Row]) -> Iterator[Node]:
    """Trees put together from flat messages, a row each, that name their `parent_id` (oasst1 and
    oasst2 as they lie on the hub). The whole file is read first: a parent may stand anywhere. A
    message whose parent is not there comes as a tree of its own, which `oasst_tree` leaves out.
    """
    rows = [dict(row) for row in messages]
    known = {row.get("message_id") for row in rows}
    replies: dict[Any, list[Node]] = {}
    for row in rows:
        replies.setdefault(row.get("parent_id") or None, []).append(row)
    for row in rows:
        row["replies"] = replies.get(row.get("message_id"), [])
    for parent, children in replies.items():
        if parent is None or parent not in known:
            yield from children


def _children(node: Node) -> list[Node]:
    return [
        child
        for child in node.get("replies") or []
        if not child.get("deleted")
        and child.get("review_result") is not False
        and (child.get("text") or "").strip()
    ]


def _best(answers: list[Node]) -> list[Node]:
    """The best-ranked answer; the first where none is ranked."""
    return sorted(
        answers, key=lambda answer: answer["rank"] if answer.get("rank") is not None else 1000
    )[:1]


def _message(node: Node) -> Message:
    return Message(role=ROLES[get_string(node, "role")], content=get_string(node, "text"))
