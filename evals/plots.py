"""The report's pictures: each from numbers to a list of PNGs, one a panel, empty without numbers.

A panel is an image of its own, so that a page can lay them out beside or below each other. They are
transparent and drawn in dark ink; a dark page inverts their lightness and keeps their hues.
"""

from io import BytesIO
from typing import Any

import numpy as np
from matplotlib.figure import Figure

from podium.run.registry import STAGES

STAGE_OF = {"base": "pretrain", "ppo_ptx": "ppo"}  # rows that are not called as their stage is
BEST_OF_N, PLAIN_PPO = "#b08900", "#c8553d"
OTHERS = ["#7b5ea7", "#6a9f58", "#b5179e", "#444444"]  # further PPO arms
WATCHED = {  # what the guard watches: what goes wrong shows here first
    "objective/kl": "KL from the reference, nats",
    "rollout/length": "length, tokens",
    "rollout/eos_rate": "share of answers that ended",
    "policy/entropy_avg": "entropy, nats a token",
    "policy/clipfrac_avg": "clip fraction",
    "rollout/near_identical": "near-identical answers",
}
Metrics = list[dict[str, Any]]  # the lines of a metrics.jsonl


def losses(metrics: dict[str, Metrics]) -> list[bytes]:
    """Every loss of every stage over its steps, a panel a stage; thin where a stage logs
    each step.
    """
    shown = {
        stage: names for stage, lines in metrics.items() if (names := _names_with(lines, "loss"))
    }
    axes = _panels(len(shown))
    for axis, (stage, names) in zip(axes, shown.items(), strict=True):
        for name in names:
            steps, values = series(metrics[stage], "step", name)
            sparse = len(steps) < len(metrics[stage]) / 2
            axis.plot(
                steps, values, marker="o" if sparse else "", markersize=3, linewidth=1, label=name
            )
        axis.set(title=stage, xlabel="step")
        axis.legend(fontsize=7, framealpha=0.3)
    return _pngs(axes)


def reward_against_kl(
    ppo: dict[str, Metrics], results: dict[str, Any], labels: dict[str, str], score: str = "gold"
) -> list[bytes]:
    """Gold (`score` is what the judge's scores are called) and reward over sqrt(KL): PPO's
    iterations, best-of-n, and each row's test result with its interval.

    Best-of-n grows like sqrt(KL) (Gao et al. 2022); where gold falls while reward rises, the reward
    is being hacked.
    """
    curve, rows = results.get("best_of_curve", []), results.get("rows", {})
    if not curve and not any(_names_with(lines, "objective/kl") for lines in ppo.values()):
        return []
    axes = _panels(2)
    for axis, kind, name in zip(
        axes, ("gold", "reward"), ("objective/gold", "objective/scores"), strict=True
    ):
        for number, (row, lines) in enumerate(ppo.items()):
            kl, values = series(lines, "objective/kl", name)
            if len(kl):
                axis.plot(
                    np.sqrt(np.maximum(kl, 0)),
                    values,
                    ".",
                    markersize=3,
                    alpha=0.5,
                    color=colour(row, number),
                    label=f"{labels.get(row, row)}, training",
                )
        placed = [point for point in curve if point.get("kl") is not None]
        if placed:
            axis.plot(
                [max(point["kl"], 0) ** 0.5 for point in placed],
                [point[kind] for point in placed],
                "s-",
                markersize=4,
                color=BEST_OF_N,
                label=f"best of 1 to {curve[-1]['n']} (KL at most)",
            )
        for number, (row, values) in enumerate(rows.items()):
            known = values.get(kind) is not None and values["kl"] is not None
            # The base, which was not made from the reference, lies too far away to be shown.
            if row not in ("base", "best_of_n") and known:
                _mark(axis, labels.get(row, row), values, kind, colour(row, number))
        axis.set(title=score if kind == "gold" else kind, xlabel="sqrt(KL from the reference)")
        if axis.get_legend_handles_labels()[0]:
            axis.legend(fontsize=7, framealpha=0.3)
    return _pngs(axes)


def watched(ppo: dict[str, Metrics], labels: dict[str, str]) -> list[bytes]:
    """What PPO's guard watches, over the iterations; one line a PPO run."""
    names = [name for name in WATCHED if any(_names_with(lines, name) for lines in ppo.values())]
    axes = _panels(len(names))
    for axis, name in zip(axes, names, strict=True):
        for number, (row, lines) in enumerate(ppo.items()):
            steps, values = series(lines, "step", name)
            name_shown = labels.get(row, row)
            axis.plot(steps, values, linewidth=1, color=colour(row, number), label=name_shown)
        axis.set(title=WATCHED[name], xlabel="iteration")
        axis.legend(fontsize=7, framealpha=0.3)
    return _pngs(axes)


def series(lines: Metrics, x: str, y: str) -> tuple[np.ndarray, np.ndarray]:
    """The two columns of a metrics.jsonl, (N,) each, from the lines that have both."""
    pairs = [
        (line[x], line[y]) for line in lines if line.get(x) is not None and line.get(y) is not None
    ]
    columns = np.array(pairs, dtype=float).reshape(-1, 2)
    return columns[:, 0], columns[:, 1]


def colour(row: str, number: int) -> str:
    """A row's colour: its stage's in the registry; arms share a stage and take what is left."""
    if row in ("best_of_n", "ppo"):
        return BEST_OF_N if row == "best_of_n" else PLAIN_PPO
    spec = STAGES.get(STAGE_OF.get(row, row))
    return spec.colour if spec else OTHERS[number % len(OTHERS)]


def _mark(axis: Any, label: str, values: dict[str, Any], kind: str, colour: str) -> None:
    """One test result; gold has an interval."""
    spread = None
    if kind == "gold" and values["gold_low"] is not None:
        spread = [[values["gold"] - values["gold_low"]], [values["gold_high"] - values["gold"]]]
    place = max(values["kl"], 0) ** 0.5
    axis.errorbar(
        [place],
        [values[kind]],
        yerr=spread,
        fmt="D",
        markersize=6,
        capsize=3,
        color=colour,
        label=label,
    )


def _names_with(lines: Metrics, part: str) -> list[str]:
    """Names of metrics that contain `part`, in the order they first appear."""
    return list(dict.fromkeys(name for line in lines for name in line if part in name))


def _panels(count: int) -> list[Any]:
    """Axes, each in a figure of its own."""
    axes = [Figure(figsize=(4.3, 3.1), layout="constrained").subplots() for _ in range(count)]
    for axis in axes:
        axis.grid(alpha=0.25)
        axis.set_facecolor("none")
    return axes


def _pngs(axes: list[Any]) -> list[bytes]:
    found = []
    for axis in axes:
        buffer = BytesIO()
        axis.figure.savefig(buffer, format="png", dpi=130, transparent=True)
        found.append(buffer.getvalue())
    return found
