"""Score a file of answers with a reward model: `podium reward score MODEL FILE`."""

import json
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from data.jsonl import numbered_lines, read_jsonl
from data.records import Messages
from podium.rewards.model import load_reward_model
from podium.rewards.score import score_texts


class Answers(BaseModel):
    """A line to score: a prompt with one response or several. Whatever else it holds is kept."""

    model_config = ConfigDict(frozen=True, extra="allow")

    prompt: Messages
    response: str | None = None
    responses: list[str] | None = None

    @field_validator("prompt", mode="before")
    @classmethod
    def _text_is_a_message(cls, prompt: Any) -> Any:
        return [{"role": "user", "content": prompt}] if isinstance(prompt, str) else prompt

    @model_validator(mode="after")
    def _check(self) -> "Answers":
        if (self.response is None) == (self.responses is None):
            raise ValueError(
                "response: a line needs either response (a text) or responses (a list)"
            )
        if self.prompt[-1].role == "assistant":
            raise ValueError("prompt: ends in the assistant's turn, so there is nothing to answer")
        return self

    @property
    def texts(self) -> list[str]:
        return self.responses if self.responses is not None else [self.response or ""]


def score_file(model: str | Path, file: str | Path, out: str | Path) -> int:
    """Score every line of a JSONL file and write it back with its `score`s; returns the number of
    lines.

    A line has `prompt` (a string or a list of messages) and either `response` (a string, gets
    `score`) or `responses` (a list, gets `scores`), so rankings, comparisons' parts and plain
    answers all work. All else on a line is kept. This is `podium reward score MODEL FILE`.

    Raises:
        DataError: a line that cannot be read. PodiumError, DivergenceError: as `score_texts`,
            naming the line.
    """
    rows = read_jsonl(file, Answers)
    numbers, lines = zip(*numbered_lines(Path(file)), strict=True)
    reward_model, tokenizer = load_reward_model(model)
    flat = [(row.prompt, text) for row in rows for text in row.texts]
    names = [
        f"{file}, line {number}" + (f", response {k}" if row.responses is not None else "")
        for number, row in zip(numbers, rows, strict=True)
        for k in range(1, len(row.texts) + 1)
    ]
    scores = iter(
        score_texts(
            reward_model, tokenizer, [p for p, _ in flat], [r for _, r in flat], names=names
        )
    )
    partial = Path(f"{out}.partial")
    with partial.open("w", encoding="utf-8") as written:
        for line, row in zip(lines, rows, strict=True):
            values = [next(scores) for _ in row.texts]
            found = {"scores": values} if row.responses is not None else {"score": values[0]}
            written.write(json.dumps(json.loads(line) | found, ensure_ascii=False) + "\n")
    partial.replace(out)
    return len(rows)
