"""Agreement, and which model people prefer, in the terminal and as a picture."""

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from app.labeling.datacard import TIE_RULE_WORDS, between, number, percent, share
from app.labeling.results import Results
from app.labeling.screening import CUTOFF_SCORE, CUTOFF_SHARE, CandidateReport
from data.agreement import TIE_RULES, agreement_report
from data.records import Ranking
from podium.statistics import FEWEST_PROMPTS


def print_agreement(rankings: Sequence[Ranking]) -> None:
    """The table, a row a cohort and pair of cohorts; each column of shares names its tie rule."""
    console = Console(width=None if Console().is_terminal else 150, highlight=False)
    if not rankings:
        console.print("no rankings yet")
        return
    report = agreement_report(rankings)
    shares = [f"pairwise, ties: {rule}" for rule in TIE_RULES]
    table = Table("who", "rankings", "prompts", *shares, "alpha", "tau-b", "W")
    for row in report.rows:
        tau = "" if row.tau is None else number(row.tau.value)
        alone = row.tau is not None
        table.add_row(
            row.who,
            str(row.rankings),
            str(row.pairwise["drop"].prompts),
            *(percent(row.pairwise[rule]).replace(" [", "\n[") for rule in TIE_RULES),
            number(row.alpha) if alone else "",
            tau,
            number(row.w) if alone else "",
        )
    console.print(table, markup=False)
    for rule, words in TIE_RULE_WORDS.items():
        console.print(f"  ties {rule}: {words}", markup=False)
    undefined = report.rows[0].tau.undefined if report.rows[0].tau else 0
    if undefined:
        console.print(
            f"  {undefined} pairs of rankings have no tau: one of the two tied everything"
        )
    console.print(f"  Likert alpha: {number(report.likert_alpha)}")
    c = report.contradictions
    if c.pairs:
        where = f"in {c.rankings} of {c.rated} rankings"
        console.print(
            f"  ratings against ranks: {c.reversed} of {c.ordered} pairs reversed, {where}"
        )
    for name, flag in report.flags.items():
        console.print(
            f"  flag {name}: alpha {number(flag.alpha)}, ticked in {100 * flag.prevalence:.1f} %"
        )


def print_results(found: Results) -> None:
    """A row a model, then the pairs and the cohorts; brackets are 95 % intervals over prompts."""
    console = Console(width=None if Console().is_terminal else 150, highlight=False)
    if not found.models:
        console.print(found.note or "no rankings and no votes yet")
        _print_sighted(console, found)
        return
    flags = sorted({flag for result in found.models.values() for flag in result.flags})
    columns = ("model", "games", "prompts", "win rate", "length-matched", "ties", "Elo", "Likert")
    table = Table(*columns, *(f"flag: {flag}" for flag in flags))
    for name, result in found.models.items():
        table.add_row(
            name,
            f"{result.games:,}",
            f"{result.prompts:,}",
            share(result.win_rate),
            share(result.win_rate_length_matched),
            f"{100 * result.ties:.0f} %",
            between(result.elo, 0),
            between(result.likert, 2),
            *(f"{100 * result.flags.get(flag, 0):.1f} %" for flag in flags),
        )
    console.print(table, markup=False)
    table = Table("model", "against", "won", "tied", "lost", "win rate")
    for (first, second), pair in found.pairs.items():
        counts = (f"{count:,}" for count in (pair.won, pair.tied, pair.lost))
        table.add_row(first, second, *counts, share(pair.win_rate))
    console.print(table, markup=False)
    if len(found.cohorts) > 1:
        for cohort, rates in found.cohorts.items():
            said = "; ".join(f"{name} {share(rate)}" for name, rate in rates.items())
            console.print(f"  {cohort}: {said}", markup=False)
    console.print(
        f"  from {found.rankings:,} rankings and {found.votes:,} votes; ties count half; Elo is "
        "from the models' mean",
        markup=False,
    )
    _print_sighted(console, found)
    if found.note:
        console.print(f"  {found.note}", markup=False)
    if min(result.prompts for result in found.models.values()) < FEWEST_PROMPTS:
        console.print(f"  fewer than {FEWEST_PROMPTS} prompts: no difference can be shown")


def _print_sighted(console: Console, found: Results) -> None:
    if found.sighted:
        console.print(
            f"  {found.sighted:,} votes were given with the models' names shown and are left out; "
            "--sighted counts them"
        )


def draw_results(found: Results, path: Path) -> None:
    """Win rates with their intervals, raw and length-matched, one row a model."""
    from matplotlib.figure import Figure

    names = list(found.models)[::-1]
    figure = Figure(figsize=(7, 1.2 + 0.5 * len(names)), layout="constrained")
    axes = figure.add_subplot()
    for offset, colour, label, pick in (
        (0.12, "#1f5fa8", "all answers", lambda result: result.win_rate),
        (-0.12, "#8a8a8a", "of equal length", lambda result: result.win_rate_length_matched),
    ):
        shown = [(row, pick(found.models[name])) for row, name in enumerate(names)]
        shown = [(row, rate) for row, rate in shown if rate is not None]
        values = [100 * rate.value for _, rate in shown]
        ends = [
            [100 * (rate.value - (rate.low or 0)) for _, rate in shown],
            [100 * ((1 if rate.high is None else rate.high) - rate.value) for _, rate in shown],
        ]
        rows = [row + offset for row, _ in shown]
        axes.errorbar(values, rows, xerr=ends, fmt="o", color=colour, label=label, capsize=3)
    axes.axvline(50, color="#bbbbbb", linewidth=1, zorder=0)
    axes.set_yticks(range(len(names)), names)
    axes.set_xlim(0, 100)
    axes.set_xlabel("win rate, % of games (ties half); bars are 95 % intervals over prompts")
    axes.legend(loc="lower right", frameon=False)
    figure.savefig(path, dpi=150)


def print_screening(rows: Sequence[CandidateReport]) -> None:
    """A row a candidate; what reaches the paper's soft cutoff has a plus."""
    console = Console(width=None if Console().is_terminal else 150, highlight=False)
    if not rows:
        console.print("no candidate has answered yet")
        return
    columns = ("sensitive speech", "found", "rankings", "demonstrations", "says to know")
    table = Table("candidate", "answers", *columns)
    for row in rows:
        plus = {name: " +" if reached else "" for name, reached in row.above.items()}
        table.add_row(
            row.handle,
            str(row.answers),
            share(row.flags) + plus["flags"],
            "" if row.found is None else f"{100 * row.found:.0f} %",
            share(row.rankings) + plus["rankings"],
            f"{between(row.score, 1)}{plus['score']} ({row.scored} of {row.demonstrations} scored)",
            ", ".join([*row.groups, *([row.others] if row.others else [])]),
        )
    console.print(table)
    console.print(
        f"+ reaches InstructGPT's soft cutoff (appendix B.1): {100 * CUTOFF_SHARE:.0f} % for flags "
        f"and rankings, {CUTOFF_SCORE:.0f} of 7 for demonstrations; 95 % intervals over tasks"
    )
