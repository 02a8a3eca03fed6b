"""Public formats, one function each: a row as it lies in the file -> the records it holds.

A row that is well-formed but of no use (an empty answer, a null where text belongs) raises
`Unusable` with the reason; the reader counts these and says so. A row that lacks the format's keys
raises `Malformed`: it is in another format, and nothing of the file is read.
"""

import math
import re
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import ValidationError

from data.records import Comparison, Demonstration, Document, Message, Ranking
from data.tools import encodable, normal_tools, parsed

Row = dict[str, Any]

ROLES: dict[str, Literal["system", "user", "assistant", "tool"]] = {
    "system": "system", "developer": "system", "user": "user", "human": "user", "prompter": "user",
    "assistant": "assistant", "gpt": "assistant", "chatgpt": "assistant", "bing": "assistant",
    "bard": "assistant", "model": "assistant", "function_call": "assistant",
    "tool": "tool", "observation": "tool", "function": "tool", "ipython": "tool",
}  # fmt: skip
BOTH = ("chosen", "rejected")
NEMO_TURN = r"\n?<extra_id_1>(User|Assistant)\n"  # between the turns of HelpSteer2's prompts


class Unusable(Exception):
    """The row is left out, for the reason given."""


class Malformed(Exception):
    """The row is not in this format: which field, and what is wrong with it."""

    def __init__(self, field: str, problem: str) -> None:
        super().__init__(f"{field}: {problem}")
        self.field, self.problem = field, problem


def text(row: Row) -> Iterator[Document]:
    """{text}; the reader has already split plain text files at their separator."""
    content = get_string(row, "text")
    if not content.strip():
        raise Unusable("blank document")
    yield Document(text=content)


def alpaca(row: Row) -> Iterator[Demonstration]:
    """{instruction, input, output, system?, history?: [[question, answer]]}; `response` is read as
    `output`, and a turn of the history may be {instruction, output} too. Self-Instruct's
    `instances: [{input, output}]` are a demonstration each.
    """
    if isinstance(row, dict) and isinstance(row.get("instances"), list):
        shared = {key: value for key, value in row.items() if key != "instances"}
        for instance in get_list(row, "instances"):
            if not isinstance(instance, dict):
                raise Malformed("instances", "holds something else than objects")
            yield from alpaca(shared | instance)
        return
    question = get_string(row, "instruction")
    if row.get("input"):
        question += "\n\n" + get_string(row, "input")
    messages = _system(row)
    for turn in row.get("history") or []:
        asked, answered = _exchange(turn)
        messages += [
            Message(role="user", content=asked),
            Message(role="assistant", content=answered),
        ]
    messages.append(Message(role="user", content=_said(question, "question")))
    answer = Message(
        role="assistant", content=_said(get_string(row, "output", "response"), "answer")
    )
    yield Demonstration(messages=[*messages, answer])


def sharegpt(row: Row) -> Iterator[Demonstration | Comparison]:
    """{conversations: [{from, value}]} or {messages: [{role, content}]}, with `system` and `tools`
    beside them; with {chosen, rejected} turns a comparison. Tool calls are OpenAI's `tool_calls`,
    or LLaMA-Factory's turns `function_call` and `observation`.
    """
    messages = with_system(row, _messages(row, "conversations", "messages"))
    if "chosen" in row and "rejected" in row:
        said = {key: row[key] if isinstance(row[key], list) else [row[key]] for key in BOTH}
        yield _preference(*(_continued(messages, _messages(said, key)) for key in BOTH))
        return
    if row.get("label") is False:  # KTO's files hold bad answers too
        raise Unusable("labelled as a bad answer")
    while messages and messages[-1].role != "assistant":
        messages.pop()  # scraped conversations often end with a question nobody answered
    if len(messages) < 2:
        raise Unusable("no answered question")
    if not messages[-1].tool_calls:
        _said(messages[-1].content, "answer")
    yield Demonstration(messages=messages)


def hh(row: Row) -> Iterator[Comparison]:
    r"""{chosen, rejected}: two transcripts "\n\nHuman: ...\n\nAssistant: ..." that differ in the
    last answer.
    """
    chosen = _transcript(get_string(row, "chosen"))
    rejected = _transcript(get_string(row, "rejected"))
    if any(not turns or turns[-1].role != "assistant" for turns in (chosen, rejected)):
        raise Unusable("transcript does not end with an answer")
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("the two transcripts differ before the last answer")
    yield compared(with_system(row, chosen[:-1]), chosen[-1].content, rejected[-1].content)


