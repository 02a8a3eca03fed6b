"""The records every stage reads and writes: one pydantic model a kind, one JSON object a line on
disk.

A record is frozen and refuses unknown keys, so a typing mistake in a data file is an error and
never a silent default. Where the InstructGPT paper (section 3.2) speaks of its three data sets,
these are `Demonstration` (SFT), `Ranking` (reward model) and `Prompt` (PPO).
"""

from collections.abc import Iterable, Iterator, Sequence
from typing import Annotated, Any, Literal

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    ConfigDict,
    Field,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)

from data.tools import encodable, normal_call, normal_tools, strings_in, with_strings

__all__ = [
    "Comparison",
    "Conversation",
    "Demonstration",
    "Document",
    "Function",
    "Message",
    "Messages",
    "Prompt",
    "Question",
    "Ranking",
    "Record",
    "ToolCall",
    "TrainingRecord",
    "note_place",
    "place_of",
    "texts_of",
]

MIN_RESPONSES = 2  # a ranking of one response says nothing; the paper has K = 4 to 9


def _encodable(text: str) -> str:
    """Half a surrogate pair, as JSON's escapes allow it, is no text: no tokenizer takes it."""
    try:
        text.encode()
    except UnicodeEncodeError as error:
        raise ValueError(f"holds half a character ({text[error.start]!r})") from None
    return text


def _not_blank(text: str) -> str:
    if not text.strip():
        raise ValueError("is blank")
    return text


String = Annotated[str, AfterValidator(_encodable)]
Text = Annotated[String, AfterValidator(_not_blank)]
# refuses "1", 1.0 and true, which pydantic would otherwise convert
Integer = Annotated[int, Field(strict=True)]
Rank = Annotated[int, Field(strict=True, ge=1)]
Likert = Annotated[int, Field(strict=True, ge=1, le=7)]
Strength = Annotated[float, Field(strict=True, ge=0)]


class Record(BaseModel):
    """Base of all records: immutable, no unknown keys, no NaN."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class Function(Record):
    """Which function a tool call calls, with which arguments."""

    name: Text
    arguments: Annotated[dict[str, Any], AfterValidator(encodable)] = {}


class ToolCall(Record):
    """A call that the assistant makes; `id` is what the tool's message answers to."""

    function: Function
    id: String | None = None
    type: Literal["function"] = "function"


class Message(Record):
    """One turn of a conversation. The keys are OpenAI's; all but the first two may be missing.

    An assistant's message with `tool_calls` may have null for content (read as no text), and a
    `tool` message is what came back. `tools` are the definitions that the conversation offers; they
    stand at its first message, whoever that is from, so that a prompt cut out of it keeps them.
    """

    # Where a first message was read; it is no part of the message, in comparing or writing one.
    __slots__ = ("_place",)

    role: Literal["system", "user", "assistant", "tool"]
    content: String
    reasoning_content: String | None = Field(
        default=None, description="what the assistant thought before it answered"
    )
    tool_calls: list[Annotated[ToolCall, BeforeValidator(normal_call)]] | None = None
    tool_call_id: String | None = None
    name: String | None = Field(default=None, description="of the tool that answers")
    weight: Literal[0, 1] | None = Field(
        default=None, description="0: no loss on this answer; 1 or none: as the stage says"
    )
    tools: Annotated[
        list[Annotated[dict[str, Any], AfterValidator(encodable)]] | None,
        BeforeValidator(normal_tools),
    ] = None

    @model_validator(mode="before")
    @classmethod
    def _null_beside_calls(cls, row: Any) -> Any:
        if not isinstance(row, dict) or "tool_calls" not in row:
            return row
        if row["tool_calls"] and row.get("content") is None:
            row = {**row, "content": ""}
        return row if row["tool_calls"] else {**row, "tool_calls": None}

    @model_validator(mode="after")
    def _check(self) -> "Message":
        for field in ("tool_calls", "reasoning_content", "weight"):
            if getattr(self, field) is not None and self.role != "assistant":
                raise ValueError(f"{field}: only an assistant's message has this")
        return self

    @model_serializer(mode="wrap")
    def _without_what_is_missing(self, handler: SerializerFunctionWrapHandler) -> dict[str, Any]:
        """Role and content alone for most messages: templates ask whether a key is there."""
        return {key: value for key, value in handler(self).items() if value is not None}

    def texts(self) -> list[Any]:
        """What was said, thought and given to tools; numbers and keys among the arguments too."""
        arguments = [call.function.arguments for call in self.tool_calls or []]
        return [self.content, self.reasoning_content, arguments]

    def with_texts(self, new: Iterator[str]) -> "Message":
        """The message with `new` strings in the places of those in `texts`."""
        content, thought, given = with_strings(self.texts(), new)
        changes: dict[str, Any] = {"content": content, "reasoning_content": thought}
        if self.tool_calls:
            changes["tool_calls"] = [
                ToolCall(
                    id=call.id, function=Function(name=call.function.name, arguments=arguments)
                )
                for call, arguments in zip(self.tool_calls, given, strict=True)
            ]
        return self.model_copy(update=changes)


