"""Asking a model that is served over HTTP: any server that speaks OpenAI's chat completions.

What was answered once is kept on disk under the hash of what was asked, so that a run that goes on
asks nothing twice and comes to the same numbers. Several questions are under way at a time; what a
server refuses for the moment is asked again, later each time. The key comes from an environment
variable and stands in no file and no message.
"""

import hashlib
import json
import os
import random
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import urlsplit

import httpx
import torch
from torch import Tensor

from data.records import Message, Prompt
from podium.errors import EndpointError
from podium.rewards.protocol import Reward
from podium.rewards.specs import EndpointSpec
from podium.storage import PARTIAL

T = TypeVar("T")
PATIENCE = 6  # tries of one question
LONGEST_PAUSE = 60.0  # seconds between two tries
FOR_NOW = {408, 409, 425, 429, 500, 502, 503, 504}  # answers after which one asks again
SHOWN = 200  # characters of a reply in an error

SCORE_TEMPLATE = """You grade an assistant's answer.

[The conversation]
{prompt}

[The answer]
{response}

How helpful, honest and harmless is the answer? Think briefly, then end with one line:
Score: N
where N is a number from 1 (worst) to 10 (best)."""
SCORE = re.compile(r"score\W{0,5}(-?\d+(?:\.\d+)?)", re.IGNORECASE)
NUMBER = re.compile(r"\s*(-?\d+(?:\.\d+)?)\s*\.?\s*")


class Endpoint:
    """One served model. `folder` keeps what it answered; `first_pause` is in seconds.

    Raises:
        EndpointError: the key's environment variable is not set.
    """

    def __init__(self, spec: EndpointSpec, folder: Path, first_pause: float = 1.0) -> None:
        self.spec, self.folder, self.first_pause = spec, folder, first_pause
        self.url = spec.endpoint.rstrip("/").removesuffix("/chat/completions") + "/chat/completions"
        self._key = read_key(spec)
        self.asked = 0  # questions that went over the wire

    def ask(self, questions: Sequence[str], read: Callable[[str], T]) -> list[T]:
        """What `read` makes of the reply to each question, in order.

        A reply that `read` refuses with a ValueError is asked for again, and is not kept.

        Raises:
            EndpointError: the server cannot be reached, refuses, or keeps giving what cannot be
                read; names the URL.
        """
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        with (
            httpx.Client(headers=headers, timeout=self.spec.timeout) as client,
            ThreadPoolExecutor(self.spec.concurrency) as pool,
        ):
            different = list(dict.fromkeys(questions))
            found = pool.map(lambda text: self._answer(client, text, read), different)
            replies = dict(zip(different, found, strict=True))
        return [replies[text] for text in questions]

    def _answer(self, client: httpx.Client, question: str, read: Callable[[str], T]) -> T:
        body = {
            "model": self.spec.model,
            "messages": [{"role": "user", "content": question}],
            "temperature": self.spec.temperature,
            "max_tokens": self.spec.max_tokens,
        }
        name = hashlib.sha256(json.dumps([self.url, body], sort_keys=True).encode()).hexdigest()
        path = self.folder / name[:2] / f"{name}.json"
        if path.is_file():
            return read(json.loads(path.read_text(encoding="utf-8"))["reply"])
        why = ""
        for attempt in range(PATIENCE):
            reply, why, pause = self._try(client, body)
            if reply is not None:
                try:
                    found = read(reply)
                except ValueError:
                    why = f"cannot be understood: it replied {reply[:SHOWN]!r}"
                else:
                    _keep(path, {"asked": body, "reply": reply})
                    return found
            if attempt + 1 < PATIENCE:
                time.sleep(pause or self._pause(attempt))
        raise self._error(why, "see that the server is up and not overloaded, then give the same "
                          "command: what was answered is kept; if its replies cannot be read, "
                          "mend the reward's `template`")  # fmt: skip

    def _try(
        self, client: httpx.Client, body: dict[str, Any]
    ) -> tuple[str | None, str, float | None]:
        """The reply, or None and what was wrong for now and how long the server wants to be left
        alone.
        """
        self.asked += 1
        try:
            response = client.post(self.url, json=body)
        except httpx.HTTPError as error:
            return None, f"cannot be reached: {type(error).__name__}: {error}", None
        if response.status_code in FOR_NOW:
            wanted = response.headers.get("retry-after", "")
            pause = min(float(wanted), LONGEST_PAUSE) if wanted.isdigit() else None
            return None, f"answered {response.status_code}: {response.text[:SHOWN]}", pause
        if response.status_code in (401, 403):
            raise self._error(
                f"answered {response.status_code}: {response.text[:SHOWN]}",
                f"put the key into the environment variable {self.spec.key_env}"
                if self.spec.key_env
                else "name the environment variable that holds the key: key_env: NAME",
            )
        if response.status_code >= 400:
            raise self._error(
                f"answered {response.status_code}: {response.text[:SHOWN]}",
                "compare `endpoint` (it ends before /chat/completions) and `model` with what the "
                "server offers",
            )
        try:
            return str(response.json()["choices"][0]["message"]["content"] or ""), "", None
        except (ValueError, KeyError, IndexError, TypeError):
            raise self._error(
                f"does not speak OpenAI's protocol: it replied {response.text[:SHOWN]!r}",
                "name the address of its chat completions, such as http://localhost:8000/v1",
            ) from None

    def _pause(self, attempt: int) -> float:
        """Twice as long each time, with some chance in it so that many do not ask at once."""
        return min(self.first_pause * 2**attempt * random.uniform(0.75, 1.25), LONGEST_PAUSE)

    def _error(self, what: str, fix: str) -> EndpointError:
        """Without the key, which some servers repeat."""
        text = what.replace(self._key, "***") if self._key else what
        return EndpointError(f"the endpoint {self.url} (model {self.spec.model}) {text}", fix)


