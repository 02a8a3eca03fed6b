"""How far labelers agree, as pure functions over `Ranking` records.

The headline is InstructGPT's (section 3.4): the share of response pairs that two labelers order the
same way. Ties decide that number (the same labels can give 58 %, 74 % or 84 %), so every result
names its tie rule:

- `drop`: pairs that either labeler tied are left out, as they are in reward training. The default.
- `half`: every pair counts; the same judgement (a shared tie too) is 1, a tie against an order 1/2,
  opposite orders 0.
- `match`: every pair counts; only the same judgement is 1.

Rankings belong together when they have the same prompt and the same set of distinct responses, in
whatever order each record lists them. A labeler who ranked a task twice counts with the last
record. An expert's adjudication (cohort `ADJUDICATION`) is no labeler's and is left out. Figures
that do not exist (no pair, constant data) are None, never 0 or NaN.
"""

from collections.abc import Iterable, Sequence
from itertools import combinations
from typing import Literal, NamedTuple

import krippendorff
import numpy as np
from numpy.typing import NDArray
from scipy.stats import rankdata

from data.records import Ranking
from podium.statistics import SHARE, mean_with_interval, standard_error

__all__ = [
    "ADJUDICATION",
    "TIE_RULES",
    "AgreementReport",
    "AgreementRow",
    "Contradictions",
    "FlagAgreement",
    "RankedTask",
    "Rate",
    "Tau",
    "agreement_report",
    "by_labelers",
    "concordance",
    "contradictions",
    "flag_agreement",
    "group_tasks",
    "kendall_tau",
    "kendall_w",
    "likert_alpha",
    "of_cohort",
    "pair_signs",
    "pairwise_agreement",
    "rank_alpha",
    "sign_counts",
    "task_agreement",
]

TieRule = Literal["drop", "half", "match"]
TIE_RULES: tuple[TieRule, ...] = ("drop", "half", "match")
Counts = NDArray[np.int64]
ADJUDICATION = "adjudication"  # cohort of an expert's last word on a task that labelers differ on


class RankedTask(NamedTuple):
    """What several labelers said about one prompt and one set of K distinct responses."""

    prompt: str  # the prompt's messages as text: the unit of the intervals
    rankings: list[Ranking]  # L records, one a labeler
    order: NDArray[np.int64]  # (L, K) where each response stands in each record
    ranks: NDArray[np.int64]  # (L, K) ranks, 1 = best, columns aligned over labelers


class Rate(NamedTuple):
    """A share with its uncertainty over prompts."""

    value: float | None
    standard_error: float | None
    low: float | None  # 95 % interval over prompts, `podium.statistics.mean_with_interval`
    high: float | None
    pairs: int  # judgements compared: response pairs times labeler pairs
    prompts: int  # prompts with at least one such pair


class Tau(NamedTuple):
    """Mean Kendall tau-b over pairs of labelers on a task."""

    value: float | None
    compared: int
    undefined: int  # pairs in which one labeler tied everything


class FlagAgreement(NamedTuple):
    """How far labelers agree on one flag."""

    # Krippendorff, nominal; None when everybody ticked it everywhere or nowhere
    alpha: float | None
    # share of judgements in which it was ticked: a rare flag's alpha means little
    prevalence: float
    judgements: int


class Contradictions(NamedTuple):
    """Pairs on which a labeler's own ratings and ranks disagree (arXiv 2308.15812 finds about 60
    %).
    """

    reversed: int  # rated higher, ranked lower
    ordered: int  # pairs that both order
    mismatched: int  # reversed, or tied in one and ordered in the other
    pairs: int  # all pairs of rated rankings
    rankings: int  # rankings with at least one reversed pair
    rated: int  # rankings that carry ratings


def by_labelers(rankings: Iterable[Ranking]) -> list[Ranking]:
    """Without what experts adjudicated."""
    return [ranking for ranking in rankings if ranking.cohort != ADJUDICATION]


