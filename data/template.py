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

import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any, NamedTuple, cast

from jinja2 import TemplateError
from transformers import PreTrainedTokenizerBase as Tokenizer
from transformers.utils.chat_template_utils import render_jinja_template

from data.records import Message
from podium.errors import PodiumError

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
    end = [tokenizer.eos_token_id] if ended else []
    if tokenizer.chat_template == CHAT_TEMPLATE:
        return _encode_text(tokenizer, text, after="special") + end
    after = _prompt_ends_with(tokenizer, tokenizer.chat_template)
    return _encode_rendered(tokenizer, _hide_specials(tokenizer, text), after) + end


def encode_conversation(tokenizer: Tokenizer, messages: Sequence[Message]) -> Encoded:
    """(ids, loss_mask) of a conversation; the mask is True on every answer's tokens and the token
    that ends it.
    """
    if messages[-1].role != "assistant":
        return _encode_history(tokenizer, messages, answer_next=False)
    ids, mask = _encode_history(tokenizer, messages[:-1], answer_next=True)
    answer = encode_response(tokenizer, messages[-1].content)
    return ids + answer, mask + [True] * len(answer)


def decode_response(tokenizer: Tokenizer, ids: Sequence[int]) -> str:
    """The text of a sampled answer: up to its first end token, special tokens left out."""
    ids = list(ids)
    if tokenizer.eos_token_id in ids:
        ids = ids[: ids.index(tokenizer.eos_token_id)]
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
        turn = [*_encode_text(tokenizer, message.content, after="special"), tokenizer.eos_token_id]
        ids += [role_ids[message.role], *turn]
        mask += [False] + [message.role == "assistant"] * len(turn)
    if answer_next:
        ids.append(role_ids["assistant"])
        mask.append(False)
    return ids, mask


# Foreign templates
# -----------------------------------------------------------------------------------------------
#
# A template is a program, so the text is rendered first. Special tokens that people typed are
# hidden behind private-use characters before rendering and turned back into ordinary text
# afterwards.

# first of the private-use characters that stand for the tokenizer's special tokens
HIDDEN = 0xF0000


class _Rendered(NamedTuple):
    text: str
    answers: list[tuple[int, int]]  # start and end character of each answer with its end token


def _encode_foreign(
    tokenizer: Tokenizer, messages: Sequence[Message], answer_next: bool
) -> Encoded:
    text, answers = _render(tokenizer, messages, answer_next)
    ids: list[int] = []
    mask: list[bool] = []
    cuts = sorted({0, len(text), *(edge for span in answers for edge in span)})
    starts = {start for start, _ in answers}
    for start, end in pairwise(cuts):
        after = "nothing" if start == 0 else _last_kind(tokenizer, text[:start])
        piece = _encode_rendered(tokenizer, text[start:end], after)
        ids += piece
        mask += [start in starts] * len(piece)
    return ids, mask


def _render(tokenizer: Tokenizer, messages: Sequence[Message], answer_next: bool) -> _Rendered:
    """The conversation's text, specials hidden, and where its answers are: by {% generation %},
    else by prefixes.
    """
    template = tokenizer.get_chat_template()
    chat = [{"role": m.role, "content": _hide_specials(tokenizer, m.content)} for m in messages]
    marked = re.search(r"\{%-?\s*generation\s*-?%\}", template) is not None
    # templates refer to {{ bos_token }} and the like
    special: dict[str, Any] = tokenizer.special_tokens_map

    def render(
        part: list[dict[str, str]], generation_prompt: bool
    ) -> tuple[str, list[tuple[int, int]]]:
        try:
            texts, spans = cast(
                Any,
                render_jinja_template(
                    conversations=[part],
                    chat_template=template,
                    return_assistant_tokens_mask=marked,
                    add_generation_prompt=generation_prompt,
                    **special,
                ),
            )
        except TemplateError as error:
            raise PodiumError(
                f"the tokenizer's chat template refuses a conversation: {error}",
                fix="drop such conversations or give the tokenizer another chat_template",
            ) from None
        return texts[0], spans[0] if marked else []

    text, spans = render(chat, answer_next)
    if not marked:
        for i in (i for i, message in enumerate(messages) if message.role == "assistant"):
            before, until = render(chat[:i], True)[0], render(chat[: i + 1], False)[0]
            if not (until.startswith(before) and text.startswith(until)):
                raise PodiumError(
                    "the tokenizer's chat template rewrites earlier turns, so answers cannot "
                    "be found in its text",
                    fix="put {% generation %} ... {% endgeneration %} around the answer in the "
                    "template",
                )
            spans.append((len(before), len(until)))
    return _Rendered(text, [_until_end_token(text, span, tokenizer.eos_token) for span in spans])


