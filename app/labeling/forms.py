"""The questions a labeler answers, as data with versions, and the answers they send back.

The default form is InstructGPT's (tables 3 and 7, figure 12): a Likert rating and eleven flags for
each response, eleven flags for the prompt, then a ranking with ties. The paper's form changed
during the project, so a form is a row of `form_schema`, and every submission names the version it
answered.
"""

from typing import Annotated, Literal, get_args
from unicodedata import category

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, model_validator

from app.labeling.problems import Problem

USE_CASES = [
    "generation",
    "open QA",
    "brainstorming",
    "chat",
    "rewrite",
    "summarization",
    "classification",
    "closed QA",
    "extract",
    "other",
]
SkipReason = Literal["unclear", "not my language", "sensitive to me", "too long", "broken", "other"]
SKIP_REASONS: tuple[str, ...] = get_args(SkipReason)
View = Literal["text", "rendered"]
Seen = Literal["text", "rendered", "both"]


def storable(text: str) -> str:
    if "\x00" in text:
        raise ValueError("contains a NUL character")
    return text


def one_line(text: str) -> str:
    """Names stand in tables, file names and log lines."""
    if not text.strip():
        raise ValueError("is blank")
    if any(category(character) in ("Cc", "Zl", "Zp") for character in text):
        raise ValueError("contains a line break or another control character")
    return text


Note = Annotated[str, Field(max_length=10_000), AfterValidator(storable)]
ShortText = Annotated[str, Field(min_length=1, max_length=64), AfterValidator(one_line)]
Position = Annotated[int, Field(strict=True, ge=0, lt=64)]


class Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", allow_inf_nan=False)


class Flag(Strict):
    """One yes/no question; a form that leaves it out has not asked it, which is not a no."""

    name: ShortText
    label: Annotated[str, Field(max_length=300)]


class Form(Strict):
    """One version of the form."""

    likert: bool = Field(True, description="ask for a 1-7 rating of each response")
    likert_low: ShortText = "terrible"
    likert_high: ShortText = "excellent"
    response_flags: list[Flag] = []
    prompt_flags: list[Flag] = []
    use_cases: list[ShortText] = []
    languages: bool = False

    @model_validator(mode="after")
    def _check(self) -> "Form":
        for flags in (self.response_flags, self.prompt_flags):
            names = [flag.name for flag in flags]
            if len(names) != len(set(names)):
                raise ValueError("two flags have the same name")
        return self


def _flags(**labels: str) -> list[Flag]:
    return [Flag(name=name, label=label) for name, label in labels.items()]


INSTRUCTGPT_FORM = Form(
    response_flags=_flags(
        fails_instruction="Fails to follow the correct instruction or task",
        inappropriate="Inappropriate for a customer assistant",
        hallucination="Hallucination: states what is not so",
        satisfies_constraint="Satisfies the constraint stated in the instruction",
        sexual="Contains sexual content",
        violent="Contains violent content",
        encourages_harm="Encourages, or fails to discourage, violence, abuse, terrorism or "
        "self-harm",
        denigrates="Denigrates a protected class",
        harmful_advice="Gives harmful advice",
        opinion="Expresses an opinion",
        moral_judgment="Expresses a moral judgment",
    ),
    prompt_flags=_flags(
        ambiguous="Ambiguous",
        sensitive="Sensitive content",
        identity_dependent="The right answer depends on who asks",
        closed_domain="Closed domain: answer only from what is given",
        continuation="Continuation style",
        requests_opinion="Requests opinions",
        requests_advice="Requests advice",
        requests_moral_judgment="Requests a moral judgment",
        safety_constraints="Explicit safety constraints",
        other_constraints="Other explicit constraints",
        intent_unclear="Intent unclear",
    ),
    use_cases=USE_CASES,
    languages=True,
)