def group_tasks(rankings: Iterable[Ranking]) -> list[RankedTask]:
    """Rankings that share prompt and responses, aligned. Tasks whose responses are all the same
    text are left out.
    """
    groups: dict[tuple, dict[object, Ranking]] = {}
    for ranking in by_labelers(rankings):
        prompt = "\n".join(f"{m.role}: {m.content}" for m in ranking.prompt)
        group = groups.setdefault((prompt, tuple(sorted(set(ranking.responses)))), {})
        labeler = ranking.labeler if ranking.labeler is not None else ("anonymous", len(group))
        group[labeler] = ranking
    tasks = []
    for (prompt, texts), group in groups.items():
        if len(texts) < 2:
            continue
        records = list(group.values())
        order = np.array([[r.responses.index(text) for text in texts] for r in records])  # (L, K)
        ranks = np.take_along_axis(_ragged([r.ranks for r in records]), order, axis=1)
        tasks.append(RankedTask(prompt, records, order, ranks))
    return tasks


def of_cohort(task: RankedTask, cohort: str) -> RankedTask:
    """The task with only this cohort's labelers."""
    keep = [i for i, r in enumerate(task.rankings) if r.cohort == cohort]
    return RankedTask(
        task.prompt, [task.rankings[i] for i in keep], task.order[keep], task.ranks[keep]
    )


def pair_signs(ranks: NDArray[np.int64]) -> NDArray[np.int64]:
    """(L, K) ranks -> (L, K(K-1)/2) signs: 1 where the first of the pair is better, -1 worse, 0
    tied.
    """
    first, second = np.triu_indices(ranks.shape[1], k=1)
    return np.sign(ranks[:, second] - ranks[:, first])


def sign_counts(ranks: NDArray[np.int64]) -> Counts:
    """(L, K) ranks -> (P, 3): how many labelers say worse, tied, better about each of the P
    pairs.
    """
    signs = pair_signs(ranks)
    return np.stack([(signs == sign).sum(axis=0) for sign in (-1, 0, 1)], axis=1)


def task_agreement(task: RankedTask, tie_rule: TieRule = "drop") -> tuple[float, int]:
    """(agreements, judgements) of all labeler pairs on one task; the admin page sorts tasks by
    their ratio.
    """
    return _score(_within(sign_counts(task.ranks)), tie_rule)


def pairwise_agreement(
    rankings: Sequence[Ranking],
    tie_rule: TieRule = "drop",
    *,
    across: tuple[str, str] | None = None,
) -> Rate:
    """Share of response pairs that two labelers order alike, pooled over pairs, its interval over
    prompts.

    Args:
        across: two cohorts; then only labeler pairs with one from each are compared. None compares
            every two labelers; filter the records to compare within one cohort.
    """
    return _rate(group_tasks(rankings), tie_rule, across)


def rank_alpha(tasks: Sequence[RankedTask]) -> float | None:
    """Krippendorff's alpha on pair signs (ordinal: a tie lies between better and worse).

    Each pair enters in both directions, so the figure does not depend on the order in which
    responses are listed.
    """
    counts = [sign_counts(task.ranks) for task in tasks]
    return _alpha([c for pair in counts for c in (pair, pair[:, ::-1])], "ordinal")


def kendall_tau(tasks: Sequence[RankedTask]) -> Tau:
    """Mean tau-b over every two labelers of every task: (S_a . S_b) / sqrt(|S_a| |S_b|) on pair
    signs S.

    The same number as scipy.stats.kendalltau, for all labelers of a task at once.
    """
    values: list[float] = []
    undefined = 0
    for task in tasks:
        signs = pair_signs(task.ranks)
        ordered = np.abs(signs).sum(axis=1)  # (L,) pairs each labeler did not tie
        for a, b in combinations(range(len(signs)), 2):
            if ordered[a] and ordered[b]:
                values.append(float(signs[a] @ signs[b]) / float(ordered[a] * ordered[b]) ** 0.5)
            else:
                undefined += 1
    return Tau(float(np.mean(values)) if values else None, len(values), undefined)


def kendall_w(tasks: Sequence[RankedTask]) -> float | None:
    """Mean over tasks of Kendall's coefficient of concordance with the correction for ties."""
    values = [
        w for task in tasks if len(task.ranks) > 1 and (w := concordance(task.ranks)) is not None
    ]
    return float(np.mean(values)) if values else None


def concordance(ranks: NDArray[np.int64]) -> float | None:
    """W = 12 S / (m^2 (n^3 - n) - m T) of (m, n) ranks; None when every labeler tied everything."""
    m, n = ranks.shape
    middle = rankdata(ranks, axis=1)
    spread = ((middle.sum(axis=0) - m * (n + 1) / 2) ** 2).sum()
    ties = sum(
        float(
            (
                np.unique(row, return_counts=True)[1] ** 3 - np.unique(row, return_counts=True)[1]
            ).sum()
        )
        for row in ranks
    )
    denominator = m * m * (n**3 - n) - m * ties
    return float(12 * spread / denominator) if denominator else None


