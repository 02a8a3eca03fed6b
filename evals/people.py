"""People as the judges of pairs: an export of the labeling site says which answer is better.

The evaluation writes final/candidates.jsonl, the first answer of every model to each prompt, for
the site to import; the same evaluation with `evals.judge: {people: EXPORT}` draws the same answers
again and reads what people said of them.
"""

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
from pydantic import BaseModel, ConfigDict, Discriminator, Field, Tag

from data.jsonl import read_jsonl
from data.records import Message, Ranking
from evals.records import Answer
from podium.errors import DataError
from podium.rewards.specs import RewardSpec
from reward.candidates import Candidates

MOST = 9  # responses that the labeling site shows together


class PeopleSpec(BaseModel):
    """Rankings that people made of this evaluation's candidates."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    people: str = Field(min_length=1, description="an export of the labeling site: rankings")


def _shape(value: Any) -> str:
    people = isinstance(value, PeopleSpec) or (isinstance(value, dict) and "people" in value)
    return "[people]" if people else "[reward]"


# What evals.judge may be; a mistake is told as that member's own.
JudgeSpec = Annotated[
    Annotated[RewardSpec, Tag("[reward]")] | Annotated[PeopleSpec, Tag("[people]")],
    Discriminator(_shape),
]


class PeopleJudge:
    """Compares answers by what people said of them. DataError: there is no ranking in the file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        rankings = read_jsonl(path, Ranking)
        self.rankings = len(rankings)
        self.people = len({ranking.labeler for ranking in rankings if ranking.labeler})
        self._said: dict[str, list[dict[str, int]]] = defaultdict(list)
        for ranking in rankings:
            ranks = dict(zip(ranking.responses, ranking.ranks, strict=True))
            self._said[_key(ranking.prompt)].append(ranks)

    @property
    def name(self) -> str:
        """How the report names it."""
        return f"{self.people} people in {self.rankings:,} rankings ({self.path.name})"

    def compare(self, mine: Sequence[Answer], theirs: Sequence[Answer]) -> list[float]:
        """For each pair of answers to one prompt: 1 mine is better, 0 theirs, 0.5 neither, the mean
        of those who ranked both; NaN where nobody did.

        Raises:
            DataError: nobody ranked any of these pairs.
        """
        outcomes = [self._outcome(a, b) for a, b in zip(mine, theirs, strict=True)]
        if np.isnan(outcomes).all():
            raise DataError(
                self.path,
                problem="ranks none of the pairs that this evaluation compares",
                fix="let people rank evals/final/candidates.jsonl of an evaluation with the same "
                "models, seed and keys",
            )
        return outcomes

    def _outcome(self, mine: Answer, theirs: Answer) -> float:
        pair = mine.response, theirs.response
        ranks = [said for said in self._said[_key(mine.prompt)] if said.keys() >= set(pair)]
        signs = [np.sign(said[pair[1]] - said[pair[0]]) for said in ranks]
        return float(0.5 + 0.5 * np.mean(signs)) if signs else float("nan")


def candidates_of(answers: Sequence[Answer]) -> list[Candidates]:
    """What people may rank: to each prompt the first answer of every row, at most nine."""
    first: dict[int, dict[str, Answer]] = defaultdict(dict)
    for answer in answers:
        first[answer.prompt_index].setdefault(answer.row, answer)
    found: list[Candidates] = []
    for rows in first.values():
        some = list(rows.values())[:MOST]
        if len({answer.response for answer in some}) < 2:
            continue  # nothing to rank
        found.append(
            Candidates(
                prompt=some[0].prompt,
                responses=[answer.response for answer in some],
                generators=[answer.row for answer in some],
                split="test",
                use_case=some[0].use_case,
                source="evals",
            )
        )
    return found


def _key(prompt: Sequence[Message]) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in prompt)
