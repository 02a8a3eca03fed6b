"""Which model people prefer, from the site's rankings and the chat's votes.

A ranking of K answers by different models is a game between each two of them; a vote is one game,
and counts where its voter did not know who was who.
Win rates count ties half and have their interval over prompts; Elo is Bradley and Terry's by
maximum likelihood, at once and not game by game. Length-matched rates compare answers of nearly
equal length alone, for longer answers please most people.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from itertools import combinations
from typing import Any, NamedTuple

import numpy as np
from sqlalchemy import select
from sqlalchemy.orm import Session

from app.labeling.chat_tables import ChatMessage, Vote
from app.labeling.collecting import ExportFilter, collect_rankings
from data.records import Ranking
from podium.statistics import SHARE, Estimate, elo_over_prompts, mean_with_interval

LENGTH_TOLERANCE = 0.1  # of the longer answer's characters


class Game(NamedTuple):
    """Two answers to one prompt; `outcome` is 1 where the first was preferred, 0.5 for a tie."""

    first: str
    second: str
    outcome: float
    prompt: str
    cohort: str
    alike: bool  # of nearly equal length


class PairResult(NamedTuple):
    """How often the first of two models won, tied and lost, and its win rate."""

    won: int
    tied: int
    lost: int
    win_rate: Estimate


@dataclass(frozen=True)
class ModelResult:
    """What people think of one model; null is what could not be told."""

    games: int
    prompts: int
    win_rate: Estimate
    ties: float
    win_rate_length_matched: Estimate | None
    elo: Estimate | None
    likert: Estimate | None
    flags: dict[str, float] = field(default_factory=dict)  # share of answers


@dataclass(frozen=True)
class Results:
    """By model, by pair of models (as the first fared), and by cohort of labelers."""

    models: dict[str, ModelResult]
    pairs: dict[tuple[str, str], PairResult]
    cohorts: dict[str, dict[str, Estimate]]  # cohort -> model -> win rate
    rankings: int
    votes: int
    note: str = ""  # why there is no Elo
    sighted: int = 0  # votes left out, for their voters saw the models' names

    def as_json(self) -> dict[str, Any]:
        """For programs; an interval is `{value, low, high}`."""
        models = {
            name: {
                key: value._asdict() if isinstance(value, Estimate) else value
                for key, value in vars(result).items()
            }
            for name, result in self.models.items()
        }
        pairs = [
            {"first": first, "second": second}
            | pair._asdict()
            | {"win_rate": pair.win_rate._asdict()}
            for (first, second), pair in self.pairs.items()
        ]
        cohorts = {
            cohort: {name: rate._asdict() for name, rate in found.items()}
            for cohort, found in self.cohorts.items()
        }
        whole = {key: getattr(self, key) for key in ("rankings", "votes", "sighted", "note")}
        return {"models": models, "pairs": pairs, "cohorts": cohorts, **whole}


def games_of(rankings: Sequence[Ranking]) -> list[Game]:
    """Every pair of answers by different models; answers whose model is not named give none."""
    games = []
    for ranking in rankings:
        for i, j in combinations(range(ranking.k), 2):
            writers = ranking.generators or []
            first, second = (writers[n] if writers else None for n in (i, j))
            if first is None or second is None or first == second:
                continue
            outcome = 0.5 + 0.5 * float(np.sign(ranking.ranks[j] - ranking.ranks[i]))
            alike = _alike(ranking.responses[i], ranking.responses[j])
            prompt = _prompt_key(ranking)
            games.append(Game(first, second, outcome, prompt, ranking.cohort, alike))
    return games


def votes_of(session: Session, chosen: ExportFilter, sighted: bool = False) -> list[Game]:
    """The chat's blind votes (`sighted`: the others); a tie and "both bad" are half a win each, for
    neither was preferred.
    """
    said: dict[int, list[str]] = {}
    for message in session.scalars(
        select(ChatMessage).order_by(ChatMessage.conversation_id, ChatMessage.position)
    ):
        said.setdefault(message.conversation_id, []).append(f"{message.role}: {message.content}")
    outcomes = {"left": 1.0, "right": 0.0}
    return [
        Game(
            vote.left_generator,
            vote.right_generator,
            outcomes.get(vote.choice, 0.5),
            "\n".join(said.get(vote.conversation_id, [])),
            vote.cohort,
            _alike(vote.left, vote.right),
        )
        for vote in session.scalars(
            select(Vote).where(Vote.blind.is_(not sighted)).order_by(Vote.id)
        )
        if vote.left_generator is not None
        and vote.right_generator is not None
        and vote.left_generator != vote.right_generator
        and (chosen.cohorts is None or vote.cohort in chosen.cohorts)
    ]


def collect_results(
    session: Session, chosen: ExportFilter, votes: bool = True, sighted: bool = False
) -> Results:
    """The site's rankings (newest revisions) and, where no batch was named, the chat's blind votes.

    Args:
        votes: whether votes count. sighted: also those given with the models' names shown.
    """
    games, left_out = list[Game](), 0
    if votes and chosen.batches is None:
        games, seen = votes_of(session, chosen), votes_of(session, chosen, sighted=True)
        games, left_out = (games + seen, 0) if sighted else (games, len(seen))
    return replace(results(collect_rankings(session, chosen), games), sighted=left_out)


def results(rankings: Sequence[Ranking], votes: Sequence[Game] = ()) -> Results:
    """Everything that the games tell; models in the order of their win rates."""
    games = [*games_of(rankings), *votes]
    names = sorted({name for game in games for name in (game.first, game.second)})
    elo, note = _elo(games, names)
    models = {name: _result(name, games, rankings, elo.get(name)) for name in names}
    ordered = sorted(names, key=lambda name: -models[name].win_rate.value)
    pairs = {
        (first, second): _pair(met)
        for first, second in combinations(ordered, 2)
        if (met := _seen_from(first, games, against=second))
    }
    cohorts = {}
    for cohort in sorted({game.cohort for game in games}):
        own = [game for game in games if game.cohort == cohort]
        cohorts[cohort] = {n: _rate(g) for n in ordered if (g := _seen_from(n, own))}
    named = sum(ranking.generators is not None for ranking in rankings)
    return Results(
        {name: models[name] for name in ordered}, pairs, cohorts, named, len(votes), note
    )


def _result(
    name: str, games: Sequence[Game], rankings: Sequence[Ranking], elo: Estimate | None
) -> ModelResult:
    own = _seen_from(name, games)
    alike = [game for game in own if game.alike]
    likert, prompts, flags, answers = [], [], dict[str, int](), 0
    for ranking in rankings:
        for index, generator in enumerate(ranking.generators or []):
            if generator != name:
                continue
            answers += 1
            if ranking.likert is not None:
                likert.append(ranking.likert[index])
                prompts.append(_prompt_key(ranking))
            for flag in ranking.flags[index] if ranking.flags is not None else ():
                flags[flag] = flags.get(flag, 0) + 1
    return ModelResult(
        games=len(own),
        prompts=len({game.prompt for game in own}),
        win_rate=_rate(own),
        ties=float(np.mean([game.outcome == 0.5 for game in own])),
        win_rate_length_matched=_rate(alike) if alike else None,
        elo=elo,
        likert=mean_with_interval(likert, prompts, (1.0, 7.0)) if likert else None,
        flags={flag: count / answers for flag, count in sorted(flags.items())},
    )


def _pair(games: Sequence[Game]) -> PairResult:
    outcomes = [game.outcome for game in games]
    won, tied, lost = (outcomes.count(outcome) for outcome in (1.0, 0.5, 0.0))
    return PairResult(won, tied, lost, _rate(games))


def _seen_from(name: str, games: Sequence[Game], against: str | None = None) -> list[Game]:
    """The model's games, with itself as the first."""
    turned = [
        game
        if game.first == name
        else game._replace(first=name, second=game.first, outcome=1 - game.outcome)
        for game in games
        if name in (game.first, game.second)
    ]
    return [game for game in turned if against in (None, game.second)]


def _rate(games: Sequence[Game]) -> Estimate:
    return mean_with_interval([g.outcome for g in games], [g.prompt for g in games], SHARE)


def _elo(games: Sequence[Game], names: Sequence[str]) -> tuple[dict[str, Estimate], str]:
    number = {name: index for index, name in enumerate(names)}
    if not games:
        return {}, "no two answers by different models were compared"
    try:
        found = elo_over_prompts(
            [number[game.first] for game in games],
            [number[game.second] for game in games],
            [game.outcome for game in games],
            [game.prompt for game in games],
            len(names),
        )
    except ValueError as error:
        return {}, f"there is no Elo: {error}"
    return dict(zip(names, found, strict=True)), ""


def _prompt_key(ranking: Ranking) -> str:
    return "\n".join(f"{message.role}: {message.content}" for message in ranking.prompt)


def _alike(first: str, second: str) -> bool:
    longer = max(len(first), len(second))
    return abs(len(first) - len(second)) <= LENGTH_TOLERANCE * longer
