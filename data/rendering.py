"""What a stranger's chat template writes: the text of a conversation, where its answers are, and
how it ends a turn.

A template is a program, so all of this is found by rendering and nothing by its name. What differs
between templates and is evened out here:
- the token that ends a turn need not be the tokenizer's eos (ChatML on a base model, Gemma, Phi);
- the last answer may be written unlike earlier ones (Qwen3, gpt-oss: thinking is kept in it alone);
- there may be no system turn (Gemma, the first Mistral): its text then opens the first question;
- today's date may be written into each prompt: then one fixed day is, or a run that goes on
  tomorrow would train on other ids, and the reward model would read other prompts than the policy.
"""

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
from podium.errors import PodiumError

Chat = list[dict[str, str]]
Span = tuple[int, int]  # start and end character

TODAY = date(2024, 7, 26)  # for every run; Llama 3 itself takes this day where there is no clock
NOW = re.compile(r"""strftime_now\(\s*(["'])(.*?)\1\s*\)""")
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
    template = frozen(tokenizer.get_chat_template())
    chat = [{"role": m.role, "content": hide_specials(tokenizer, m.content)} for m in messages]
    if chat and chat[0]["role"] == "system" and not takes_system(tokenizer, template):
        chat = fold_system(chat)
    end = turn_end(tokenizer)
    text, spans = _render(tokenizer, template, chat, answer_next)
    if _is_marked(template):
        return Rendered(text, [_until_end(text, span, end) for span in spans])
    answers: list[Span] = []
    for i in (i for i, message in enumerate(chat) if message["role"] == "assistant"):
        before = _render(tokenizer, template, chat[:i], True)[0]
        until = _render(tokenizer, template, chat[: i + 1], False)[0]
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
    chat = [{"role": "user", "content": "a"}, {"role": "assistant", "content": content}]
    before = _render(tokenizer, template, chat[:1], True)[0]
    whole = _render(tokenizer, template, chat, False)[0]
    stop = whole.rfind(end, len(before))
    return whole[len(before) : stop] if whole.startswith(before) and stop >= 0 else content


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
    tokenizer: Tokenizer, template: str, chat: Chat, generation_prompt: bool
) -> tuple[str, list[Span]]:
    """Text and the spans inside {% generation %}."""
    marked = _is_marked(template)
    # templates refer to {{ bos_token }} and the like
    special: dict[str, Any] = tokenizer.special_tokens_map
    try:
        texts, spans = cast(
            Any,
            render_jinja_template(
                conversations=[chat],
                chat_template=template,
                return_assistant_tokens_mask=marked,
                add_generation_prompt=generation_prompt,
                **special,
            ),
        )
    except TemplateError as error:
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
