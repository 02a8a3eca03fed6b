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
from typing import Any, cast

from transformers import PreTrainedTokenizerBase as Tokenizer

from data.records import Message
from data.rendering import TODAY, RefusedByTemplate, answer_lead, render, render_answer, turn_end
from data.text_ids import encode_rendered, encode_text, last_kind
from podium.errors import DataError

__all__ = [
    "CHAT_TEMPLATE",
    "ROLE_TOKENS",
    "SPECIAL_TOKENS",
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


def prepare_tokenizer(tokenizer: Tokenizer) -> Tokenizer:
    """Give a base tokenizer, in place, what the chain needs: bos, eos, a pad that is not eos, and a
    chat template.

    One that has a template keeps it and gets no role tokens. New tokens come last, so the caller
    only appends rows to the embeddings (`podium.models.resize_for`). A second call changes nothing.
    """
    if tokenizer.bos_token is None:
        tokenizer.add_special_tokens({"bos_token": "<|endoftext|>"})
    if tokenizer.eos_token is None:
        tokenizer.add_special_tokens({"eos_token": "<|end|>"})
    if tokenizer.pad_token in (None, tokenizer.eos_token, tokenizer.bos_token):
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
    if not tokenizer.chat_template:
        tokenizer.chat_template = CHAT_TEMPLATE
    if tokenizer.pad_token == turn_end(tokenizer):
        tokenizer.add_special_tokens({"pad_token": "<|pad|>"})
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


def encode_conversation(tokenizer: Tokenizer, messages: Sequence[Message]) -> Encoded:
    """(ids, loss_mask) of a conversation; the mask is True on every answer's tokens and the token
    that ends it.

    Where the template writes earlier answers unlike last ones, it is True on the last answer alone:
    see `examples_of`.
    """
    if messages[-1].role != "assistant":
        return _encode_history(tokenizer, messages, answer_next=False)
    ids, mask = _encode_history(tokenizer, messages[:-1], answer_next=True)
    answer = encode_response(tokenizer, messages[-1].content)
    return ids + answer, mask + [True] * len(answer)


def encode_whole(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[int]:
    """Ids of a conversation as its template writes it to the very end, with whatever follows the
    last answer's end token (ChatML: a line break): what a stranger's reward model was trained on.
    """
    return _encode_history(tokenizer, messages, answer_next=False)[0]


def examples_of(tokenizer: Tokenizer, messages: Sequence[Message]) -> list[Sequence[Message]]:
    """The conversations that teach every answer of this one: itself, or one that ends with each
    answer where the template writes earlier answers unlike last ones.
    """
    answers = [i for i, message in enumerate(messages) if message.role == "assistant"]
    if len(answers) < 2 or tokenizer.chat_template == CHAT_TEMPLATE:
        return [messages]
    if render(tokenizer, messages[:-1], answer_next=True).answers is not None:
        return [messages]
    return [messages[: i + 1] for i in answers]


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
    """Let an error about a conversation that the chat template refuses say which record it is.

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
        raise DataError(
            kind,
            None,
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
    tokenizer: Tokenizer, messages: Sequence[Message], answer_next: bool
) -> Encoded:
    """(ids, loss_mask) of the messages, then the mark that starts an answer if `answer_next`."""
    if tokenizer.chat_template != CHAT_TEMPLATE:
        return _encode_foreign(tokenizer, messages, answer_next)
    role_ids = {role: tokenizer.convert_tokens_to_ids(token) for role, token in ROLE_TOKENS.items()}
    ids, mask = [tokenizer.bos_token_id], [False]
    for message in messages:
        turn = [*encode_text(tokenizer, message.content, after="special"), tokenizer.eos_token_id]
        ids += [role_ids[message.role], *turn]
        mask += [False] + [message.role == "assistant"] * len(turn)
    if answer_next:
        ids.append(role_ids["assistant"])
        mask.append(False)
    return ids, mask


def _encode_foreign(
    tokenizer: Tokenizer, messages: Sequence[Message], answer_next: bool
) -> Encoded:
    """The same through a stranger's template, in pieces that begin where an answer does."""
    text, answers = render(tokenizer, messages, answer_next)
    stops = dict(answers or [])
    ids: list[int] = []
    mask: list[bool] = []
    for start, end in pairwise(sorted({0, *stops, len(text)})):
        after = "nothing" if start == 0 else last_kind(tokenizer, text[:start])
        piece = encode_rendered(tokenizer, text[start:end], after)
        learned = 0
        if start in stops:
            learned = _answer_length(tokenizer, piece, text[start : stops[start]], after)
        ids += piece
        mask += [True] * learned + [False] * (len(piece) - learned)
    return ids, mask


def _answer_length(tokenizer: Tokenizer, piece: list[int], answer: str, after: str) -> int:
    """How many ids of a piece are the answer that it begins with, its end token included."""
    end = turn_end_id(tokenizer)
    if answer.endswith(turn_end(tokenizer)) and end in piece:
        return piece.index(end) + 1
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
