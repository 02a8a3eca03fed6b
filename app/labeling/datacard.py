"""Agreement as a table of text, and the card that goes with every export."""

import time
from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING

from data.agreement import (
    ADJUDICATION,
    TIE_RULES,
    AgreementReport,
    Rate,
    agreement_report,
    by_labelers,
)
from data.records import Ranking
from podium.statistics import FEWEST_PROMPTS, Estimate

if TYPE_CHECKING:
    from app.labeling.tables import Export

TIE_RULE_WORDS = {
    "drop": "pairs that either labeler tied are left out, as in training",
    "half": "a tie against an order counts one half",
    "match": "ties must match",
}


def percent(rate: Rate) -> str:
    """`72.6 % +- 1.5 [69.7, 75.4]`, with `too few prompts` where they are, or `undefined`."""
    if rate.value is None:
        return "undefined"
    if rate.standard_error is None or rate.low is None or rate.high is None:
        return f"{100 * rate.value:.1f} % (one prompt)"
    return (
        f"{100 * rate.value:.1f} % +- {100 * rate.standard_error:.1f} "
        f"[{100 * rate.low:.1f}, {100 * rate.high:.1f}]"
        + (", too few prompts" if rate.prompts < FEWEST_PROMPTS else "")
    )


def number(value: float | None) -> str:
    return "undefined" if value is None else f"{value:.3f}"


def share(rate: Estimate | None) -> str:
    """A share in per cent with its interval; '' where there is none."""
    if rate is None:
        return ""
    if rate.low is None or rate.high is None:
        return f"{100 * rate.value:.1f} %"
    return f"{100 * rate.value:.1f} % [{100 * rate.low:.1f}, {100 * rate.high:.1f}]"


def between(value: Estimate | None, digits: int) -> str:
    """A figure with its interval; without digits it is an Elo, which has a sign."""
    if value is None:
        return ""
    if value.low is None or value.high is None:
        return f"{value.value:+.{digits}f}" if digits == 0 else f"{value.value:.{digits}f}"
    sign = "+" if digits == 0 else ""
    numbers = (f"{part:{sign}.{digits}f}" for part in (value.value, value.low, value.high))
    middle, low, high = numbers
    return f"{middle} [{low}, {high}]"


def agreement_lines(report: AgreementReport) -> list[str]:
    """The figures as Markdown; every share stands under the tie rule it was computed with."""
    lines = [
        "| who | rankings | prompts | "
        + " | ".join(f"pairwise, ties: {rule}" for rule in TIE_RULES)
        + " | alpha | tau-b | W |",
        "|---|---|---|" + "---|" * (len(TIE_RULES) + 3),
    ]
    for row in report.rows:
        tau = "" if row.tau is None else number(row.tau.value)
        if row.tau is not None and row.tau.undefined:
            tau += f" ({row.tau.undefined} all tied)"
        across = row.tau is None
        lines.append(
            f"| {row.who} | {row.rankings} | {row.pairwise['drop'].prompts} | "
            + " | ".join(percent(row.pairwise[rule]) for rule in TIE_RULES)
            + f" | {'' if across else number(row.alpha)} | {tau} | "
            f"{'' if across else number(row.w)} |"
        )
    rules = "; ".join(f"{rule}: {words}" for rule, words in TIE_RULE_WORDS.items())
    lines += [
        "",
        f"Share, standard error and 95 % interval over prompts. Tie rules: {rules}.",
    ]
    contradictions = report.contradictions
    lines += ["", f"Likert alpha (ordinal): {number(report.likert_alpha)}."]
    if contradictions.pairs:
        lines.append(
            f"Ratings against ranks: {contradictions.reversed} of {contradictions.ordered} "
            f"pairs ordered by both "
            f"are reversed, {contradictions.mismatched} of {contradictions.pairs} differ "
            f"counting ties; "
            f"{contradictions.rankings} of {contradictions.rated} rankings hold a reversal."
        )
    for name, flag in report.flags.items():
        lines.append(
            f"- flag {name}: alpha {number(flag.alpha)}, ticked in {100 * flag.prevalence:.1f} %"
        )
    return lines


def data_card(export: "Export", about: list[str]) -> str:
    """What a stranger needs to know before training on the file. `about` describes its rows."""
    return "\n".join(
        [
            f"# Export {export.id}: {export.kind}",
            "",
            f"- file: `{export.file}`, {export.rows} rows",
            f"- sha256: `{export.sha256}`",
            f"- made: {time.strftime('%Y-%m-%d %H:%M', time.gmtime(export.created_at))} UTC by "
            f"Podium's labeling site",
            f"- chosen: {export.filter}",
            *about,
            "",
            "## Limits",
            "",
            "Labelers are few and not a sample of any public; what they preferred is what the "
            "instructions asked for.",
            "Names are replaced by keyed hashes. Split by `user`, never by row: rankings of "
            "one prompt belong together.",
            "",
        ]
    )


def describe(rankings: Sequence[Ranking]) -> list[str]:
    """The lines of a card about these rankings, with their agreement; what experts adjudicated is
    told apart.
    """

    def counted(values: list) -> str:
        return ", ".join(
            f"{value}: {count}" for value, count in sorted(Counter(values).items(), key=str)
        )

    pairs = sum(r.k * (r.k - 1) // 2 for r in rankings)
    ordered = sum(len(r.comparisons()) for r in rankings)
    experts = len(rankings) - len(by_labelers(rankings))
    told = [
        f"- of them {experts} by experts, of tasks that labelers differ on (cohort "
        f"`{ADJUDICATION}`); they count in no agreement"
    ]
    return [
        f"- rankings: {len(rankings)} of {len({r.task for r in rankings})} tasks by "
        f"{len({r.labeler for r in by_labelers(rankings)})} labelers; {pairs} pairs, "
        f"{100 * (pairs - ordered) / pairs:.1f} % tied",
        *(told if experts else []),
        f"- cohorts: {counted([r.cohort for r in rankings])}",
        f"- K: {counted([r.k for r in rankings])}",
        f"- instructions: {counted([r.instruction or 'none' for r in rankings])}",
        f"- use cases: {counted([r.use_case or 'unknown' for r in rankings])}",
        f"- written by: {counted([g for r in rankings for g in r.generators or ['unknown']])}",
        "",
        "## Agreement",
        "",
        *agreement_lines(agreement_report(rankings)),
    ]
