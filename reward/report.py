"""The trust report for people: one page of plots, a table, and sentences for the model card.

`write_report` turns the figures of `reward.evaluate.trust_report` into trust.json, trust.png and
trust.html (one self-contained file).
"""

import base64
import html
import json
from io import BytesIO
from pathlib import Path
from typing import Any

import numpy as np
from scipy.special import expit

SPLIT_NAMES = {"validation": "held-out prompts", "heldout": "held-out prompts and labelers"}
COLOURS = {"validation": "#1f6f8b", "heldout": "#c8553d"}
# Held-out prompts by their distance from the training prompts.
THIRDS = {"near": "nearest to", "middle": "at a middle distance from", "far": "farthest from"}
STYLE = """
body { font: 16px/1.5 system-ui, sans-serif; max-width: 68rem; margin: 2rem auto; padding: 0 1rem; color: #222 }
table { border-collapse: collapse; margin: 1rem 0 } td, th { padding: .3rem .8rem; border-bottom: 1px solid #ddd }
th { text-align: left } td + td { text-align: right; font-variant-numeric: tabular-nums } img { width: 100%; min-width: 44rem }
.scroll { overflow-x: auto }
@media (prefers-color-scheme: dark) {
body { background: #14181e; color: #e6e9ee } td, th { border-color: #333c47 } img { filter: invert(1) hue-rotate(180deg) }
}
"""


