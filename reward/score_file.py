"""Score a file of answers by any reward a recipe can name: `podium reward score REWARD FILE`."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

from data.jsonl import numbered_lines, read_jsonl
from data.records import Messages, Prompt, require_last
from podium.models import moved
from podium.rewards.kinds import make_reward
from podium.rewards.model_reward import ModelReward
from podium.rewards.protocol import Reward
from podium.rewards.score import score_texts
from podium.rewards.specs import RewardSpec
from podium.run.place import Place
from podium.run.recipe import Recipe
from podium.runtime import device

AT_ONCE = 256  # answers a reward is given at a time; what an endpoint replied until then is kept


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
        require_last(self.prompt, "user", "prompt")
        return self

    @property
    def asked(self) -> Prompt:
        """The question as rewards are given it; what else the line holds lies in its `meta`."""
        meta = (self.model_extra or {}).get("meta")
        return Prompt(messages=self.prompt, meta=meta if isinstance(meta, dict) else {})

    @property
    def texts(self) -> list[str]:
        return self.responses if self.responses is not None else [self.response or ""]


def score_file(reward: RewardSpec, file: str | Path, out: str | Path) -> int:
    """Score every line of a JSONL file and write it back with its `score`s; returns the number of
    lines.

    reward: as `ppo.reward` names one: a reward model's folder or hub id, Podium's own or a
    stranger's, a function, a section, a weighted sum. What an endpoint replied is kept in `asked/`
    beside `out`, so that the same call asks nothing twice.

    A line has `prompt` (a string or a list of messages) and either `response` (a string, gets
    `score`) or `responses` (a list, gets `scores`), so rankings, comparisons' parts and plain
    answers all work. All else on a line is kept; a reward function finds its
    `meta` in `prompt.meta`.

    Raises:
        DataError: a line that cannot be read. PodiumError, DivergenceError: as `score_texts`,
            naming the line. ParentError, FunctionError, EndpointError: as `make_reward`.
    """
    rows = read_jsonl(file, Answers)
    numbers, lines = zip(*numbered_lines(Path(file)), strict=True)
    place = Place(Recipe(name="score"), Path(out).parent, device(), seed=0)
    made = moved(make_reward(reward, place, same_tokenizer=False), place.device).eval()
    names = [
        f"{file}, line {number}" + (f", response {k}" if row.responses is not None else "")
        for number, row in zip(numbers, rows, strict=True)
        for k in range(1, len(row.texts) + 1)
    ]
    asked = [row.asked for row in rows for _ in row.texts]
    scores = iter(_scores(made, asked, [text for row in rows for text in row.texts], names))
    partial = Path(f"{out}.partial")
    with partial.open("w", encoding="utf-8") as written:
        for line, row in zip(lines, rows, strict=True):
            values = [next(scores) for _ in row.texts]
            found = {"scores": values} if row.responses is not None else {"score": values[0]}
            written.write(json.dumps(json.loads(line) | found, ensure_ascii=False) + "\n")
    partial.replace(out)
    return len(rows)


def _scores(
    reward: Reward, prompts: Sequence[Prompt], texts: Sequence[str], names: Sequence[str]
) -> list[float]:
    """A score an answer. Podium's own model alone is told the names of the lines, and refuses what
    does not fit its context; other rewards cut it, as they do in PPO.
    """
    if isinstance(reward, ModelReward):
        assert reward.tokenizer is not None, "a reward of a folder has its tokenizer"
        asked = [prompt.messages for prompt in prompts]
        return score_texts(reward.model, reward.tokenizer, asked, texts, names=names)
    found: list[float] = []
    for start in range(0, len(texts), AT_ONCE):
        part = slice(start, start + AT_ONCE)
        found += reward(prompts[part], texts[part]).tolist()
    return found
