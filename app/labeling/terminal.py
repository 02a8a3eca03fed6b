"""Agreement in the terminal."""

from collections.abc import Sequence

from rich.console import Console
from rich.table import Table

from app.labeling.datacard import TIE_RULE_WORDS, number, percent
from data.agreement import TIE_RULES, agreement_report
from data.records import Ranking


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
