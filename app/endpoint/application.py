"""A run's models behind OpenAI's interface: `/v1/models`, `/v1/chat/completions`,
`/v1/completions`.

Answers of all who ask are drawn in one batch a model (`podium.sampling.together`). What a client
sends and we cannot honour is an error by name, in OpenAI's shape.
"""

import json
import secrets
import time
from collections.abc import AsyncIterator, Callable
from functools import partial
from typing import Any, TypeVar

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi.responses import JSONResponse, Response, StreamingResponse
from pydantic import ValidationError
from starlette.exceptions import HTTPException
from starlette.types import Receive, Scope, Send

from app.chat.catalog import Catalog, Checkpoint, Speaker
from app.endpoint.answers import Answers, Crowded, Desk, Piece
from app.endpoint.bodies import IGNORED, MOST_ROWS, Body, ChatBody, TextBody
from app.endpoint.keys import admits
from app.endpoint.shapes import Names, Refusal, choice, delta, event, refused, usage
from app.middleware import LOCAL_NAMES, AccessMiddleware
from data.special_tokens import document_separator_id
from data.template import decode_response, encode_prompt
from podium.errors import PodiumError
from podium.sampling.protocol import SamplingParams, StopStrings

DEFAULT_TOKENS = 512  # of an answer whose length the client leaves open
RETRY_SECONDS = 1  # when a client that was turned away may try again
PROMPT_TAIL = 4  # tokens of the prompt that are decoded with what follows: spaces depend on them
LOOK_EVERY = 8  # pieces between two looks whether the client is still there

Kind = TypeVar("Kind", bound=Body)


class Endpoint:
    """The routes' work: reads a request, has it answered, and writes what comes."""

    def __init__(self, catalog: Catalog, most: int) -> None:
        self.catalog, self.desk = catalog, Desk(most)

    def models(self) -> list[dict[str, Any]]:
        """All that may be named as `model`."""
        return [_as_model(checkpoint) for checkpoint in self.catalog.checkpoints]

    def model(self, name: str) -> dict[str, Any]:
        """One of them."""
        return _as_model(self._checkpoint(name))

    async def chat(self, request: Request) -> Response:
        """`POST /v1/chat/completions`."""
        body = await _read(request, ChatBody)
        if any(message.tool_calls or message.tools for message in body.messages):
            raise Refusal(400, "tools are not served", "messages")
        speaker = await self._speaker(body.model)
        tokenizer = speaker.tokenizer
        ids = await to_thread.run_sync(_encoded, partial(encode_prompt, tokenizer, body.messages))
        return await self._answer(
            request, body, speaker, [ids], lambda _, said: decode_response(tokenizer, said)
        )

    async def text(self, request: Request) -> Response:
        """`POST /v1/completions`."""
        body = await _read(request, TextBody)
        speaker = await self._speaker(body.model)
        prompts = await to_thread.run_sync(_encoded, partial(_prompts, speaker, body))
        return await self._answer(request, body, speaker, prompts, partial(_continued, speaker))

    async def _answer(
        self,
        request: Request,
        body: Body,
        speaker: Speaker,
        prompts: list[list[int]],
        text_of: Callable[[list[int], list[int]], str],
    ) -> Response:
        each = body.n or 1
        rows = [ids for ids in prompts for _ in range(each)]
        if not 1 <= len(rows) <= MOST_ROWS:
            raise Refusal(400, f"one request has 1 to {MOST_ROWS} answers, not {len(rows)}", "n")
        seed = secrets.randbelow(2**31) if body.seed is None else body.seed
        params = [
            SamplingParams(
                max_new_tokens=_room(speaker, len(ids), body.longest),
                temperature=1.0 if body.temperature is None else body.temperature,
                top_p=1.0 if body.top_p is None else body.top_p,
                stop_token_ids=speaker.stop_token_ids,
                absent_token_ids=speaker.absent_token_ids,
                seed=seed,
                first_row=number % each,
                stop=StopStrings(body.stops, partial(text_of, ids)) if body.stops else None,
            )
            for number, ids in enumerate(rows)
        ]
        try:
            answers = Answers(speaker.sampler, rows, params, text_of, body.top, self.desk)
        except Crowded:
            raise Refusal(
                429,
                f"{self.desk.under_way} answers are under way and waiting already; try again",
                code="rate_limit_exceeded",
                kind="rate_limit_error",
                headers={"Retry-After": str(RETRY_SECONDS)},
            ) from None
        chat = isinstance(body, ChatBody)
        names = Names(
            f"{'chatcmpl' if chat else 'cmpl'}-{secrets.token_hex(12)}",
            int(time.time()),
            body.model,
            chat,
        )
        read = sum(map(len, prompts))
        if body.stream:
            events = _streamed(names, speaker, answers, body, read)
            return _Stream(events, answers)
        return await _at_once(request, names, speaker, answers, body, read)

    async def _speaker(self, name: str) -> Speaker:
        return await to_thread.run_sync(self.catalog.speaker, self._checkpoint(name).key)

    def _checkpoint(self, name: str) -> Checkpoint:
        for checkpoint in self.catalog.checkpoints:
            if name == _name(checkpoint):
                return checkpoint
        there = ", ".join(_name(checkpoint) for checkpoint in self.catalog.checkpoints)
        raise Refusal(
            404, f"there is no model '{name}'; there are: {there}", "model", "model_not_found"
        )


