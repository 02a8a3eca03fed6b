"""Conversations to token ids and back, with the loss mask, for every stage.

Podium's own form has one special token a role and no other decoration:

    <|endoftext|><|user|>What food does Bram like?<|end|><|assistant|>Plum jam.<|end|>

Two rules hold for it and for the template a foreign tokenizer brings along:
- What people wrote is data. `<|end|>` typed by a person becomes ordinary characters, never the
  special token.
- A conversation is encoded in pieces, cut where an answer starts, so that `encode_prompt(p) +
  encode_response(r) == encode_conversation(p + [r])` exactly: the stage that scores a response sees
  the ids of the stage that sampled it.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from itertools import pairwise
from textwrap import shorten
from typing import Any, NamedTuple, cast

from transformers import PreTrainedTokenizerBase as Tokenizer

from data.records import Message, place_of
from data.rendering import (
    TODAY,
    RefusedByTemplate,
    answer_lead,
    check_tools,
    render,
    render_answer,
    render_last,
    thinking_in,
    turn_end,
)
from data.special_tokens import (
    END_OF_TEXT,
    SpecialTokens,
    choose,
    keep_separator,
    kept_separator,
    separator_by_rule,
    settle_pad,
)
from data.text_ids import encode_rendered, encode_text, hide_specials, last_kind
from podium.errors import DataError

__all__ = [
    "CHAT_TEMPLATE",
    "EVERY_ANSWER",
    "ROLE_TOKENS",
    "SPECIAL_TOKENS",
    "LossOn",
    "decode_response",
    "encode_conversation",
    "encode_prompt",
    "encode_response",
    "encode_whole",
    "examples_of",
    "naming_record",
    "prepare_tokenizer",
    "save_stop_token_ids",
    "stop_token_ids",
    "turn_end_id",
    "turns_in_words",
]

SPECIAL_TOKENS = ("<|endoftext|>", "<|pad|>", "<|end|>", "<|system|>", "<|user|>", "<|assistant|>")
ROLE_TOKENS = {"system": "<|system|>", "user": "<|user|>", "assistant": "<|assistant|>"}

CHAT_TEMPLATE = (
    "{{ bos_token }}"
    "{% for message in messages %}"
    "{{ '<|' + message['role'] + '|>' }}"
    "{% if message['role'] == 'assistant' %}"
    "{% generation %}{{ message['content'] + eos_token }}{% endgeneration %}"
    "{% else %}{{ message['content'] + eos_token }}{% endif %}"
    "{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|assistant|>' }}{% endif %}"
)


Encoded = tuple[list[int], list[bool]]  # ids and loss mask, of equal length


class LossOn(NamedTuple):
    """Which of the answers' tokens a conversation teaches; a message's `weight` of 0 wins."""

    last_answer_only: bool = False
    thinking: bool = True

    def flags(self, messages: Sequence[Message]) -> list[bool]:
        """Whether each of the assistant's messages is learned, in order."""
        answers = [message for message in messages if message.role == "assistant"]
        return [
            answer.weight != 0 and (answer is answers[-1] or not self.last_answer_only)
            for answer in answers
        ]


EVERY_ANSWER = LossOn()


def prepare_tokenizer(tokenizer: Tokenizer, chosen: SpecialTokens = SpecialTokens()) -> Tokenizer:
    """Give a base tokenizer, in place, what the chain needs: bos, eos, a separator of documents, a
    pad that is none of them, and a chat template. `chosen`: what the recipe says of them.

    One that has a template keeps it and gets no role tokens. New tokens come last, so the caller
    only appends rows to the embeddings (`podium.models.resize_for`). A second call changes nothing.

    Raises:
        RecipeError: a chosen token cannot be what it is chosen for.
    """
    separator = separator_by_rule(tokenizer)
    if tokenizer.bos_token is None:
        bos = separator if separator in END_OF_TEXT else END_OF_TEXT[0]
        tokenizer.add_special_tokens({"bos_token": bos})
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    choose(tokenizer, chosen)
    if kept_separator(tokenizer) is None:
        keep_separator(tokenizer, separator or tokenizer.bos_token)
    settle_pad(tokenizer)
    if tokenizer.chat_template == CHAT_TEMPLATE:
        roles = [
            token for token in ROLE_TOKENS.values() if token not in tokenizer.all_special_tokens
        ]
        tokenizer.add_special_tokens(
            {"additional_special_tokens": roles}, replace_extra_special_tokens=False
        )
    return tokenizer