def trl_preference(row: Row) -> Iterator[Comparison]:
    """{prompt, chosen, rejected}, strings or lists of messages, with `system` beside them; without
    `prompt` it is what both lists begin with, and a prompt that they repeat counts once.
    LLaMA-Factory's chosen_messages and rejected_messages are such lists.
    """
    row = {**row, **{key: row[f"{key}_messages"] for key in BOTH if f"{key}_messages" in row}}
    if isinstance(row.get("chosen"), str) and not all(_is_transcript(row.get(k)) for k in BOTH):
        prompt = with_system(row, as_prompt(row, "prompt"))
        yield compared(prompt, get_string(row, "chosen"), get_string(row, "rejected"))
        return
    chosen, rejected = (
        _transcript(row[key]) if isinstance(row.get(key), str) else _messages(row, key)
        for key in BOTH
    )
    if row.get("prompt") is not None:
        prompt = as_prompt(row, "prompt")
        chosen, rejected = _continued(prompt, chosen), _continued(prompt, rejected)
    found = _preference(chosen, rejected)
    yield found.model_copy(update={"prompt": with_system(row, found.prompt)})


def prompt_completion(row: Row) -> Iterator[Demonstration]:
    """{prompt, completion}, strings or lists of messages, as TRL's SFTTrainer takes them."""
    if row.get("label") is False:  # TRL's KTO files hold bad answers too
        raise Unusable("labelled as a bad answer")
    prompt = with_system(row, as_prompt(row, "prompt"))
    if isinstance(row.get("completion"), list):
        messages = _continued(prompt, _messages(row, "completion"))
    else:
        content = _said(get_string(row, "completion"), "answer")
        messages = [*prompt, Message(role="assistant", content=content)]
    if messages[-1].role != "assistant":
        raise Unusable("the completion does not end with an answer")
    yield Demonstration(messages=messages)


def _continued(prompt: list[Message], turns: list[Message]) -> list[Message]:
    """The prompt and what follows it, where the turns may repeat the prompt or its last message;
    a system message may stand in one of the two alone.
    """
    system = next((part[:1] for part in (prompt, turns) if part[0].role == "system"), [])
    asked, said = (part[1:] if part[0].role == "system" else part for part in (prompt, turns))
    if said[: len(asked)] == asked and len(said) > len(asked):
        return [*system, *said]
    if asked and said[:1] == asked[-1:] and len(said) > 1:
        return [*system, *asked, *said[1:]]
    if not said or said is not turns:
        raise Unusable("the answer begins anew, with another question")
    if prompt[-1].role == turns[0].role:
        raise Unusable(f"two turns of the {turns[0].role} in a row")
    return [*prompt, *turns]


def _preference(chosen: list[Message], rejected: list[Message]) -> Comparison:
    """Two conversations that differ in the last answer."""
    if chosen[:-1] != rejected[:-1]:
        raise Unusable("chosen and rejected differ before the last answer")
    if any(turns[-1].role != "assistant" for turns in (chosen, rejected)):
        raise Unusable("chosen or rejected does not end with an answer")
    return compared(chosen[:-1], _text_of(chosen[-1]), _text_of(rejected[-1]))


def scored_list(row: Row) -> Iterator[Ranking]:
    """One prompt and a list of answers with scores (high is good) or ranks (low is good).

    AlpacaEval {instruction, responses: [{output, model, score}]}, Nectar {prompt, answers:
    [{answer, model, rank}]}, UltraFeedback {instruction, completions: [{response, model,
    overall_score}]}, plain {prompt, responses, scores}. A score may be text ("7.5").
    """
    prompt = with_system(row, as_prompt(row, "instruction", "prompt", "question"))
    answers = get_list(row, "responses", "answers", "completions")
    if any(isinstance(answer, str) for answer in answers):
        scores = get_list(row, "scores")
        if len(scores) != len(answers):
            raise Unusable(f"{len(scores)} scores for {len(answers)} answers")
        answers = [{"output": a, "score": s} for a, s in zip(answers, scores, strict=True)]
    if len(answers) < 2:
        raise Unusable("fewer than two answers")
    found = [score_of(answer) for answer in answers]
    ordered = sorted(set(found), reverse=True)
    models = [answer.get("model") for answer in answers]
    yield Ranking(
        prompt=prompt,
        responses=[
            get_string(answer, "output", "answer", "response", "text") for answer in answers
        ],
        ranks=[ordered.index(score) + 1 for score in found],
        generators=[str(model) for model in models] if all(models) else None,
        meta={"scores": found},
    )


