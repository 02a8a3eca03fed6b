"""What labelers write instead of ranking: four kinds of batches, and what a labeler sends.

- `demonstration`: the answer to a prompt, as InstructGPT's labelers wrote for SFT (section 3.2).
- `edit`: a model's answer, changed until it is good; how far it was changed is stored.
- `dialogue`: both sides of a conversation, with answers suggested by a model, as ChatGPT's trainers
  had them.
- `red_team`: a conversation in which the labeler tries to make the model do harm and picks, of two
  answers, the more harmful one, with a strength (Bai et al. 2022, section 2.2).

What is written is a list of turns that follow the task's prompt. Suggestions are rows of the
database that a turn names by number, so nobody can say that a model said what it did not.
"""

import hashlib
import json
from collections.abc import Mapping, Sequence
from typing import Annotated, Any, Literal, get_args

from pydantic import AfterValidator, Field, model_validator

from app.labeling.edits import edit_distance
from app.labeling.forms import Note, ShortText, Strict, storable, unfit
from app.labeling.importing import BatchRules
from app.labeling.task_tables import Suggestion
from app.labeling.webhooks import safe_url
from data.records import String

WritingKind = Literal["demonstration", "edit", "dialogue", "red_team"]
WRITING_KINDS: tuple[WritingKind, ...] = get_args(WritingKind)
TALKS: tuple[WritingKind, ...] = ("dialogue", "red_team")  # of several turns
MAX_TEXT = 20_000  # characters of a turn
MAX_TURNS = 60
MAX_WRITTEN = 60_000  # characters of an answer
STRONGEST = 4  # Bai et al.'s slider has four steps to each side

TurnText = Annotated[String, Field(max_length=MAX_TEXT), AfterValidator(storable)]
Number = Annotated[int, Field(strict=True, ge=1, le=2**31 - 1)]
Side = Annotated[int, Field(strict=True, ge=-STRONGEST, le=STRONGEST)]


class Endpoint(Strict):
    """Where suggestions come from: any server of OpenAI's chat completions, `podium serve` say. Its
    key, if it wants one, is the server's environment variable PODIUM_ENDPOINT_KEY.
    """

    url: Annotated[str, Field(min_length=1, max_length=2000), AfterValidator(safe_url)] = Field(
        description="as http://127.0.0.1:8000/v1"
    )
    models: list[ShortText] = Field(min_length=1, max_length=4)
    suggestions: int = Field(2, ge=1, le=4, description="shown at once in a dialogue")
    max_tokens: int = Field(512, ge=1, le=8192)
    temperature: float = Field(1.0, ge=0, le=2)


class WritingRules(BatchRules):
    """How a batch that is written is handed out."""

    kind: WritingKind = "demonstration"
    overlap: int = Field(1, ge=1, le=1000, description="how many write for each task")
    endpoint: Endpoint | None = Field(
        None, description="a model that suggests answers and is talked to"
    )

    @model_validator(mode="after")
    def _check(self) -> "WritingRules":
        if self.endpoint is not None and self.kind not in TALKS:
            raise ValueError(f"endpoint: a batch of kind '{self.kind}' talks to no model")
        if self.view != "text" or self.start_from_ratings or self.gold_every:
            raise ValueError(
                "view, start_from_ratings and gold_every are for batches that are ranked"
            )
        return self


class Turn(Strict):
    """One message that was written or picked."""

    role: Literal["user", "assistant"]
    content: TurnText
    suggestion: Number | None = Field(None, description="what the text was begun from")
    pair: list[Number] | None = Field(
        None, min_length=2, max_length=2, description="red team: the left and the right answer"
    )
    strength: Side | None = Field(
        None, description="red team: below 0 the left answer is more harmful, above 0 the right"
    )


class WritingDraft(Strict):
    """Unfinished: nothing is required. `text` is what stands in the box, not yet a turn."""

    turns: list[Turn] = Field([], max_length=MAX_TURNS)
    text: TurnText = ""
    suggestion: Number | None = None
    strength: Side = 0
    round: int = Field(0, ge=0, le=100, description="how often other suggestions were asked for")
    comment: Note | None = None
    active_seconds: float = Field(0.0, ge=0, le=1e6)