def build_endpoint(catalog: Catalog, keys: tuple[str, ...], most: int, local: bool) -> FastAPI:
    """The application.

    Args:
        keys: one of them must come with a request; without any, all are answered.
        most: answers under way and waiting at a time; who asks for more is told to wait.
        local: it answers to this machine's own names alone, so that no page of another site can
            talk to it in a visitor's browser.
    """
    server = FastAPI(docs_url=None, redoc_url=None, openapi_url=None)
    endpoint = Endpoint(catalog, most)
    server.add_middleware(
        AccessMiddleware,
        names=LOCAL_NAMES if local else [],
        chat="/no chat",
        may_send=partial(admits, keys),
        refused=refused,
    )

    def check(request: Request) -> None:
        if not admits(keys, request.scope):
            raise Refusal(
                401,
                "this server asks for a key: Authorization: Bearer KEY",
                code="invalid_api_key",
                headers={"WWW-Authenticate": "Bearer"},
            )

    @server.get("/health")
    def health() -> dict[str, str]:
        return {"status": "ok"}

    @server.get("/v1/models")
    def models(request: Request) -> dict[str, Any]:
        check(request)
        return {"object": "list", "data": endpoint.models()}

    @server.get("/v1/models/{name:path}")
    def model(request: Request, name: str) -> dict[str, Any]:
        check(request)
        return endpoint.model(name)

    @server.post("/v1/chat/completions")
    async def chat(request: Request) -> Response:
        check(request)
        return await endpoint.chat(request)

    @server.post("/v1/completions")
    async def text(request: Request) -> Response:
        check(request)
        return await endpoint.text(request)

    server.exception_handler(Refusal)(lambda _, refusal: refusal.response())
    server.exception_handler(PodiumError)(
        lambda _, error: Refusal(400, str(error.message)).response()
    )
    server.exception_handler(HTTPException)(
        lambda _, error: refused(str(error.detail), error.status_code)
    )
    server.exception_handler(Exception)(
        lambda _, error: Refusal(
            500, f"the server failed: {type(error).__name__}", kind="server_error"
        ).response()
    )
    return server


async def _read(request: Request, kind: type[Kind]) -> Kind:
    try:
        row = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise Refusal(400, "the request's body is no JSON") from None
    if isinstance(row, dict):
        row = {key: value for key, value in row.items() if key not in IGNORED}
    try:
        return kind.model_validate(row)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise Refusal(400, f"'{where}' is not supported by this server", where) from None
        raise Refusal(400, f"{where or 'the body'}: {first['msg']}", where or None) from None


def _encoded(encode: Callable[[], Any]) -> Any:
    """What the tokenizer or its template refuses is the client's to mend."""
    try:
        return encode()
    except PodiumError as error:
        raise Refusal(400, error.message, "messages") from error