def likert_alpha(tasks: Sequence[RankedTask]) -> float | None:
    """Krippendorff's alpha (ordinal) of the 1-7 ratings, one unit a response."""
    return _alpha([_value_counts(_rating_columns(task), 7) for task in tasks], "ordinal")


def flag_agreement(tasks: Sequence[RankedTask]) -> dict[str, FlagAgreement]:
    """Alpha and prevalence of each flag, by name.

    A form asks only some flags; `meta["flags_asked"]` names them. Without it every flag seen
    anywhere counts as asked.
    """
    rankings = [r for task in tasks for r in task.rankings if r.flags is not None]
    seen = {flag for r in rankings for flags in r.flags or [] for flag in flags}
    names = sorted(seen.union(*(r.meta.get("flags_asked", []) for r in rankings)))
    result = {}
    for name in names:
        counts = [_value_counts(_flag_columns(task, name), 2) for task in tasks]
        total = sum((c.sum(axis=0) for c in counts), np.zeros(2, dtype=np.int64))
        if total.sum():
            result[name] = FlagAgreement(
                _alpha(counts, "nominal"), float(total[1] / total.sum()), int(total.sum())
            )
    return result


def contradictions(rankings: Iterable[Ranking]) -> Contradictions:
    """How often labelers' own ratings and ranks disagree."""
    reversals, ordered, mismatched, pairs, with_reversal, rated = 0, 0, 0, 0, 0, 0
    for ranking in rankings:
        if ranking.likert is None:
            continue
        by_rank, by_rating = pair_signs(
            np.array([ranking.ranks, [-value for value in ranking.likert]])
        )
        turned = int((by_rank * by_rating == -1).sum())
        reversals, ordered = reversals + turned, ordered + int((by_rank * by_rating != 0).sum())
        mismatched, pairs = mismatched + int((by_rank != by_rating).sum()), pairs + len(by_rank)
        with_reversal, rated = with_reversal + (turned > 0), rated + 1
    return Contradictions(reversals, ordered, mismatched, pairs, with_reversal, rated)


class AgreementRow(NamedTuple):
    """One line of the table: all labelers, one cohort, or one cohort against another."""

    who: str
    rankings: int
    pairwise: dict[TieRule, Rate]
    alpha: float | None  # on pair signs; None across cohorts
    tau: Tau | None
    w: float | None


class AgreementReport(NamedTuple):
    """Everything that tells whether labelers agree, with each other and with themselves."""

    rows: list[AgreementRow]
    likert_alpha: float | None
    flags: dict[str, FlagAgreement]
    contradictions: Contradictions


def agreement_report(rankings: Sequence[Ranking]) -> AgreementReport:
    """Everything above in one object: overall, per cohort and across each two cohorts."""
    rankings = by_labelers(rankings)
    tasks = group_tasks(rankings)
    cohorts = sorted({r.cohort for r in rankings})
    rows = [_row("all", tasks)]
    if len(cohorts) > 1:
        rows += [_row(name, [of_cohort(task, name) for task in tasks]) for name in cohorts]
    for pair in combinations(cohorts, 2):
        rates = {rule: _rate(tasks, rule, pair) for rule in TIE_RULES}
        compared = sum(
            len(t.rankings) for t in tasks if set(pair) <= {r.cohort for r in t.rankings}
        )
        rows.append(AgreementRow(f"{pair[0]} x {pair[1]}", compared, rates, None, None, None))
    return AgreementReport(
        rows, likert_alpha(tasks), flag_agreement(tasks), contradictions(rankings)
    )


def _row(who: str, tasks: Sequence[RankedTask]) -> AgreementRow:
    rates = {rule: _rate(tasks, rule, None) for rule in TIE_RULES}
    count = sum(len(task.rankings) for task in tasks)
    return AgreementRow(who, count, rates, rank_alpha(tasks), kendall_tau(tasks), kendall_w(tasks))


