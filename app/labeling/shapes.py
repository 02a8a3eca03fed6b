"""What the HTTP API takes and gives, as `app.labeling.client` has it too.

A newer server may say more than an older client knows: what is not known is left out.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from app.labeling.exporting import Kind
from app.labeling.forms import Strict
from app.labeling.importing import BatchName, BatchRules, Candidates
from app.labeling.seeds import Seed
from app.labeling.writing import WritingRules
from data.records import Ranking

__all__ = [
    "Agreement",
    "BatchInfo",
    "CandidateInfo",
    "ExportInfo",
    "ImportDone",
    "Invitation",
    "InvitationLink",
    "LabelerInfo",
    "PersonInfo",
    "Results",
    "TaskInfo",
    "TokenInfo",
]

Cohort = Literal["train", "heldout", "screening"]


class Shape(BaseModel):
    model_config = ConfigDict(from_attributes=True)


# ---------------------------------------------------------------- what is sent


def _kind(row: Any) -> str:
    ranked = "ranks" in row if isinstance(row, dict) else isinstance(row, Ranking)
    return "ranking" if ranked else "candidates"


AnyRecord = Annotated[
    Annotated[Candidates, Tag("candidates")] | Annotated[Ranking, Tag("ranking")],
    Discriminator(_kind),
]


class NewBatch(BatchRules):
    """Prompts with two to nine different responses each, and how they are handed out."""

    records: list[AnyRecord] = Field(
        min_length=1, description="as a line of an imported file: candidates, or our rankings"
    )
    gold: bool = Field(
        False,
        description="the records' ranks are known: the tasks check labelers, and may be added to "
        "a batch that there is",
    )


class NewWriting(WritingRules):
    """Prompts, answers to be edited or openings of conversations, from which labelers write."""

    records: list[Seed] = Field(
        min_length=1, description="as a line of an imported file: prompt or messages, brief, ..."
    )


class NewState(Strict):
    state: Literal["open", "paused", "withdrawn", "deleted", "restored"]


class NewScreening(Strict):
    screening: bool = Field(description="whether the batch is a quiz for candidates")


class NewExport(Strict):
    """Which answers an export is made of."""

    kind: Kind = Field(
        "rankings",
        description="pairs: TRL's rows; votes: the chat's; demonstrations: what was written; "
        "comparisons: of edits and red teaming",
    )
    batches: list[BatchName] | None = Field(None, description="names of batches; null = all")
    cohorts: list[Cohort] | None = Field(None, description="null = all")
    extras: bool = Field(True, description="also answers that came after their task was full")
    gold: bool = Field(False, description="also tasks with known ranks, which check labelers")
    adjudications: bool = Field(True, description="also experts' rankings of disputed tasks")


class NewInvitation(Strict):
    """An admin is not made by a program: invite one on the People page."""

    role: Literal["labeler", "researcher"] = "labeler"
    cohort: Cohort = "train"


# ---------------------------------------------------------------- what is answered


class Fault(Shape):
    """Every refusal, whatever its status."""

    code: str = Field(description="for programs: wrong_scope, bad_request, not_found, ...")
    message: str
    field: str | None = Field(description="the part that will not do, as records.3.prompt")
    fix: str | None = Field(description="what would mend it")


class TokenInfo(Shape):
    """The token that asks."""

    name: str
    scopes: list[str]


class BatchInfo(Shape):
    """A batch and how far it is; gold tasks are checks and are not counted."""

    id: int
    name: str
    state: str = Field(description="open, paused, withdrawn or deleted")
    kind: str = Field("ranking", description="ranking, demonstration, edit, dialogue or red_team")
    purpose: str
    cohorts: list[str]
    overlap: int = Field(description="rankings wanted of each task")
    tasks: int
    wanted: int = Field(description="rankings wanted of all tasks")
    done: int
    open: int = Field(description="tasks in somebody's hands")
    extras: int = Field(description="answers that came after their task was full")
    skipped: int


class ImportDone(Shape):
    """What became of the records."""

    batch: BatchInfo
    tasks: int = Field(description="made of these records")
    copies: int = Field(description="identical responses, tied and shown once")
    left_out: int = Field(description="prompts without two different responses")
    duplicates: int = Field(0, description="the same task twice: prompt and responses are equal")


class TaskResponseInfo(Shape):
    text: str
    generator: str | None = Field(description="who wrote it; labelers are not told")
    copy_of: int | None = Field(description="place of the identical response that is shown")


class TaskInfo(Shape):
    """A prompt with its candidate responses, and how many have ranked them."""

    id: int
    batch: str
    position: int
    prompt: list[dict[str, Any]] = Field(description="messages with role and content")
    responses: list[TaskResponseInfo]
    wanted: int
    done: int
    open: int
    gold: bool


class TaskPage(Shape):
    items: list[TaskInfo]
    next: int | None = Field(description="send it as `after` for the next page; null: no more")


class RecordPage(Shape):
    """Answers as the records that an export holds, labelers under pseudonyms."""

    items: list[Ranking]
    next: int | None = Field(description="send it as `after` for the next page; null: no more")
    broken: list[str] = Field(description="answers that are no records and are left out")


class LabelerInfo(Shape):
    """How somebody works. A flag is a reason to look, never to bar anybody."""

    labeler: str = Field(description="the pseudonym that exports use")
    cohort: str
    answers: int
    skips: int
    median_seconds: float | None
    all_tied: float | None = Field(description="share of answers in which everything is tied")
    bias: float | None = Field(description="tau of place on the screen and rank")
    gold_failures: float | None = Field(description="share of known pairs put wrong or tied")
    reversals: float | None = Field(description="share of answers whose ratings contradict ranks")
    flags: list[str]


class RateInfo(Shape):
    value: float | None
    standard_error: float | None
    low: float | None = Field(description="95 % interval, over prompts or tasks")
    high: float | None
    pairs: int
    prompts: int


class TauInfo(Shape):
    value: float | None
    compared: int
    undefined: int = Field(description="pairs in which one labeler tied everything")


class AgreementRowInfo(Shape):
    who: str = Field(description="all, a cohort, or two cohorts against each other")
    rankings: int
    pairwise: dict[str, RateInfo] = Field(description="by tie rule, see `tie_rules`")
    alpha: float | None = Field(description="Krippendorff's, on pair signs; null: undefined")
    tau: TauInfo | None
    w: float | None = Field(description="Kendall's")


class FlagInfo(Shape):
    alpha: float | None
    prevalence: float
    judgements: int


class ContradictionsInfo(Shape):
    reversed: int
    ordered: int
    mismatched: int
    pairs: int
    rankings: int
    rated: int


class Agreement(Shape):
    """How far labelers agree, under each rule of counting ties."""

    rows: list[AgreementRowInfo]
    likert_alpha: float | None
    flags: dict[str, FlagInfo]
    contradictions: ContradictionsInfo
    tie_rules: dict[str, str] = {}
    broken: list[str] = Field([], description="answers that are no records and are left out")


class EstimateInfo(Shape):
    value: float
    low: float | None = Field(description="95 % interval, over prompts or tasks")
    high: float | None


class CandidateInfo(Shape):
    """How near a candidate comes to the researchers; null where nothing can be compared."""

    person_id: int
    handle: str
    answers: int
    flags: EstimateInfo | None = Field(
        description="share called sensitive or not as researchers do"
    )
    found: float | None = Field(description="share found of what researchers call sensitive")
    rankings: EstimateInfo | None = Field(description="share of pairs ordered alike")
    pairs: int
    demonstrations: int
    scored: int
    score: EstimateInfo | None = Field(description="of demonstrations, 1 to 7")
    groups: list[str]
    others: str
    above: dict[str, bool | None] = Field(description="which of the paper's cutoffs are reached")


class ModelInfo(Shape):
    games: int
    prompts: int
    win_rate: EstimateInfo
    ties: float
    win_rate_length_matched: EstimateInfo | None
    elo: EstimateInfo | None
    likert: EstimateInfo | None
    flags: dict[str, float]


class PairInfo(Shape):
    """How the first of two models fared against the second."""

    first: str
    second: str
    won: int
    tied: int
    lost: int
    win_rate: EstimateInfo


class Results(Shape):
    """Which model people prefer, from rankings and (where no batch is named) the chat's votes."""

    models: dict[str, ModelInfo]
    pairs: list[PairInfo]
    cohorts: dict[str, dict[str, EstimateInfo]]
    rankings: int
    votes: int
    sighted: int = Field(description="votes left out, for their voters saw the models' names")
    note: str


class ExportInfo(Shape):
    """An export that was made; `sha256` is its file's."""

    id: int
    kind: str
    rows: int
    broken: int = Field(description="rows that are no records and are left out")
    sha256: str
    file: str
    filter: dict[str, Any]
    created_at: float


class PersonInfo(Shape):
    id: int
    handle: str
    role: str
    cohort: str
    created_at: float
    disabled: bool


class Invitation(Shape):
    """A link that nobody has used yet."""

    id: int
    role: str
    cohort: str
    expires_at: float


class InvitationLink(Invitation):
    link: str = Field(description="for one person, once; it cannot be shown again")
