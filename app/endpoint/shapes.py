"""Answers and errors in the shapes of OpenAI's interface."""

import json
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

from fastapi.responses import JSONResponse
from transformers import PreTrainedTokenizerBase as Tokenizer

from app.endpoint.answers import Piece

LEAST = -9999.0  # stands for minus infinity, which JSON has not


class Names(NamedTuple):
    """What every object of one answer carries."""

    id: str
    created: int
    model: str
    chat: bool

    def whole(self) -> dict[str, Any]:
        """The head of an answer that comes at once."""
        return self._head("chat.completion" if self.chat else "text_completion")

    def chunk(self, choices: list[dict[str, Any]], **more: Any) -> dict[str, Any]:
        """One event of an answer that is streamed."""
        head = self._head("chat.completion.chunk" if self.chat else "text_completion")
        return head | {"choices": choices} | more

    def _head(self, kind: str) -> dict[str, Any]:
        return {"id": self.id, "object": kind, "created": self.created, "model": self.model}


def delta(names: Names, tokenizer: Tokenizer, piece: Piece, logprobs: bool) -> dict[str, Any]:
    """One piece as a choice of a streamed event."""
    shown = {"content": piece.text} if piece.text else {}
    found = likelihoods(names, tokenizer, [piece]) if logprobs and piece.said else None
    return {
        "index": piece.index,
        **({"delta": shown} if names.chat else {"text": piece.text}),
        "logprobs": found,
        "finish_reason": piece.end or None,
    }


def choice(
    names: Names, tokenizer: Tokenizer, pieces: Sequence[Piece], logprobs: bool
) -> dict[str, Any]:
    """All pieces of one answer as a choice."""
    text = "".join(piece.text for piece in pieces)
    said = [piece for piece in pieces if piece.said]
    message = {"role": "assistant", "content": text, "refusal": None}
    return {
        "index": pieces[0].index,
        **({"message": message} if names.chat else {"text": text}),
        "logprobs": likelihoods(names, tokenizer, said) if logprobs else None,
        "finish_reason": pieces[-1].end,
    }


def likelihoods(names: Names, tokenizer: Tokenizer, pieces: Sequence[Piece]) -> dict[str, Any]:
    """Log-probabilities of tokens, in the form of chats or in the older one of texts."""
    if names.chat:
        content = [
            _token(tokenizer, piece.drawn.token, piece.drawn.logprob)
            | {"top_logprobs": [_token(tokenizer, *one) for one in piece.drawn.top]}
            for piece in pieces
        ]
        return {"content": content, "refusal": None}
    words = [_word(tokenizer, piece.drawn.token) for piece in pieces]
    return {
        "tokens": words,
        "token_logprobs": [_finite(piece.drawn.logprob) for piece in pieces],
        "top_logprobs": [
            {_word(tokenizer, token): _finite(value) for token, value in piece.drawn.top}
            for piece in pieces
        ],
        "text_offset": [sum(map(len, words[:place])) for place in range(len(words))],
    }


def usage(prompt: int, completion: int) -> dict[str, int]:
    """Tokens read and said."""
    return {
        "prompt_tokens": prompt,
        "completion_tokens": completion,
        "total_tokens": prompt + completion,
    }


def event(data: dict[str, Any] | str) -> str:
    """A server-sent event."""
    return f"data: {data if isinstance(data, str) else json.dumps(data)}\n\n"


class Refusal(Exception):
    """An answer other than what was asked for. `kind` and `code` are OpenAI's words."""

    def __init__(
        self,
        status: int,
        message: str,
        param: str | None = None,
        code: str | None = None,
        kind: str = "invalid_request_error",
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(message)
        self.status, self.message, self.param = status, message, param
        self.code, self.kind, self.headers = code, kind, headers

    def as_json(self) -> dict[str, Any]:
        """What the client reads."""
        said = {"message": self.message, "type": self.kind, "param": self.param, "code": self.code}
        return {"error": said}

    def response(self) -> JSONResponse:
        """The whole answer."""
        return JSONResponse(self.as_json(), self.status, self.headers)


def refused(message: str, status: int) -> JSONResponse:
    """A refusal by whoever stands before the routes."""
    code = "invalid_api_key" if status == 401 else None
    return Refusal(status, message, code=code).response()


def _token(tokenizer: Tokenizer, token: int, logprob: float) -> dict[str, Any]:
    word = _word(tokenizer, token)
    # a part of a character has no text of its own, and what stands for it is not its bytes
    whole = list(word.encode()) if "\ufffd" not in word else None
    return {"token": word, "logprob": _finite(logprob), "bytes": whole}


def _word(tokenizer: Tokenizer, token: int) -> str:
    return str(tokenizer.decode([token], clean_up_tokenization_spaces=False))


def _finite(value: float) -> float:
    return value if math.isfinite(value) else LEAST