class WritingAnswer(Strict):
    """What a labeler submits."""

    turns: list[Turn] = Field(min_length=1, max_length=MAX_TURNS)
    comment: Note | None = None
    active_seconds: float = Field(0.0, ge=0, le=1e6)

    @model_validator(mode="after")
    def _check(self) -> "WritingAnswer":
        if sum(len(turn.content) for turn in self.turns) > MAX_WRITTEN:
            raise ValueError(f"turns: hold more than {MAX_WRITTEN} characters together")
        return self


class CheckedWriting(Strict):
    """Turns that fit their task: what goes into `written`."""

    messages: list[dict[str, Any]]
    turns: list[dict[str, Any]]  # per assistant turn: where it came from
    edit_distance: int | None  # of an edit


Shown = Mapping[int, Suggestion]  # this assignment's suggestions by number


def context_of(messages: Sequence[Mapping[str, Any]]) -> str:
    """A name of a conversation so far, under which its suggestions are kept."""
    said = [[message["role"], message["content"]] for message in messages]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()


def check_writing(
    kind: str,
    prompt: list[dict[str, Any]],
    original: str | None,
    answer: WritingAnswer,
    shown: Shown,
) -> CheckedWriting:
    """Fit what was written to its task.

    Args:
        prompt: the messages that the task starts with; may be empty for talks.
        original: the model's answer that is edited.

    Raises:
        Problem: 422 with a sentence that says what will not do.
    """
    _check_order(kind, prompt, answer.turns)
    messages = [{"role": m["role"], "content": m["content"]} for m in prompt]
    origins: list[dict[str, Any]] = []
    distance = None
    for turn in answer.turns:
        if not turn.content.strip() and turn.pair is None:
            raise unfit("A turn is empty; write something.")
        if turn.role == "assistant":
            origins.append(_origin(kind, turn, context_of(messages), shown))
        elif turn.suggestion is not None or turn.pair is not None or turn.strength is not None:
            raise unfit("Only the assistant's turns come from suggestions.")
        messages.append({"role": turn.role, "content": turn.content})
    if kind == "edit":
        distance = edit_distance(original or "", answer.turns[0].content)
    return CheckedWriting(messages=messages[len(prompt) :], turns=origins, edit_distance=distance)


def _check_order(kind: str, prompt: list[dict[str, Any]], turns: list[Turn]) -> None:
    before = prompt[-1]["role"] if prompt else "system"
    for turn in turns:
        if turn.role == before or (turn.role == "assistant" and before == "system"):
            raise unfit("Turns alternate, and a conversation begins with the user's.")
        before = turn.role
    if before != "assistant":
        raise unfit("The last turn is the assistant's.")
    if kind not in TALKS and len(turns) > 1:
        raise unfit("One answer is asked for.")


def _origin(kind: str, turn: Turn, context: str, shown: Shown) -> dict[str, Any]:
    """Where an assistant's turn came from, by what the database knows of its suggestions."""
    if kind == "red_team":
        return _picked(turn, context, shown)
    if turn.pair is not None or turn.strength is not None:
        raise unfit("Only in red teaming is one of two answers picked.")
    if turn.suggestion is None:
        return {"suggestion": None}
    if kind != "dialogue":
        raise unfit("This task has no suggestions.")
    found = _known(turn.suggestion, context, shown)
    return {
        "suggestion": found.text,
        "generator": found.generator,
        "edit_distance": edit_distance(found.text, turn.content),
    }


def _picked(turn: Turn, context: str, shown: Shown) -> dict[str, Any]:
    if turn.pair is None or not turn.strength:
        raise unfit("Say of each pair of answers which is more harmful, and how clearly.")
    left, right = (_known(number, context, shown) for number in turn.pair)
    picked = left if turn.strength < 0 else right
    if left.id == right.id or turn.content != picked.text:
        raise unfit("The conversation goes on with the answer that was picked.")
    return {
        "left": left.text,
        "right": right.text,
        "left_generator": left.generator,
        "right_generator": right.generator,
        "strength": turn.strength,
    }


def _known(number: int, context: str, shown: Shown) -> Suggestion:
    found = shown.get(number)
    if found is None or found.context != context:
        raise unfit("A suggestion that was not shown at this turn cannot be used there.")
    return found
