"""The records every stage reads and writes: one pydantic model a kind, one JSON object a line on
disk.

A record is frozen and refuses unknown keys, so a typing mistake in a data file is an error and
never a silent default. Where the InstructGPT paper (section 3.2) speaks of its three data sets,
these are `Demonstration` (SFT), `Ranking` (reward model) and `Prompt` (PPO).
"""

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "Comparison",
    "Demonstration",
    "Document",
    "Message",
    "Messages",
    "Prompt",
    "Question",
    "Ranking",
    "Record",
    "TrainingRecord",
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


class Message(Record):
    """One turn of a conversation."""

    role: Literal["system", "user", "assistant"]
    content: String


Messages = Annotated[list[Message], Field(min_length=1)]


class Document(Record):
    """A text to pretrain on."""

    text: Text
    source: String | None = None
    id: String | None = None


class Prompt(Record):
    """What a person asks; the last message is theirs."""

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


class Demonstration(Record):
    """A conversation whose last message shows the answer to imitate."""

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


class Ranking(Record):
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


class Comparison(Record):
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


def require_last(messages: list[Message], role: str, field: str) -> None:
    """The last message must be `role`'s and say something. The field's name leads the text;
    data.jsonl reads it.
    """
    if messages[-1].role != role:
        raise ValueError(f"{field}: the last message is {messages[-1].role}'s but must be {role}'s")
    if not messages[-1].content.strip():
        raise ValueError(f"{field}: the last message is blank")