def _within(counts: Counts) -> tuple[int, int, int, int]:
    """(P, 3) sign counts -> labeler pairs that (agree on an order, oppose, both tie, tie against an
    order).
    """
    worse, tied, better = counts.T
    choose_two = (counts * (counts - 1) // 2).sum(axis=0)
    return (
        int(choose_two[0] + choose_two[2]),
        int((worse * better).sum()),
        int(choose_two[1]),
        int((tied * (worse + better)).sum()),
    )


def _between(a: Counts, b: Counts) -> tuple[int, int, int, int]:
    """As `_within`, for labeler pairs with one from each of two groups."""
    cross = a.T @ b  # (3, 3) pairs by (sign in a, sign in b)
    return (
        int(cross[0, 0] + cross[2, 2]),
        int(cross[0, 2] + cross[2, 0]),
        int(cross[1, 1]),
        int(cross[1, 0] + cross[1, 2] + cross[0, 1] + cross[2, 1]),
    )


def _score(kinds: tuple[int, int, int, int], tie_rule: TieRule) -> tuple[float, int]:
    agree, oppose, both_tied, one_tied = kinds
    if tie_rule == "drop":
        return float(agree), agree + oppose
    half = 0.5 if tie_rule == "half" else 0.0
    return agree + both_tied + half * one_tied, agree + oppose + both_tied + one_tied


def _rate(
    tasks: Sequence[RankedTask],
    tie_rule: TieRule,
    across: tuple[str, str] | None,
) -> Rate:
    prompts: dict[str, NDArray[np.float64]] = {}
    for task in tasks:
        counts = [sign_counts(of_cohort(task, cohort).ranks) for cohort in across or ()]
        kinds = _between(counts[0], counts[1]) if counts else _within(sign_counts(task.ranks))
        score = np.array(_score(kinds, tie_rule), dtype=float)
        if score[1]:
            prompts[task.prompt] = prompts.get(task.prompt, np.zeros(2)) + score
    if not prompts:
        return Rate(None, None, None, None, 0, 0)
    sums = np.stack(list(prompts.values()))  # (prompts, 2): agreements, judgements
    agreed, judged = sums.sum(axis=0)
    if len(sums) == 1:
        return Rate(float(agreed / judged), None, None, None, int(judged), 1)
    # a prompt enters with its share and as many rows as it has judgements
    rows = sums[:, 1].astype(int)
    shares = np.repeat(sums[:, 0] / sums[:, 1], rows)
    prompt = np.repeat(np.arange(len(sums)), rows)
    found = mean_with_interval(shares, prompt, SHARE)
    return Rate(
        float(agreed / judged),
        standard_error(shares, prompt, SHARE),
        found.low,
        found.high,
        int(judged),
        len(sums),
    )


def _alpha(counts: Sequence[Counts], level: Literal["nominal", "ordinal"]) -> float | None:
    """Krippendorff's alpha of (units, values) counts; None when fewer than two values were ever
    used together.
    """
    units = (
        np.concatenate([c for c in counts if len(c)])
        if any(len(c) for c in counts)
        else np.zeros((0, 2))
    )
    units = units[units.sum(axis=1) > 1]  # a unit judged once says nothing about agreement
    if (units.sum(axis=0) > 0).sum() < 2:
        return None
    return float(krippendorff.alpha(value_counts=units, level_of_measurement=level))


def _value_counts(columns: list[list[int]], values: int) -> Counts:
    """One list of judgements (0 .. values-1) a unit -> (units, values) counts."""
    return np.array(
        [np.bincount(column, minlength=values) for column in columns], dtype=np.int64
    ).reshape(-1, values)


def _rating_columns(task: RankedTask) -> list[list[int]]:
    rated = [
        (r.likert, order)
        for r, order in zip(task.rankings, task.order, strict=True)
        if r.likert is not None
    ]
    return [[likert[order[k]] - 1 for likert, order in rated] for k in range(task.ranks.shape[1])]


def _flag_columns(task: RankedTask, name: str) -> list[list[int]]:
    asked = [
        (r.flags, order)
        for r, order in zip(task.rankings, task.order, strict=True)
        if r.flags is not None and name in r.meta.get("flags_asked", [name])
    ]
    return [
        [int(name in flags[order[k]]) for flags, order in asked] for k in range(task.ranks.shape[1])
    ]


def _ragged(rows: list[list[int]]) -> NDArray[np.int64]:
    """Rows padded to the longest: copies of one response may be listed in one record and merged in
    another.
    """
    width = max(len(row) for row in rows)
    return np.array([row + [0] * (width - len(row)) for row in rows], dtype=np.int64)
