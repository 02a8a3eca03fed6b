"""What a stranger's chat template writes: the text of a conversation, where its answers are, and
how it ends a turn.

A template is a program, so all of this is found by rendering and nothing by its name. What differs
between templates and is evened out here:
- the token that ends a turn need not be the tokenizer's eos (ChatML on a base model, Gemma, Phi);
- the last answer may be written unlike earlier ones (Qwen3, gpt-oss: thinking is kept in it alone);
- there may be no system turn (Gemma, the first Mistral): its text then opens the first question;
- today's date may be written into each prompt: then one fixed day is, or a run that goes on
  tomorrow would train on other ids, and the reward model would read other prompts than the policy;
- tool calls may be wanted with null or empty content, and their arguments as an object or as text;
  a template that has no place for them would lose them in silence, and is refused by name.
"""

import json
import re
from collections.abc import Sequence
from datetime import date
from functools import lru_cache
from typing import Any, NamedTuple, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from data.records import Message
from data.text_ids import hide_specials
from data.tools import strings_in, with_strings
from podium.errors import PodiumError

Chat = list[dict[str, Any]]
Span = tuple[int, int]  # start and end character

TODAY = date(2024, 7, 26)  # for every run; Llama 3 itself takes this day where there is no clock
NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
# The end of a prompt that has opened a block of thinking for the answer to go on in.
THINKING_OPEN = re.compile(r"<think>\s*$")
PROBE = "Podium probes."  # a text that no template changes


class RefusedByTemplate(PodiumError):
    """The chat template raises an error on this conversation."""


class Rendered(NamedTuple):
    """A conversation's text with the special tokens that people typed hidden.

    `answers`: the spans of the answers with their end tokens. None where the template writes
    earlier answers unlike last ones, so that they are not what a model would say.
    """

    text: str
    answers: list[Span] | None


def render(tokenizer: Tokenizer, messages: Sequence[Message], answer_next: bool) -> Rendered:
    """The conversation's text, then the mark that starts an answer if `answer_next`.

    Answers are found by the template's {% generation %}, else as what follows the text of the
    messages before them.

    Raises:
        RefusedByTemplate: the template raises an error on the conversation.
    """
    template, chat, tools = _as_the_template_takes_it(tokenizer, messages)
    end = turn_end(tokenizer)
    text, spans = _render(tokenizer, template, chat, answer_next, tools)
    if _is_marked(template):
        return Rendered(text, [_until_end(text, span, end) for span in spans])
    answers: list[Span] = []
    for i in (i for i, message in enumerate(chat) if message["role"] == "assistant"):
        before = _render(tokenizer, template, chat[:i], True, tools)[0]
        until = _render(tokenizer, template, chat[: i + 1], False, tools)[0]
        span = _until_end(until, (len(before), len(until)), end)
        if not (until.startswith(before) and text.startswith(until[: span[1]])):
            return Rendered(text, None)
        answers.append(span)
    return Rendered(text, answers)


def render_answer(tokenizer: Tokenizer, text: str) -> str:
    """What the template writes between the end of a prompt and the end token for an answer.

    This is the answer, trimmed where the template trims, behind what the template puts before
    answers (Qwen3: an empty thinking block). Where a prompt ends otherwise than before an answer
    (DeepSeek R1: inside a thinking block) it is the answer as it is.
    """
    content = hide_specials(tokenizer, text)
    template, end = frozen(tokenizer.get_chat_template()), turn_end(tokenizer)
    chat: Chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": content}]
    before = _render(tokenizer, template, chat[:1], True)[0]
    whole = _render(tokenizer, template, chat, False)[0]
    stop = whole.rfind(end, len(before))
    if whole.startswith(before):
        if stop >= 0:
            return whole[len(before) : stop]
        chat[1]["content"] = PROBE  # GLM ends no answer; what follows one is not the answer's
        tail = _render(tokenizer, template, chat, False)[0].rpartition(PROBE)[2]
        return whole[len(before) :].removesuffix(tail)
    return re.sub(r"^\s*<think>\s*", "", content) if THINKING_OPEN.search(before) else content