def score_of(answer: Row) -> float:
    """An answer's score, the higher the better; a rank is a score turned round. A number may stand
    there as text. Where there is no score, it is the mean of UltraFeedback's ratings by aspect.
    """
    names = (("score", 1), ("overall_score", 1), ("rating", 1), ("helpfulness", 1), ("rank", -1))
    for key, sign in names:
        number = number_of(answer.get(key))
        if number is not None:
            return sign * number
    aspects = answer.get("annotations")
    if isinstance(aspects, dict):
        said = [a.get("Rating") if isinstance(a, dict) else None for a in aspects.values()]
        ratings = [number for number in map(number_of, said) if number is not None]
        if ratings:
            return sum(ratings) / len(ratings)
    raise Unusable("an answer without a score or rank")


def number_of(value: Any) -> float | None:
    """A finite number, or one that is written as text ("7.5"); None for anything else ("N/A")."""
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        return None
    try:
        number = float(value)
    except (OverflowError, ValueError):
        return None
    return number if math.isfinite(number) else None


def _system(row: Row) -> list[Message]:
    """The system prompt that lies beside the turns, as a list of one message or none."""
    key = next((key for key in ("system", "system_prompt") if row.get(key)), None)
    return [Message(role="system", content=get_string(row, key))] if key else []


def with_system(row: Row, messages: list[Message]) -> list[Message]:
    """The turns with that system prompt first, unless they begin with one themselves, and with the
    tools that lie beside them.
    """
    if not messages or messages[0].role != "system":
        messages = [*_system(row), *messages]
    tools = normal_tools(row.get("tools"))
    if tools is None:
        return messages
    if not isinstance(tools, list) or any(not isinstance(tool, dict) for tool in tools):
        raise Malformed("tools", "is not a list of objects, nor JSON text of one")
    return [messages[0].model_copy(update={"tools": encodable(tools)}), *messages[1:]]


def _exchange(turn: Any) -> tuple[str, str]:
    """A question and its answer in a history: a pair, or an object of alpaca's own keys."""
    if isinstance(turn, list) and len(turn) == 2:
        turn = dict(zip(("instruction", "output"), turn, strict=True))
    if not isinstance(turn, dict):
        raise Unusable("a history that is not of questions and answers")
    return get_string(turn, "instruction", "user"), get_string(turn, "output", "assistant")


def compared(prompt: list[Message], chosen: str, rejected: str) -> Comparison:
    """Two answers to a question, both of which say something and not the same."""
    if not prompt or prompt[-1].role not in ("user", "tool") or not prompt[-1].content.strip():
        raise Unusable("no question before the answers")
    if chosen.strip() == rejected.strip():
        raise Unusable("chosen and rejected are the same")
    return Comparison(
        prompt=prompt, chosen=_said(chosen, "answer"), rejected=_said(rejected, "answer")
    )


def _is_transcript(text: Any) -> bool:
    return isinstance(text, str) and text.lstrip().startswith("Human:") and "Assistant:" in text


def _transcript(text: str) -> list[Message]:
    """Turns of a Human/Assistant transcript; turns of one speaker in a row become one."""
    messages: list[Message] = []
    parts = re.split(r"(?:^|\n\n)(Human|Assistant):", text)
    for speaker, content in zip(parts[1::2], parts[2::2], strict=True):
        role = "user" if speaker == "Human" else "assistant"
        content = content.strip()
        if messages and messages[-1].role == role:
            content = f"{messages.pop().content}\n\n{content}".strip()
        messages.append(Message(role=role, content=content))
    return messages


def as_prompt(row: Row, *keys: str) -> list[Message]:
    """The prompt's messages, from a list of messages, a transcript (Nectar, HelpSteer2) or a plain
    string.
    """
    found = next((row[key] for key in keys if row.get(key) is not None), None)
    if isinstance(found, list):
        return _messages(row, *keys)
    content = get_string(row, *keys)
    if content.lstrip().startswith("Human:"):
        return [message for message in _transcript(content) if message.content]
    if re.search(NEMO_TURN, content):
        first, *rest = re.split(NEMO_TURN, content)
        turns = [("User", first), *zip(rest[::2], rest[1::2], strict=True)]
        roles: dict[str, Literal["user", "assistant"]] = {"User": "user", "Assistant": "assistant"}
        return [Message(role=roles[who], content=text.strip()) for who, text in turns]
    return [Message(role="user", content=_said(content, "question"))]