def texts_of(messages: "Iterable[Message]") -> list[str]:
    """Every string that was said, thought or given to a tool in the messages, in order."""
    return [text for message in messages for text in strings_in(message.texts())]


Messages = Annotated[list[Message], Field(min_length=1)]


class Conversation(Record):
    """Base of the records that hold messages."""

    @model_validator(mode="before")
    @classmethod
    def _tools_to_the_first_message(cls, row: Any) -> Any:
        """`tools` beside the messages, where OpenAI's files have them, is read too."""
        if not isinstance(row, dict) or "tools" not in row:
            return row
        rest = {key: value for key, value in row.items() if key != "tools"}
        if not row["tools"]:
            return rest
        field = "prompt" if "prompt" in row else "messages"
        turns = row.get(field)
        if isinstance(turns, list) and turns and isinstance(turns[0], dict):
            return {**rest, field: [{"tools": row["tools"], **turns[0]}, *turns[1:]]}
        return row


class Document(Record):
    """A text to pretrain on."""

    text: Text
    source: String | None = None
    id: String | None = None


class Prompt(Conversation):
    """What a person asks; the last message is theirs, or what a tool answered."""

    messages: Messages
    user: String | None = Field(default=None, description="who asked; splits and caps go by it")
    use_case: String | None = Field(
        default=None, description="generation, open_qa, chat, ... (the paper's Table 1)"
    )
    source: String | None = None
    id: String | None = None
    meta: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> "Prompt":
        require_last(self.messages, "user", "messages")
        return self


class Demonstration(Conversation):
    """A conversation whose last message shows the answer to imitate: a text or a tool call."""

    messages: Messages
    user: String | None = None
    use_case: String | None = None
    source: String | None = None
    id: String | None = None
    meta: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> "Demonstration":
        require_last(self.messages, "assistant", "messages")
        return self


