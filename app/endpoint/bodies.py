"""What a request may hold: OpenAI's fields that a small server can honour, everything else refused
by name. A field that is read and does nothing would be worse than an error.
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, StrictInt, field_validator

from data.records import Message, String

MOST_TOP = 20  # likeliest tokens beside each, as OpenAI
MOST_ROWS = 16  # answers of one request
MOST_STOPS = 4  # as OpenAI
# They say who asks or how it is stored and billed, nothing about the answer.
IGNORED = ("user", "metadata", "store", "service_tier", "safety_identifier", "prompt_cache_key")


def _stop_text(text: str) -> str:
    if not text:
        raise ValueError("an empty stop text would end every answer at once")
    return text


Stop = Annotated[String, AfterValidator(_stop_text)]


class StreamOptions(BaseModel):
    """`include_usage`: one more event at the end, with the tokens counted."""

    model_config = ConfigDict(extra="forbid")

    include_usage: bool = False


class Body(BaseModel):
    """What both kinds of request have in common; the defaults are OpenAI's."""

    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)

    model: str
    max_tokens: StrictInt | None = Field(None, ge=1)
    temperature: float | None = Field(None, ge=0, le=2)
    top_p: float | None = Field(None, gt=0, le=1)
    n: StrictInt | None = Field(None, ge=1, le=MOST_ROWS)
    seed: StrictInt | None = Field(None, ge=0, lt=2**63)
    stop: Stop | Annotated[list[Stop], Field(max_length=MOST_STOPS)] | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None
    # Of these the values that change nothing are taken, since clients send them.
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict[str, float], Field(max_length=0)] | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        """The stop texts."""
        if self.stop is None:
            return ()
        return (self.stop,) if isinstance(self.stop, str) else tuple(self.stop)

    @property
    def longest(self) -> int | None:
        """Tokens an answer may have; None: nothing is said."""
        return self.max_tokens

    @property
    def top(self) -> int | None:
        """How many likeliest tokens to tell beside each; None: no log-probabilities."""
        raise NotImplementedError


class TextFormat(BaseModel):
    """Plain text; JSON modes need a grammar, which the sampler has not."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["text"]


class ChatBody(Body):
    """`POST /v1/chat/completions`."""

    messages: list[Message] = Field(min_length=1)
    max_completion_tokens: StrictInt | None = Field(None, ge=1)
    logprobs: bool | None = None
    top_logprobs: StrictInt | None = Field(None, ge=0, le=MOST_TOP)
    response_format: TextFormat | None = None

    @field_validator("messages", mode="before")
    @classmethod
    def _as_records(cls, value: Any) -> Any:
        return [_message(row) for row in value] if isinstance(value, list) else value

    @property
    def longest(self) -> int | None:
        """The newer name wins."""
        return self.max_completion_tokens or self.max_tokens

    @property
    def top(self) -> int | None:
        """None without `logprobs`."""
        return (self.top_logprobs or 0) if self.logprobs else None


class TextBody(Body):
    """`POST /v1/completions`."""

    prompt: String | list[String] | list[StrictInt] | list[list[StrictInt]]
    logprobs: StrictInt | None = Field(None, ge=0, le=MOST_TOP)
    echo: Literal[False] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        """One text or one row of ids for each answer asked for."""
        rows: Any = self.prompt
        return [rows] if isinstance(rows, str) or (rows and isinstance(rows[0], int)) else rows

    @property
    def top(self) -> int | None:
        """A number is both a wish for log-probabilities and how many."""
        return self.logprobs


def _message(row: Any) -> Any:
    """OpenAI's newer forms of a message as ours: text in parts, and `developer` for `system`."""
    if not isinstance(row, dict):
        return row
    row = {key: value for key, value in row.items() if value is not None or key == "content"}
    if row.get("role") == "developer":
        row["role"] = "system"
    if isinstance(row.get("content"), list):
        parts = row["content"]
        texts = [p.get("text") if isinstance(p, dict) else None for p in parts]
        kinds = [p.get("type") if isinstance(p, dict) else None for p in parts]
        if any(kind != "text" for kind in kinds) or not all(isinstance(t, str) for t in texts):
            raise ValueError("a part of a message's content is text; the model reads nothing else")
        row["content"] = "".join(str(text) for text in texts)
    return row