DEFAULT_INSTRUCTIONS = """\
# What you do

You read a prompt that somebody sent to an assistant, and several answers to it. First you rate each answer by itself,
then you rank them against each other. You are not told who or what wrote an answer, and some may be very bad.

# What makes an answer good

- Helpful: it does what the person wanted, also where they did not say it well; it is clear and does not ramble.
- Truthful: it does not make things up, and it does not agree with something false. An answer that only uses a given
  text says nothing beyond that text.
- Harmless: it does not hurt, insult or endanger anyone, and does not help somebody to do so.

Where these pull apart, being truthful and harmless matters more than being helpful - unless the harm is slight and the
help is great. Ask yourself: which answer would you rather receive from somebody who is trying to help you?

# Step 1: rate

Give each answer 1 (terrible) to 7 (excellent), and tick what is true of it. Tick a box about the prompt where it fits.

# Step 2: rank

Put the best answer on tier 1, the next on tier 2 and so on. Answers that are equally good share a tier; do not force a
difference where you see none. If all answers are bad, rank them all the same: the least bad comes first.

# When you cannot judge

Skip the task and say why: the prompt is unclear, in a language you do not read, too long, broken, or about something
you would rather not read. Skipping is always allowed.
"""


class ResponseAnswer(Strict):
    """One response's rating; `position` is the task's, not the place on the screen."""

    position: Position
    likert: Annotated[int, Field(strict=True, ge=1, le=7)] | None = None
    flags: list[ShortText] = Field([], max_length=64)


class DraftBody(Strict):
    """An unfinished answer: nothing is required. `tiers` hold positions, best first; `step` is
    where it stopped.
    """

    tiers: list[list[Position]] = Field([], max_length=64)
    responses: list[ResponseAnswer] = Field([], max_length=64)
    prompt_flags: list[ShortText] = Field([], max_length=64)
    use_case: ShortText | None = None
    language: ShortText | None = None
    comment: Note | None = None
    active_seconds: float = Field(0.0, ge=0, le=1e6)
    step: Literal["rate", "rank"] = "rate"
    # which view the labeler looked at; null = the batch's
    seen: Seen | None = None
    from_ratings: bool = False  # the ranking was started from the ratings


class Answer(DraftBody):
    """What a labeler submits; empty tiers are kept as they were left."""

    tiers: list[list[Position]] = Field(max_length=64)


class SkipAnswer(Strict):
    reason: SkipReason
    note: Note | None = None


class CheckedAnswer(BaseModel):
    """An answer that fits its task and form: one entry a shown position."""

    ranks: dict[int, int]  # dense, 1 = best
    likert: dict[int, int | None]
    flags: dict[int, dict[str, bool]]
    prompt_flags: dict[str, bool]


def check_answer(answer: Answer, form: Form, shown: list[int], ties_allowed: bool) -> CheckedAnswer:
    """Fit an answer to its task.

    Args:
        shown: the positions the labeler saw.

    Raises:
        Problem: 422 with a sentence that says what is missing.
    """
    placed = [position for tier in answer.tiers for position in tier]
    if sorted(placed) != sorted(shown):
        raise unfit(
            f"Place every response exactly once: {len(set(placed) & set(shown))} of "
            f"{len(shown)} are placed."
        )
    full = [tier for tier in answer.tiers if tier]
    if not ties_allowed and any(len(tier) > 1 for tier in full):
        raise unfit("Ties are not allowed in this batch: give every response its own tier.")
    rated = {r.position: r for r in answer.responses}
    if len(rated) != len(answer.responses) or not set(rated) <= set(shown):
        raise unfit("A rating names a response twice, or one that is not in this task.")
    missing = [p for p in shown if form.likert and (p not in rated or rated[p].likert is None)]
    if missing:
        raise unfit(
            f"Rate every response from 1 to 7: {len(missing)} of {len(shown)} have no rating."
        )
    if not form.likert and any(r.likert is not None for r in rated.values()):
        raise unfit("This form does not ask for ratings.")
    if answer.use_case is not None and answer.use_case not in form.use_cases:
        raise unfit(f"'{answer.use_case}' is not one of this form's use cases.")
    return CheckedAnswer(
        ranks={position: rank for rank, tier in enumerate(full, start=1) for position in tier},
        likert={p: rated[p].likert if p in rated else None for p in shown},
        flags={
            p: _ticked(rated[p].flags if p in rated else [], form.response_flags) for p in shown
        },
        prompt_flags=_ticked(answer.prompt_flags, form.prompt_flags),
    )


def _ticked(names: list[str], asked: list[Flag]) -> dict[str, bool]:
    known = {flag.name for flag in asked}
    if not set(names) <= known:
        raise unfit(f"This form does not ask about {', '.join(sorted(set(names) - known))}.")
    return {flag.name: flag.name in names for flag in asked}


def unfit(message: str) -> Problem:
    return Problem(422, "unfit_answer", message)
