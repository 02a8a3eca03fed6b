"""The two special tokens that a recipe may choose: the one before each document, and padding.

A tokenizer's bos is not always what its model's documents began with. SmolLM2-Instruct's is
`<|im_start|>`, which begins chat turns; its pretraining texts followed `<|endoftext|>`. So the
separator of documents is a notion of its own: it is kept under `document_separator` in the folder's
tokenizer_config.json, where every later stage finds it. Chat templates write bos as they always
did, what tokenizers themselves put before texts stays, and so does lm-eval's rule for the
likelihood of a text without context, which is bos too.

Padding must not be a token that anything else means. A new one would make the embedding grow, and
an adapter be stored with all of it, so a special token that the vocabulary has and that nothing
here uses comes first.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, cast

from pydantic import BaseModel, ConfigDict, Field

from podium.errors import ParentError, RecipeError

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase as Tokenizer

__all__ = [
    "SpecialTokens",
    "document_separator",
    "document_separator_id",
]

KEPT = "document_separator"  # the key in tokenizer_config.json
# What families whose bos is none or begins chat turns put between documents (Qwen, SmolLM2).
END_OF_TEXT = ("<|endoftext|>", "<|end_of_text|>")
NEW_PAD = "<|pad|>"
# Tokens that can pad, in the order in which they are tried. The last ones were made for code or as
# a reserve: SmolLM2 has `<reponame>` beside the `<repo_name>` that StarCoder's form uses.
PADS = (
    NEW_PAD,
    "<pad>",
    "[PAD]",
    "<|padding|>",
    "<|fim_pad|>",
    "<fim_pad>",
    "<|finetune_right_pad_id|>",
    "<|endoftext|>",
    "<|reserved_special_token_0|>",
    "<reponame>",
)


class SpecialTokens(BaseModel):
    """Special tokens by their text, which the vocabulary must have. A model folder keeps what was
    chosen when its chain began, and no later stage may choose otherwise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    document_separator: str | None = Field(
        None,
        description="stands before each document of pretraining, ptx and held-out text; null: what "
        "the model's folder keeps, else bos, or an end of text where bos begins chat turns",
    )
    pad_token: str | None = Field(
        None,
        description="fills batches; not the token that ends texts or turns; null: the tokenizer's "
        "own, else an unused special token, else a new one",
    )


def document_separator_id(tokenizer: Tokenizer) -> int:
    """Id of the token before each document."""
    return cast(int, tokenizer.convert_tokens_to_ids(document_separator(tokenizer)))


def document_separator(tokenizer: Tokenizer) -> str:
    """The token before each document: the one that the tokenizer's folder keeps. Else bos, unless
    there is none or the chat template writes it at every turn; then `<|endoftext|>` or
    `<|end_of_text|>` where the vocabulary has it, then eos.

    Raises:
        ParentError: the folder keeps a token that the vocabulary has not, or there is none of all
            these.
    """
    found = kept_separator(tokenizer) or separator_by_rule(tokenizer)
    if found is None or found not in tokenizer.get_vocab():
        where = f"tokenizer_config.json: {KEPT}" if found else "the tokenizer"
        raise ParentError(
            f"{tokenizer.name_or_path}: {where} names {found or 'no bos and no eos'}, so no token "
            "of the vocabulary can stand before a document",
            "give a token of the vocabulary there",
        )
    return found


def kept_separator(tokenizer: Tokenizer) -> str | None:
    """What the tokenizer's folder keeps; None where Podium did not write it."""
    return cast("str | None", tokenizer.init_kwargs.get(KEPT))


def keep_separator(tokenizer: Tokenizer, token: str) -> None:
    """Note it in the tokenizer, which writes it wherever it is saved."""
    tokenizer.init_kwargs[KEPT] = token


def separator_by_rule(tokenizer: Tokenizer) -> str | None:
    """The separator of a tokenizer that keeps none; None where it has neither bos nor eos."""
    bos = cast("str | None", tokenizer.bos_token)
    if bos is not None and not _begins_turns(tokenizer, bos, tokenizer.chat_template):
        return bos
    known = tokenizer.get_vocab()
    ends = (token for token in END_OF_TEXT if token in known)
    return next(ends, cast("str | None", tokenizer.eos_token))


def choose(tokenizer: Tokenizer, chosen: SpecialTokens) -> None:
    """Give a tokenizer, in place, what the recipe says.

    Raises:
        RecipeError: no such token, one that cannot pad, or another than the folder keeps.
    """
    kept, token = kept_separator(tokenizer), chosen.document_separator
    if token is not None:
        _check_known(tokenizer, "document_separator", token)
        _check_same("document_separator", token, kept)
        keep_separator(tokenizer, token)
    if (token := chosen.pad_token) is None:
        return
    _check_known(tokenizer, "pad_token", token)
    if kept is not None:
        _check_same("pad_token", token, cast("str | None", tokenizer.pad_token))
    if use := _uses(tokenizer).get(token):
        raise RecipeError(
            f"special_tokens.pad_token: '{token}' is {use}, and padding is left out of loss and "
            "answers: its other meaning would not be learned",
            f"name a special token that nothing uses, or leave the key out ('{NEW_PAD}' is added "
            "where the vocabulary has none)",
        )
    tokenizer.add_special_tokens({"pad_token": token})


def settle_pad(tokenizer: Tokenizer) -> None:
    """Give a tokenizer whose pad is missing, or means something else too, one that does not."""
    uses = _uses(tokenizer)
    if tokenizer.pad_token is not None and tokenizer.pad_token not in uses:
        return
    template = str(tokenizer.chat_template or "")
    special = {token.content for token in tokenizer.added_tokens_decoder.values()}
    free = (t for t in PADS if t in special and t not in uses and t not in template)
    tokenizer.add_special_tokens({"pad_token": next(free, NEW_PAD)})


def _uses(tokenizer: Tokenizer) -> dict[str, str]:
    """The tokens that mean something, and what."""
    from data.rendering import turn_end

    return {
        cast(str, tokenizer.bos_token): "the token that begins texts (bos)",
        document_separator(tokenizer): "the token before each document",
        cast(str, tokenizer.eos_token): "the token that ends texts (eos)",
        turn_end(tokenizer): "the token that ends a turn",
    }


def _check_known(tokenizer: Tokenizer, key: str, token: str) -> None:
    special = {
        added.content: number
        for number, added in tokenizer.added_tokens_decoder.items()
        if added.content.strip()
    }
    if token not in special:
        word = "an ordinary word" if token in tokenizer.get_vocab() else "no token"
        raise RecipeError(
            f"special_tokens.{key}: '{token}' is {word} of the tokenizer {tokenizer.name_or_path}",
            f"name one of its special tokens: {', '.join(list(special)[:12]) or 'it has none'}",
        )


def _check_same(key: str, token: str, kept: str | None) -> None:
    if kept is not None and kept != token:
        raise RecipeError(
            f"special_tokens.{key}: '{token}', but the model's folder keeps '{kept}': its chain "
            "began with that",
            "leave the key out, or start the chain anew from its base model",
        )


@lru_cache(maxsize=64)
def _begins_turns(tokenizer: Tokenizer, bos: str, template: str | None) -> bool:
    """Whether the template writes bos before each turn: before a question and the answer to it. One
    that writes it once an exchange (LLaMA 2) does not count.
    """
    if not template:
        return False
    from data.records import Message
    from data.rendering import RefusedByTemplate, render

    try:
        text = render(tokenizer, [Message(role="user", content="a")], answer_next=True).text
    except RefusedByTemplate:
        return False
    return text.count(bos) > 1