def _until_end_token(text: str, span: tuple[int, int], eos: str) -> tuple[int, int]:
    """Shorten an answer's span to its end token: the line break many templates write after it is
    not learned.
    """
    start, stop = span
    end = text.find(eos, start, stop)
    return start, stop if end < 0 else end + len(eos)


def _special_strings(tokenizer: Tokenizer) -> list[str]:
    """The strings of the special tokens, longest first so that a token wins over one it
    contains.
    """
    strings = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(strings, key=lambda string: (-len(string), string))


def _hide_specials(tokenizer: Tokenizer, text: str) -> str:
    strings = _special_strings(tokenizer)
    text = re.sub(_hidden_marks(strings), "", text)  # nobody can type a hidden mark
    return re.sub(
        "|".join(map(re.escape, strings)), lambda match: chr(HIDDEN + strings.index(match[0])), text
    )


def _hidden_marks(strings: list[str]) -> str:
    return f"([{chr(HIDDEN)}-{chr(HIDDEN + len(strings) - 1)}])"


def _encode_rendered(tokenizer: Tokenizer, text: str, after: str) -> list[int]:
    """Ids of rendered text: the template's special tokens become tokens, the hidden ones of people
    become text.
    """
    strings = _special_strings(tokenizer)
    ids: list[int] = []
    for i, piece in enumerate(re.split(_hidden_marks(strings), text)):
        if hidden := i % 2 == 1:
            piece = strings[ord(piece) - HIDDEN]
        ids += _encode_text(tokenizer, piece, after, as_text=hidden)
        after = _last_kind(tokenizer, piece) if piece and not hidden else "text"
    return ids


def _last_kind(tokenizer: Tokenizer, text: str) -> str:
    return "special" if text.endswith(tuple(_special_strings(tokenizer))) else "text"


@lru_cache(maxsize=16)
def _prompt_ends_with(tokenizer: Tokenizer, template: str) -> str:
    """Whether an answer follows a special token or ordinary text ("special" or "text") in this
    template.
    """
    return _last_kind(
        tokenizer, _render(tokenizer, [Message(role="user", content="a")], answer_next=True).text
    )


# One string to ids
# -----------------------------------------------------------------------------------------------


def _encode_text(tokenizer: Tokenizer, text: str, after: str, as_text: bool = True) -> list[int]:
    """Ids of `text` as it stands `after` "nothing", a "special" token or other "text".

    With `as_text` (text people wrote) the strings of special tokens stay characters.
    """
    if not text:
        return []
    if after == "nothing" or after in _like_a_start(tokenizer):
        return _ids(tokenizer, text, as_text)
    newline = _ids(tokenizer, "\n", as_text)
    # SentencePiece would mark the start of a string with a space
    ids = _ids(tokenizer, "\n" + text, as_text)
    return ids[len(newline) :] if ids[: len(newline)] == newline else _ids(tokenizer, text, as_text)


@lru_cache(maxsize=16)
def _like_a_start(tokenizer: Tokenizer) -> frozenset[str]:
    """After what ("special", "text") this tokenizer encodes a text just as at the start of a
    string.
    """
    start = _ids(tokenizer, "a", as_text=True)
    after_special = _ids(tokenizer, tokenizer.eos_token + "a", as_text=False)[1:]
    after_text = _ids(tokenizer, "\na", as_text=True)[len(_ids(tokenizer, "\n", as_text=True)) :]
    return frozenset(["special"] * (after_special == start) + ["text"] * (after_text == start))


def _ids(tokenizer: Tokenizer, text: str, as_text: bool) -> list[int]:
    return tokenizer(text, add_special_tokens=False, split_special_tokens=as_text)["input_ids"]