def encode_prompt(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation up to and including the mark that starts the assistant's answer."""
    return _encode_history(tokenizer, messages, answer_next=True)[0]


def encode_response(tokenizer: Tokenizer, text: str, ended: bool = True) -> list[int]:
    """Ids of an answer as they follow `encode_prompt`; no end token for an answer that was cut off
    (`ended=False`).
    """
    end = [turn_end_id(tokenizer)] if ended else []
    if tokenizer.chat_template == CHAT_TEMPLATE:
        return encode_text(tokenizer, text, after="special") + end
    after = _prompt_ends_with(tokenizer, tokenizer.get_chat_template())
    return encode_rendered(tokenizer, render_answer(tokenizer, text), after) + end


def encode_conversation(
    tokenizer: Tokenizer, messages: Sequence[Message], loss_on: LossOn = EVERY_ANSWER
) -> Encoded:
    """(ids, loss_mask) of a conversation; the mask is True on every answer's tokens and the token
    that ends it, less what `loss_on` and the messages' weights leave out.

    Where the template writes earlier answers unlike last ones, it is True on the last answer alone:
    see `examples_of`.
    """
    flags = loss_on.flags(messages)
    if messages[-1].role != "assistant":
        return _encode_history(tokenizer, messages, False, flags, loss_on.thinking)
    ids, mask = _encode_history(tokenizer, messages[:-1], True, flags[:-1], loss_on.thinking)
    answer, learned = _encode_last(tokenizer, messages, loss_on.thinking)
    return ids + answer, mask + [flags[-1] and counts for counts in learned]


def encode_whole(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation as its template writes it to the very end, with whatever follows the
    last answer's end token (ChatML: a line break): what a stranger's reward model was trained on.
    """
    return _encode_history(tokenizer, messages, answer_next=False)[0]


def examples_of(
    tokenizer: Tokenizer, messages: Sequence[Message], loss_on: LossOn = EVERY_ANSWER
) -> list[Sequence[Message]]:
    """The conversations that teach the answers of this one: itself, or one that ends with each
    answer where the template writes earlier answers unlike last ones; none where `loss_on` and the
    messages' weights leave nothing to learn.
    """
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    flags = loss_on.flags(messages)
    if not any(flags):
        return []
    if flags.index(True) == len(flags) - 1 or tokenizer.chat_template == CHAT_TEMPLATE:
        return [messages]
    if render(tokenizer, messages[:-1], answer_next=True).answers is not None:
        return [messages]
    return [messages[: i + 1] for i, counts in zip(answers, flags, strict=True) if counts]


def turn_end_id(tokenizer: Tokenizer) -> int:
    """Id of the token that ends a turn in the tokenizer's chat template."""
    if tokenizer.chat_template == CHAT_TEMPLATE:
        return cast(int, tokenizer.eos_token_id)
    return cast(int, tokenizer.convert_tokens_to_ids(turn_end(tokenizer)))


def stop_token_ids(tokenizer: Tokenizer, model: Any) -> tuple[int, ...]:
    """The ids that end an answer when a model is sampled: what ends a turn in the template, first,
    then the eos ids of the model's generation config.

    An id of an ordinary word there comes from a config class's defaults and does not count.
    """
    config = getattr(model, "generation_config", None)
    given = getattr(config, "eos_token_id", None)
    given = given if isinstance(given, list) else [given]
    special = {i for i, token in tokenizer.added_tokens_decoder.items() if token.special}
    return tuple(dict.fromkeys([turn_end_id(tokenizer), *(i for i in given if i in special)]))


def save_stop_token_ids(tokenizer: Tokenizer, model: Any) -> None:
    """Note the stop ids in the model's generation config, so that whoever loads it stops there."""
    ids = stop_token_ids(tokenizer, model)
    if model.generation_config is not None:
        model.generation_config.eos_token_id = ids[0] if len(ids) == 1 else list(ids)


def turns_in_words(tokenizer: Tokenizer, stops: Sequence[int]) -> str:
    """For a model card: what ends an answer, and which day the prompts name."""
    names = ", ".join(f"`{name}`" for name in tokenizer.convert_ids_to_tokens(list(stops)))
    text = f"Answers end with `{turn_end(tokenizer)}`; sampling stops at {names}."
    if "strftime_now" in (tokenizer.chat_template or ""):
        text += f" The template names today's date: in every prompt here that was {TODAY:%d %B %Y}."
    return text


@contextmanager
def naming_record(
    kind: str, number: int, name: str | None, messages: Sequence[Message]
) -> Iterator[None]:
    """Let an error about a conversation that the chat template refuses say which record it is,
    with file and line where it was read from a file.

    Args:
        kind: which data, such as "demonstrations".
        number: the record's place among them as they were read, from 1.
        name: its id, where it has one.
    """
    try:
        yield
    except RefusedByTemplate as error:
        called = f" ({name})" if name else ""
        words = shorten(messages[0].content, 60, placeholder=" ...")
        path, line = place_of(messages) or (kind, None)
        raise DataError(
            path,
            line,
            "messages",
            f"record {number}{called}, which begins {words!r}: {error.message}",
            error.fix,
        ) from None


def decode_response(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of a sampled answer: up to its first end token, special tokens left out, and without
    what the template puts before every answer.
    """
    ids, ends = list(ids), (tokenizer.eos_token_id, turn_end_id(tokenizer))
    ids = ids[: next((at for at, token in enumerate(ids) if token in ends), len(ids))]
    if tokenizer.chat_template and tokenizer.chat_template != CHAT_TEMPLATE:
        lead = _lead_ids(tokenizer, tokenizer.get_chat_template())
        if ids[: len(lead)] == lead[: len(ids)]:  # of a streamed answer there may be a part yet
            ids = ids[len(lead) :]
    return cast(
        str, tokenizer.decode(ids, skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


def _encode_history(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    answer_next: bool,
    flags: Sequence[bool] = (),
    thinking: bool = True,
) -> Encoded:
    """(ids, loss_mask) of the messages, then the mark that starts an answer if `answer_next`.

    flags: whether each of the assistant's messages is learned; none are without.
    thinking: whether their thinking is.
    """
    if tokenizer.chat_template != CHAT_TEMPLATE:
        return _encode_foreign(tokenizer, messages, answer_next, flags, thinking)
    check_tools(tokenizer, messages)
    wanted = iter(flags)
    role_ids = {role: tokenizer.convert_tokens_to_ids(token) for role, token in ROLE_TOKENS.items()}
    ids, mask = [tokenizer.bos_token_id], [False]
    for message in messages:
        turn = [*encode_text(tokenizer, message.content, after="special"), tokenizer.eos_token_id]
        ids += [role_ids[message.role], *turn]
        learned = message.role == "assistant" and next(wanted, False)
        hidden = 0
        if learned and not thinking:
            hidden = _thinking_length(tokenizer, turn, message.content, message, "special")
        mask += [False] * (1 + hidden) + [learned] * (len(turn) - hidden)
    if answer_next:
        ids.append(role_ids["assistant"])
        mask.append(False)
    return ids, mask


def _encode_foreign(
    tokenizer: Tokenizer,
    messages: Sequence[Message],
    answer_next: bool,
    flags: Sequence[bool],
    thinking: bool,
) -> Encoded:
    """The same through a stranger's template, in pieces that begin where an answer does."""
    text, answers = render(tokenizer, messages, answer_next)
    said = [message for message in messages if message.role == "assistant"]
    if answers is not None and len(answers) != len(said):
        if not all(flags) or not thinking:
            raise RefusedByTemplate(
                f"the tokenizer's chat template marks {len(answers)} answers where the "
                f"conversation has {len(said)}, so weights and thinking find no place",
                fix="train on every answer and its thinking, or drop such conversations",
            )
        flags, said = [bool(flags)] * len(answers), said[:1] * len(answers)
    wanted = dict(zip(answers or [], zip(flags, said, strict=False), strict=False))
    stops = dict(answers or [])
    ids: list[int] = []
    mask: list[bool] = []
    for start, end in pairwise(sorted({0, *stops, len(text)})):
        after = "nothing" if start == 0 else last_kind(tokenizer, text[:start])
        piece = encode_rendered(tokenizer, text[start:end], after)
        ids += piece
        learns, message = wanted.get((start, stops.get(start, 0)), (False, None))
        first = last = 0
        if learns and message is not None:
            answer = text[start : stops[start]]
            last = _answer_length(tokenizer, piece, answer, after)
            if not thinking:
                first = _thinking_length(tokenizer, piece, answer, message, after)
        mask += [False] * first + [True] * (last - first) + [False] * (len(piece) - last)
    return ids, mask


def _encode_last(
    tokenizer: Tokenizer, messages: Sequence[Message], thinking: bool
) -> tuple[list[int], list[bool]]:
    """Ids of the last answer after the prompt before it, and which of them are learned."""
    last, ours = messages[-1], tokenizer.chat_template == CHAT_TEMPLATE
    if last.tool_calls or (last.reasoning_content is not None and not ours):
        before, text = render_last(tokenizer, messages)
        after = last_kind(tokenizer, before)
        ids = encode_rendered(tokenizer, text, after)
        if last_kind(tokenizer, text) != "special":  # GLM: the next speaker ends a turn
            ids.append(turn_end_id(tokenizer))
    else:
        ids = encode_response(tokenizer, last.content)
        text = after = ""
        if not thinking:
            text = last.content if ours else render_answer(tokenizer, last.content)
            after = (
                "special" if ours else _prompt_ends_with(tokenizer, tokenizer.get_chat_template())
            )
    first = 0 if thinking else _thinking_length(tokenizer, ids, text, last, after)
    return ids, [False] * first + [True] * (len(ids) - first)


def _thinking_length(
    tokenizer: Tokenizer, ids: list[int], answer: str, message: Message, after: str
) -> int:
    """How many of an answer's first ids are thinking; one that holds a part of what follows is
    not.
    """
    thought = hide_specials(tokenizer, message.reasoning_content or "")
    alone = encode_rendered(tokenizer, answer[: thinking_in(answer, thought)], after)
    pairs = enumerate(zip(alone, ids, strict=False))
    return next((at for at, (one, other) in pairs if one != other), min(len(alone), len(ids)))


def _answer_length(tokenizer: Tokenizer, piece: list[int], answer: str, after: str) -> int:
    """How many ids of a piece are the answer that it begins with, its end token included."""
    return min(len(encode_rendered(tokenizer, answer, after)), len(piece))


@lru_cache(maxsize=16)
def _prompt_ends_with(tokenizer: Tokenizer, template: str) -> str:
    """Whether an answer follows a special token or ordinary text ("special" or "text") in this
    template.
    """
    asked = [Message(role="user", content="a")]
    return last_kind(tokenizer, render(tokenizer, asked, answer_next=True).text)


@lru_cache(maxsize=16)
def _lead_ids(tokenizer: Tokenizer, template: str) -> list[int]:
    """Ids of what the template puts before every answer."""
    after = _prompt_ends_with(tokenizer, template)
    return encode_rendered(tokenizer, answer_lead(tokenizer), after)