def render_last(tokenizer: Tokenizer, messages: Sequence[Message]) -> tuple[str, str]:
    """The prompt, and what the template writes after it for a last answer that is more than a
    text, a call or thinking: with the end token, where it writes one.

    Where a prompt ends inside a thinking block (DeepSeek R1) the answer goes on
    there, and closes it.
    """
    template, chat, tools = _as_the_template_takes_it(tokenizer, messages)
    end, answer = turn_end(tokenizer), messages[-1]
    before = _render(tokenizer, template, chat[:-1], True, tools)[0]
    whole = _render(tokenizer, template, chat, False, tools)[0]
    if whole.startswith(before):
        start, stop = _until_end(whole, (len(before), len(whole)), end)
        return before, whole[start:stop]
    block = THINKING_OPEN.search(before)
    if block is None or not whole.startswith(before[: block.start()]):
        raise RefusedByTemplate(
            "the tokenizer's chat template writes a last answer unlike what its prompts lead to",
            fix="drop such conversations or give the tokenizer another chat_template",
        )
    thought = hide_specials(tokenizer, answer.reasoning_content or "") + "\n</think>\n\n"
    if not answer.tool_calls:
        return before, thought + hide_specials(tokenizer, answer.content) + end
    start, stop = _until_end(whole, (block.start(), len(whole)), end)
    return before, thought + whole[start:stop]


def thinking_in(answer: str, thought: str) -> int:
    """How many characters of a rendered answer are its thinking, with what marks its end: up to the
    `</think>` of most templates, else up to the end of the thought as the record has it.
    """
    at = answer.rfind("</think>")
    if at >= 0:
        rest = answer[at + len("</think>") :]
        return len(answer) - len(rest.lstrip())
    at = answer.find(thought) if thought else -1
    return at + len(thought) if at >= 0 else 0


def answer_lead(tokenizer: Tokenizer) -> str:
    """What the template puts before every answer; mostly nothing."""
    return render_answer(tokenizer, PROBE).partition(PROBE)[0]


def turn_end(tokenizer: Tokenizer) -> str:
    """The token that the template ends an answer with; the tokenizer's eos where it writes none."""
    if not tokenizer.chat_template:
        return cast(str, tokenizer.eos_token)
    return _turn_end(tokenizer, frozen(tokenizer.get_chat_template()), tokenizer.eos_token)


@lru_cache(maxsize=64)
def _turn_end(tokenizer: Tokenizer, template: str, eos: str) -> str:
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": PROBE}]
    try:
        tail = _render(tokenizer, template, chat, False)[0].rpartition(PROBE)[2]
    except RefusedByTemplate:
        return eos
    tokens = {token.content for token in tokenizer.added_tokens_decoder.values()}
    words = sorted(filter(str.strip, tokens), key=len, reverse=True)
    found = re.search("|".join(map(re.escape, words)), tail) if words else None
    return found[0] if found else eos


@lru_cache(maxsize=64)
def takes_system(tokenizer: Tokenizer, template: str) -> bool:
    """Whether the template has a place for a system message."""
    chat = [{"role": "system", "content": PROBE}, {"role": "user", "content": "a"}]
    try:
        return PROBE in _render(tokenizer, template, chat, True)[0]
    except RefusedByTemplate:
        return False


class ToolForm(NamedTuple):
    """How a template wants tool calls: with or without null for content and arguments as text."""

    content: str | None
    arguments_as_text: bool


TOOL_FORMS = [ToolForm(content, text) for text in (False, True) for content in (None, "")]