class Ranking(Conversation):
    """K responses to one prompt, ordered by one labeler.

    `ranks[i]` belongs to `responses[i]`: 1 is best, equal numbers are a tie. A response may be the
    empty string: a model that stops at once has said just that, and labelers rank it.
    """

    prompt: Messages
    responses: Annotated[list[String], Field(min_length=MIN_RESPONSES)]
    ranks: list[Rank]
    likert: list[Likert] | None = Field(
        default=None, description="overall quality 1-7 of each response"
    )
    flags: list[list[String]] | None = Field(
        default=None, description="metadata ticked for each response (Table 3)"
    )
    labeler: String | None = None
    cohort: String = Field(
        default="train", description="group of labelers: train, heldout, researcher, ..."
    )
    source: String | None = None
    task: String | None = Field(default=None, description="the labeling task this ranking answers")
    instruction: String | None = Field(
        default=None, description="version of the instructions the labeler saw"
    )
    generators: list[String] | None = Field(
        default=None, description="which model wrote each response"
    )
    user: String | None = None
    use_case: String | None = None
    id: String | None = None
    strength: Strength | None = Field(
        default=None, description="how sure the preference is, where a source says so"
    )
    meta: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> "Ranking":
        require_last(self.prompt, "user", "prompt")
        for field in ("ranks", "likert", "flags", "generators"):
            values = getattr(self, field)
            if values is not None and len(values) != len(self.responses):
                raise ValueError(
                    f"{field}: has {len(values)} entries for {len(self.responses)} responses"
                )
        return self

    @property
    def k(self) -> int:
        """Number of responses."""
        return len(self.responses)

    def comparisons(self) -> "list[Comparison]":
        """Every pair with a better and a worse response; ties say nothing and are dropped (section
        3.5).
        """
        pairs = [
            (i, j) for i in range(self.k) for j in range(self.k) if self.ranks[i] < self.ranks[j]
        ]
        return [
            Comparison(
                prompt=self.prompt,
                chosen=self.responses[i],
                rejected=self.responses[j],
                labeler=self.labeler,
                cohort=self.cohort,
                source=self.source,
                strength=self.strength,
                group_id=self.id,
                meta=self.meta,
            )
            for i, j in pairs
        ]


class Comparison(Conversation):
    """Two responses to one prompt, one preferred. Several from one K-way ranking share a
    `group_id`.
    """

    prompt: Messages
    chosen: String
    rejected: String
    labeler: String | None = None
    cohort: String = "train"
    source: String | None = None
    strength: Strength | None = None
    group_id: String | None = None
    meta: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> "Comparison":
        require_last(self.prompt, "user", "prompt")
        return self

    def ranking(self) -> Ranking:
        """A comparison is a ranking with K = 2."""
        return Ranking(
            prompt=self.prompt,
            responses=[self.chosen, self.rejected],
            ranks=[1, 2],
            labeler=self.labeler,
            cohort=self.cohort,
            source=self.source,
            strength=self.strength,
            id=self.group_id,
            meta=self.meta,
        )


class Question(Record):
    """A multiple-choice question or fact probe; `answer` counts from 0 into `choices`."""

    question: Text
    choices: Annotated[list[String], Field(min_length=2)]
    answer: Annotated[int, Field(strict=True, ge=0)]
    source: String | None = None
    meta: dict[str, Any] = {}

    @model_validator(mode="after")
    def _check(self) -> "Question":
        if self.answer >= len(self.choices):
            raise ValueError(
                f"answer: is {self.answer} but there are {len(self.choices)} choices, counted "
                f"from 0"
            )
        return self


# What stages learn from; a question is for evaluation alone.
TrainingRecord = Document | Prompt | Demonstration | Ranking | Comparison


def note_place(record: Any, path: str, line: int) -> None:
    """Remember at a conversation's first message which file and line it was read from, so that an
    error of a later stage can name them. What is cut out of the record keeps it.
    """
    # Documents have neither, and asking a pydantic model for what it lacks is dear.
    held = vars(record)
    if messages := held.get("messages") or held.get("prompt"):
        object.__setattr__(messages[0], "_place", (path, line))


def place_of(messages: Sequence[Message]) -> tuple[str, int] | None:
    """The file and line that `note_place` remembered, or None."""
    return getattr(messages[0], "_place", None)


def require_last(messages: list[Message], role: str, field: str) -> None:
    """The last message must be `role`'s and say something. A question may end with what a tool
    answered, an answer may be a call. The field's name leads the text; data.jsonl reads it.
    """
    last = messages[-1]
    if last.role != role and (role, last.role) != ("user", "tool"):
        raise ValueError(f"{field}: the last message is {last.role}'s but must be {role}'s")
    if not last.content.strip() and not last.tool_calls and last.role != "tool":
        raise ValueError(f"{field}: the last message is blank")
