"""One string to ids, where what people typed never becomes a special token.

Special tokens that people typed are hidden behind private-use characters while a chat template is
rendered, and turned back into ordinary text afterwards. A private-use character that somebody
typed is written as a number between two marks of its own meanwhile, so none is lost.
"""

import re
from functools import lru_cache

from transformers import PreTrainedTokenizerBase as Tokenizer

# First of the private-use characters that stand for the tokenizer's special tokens; the one after
# the last of those stands around the number of a character that was typed.
HIDDEN = 0xF0000


def hide_specials(tokenizer: Tokenizer, text: str) -> str:
    """The text with no special token's string in it, for a template to render."""
    strings = special_strings(tokenizer)
    quote = chr(HIDDEN + len(strings))
    typed = f"[{chr(HIDDEN)}-{quote}]"
    text = re.sub(typed, lambda match: f"{quote}{ord(match[0]) - HIDDEN}{quote}", text)
    return re.sub(
        "|".join(map(re.escape, strings)), lambda match: chr(HIDDEN + strings.index(match[0])), text
    )


def encode_rendered(tokenizer: Tokenizer, text: str, after: str) -> list[int]:
    """Ids of rendered text: the template's special tokens become tokens, the hidden ones of people
    become text.
    """
    strings = special_strings(tokenizer)
    quote = chr(HIDDEN + len(strings))
    ids: list[int] = []
    for i, piece in enumerate(re.split(f"([{chr(HIDDEN)}-{chr(ord(quote) - 1)}])", text)):
        if hidden := i % 2 == 1:
            piece = strings[ord(piece) - HIDDEN]
        else:
            piece = re.sub(f"{quote}([0-9]+){quote}", lambda m: chr(HIDDEN + int(m[1])), piece)
        ids += encode_text(tokenizer, piece, after, as_text=hidden)
        after = last_kind(tokenizer, piece) if piece and not hidden else "text"
    return ids


def special_strings(tokenizer: Tokenizer) -> list[str]:
    """The strings of the special tokens, longest first so that a token wins over one it
    contains.
    """
    strings = {token.content for token in tokenizer.added_tokens_decoder.values() if token.special}
    return sorted(strings, key=lambda string: (-len(string), string))


def last_kind(tokenizer: Tokenizer, text: str) -> str:
    """What a rendered text ends with: a "special" token or other "text"."""
    return "special" if text.endswith(tuple(special_strings(tokenizer))) else "text"


def encode_text(tokenizer: Tokenizer, text: str, after: str, as_text: bool = True) -> list[int]:
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