@lru_cache(maxsize=64)
def tool_form(tokenizer: Tokenizer, template: str) -> ToolForm | None:
    """The first form in which the template writes a call, its arguments and what came back; None
    where it has no place for them.
    """
    call: dict[str, Any] = {"name": "probe_name", "arguments": {"probe_key": "probe value"}}
    chat: Chat = [
        {"role": "user", "content": "a"},
        {"role": "assistant", "content": "", "tool_calls": [
            {"type": "function", "id": "probe1234", "function": call}]},
        {"role": "tool", "content": PROBE, "name": "probe_name", "tool_call_id": "probe1234"},
    ]  # fmt: skip
    words = (*call["arguments"], "probe_name", "probe value", PROBE)
    for form in TOOL_FORMS:
        try:
            text = _render(tokenizer, template, _in_form(chat, form), True)[0]
        except RefusedByTemplate:
            continue
        # Python's way of writing an object or None would be no call that anyone could read.
        garbled = "None" in text or "{'" in text
        if not garbled and all(word in text for word in words):
            return form
    return None


@lru_cache(maxsize=64)
def takes_tools(tokenizer: Tokenizer, template: str) -> bool:
    """Whether the template writes the definitions of tools."""
    empty = {"type": "object", "properties": {}}
    tool = {"name": "probe_name", "description": PROBE, "parameters": empty}
    chat = [{"role": "user", "content": "a"}]
    tools = [{"type": "function", "function": tool}]
    try:
        return "probe_name" in _render(tokenizer, template, chat, True, tools)[0]
    except RefusedByTemplate:
        return False


def check_tools(tokenizer: Tokenizer, messages: Sequence[Message]) -> ToolForm | None:
    """The form of the conversation's tool calls; None where it has none.

    Raises:
        RefusedByTemplate: the template has no place for tool calls or tools, and there are some.
    """
    form, template = None, frozen(tokenizer.get_chat_template())
    if any(message.role == "tool" or message.tool_calls for message in messages):
        form = tool_form(tokenizer, template)
        if form is None:
            raise _no_place("tool calls and what comes back")
    if messages and messages[0].tools and not takes_tools(tokenizer, template):
        raise _no_place("the definitions of tools")
    return form


def _in_form(chat: Chat, form: ToolForm) -> Chat:
    """The turns with their calls as the template wants them."""
    written = []
    for turn in chat:
        if turn.get("tool_calls"):
            calls = [
                {**call, "function": {**call["function"], "arguments": json.dumps(
                    call["function"]["arguments"], ensure_ascii=False)}}
                for call in turn["tool_calls"]
            ] if form.arguments_as_text else turn["tool_calls"]  # fmt: skip
            turn = {**turn, "content": turn["content"] or form.content, "tool_calls": calls}
        written.append(turn)
    return written


def _as_the_template_takes_it(
    tokenizer: Tokenizer, messages: Sequence[Message]
) -> tuple[str, Chat, list[dict[str, Any]] | None]:
    """The template, the turns and the tools for it, with the special tokens that people typed
    hidden.

    Raises:
        RefusedByTemplate: it has no place for tool calls or tools, and the conversation has some.
    """
    template = frozen(tokenizer.get_chat_template())
    chat = [_turn(tokenizer, message) for message in messages]
    if form := check_tools(tokenizer, messages):
        chat = _in_form(chat, form)
    tools = _hidden(tokenizer, messages[0].tools) if messages and messages[0].tools else None
    if chat and chat[0]["role"] == "system" and not takes_system(tokenizer, template):
        chat = fold_system(chat)
    return template, chat, tools


def _turn(tokenizer: Tokenizer, message: Message) -> dict[str, Any]:
    """A message for a template: only the keys that it has, for templates ask whether they are
    there.
    """
    turn = _hidden(tokenizer, message.model_dump(exclude={"tools", "weight"}))
    if "reasoning_content" in turn:
        turn["thinking"] = turn["reasoning_content"]  # gpt-oss's name for it
    return turn


def _hidden(tokenizer: Tokenizer, value: Any) -> Any:
    return with_strings(value, (hide_specials(tokenizer, text) for text in strings_in(value)))