def _messages(row: Row, *keys: str) -> list[Message]:
    return [_message(turn) for turn in get_list(row, *keys)]


def _message(turn: Row) -> Message:
    role = get_string(turn, "from", "role")
    if role not in ROLES:
        raise Unusable(f"a turn by {role!r}")
    calls = turn.get("tool_calls") or ([turn["function_call"]] if turn.get("function_call") else [])
    content = ""
    if role == "function_call":  # LLaMA-Factory: the turn's text is the call, or a list of them
        said = parsed(_content(turn))
        calls = said if isinstance(said, list) else [said]
    elif not calls or _has_text(turn):
        content = _content(turn)
    found = {
        "reasoning_content": _first(turn, "reasoning_content", "reasoning", "thinking"),
        "tool_calls": calls or None,
        "tool_call_id": turn.get("tool_call_id"),
        "name": turn.get("name") if ROLES[role] == "tool" else None,
        "weight": _weight(turn),
    }
    if ROLES[role] != "assistant":
        found |= {"tool_calls": None, "reasoning_content": None, "weight": None}
    try:
        return Message.model_validate({"role": ROLES[role], "content": content, **found})
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        if first["loc"] and first["loc"][0] == "tool_calls":
            raise Unusable(
                "a tool call that names no function or has no object of arguments"
            ) from None
        field = ".".join(map(str, first["loc"])) or "messages"
        raise Malformed(field, first["msg"].removeprefix("Value error, ")) from None


def _weight(turn: Row) -> Any:
    """OpenAI's `weight` of a turn, 0 or 1; Axolotl's `train` or `training` says the same."""
    for key in ("weight", "train", "training"):
        if turn.get(key) is not None:
            return int(turn[key]) if isinstance(turn[key], bool) else turn[key]
    return None


def _has_text(turn: Row) -> bool:
    return turn.get("value") is not None or turn.get("content") is not None


def _first(turn: Row, *keys: str) -> Any:
    return next((turn[key] for key in keys if turn.get(key)), None)


def _text_of(answer: Message) -> str:
    """An answer that is compared; rankings are of texts."""
    if answer.tool_calls:
        raise Unusable("a tool call as an answer to compare")
    return answer.content


def _content(turn: Row) -> str:
    """A turn's text; a list of parts ({type: text, text or value}) is joined, other parts make the
    row unusable.
    """
    parts = turn.get("content")
    if not isinstance(parts, list):
        return get_string(turn, "value", "content")
    if any(not isinstance(part, dict) or part.get("type") != "text" for part in parts):
        raise Unusable("a turn that is not text")
    return "".join(get_string(part, "text", "value") for part in parts)


def get_string(row: Row, *keys: str) -> str:
    """The string under the first of `keys` the row has; raises Malformed without one."""
    return _get(row, str, "a string", *keys)


def get_list(row: Row, *keys: str) -> list[Any]:
    """The list under the first of `keys` the row has; raises Malformed without one, Unusable when
    it is empty.
    """
    found = _get(row, list, "a list", *keys)
    if not found:
        raise Unusable(f"empty {keys[0]}")
    return found


def _get(row: Row, kind: type, kind_name: str, *keys: str) -> Any:
    """The value of the first key the row has. Raises Malformed when it has none or the value's type
    is wrong, Unusable when there is a key and nothing under it.
    """
    if not isinstance(row, dict):
        raise Malformed(keys[0], "the row is not a JSON object")
    for key in keys:
        if row.get(key) is not None:
            if not isinstance(row[key], kind):
                raise Malformed(key, f"is {type(row[key]).__name__} but must be {kind_name}")
            return row[key]
    if empty := next((key for key in keys if key in row), None):
        raise Unusable(f"null for {empty}")
    raise Malformed(
        keys[0], "the key is missing" + (f" (or {', '.join(keys[1:])})" if len(keys) > 1 else "")
    )


def _said(content: str, what: str) -> str:
    if not content.strip():
        raise Unusable(f"blank {what}")
    return content