def write_report(report: dict[str, Any], folder: Path) -> None:
    """trust.json, trust.png and trust.html in `folder`; without figures (no rankings held out) only
    trust.json.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "trust.json").write_text(json.dumps(report, indent=2) + "\n", encoding="utf-8")
    if not sections(report):
        return
    picture = page_of_plots(report)
    (folder / "trust.png").write_bytes(picture)
    (folder / "trust.html").write_text(page(report, picture), encoding="utf-8")


def sections(report: dict[str, Any]) -> dict[str, dict[str, Any]]:
    """The splits that have figures."""
    return {name: report[name] for name in SPLIT_NAMES if name in report}


def rows(report: dict[str, Any]) -> list[tuple[str, list[str]]]:
    """The table: what is measured, and its value on each split."""
    found = sections(report).values()

    def row(label: str, *path: str, percent: bool = False) -> tuple[str, list[str]]:
        return label, [_value(_dig(section, path), percent) for section in found]

    table = [
        row("pairwise accuracy", "accuracy", percent=True),
        row("ceiling: the world's gold score on these labels", "ceiling", "gold", percent=True),
        row("ceiling: two labelers with each other", "ceiling", "agreement", percent=True),
        row("accuracy of a reader of length alone", "length_only", percent=True),
        *(
            row(
                f"accuracy on the third of prompts {where} the training prompts",
                "accuracy_by_prompt_distance",
                third,
                percent=True,
            )
            for third, where in THIRDS.items()
        ),
        row("accuracy against the world's gold score", "accuracy_on_gold", percent=True),
        row("Kendall's tau-b with the labeler", "tau_b"),
        row("negative log-likelihood (knowing nothing: 0.693)", "nll"),
        row("expected calibration error", "ece"),
        row("the same if calibrated perfectly (95 % below)", "reference_ece"),
        row("confidence less accuracy (above 0: over-confident)", "overconfidence", percent=True),
        row("fitted temperature (above 1: over-confident)", "temperature"),
        row("correlation of score and length in a ranking", "length_correlation"),
        row("untied pairs", "pairs"),
        row("prompts", "prompts"),
    ]
    return [(label, values) for label, values in table if set(values) != {""}]


def describe(report: dict[str, Any]) -> str:
    """Markdown for the model card: how far to trust the model."""
    if not sections(report):
        return "No rankings were held out, so nothing is known about its accuracy.\n"
    names = [SPLIT_NAMES[name] for name in sections(report)]
    lines = [f"| | {' | '.join(names)} |", "|---|" + "---|" * len(names)]
    lines += [f"| {label} | {' | '.join(values)} |" for label, values in rows(report)]
    return (
        "## How far to trust it\n\n"
        + "\n".join(lines)
        + "\n\nIntervals are over prompts. Plots: trust.html.\n"
    )


def page(report: dict[str, Any], picture: bytes) -> str:
    """One self-contained HTML page."""
    heads = "".join(f"<th>{SPLIT_NAMES[name]}</th>" for name in sections(report))
    body = "".join(
        f"<tr><td>{html.escape(label)}</td>{''.join(f'<td>{html.escape(value)}</td>' for value in values)}</tr>"
        for label, values in rows(report)
    )
    image = base64.b64encode(picture).decode()
    return (
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport "
        "content='width=device-width'><meta name=color-scheme content='light dark'>"
        f"<title>Reward model: how far to trust it</title><style>{STYLE}</style>"
        "<h1>Reward model: how far to trust it</h1>"
        f"<div class=scroll><table><tr><th></th>{heads}</tr>{body}</table></div>"
        f"<div class=scroll><img alt='Six plots of accuracy and calibration' "
        f"src='data:image/png;base64,{image}'></div>"
        "<p>Brackets and bars are 95 % intervals over prompts. A score says how a response "
        "compares with others to the "
        "same prompt; scores of different prompts are not comparable.</p></html>\n"
    )


def page_of_plots(report: dict[str, Any]) -> bytes:
    """Six plots as one PNG."""
    import matplotlib.figure

    figure = matplotlib.figure.Figure(figsize=(13, 7.5), layout="constrained")
    axes = figure.subplots(2, 3).ravel()
    for name, section in sections(report).items():
        draw = {"color": COLOURS[name], "label": SPLIT_NAMES[name], "marker": "o", "markersize": 4}
        reliability = section["reliability"]
        axes[0].plot(reliability["confidence"], reliability["accuracy"], **draw)
        axes[1].plot(
            section["accuracy_by_gap"]["gap"], section["accuracy_by_gap"]["accuracy"], **draw
        )
        axes[2].plot(
            section["accuracy_by_score"]["score"], section["accuracy_by_score"]["accuracy"], **draw
        )
        _by_group(axes[3], section["accuracy_by_k"], draw)
        _by_group(axes[4], section["accuracy_by_distance"], draw)
    axes[0].plot([0.5, 1], [0.5, 1], color="#999", linestyle="--", label="calibrated")
    gaps = np.linspace(
        0, max(max(s["accuracy_by_gap"]["gap"]) for s in sections(report).values()), 50
    )
    axes[1].plot(gaps, expit(gaps), color="#999", linestyle="--", label="1 / (1 + exp(-gap))")
    titles = (
        ("Reliability", "model's confidence", "share right"),
        ("Accuracy by score gap", "score gap, nats", "share right"),
        ("Accuracy by score", "mean score of the pair", "share right"),
        ("Accuracy by K", "responses in the ranking", "share right"),
        ("Accuracy by rank distance", "places apart", "share right"),
    )
    for axis, (title, x, y) in zip(axes, titles, strict=False):
        axis.set(title=title, xlabel=x, ylabel=y)
        axis.grid(alpha=0.25)
    axes[0].legend(fontsize=8)
    axes[1].legend(fontsize=8)
    _compare(axes[5], report)
    buffer = BytesIO()
    figure.savefig(buffer, format="png", dpi=110, transparent=True)
    return buffer.getvalue()


def _by_group(axis: Any, groups: dict[str, Any], draw: dict[str, Any]) -> None:
    """Accuracy of each group of pairs with its interval."""
    order = sorted(groups, key=int)
    value = np.array([groups[g]["value"] for g in order])
    spread = [value - [groups[g]["low"] for g in order], [groups[g]["high"] for g in order] - value]
    axis.errorbar([int(g) for g in order], value, yerr=np.maximum(spread, 0), capsize=3, **draw)


def _compare(axis: Any, report: dict[str, Any]) -> None:
    """The model between the length-only reader and the ceilings."""
    bars = (
        ("random", None),
        ("length\nalone", ("length_only",)),
        ("labelers with\neach other", ("ceiling", "agreement")),
        ("this\nmodel", ("accuracy",)),
        ("gold\nscore", ("ceiling", "gold")),
    )
    found = sections(report)
    width = 0.8 / len(found)
    for i, (name, section) in enumerate(found.items()):
        values = [
            0.5 if path is None else (_dig(section, path) or {}).get("value") or np.nan
            for _, path in bars
        ]
        places = np.arange(len(bars)) + (i - (len(found) - 1) / 2) * width
        axis.bar(places, values, width, color=COLOURS[name])
        for x, y in zip(places, values, strict=True):
            if np.isfinite(y):
                axis.text(x, y + 0.005, f"{100 * y:.1f}", ha="center", fontsize=8)
    axis.set(title="Accuracy on the labels, %", ylim=(0.4, 1), xticks=range(len(bars)))
    axis.set_xticklabels([label for label, _ in bars], fontsize=8)
    axis.grid(alpha=0.25, axis="y")


def _dig(section: dict[str, Any], path: tuple[str, ...]) -> Any:
    """The value at a path of keys; None where it ends early."""
    value: Any = section
    for key in path:
        value = value.get(key) if isinstance(value, dict) else None
    return value


def _value(value: Any, percent: bool) -> str:
    """A number with its interval as text; empty for none."""
    if isinstance(value, int):
        return f"{value:,}"
    if isinstance(value, float):
        return f"{value:.3f}"
    if not isinstance(value, dict) or value.get("value") is None:
        return ""
    scale, form, unit = (100, "{:.1f}", " %") if percent else (1, "{:.3f}", "")
    text = form.format(scale * value["value"]) + unit
    low, high = value.get("low"), value.get("high")
    if low is not None and high is not None:
        text += f" [{form.format(scale * low)}, {form.format(scale * high)}]"
    elif high is not None:
        text += f" ({form.format(scale * high)})"
    return text