def _no_place(what: str) -> RefusedByTemplate:
    return RefusedByTemplate(
        f"the tokenizer's chat template has no place for {what}",
        fix="drop such conversations, or start from a model whose template takes them",
    )


def fold_system(chat: Chat) -> Chat:
    """The system's text as the first paragraph of the first question."""
    if len(chat) < 2 or chat[1]["role"] != "user":
        return chat
    text = f"{chat[0]['content']}\n\n{chat[1]['content']}"
    return [{"role": "user", "content": text}, *chat[2:]]


def frozen(template: str) -> str:
    """The template with the date of TODAY in the place of the clock's.

    Raises:
        PodiumError: it asks the clock in a form that is only known while it runs.
    """
    found = NOW.sub(lambda match: repr(TODAY.strftime(match[2])), template)
    if "strftime_now(" in found:
        raise PodiumError(
            "the tokenizer's chat template writes the time, so no two runs would see the same "
            "prompts",
            fix="write a fixed date into the template where it calls strftime_now",
        )
    return found


def _render(
    tokenizer: Tokenizer,
    template: str,
    chat: Chat,
    generation_prompt: bool,
    tools: list[dict[str, Any]] | None = None,
) -> tuple[str, list[Span]]:
    """Text and the spans inside {% generation %}."""
    if _wants_parts(tokenizer, template):
        chat = _in_parts(chat)
    return _written(tokenizer, template, chat, generation_prompt, tools)


@lru_cache(maxsize=64)
def _wants_parts(tokenizer: Tokenizer, template: str) -> bool:
    """Whether the template reads a list of parts where others read a text, as those of models that
    see do (SmolVLM, LLaVA-NeXT): given a text they leave it out, and learned would be silence.

    Raises:
        RefusedByTemplate: it writes neither.
    """
    chat: Chat = [{"role": "user", "content": PROBE}, {"role": "assistant", "content": PROBE}]
    dropped = False
    for parts in (False, True):
        try:
            text, _ = _written(tokenizer, template, _in_parts(chat) if parts else chat, False)
        except RefusedByTemplate:
            continue
        if text.count(PROBE) == len(chat):
            return parts
        dropped = dropped or text.count(PROBE) < len(chat)
    if dropped:
        raise RefusedByTemplate(
            "the tokenizer's chat template leaves out what is said",
            fix="give the tokenizer another chat_template",
        )
    return False


def _in_parts(chat: Chat) -> Chat:
    return [
        turn | {"content": [{"type": "text", "text": turn["content"]}]}
        if isinstance(turn.get("content"), str)
        else turn
        for turn in chat
    ]


def _written(
    tokenizer: Tokenizer,
    template: str,
    chat: Chat,
    generation_prompt: bool,
    tools: list[dict[str, Any]] | None = None,
) -> tuple[str, list[Span]]:
    marked = _is_marked(template)
    # templates refer to {{ bos_token }} and the like
    special: dict[str, Any] = tokenizer.special_tokens_map
    try:
        texts, spans = cast(
            Any,
            render_jinja_template(
                conversations=[chat],
                tools=cast(Any, tools),
                chat_template=template,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=generation_prompt,
                **special,
            ),
        )
    except (
        TemplateError,
        ArithmeticError,
        AttributeError,
        LookupError,
        TypeError,
        ValueError,
    ) as error:  # a template that joins null to a text, say, stops with an error of Python's
        raise RefusedByTemplate(
            f"the tokenizer's chat template refuses a conversation: {error}",
            fix="drop such conversations or give the tokenizer another chat_template",
        ) from None
    return texts[0], spans[0] if marked else []


def _is_marked(template: str) -> bool:
    return re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None


def _until_end(text: str, span: Span, end: str) -> Span:
    """An answer's span up to its end token, which a template may write after {% endgeneration %};
    the line break that many write after it is not learned.
    """
    start, stop = span
    at = text.find(end, start)
    return start, at + len(end) if 0 <= at <= stop else stop