def _prompts(speaker: Speaker, body: TextBody) -> list[list[int]]:
    tokenizer, rows = speaker.tokenizer, []
    known = set(tokenizer.get_vocab().values())
    for prompt in body.prompts:
        if isinstance(prompt, str):
            # What is written without a prompt is a document.
            rows.append(tokenizer(prompt)["input_ids"] or [document_separator_id(tokenizer)])
        elif prompt and known.issuperset(prompt):
            rows.append(list(prompt))
        else:
            raise Refusal(400, "a prompt of ids holds at least one, all the model's", "prompt")
    return rows


def _continued(speaker: Speaker, prompt: list[int], said: list[int]) -> str:
    """The text that tokens add to a prompt: whether it begins with a space depends on both."""
    tail = prompt[-PROMPT_TAIL:]
    before, whole = (
        str(
            speaker.tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )
        )
        for ids in (tail, [*tail, *said])
    )
    return whole[len(before) :]


def _room(speaker: Speaker, prompt: int, wanted: int | None) -> int:
    """How long an answer may be."""
    room = speaker.context - prompt
    if room < 1 or (wanted is not None and wanted > room):
        asked = f" and {wanted} of the answer" if wanted else ""
        raise Refusal(
            400,
            f"this model reads {speaker.context} tokens in all; {prompt} of the prompt{asked} are "
            "more",
            "messages" if room < 1 else "max_tokens",
            "context_length_exceeded",
        )
    return wanted or min(room, DEFAULT_TOKENS)


class _Stream(StreamingResponse):
    """Events; when the last is sent or the client has gone, the answers are given up."""

    def __init__(self, events: AsyncIterator[str], answers: Answers) -> None:
        super().__init__(events, media_type="text/event-stream")
        self.answers = answers

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        try:
            await super().__call__(scope, receive, send)
        finally:  # of a client that went at once the events were never begun
            self.answers.close()


async def _streamed(
    names: Names, speaker: Speaker, answers: Answers, body: Body, read: int
) -> AsyncIterator[str]:
    """The events of a streamed answer."""
    try:
        if names.chat:
            begun = {"role": "assistant", "content": ""}
            for index in range(len(answers.rows)):
                first = {"index": index, "delta": begun, "logprobs": None, "finish_reason": None}
                yield event(names.chunk([first]))
        async for piece in answers.pieces():
            if piece.text or piece.end or body.top is not None:
                one = delta(names, speaker.tokenizer, piece, body.top is not None)
                yield event(names.chunk([one]))
        if body.stream_options is not None and body.stream_options.include_usage:
            yield event(names.chunk([], usage=usage(read, answers.tokens)))
        yield event("[DONE]")
    except Exception as error:  # the head is sent: what fails now can only be told in the stream
        failed = Refusal(500, f"the server failed: {type(error).__name__}", kind="server_error")
        yield event(failed.as_json())


async def _at_once(
    request: Request, names: Names, speaker: Speaker, answers: Answers, body: Body, read: int
) -> Response:
    pieces: list[list[Piece]] = [[] for _ in answers.rows]
    seen = 0
    try:
        async for piece in answers.pieces():
            pieces[piece.index].append(piece)
            seen += 1
            if seen % LOOK_EVERY == 0 and await request.is_disconnected():
                return Response(status_code=499)  # nobody reads it
    finally:
        answers.close()
    logprobs = body.top is not None
    choices = [choice(names, speaker.tokenizer, row, logprobs) for row in pieces]
    return JSONResponse(names.whole() | {"choices": choices, "usage": usage(read, answers.tokens)})


def _name(checkpoint: Checkpoint) -> str:
    """A single model is called by its folder, a run's by its stage."""
    return checkpoint.label if checkpoint.key == "model" else checkpoint.key


def _as_model(checkpoint: Checkpoint) -> dict[str, Any]:
    return {
        "id": _name(checkpoint),
        "object": "model",
        "created": int(checkpoint.folder.stat().st_mtime),
        "owned_by": "podium",
    }