class EndpointReward(Reward):
    """A score that a served model gives in words."""

    reads_text = True

    def __init__(self, endpoint: Endpoint) -> None:
        super().__init__()
        self.endpoint = endpoint
        self.template = endpoint.spec.template or SCORE_TEMPLATE

    def forward(
        self,
        prompts: Sequence[Prompt] | None,
        responses: Sequence[str] | None,
        input_ids: Tensor | None = None,
        attention_mask: Tensor | None = None,
    ) -> Tensor:
        """(B,) fp32, on the CPU."""
        assert prompts is not None and responses is not None, "an endpoint reads text"
        questions = [
            fill(self.template, prompt=in_words(prompt.messages), response=response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        return torch.tensor(self.endpoint.ask(questions, read_score), dtype=torch.float32)


def _keep(path: Path, answered: dict[str, Any]) -> None:
    """Whole or not at all; several processes may have asked the same."""
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f"{path.name}.{os.getpid()}{PARTIAL}")
    partial.write_text(json.dumps(answered, indent=1) + "\n", encoding="utf-8")
    partial.replace(path)


def fill(template: str, **texts: str) -> str:
    """The template with its {names} replaced, once each; other braces stay (JSON in a template)."""
    names = re.compile("|".join(re.escape(f"{{{name}}}") for name in texts))
    return names.sub(lambda found: texts[found[0][1:-1]], template)


def in_words(messages: Sequence[Message]) -> str:
    """A conversation as plain text; a single question as it is."""
    if len(messages) == 1:
        return messages[0].content
    return "\n\n".join(f"{message.role}: {message.content}" for message in messages)


def read_score(reply: str) -> float:
    """The number after the last "score", or the number that is the whole reply.

    Raises:
        ValueError: there is none.
    """
    found = SCORE.findall(reply)
    if found:
        return float(found[-1])
    alone = NUMBER.fullmatch(reply)
    if alone is None:
        raise ValueError(reply)
    return float(alone[1])


def read_key(spec: EndpointSpec) -> str | None:
    """The key of the environment; None where the recipe names no variable.

    Raises:
        EndpointError: the variable is not set.
    """
    if spec.key_env is None:
        return None
    key = os.environ.get(spec.key_env, "").strip()
    if not key:
        host = urlsplit(spec.endpoint).hostname
        raise EndpointError(
            f"the endpoint {spec.endpoint} wants its key in the environment variable "
            f"{spec.key_env}, which is not set",
            f"export {spec.key_env}=... with your key for {host}, or leave key_env out",
        )
    return key
