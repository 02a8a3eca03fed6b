"""What answers of several models to the same prompts say: win rates, ratings, what may be claimed.

Pure: answers and scores in, plain numbers and sentences out.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np

from data.records import Prompt
from evals.pairs import PairJudge
from evals.records import Answer
from evals.winrate import judge_arms, judged_win_rate, near_lengths, outcomes
from podium.statistics import elo_over_prompts, mean_with_interval


@dataclass(frozen=True)
class Judged:
    """Who decides: by scores of every answer, or by comparing pairs."""

    name: str
    score: Callable[[Sequence[Prompt], Sequence[str]], Any] | None = None
    pairs: PairJudge | None = None


@dataclass(frozen=True)
class Met:
    """Models that answered the same prompts: of each its answers (P x S, prompt by prompt) and,
    where the judge gives any, scores (P, S).
    """

    names: Sequence[str]
    answers: Sequence[Sequence[Answer]]
    scores: Sequence[np.ndarray] | None
    judge: Judged
    samples: int


class Games(NamedTuple):
    """Comparisons of two models, (N) each: 1 to 0 for the first, of which prompt, and whether the
    answers are of like length.
    """

    outcome: np.ndarray
    prompt: np.ndarray
    near: np.ndarray


def games(met: Met, i: int, j: int) -> Games:
    """Model i against model j: by scores every answer with every one to the same prompt; by a judge
    of pairs the first with the first, and so on.

    Lengths are in characters, since models need not share a tokenizer.
    """
    mine, theirs = met.answers[i], met.answers[j]
    own, other = (np.array([len(a.response) for a in given]) for given in (mine, theirs))
    if met.scores is None:
        assert met.judge.pairs is not None, "a judge scores or compares"
        outcome = np.array(met.judge.pairs.compare(mine, theirs))
        return Games(outcome, np.array([a.prompt_index for a in mine]), near_lengths(own, other))
    outcome = outcomes(met.scores[i], met.scores[j])  # (P, S, S)
    near = near_lengths(own.reshape(-1, met.samples, 1), other.reshape(-1, 1, met.samples))
    prompt = np.repeat(np.arange(len(outcome)), met.samples**2)
    return Games(outcome.reshape(-1), prompt, near.reshape(-1))


def model_row(met: Met, number: int) -> dict[str, Any]:
    """One model alone: its mean score with interval, its answers' length and how they end."""
    answers = met.answers[number]
    prompt = [answer.prompt_index for answer in answers]
    scored = None
    if met.scores is not None:
        scored = mean_with_interval(met.scores[number].reshape(-1), prompt)._asdict()
    return {
        "name": met.names[number],
        "score": scored,
        "characters": float(np.mean([len(answer.response) for answer in answers])),
        "finished": float(np.mean([answer.finished for answer in answers])),
    }


def against(met: Met) -> list[dict[str, Any]]:
    """The first model against each other one, and what may be said of all of them at once."""
    rows: dict[str, dict[str, Any]] = {}
    found = []
    for other in range(1, len(met.names)):
        outcome, prompt, near = games(met, 0, other)
        raw, matched = judged_win_rate(outcome, prompt), judged_win_rate(outcome, prompt, near)
        assert raw is not None, "there are prompts"
        rows[f"against {other}"] = {
            "win_rate": raw.rate,
            "win_rate_p": raw.p,
            "win_rate_prompts": raw.prompts,
        }
        found.append(
            {
                "first": met.names[0],
                "second": met.names[other],
                **raw._asdict(),
                "length_matched": None if matched is None else matched._asdict(),
            }
        )
    said = judge_arms(rows).values()
    return [
        row | {"verdict": f"{row['first']} {words} {row['second']}"}
        for row, words in zip(found, said, strict=True)
    ]


def elo(met: Met) -> dict[str, Any]:
    """Ratings of three or more models by maximum likelihood, of mean 0, with intervals over
    prompts: from every pair where there are scores, else from the first against the others.
    """
    count = len(met.names)
    if count < 3:
        return {}
    pairs = [(i, j) for i in range(count) for j in range(i + 1, count) if met.scores or i == 0]
    played = [games(met, i, j) for i, j in pairs]
    first, second = (
        np.concatenate(
            [np.full(len(g.outcome), pair[side]) for pair, g in zip(pairs, played, strict=True)]
        )
        for side in (0, 1)
    )
    outcome, prompt = (np.concatenate([g[part] for g in played]) for part in (0, 1))
    try:
        ratings = elo_over_prompts(first, second, outcome, prompt, count)
    except ValueError as error:
        return {"none": str(error)}
    return {name: rating._asdict() for name, rating in zip(met.names, ratings, strict=True)}


def in_words(result: dict[str, Any]) -> str:
    """What `podium compare` prints of comparison.json."""
    lines = [
        f"{result['prompts']} held-out prompts, {result['samples']} answers each; judge: "
        f"{result['judge']}",
        *(f"note: {note}" for note in result["notes"]),
    ]
    for model in result["models"]:
        score = f"score {interval(model['score'], '.3f')}, " if model["score"] else ""
        lines.append(
            f"  {model['name']}: {score}{model['characters']:.0f} characters, "
            f"{model['finished']:.0%} ended by themselves"
        )
    for row in result["against"]:
        matched, like = row["length_matched"], "no pair of like length"
        if matched:
            share = interval(matched | {"value": matched["rate"]}, ".1%")
            like = f"of like length {share} in {matched['comparisons']} pairs"
        lines.append(
            f"{row['first']} against {row['second']}: wins "
            f"{interval(row | {'value': row['rate']}, '.1%')}, ties ({row['ties']:.0%}) counted "
            f"half; {like}"
        )
        lines.append(f"  {row['verdict']}")
    for name, rating in result["elo"].items():
        lines.append(f"Elo {name}: {rating if name == 'none' else interval(rating, '+.0f')}")
    return "\n".join(lines)


def interval(found: dict[str, Any], form: str) -> str:
    """`value [low, high]`, or the value alone where it has no interval."""
    ends = "" if found["low"] is None else f" [{found['low']:{form}}, {found['high']:{form}}]"
    return f"{found['value']:{form}}{ends}"
