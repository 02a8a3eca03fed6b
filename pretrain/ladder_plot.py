"""The picture of `podium fit`: loss against parameters, tokens and compute, with the laws."""

from pathlib import Path
from typing import Any

import numpy as np

from podium.storage import writing


def draw(result: dict[str, Any], path: Path) -> None:
    """Three panels with logarithmic axes; the runs as points, laws as lines within their range."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, panels = plt.subplots(1, 3, figsize=(13, 4), sharey=True)
    runs = result["runs"]
    for panel, key, other, label in (
        (panels[0], "parameters", "tokens", "parameters without embeddings"),
        (panels[1], "tokens", "parameters", "tokens"),
    ):
        for value in sorted({run[other] for run in runs}):
            line = sorted((r[key], r["loss"]) for r in runs if r[other] == value)
            panel.plot(*zip(*line, strict=True), "o", markersize=4, label=f"{value:,.0f} {other}")
            _joint(panel, result, key, other, value)
        panel.set_xlabel(label)
        panel.legend(fontsize=6)
    panels[0].set_ylabel("validation loss, nats a token")
    panels[2].plot([r["flops"] for r in runs], [r["loss"] for r in runs], "o", markersize=4)
    law = result["laws"]["L(C)"]
    if "none" not in law:
        ends = [point["flops"] for point in result["frontier"]]
        x = np.geomspace(min(ends), max(ends))
        values = law["values"]
        panels[2].plot(x, values["E"] + (values["x0"] / x) ** values["exponent"], "k-", linewidth=1)
    panels[2].set_xlabel("operations, 6 N D")
    for panel in panels:
        panel.set_xscale("log")
        panel.set_yscale("log")
    figure.tight_layout()
    with writing(path.parent):
        figure.savefig(path, dpi=130)
    plt.close(figure)


def _joint(panel: Any, result: dict[str, Any], key: str, other: str, value: float) -> None:
    """The joint law along one quantity while the other is held."""
    law = result["laws"]["L(N, D)"]
    if "none" in law:
        return
    v = law["values"]
    x = np.geomspace(*result["range"][key])
    n, d = (x, value) if key == "parameters" else (value, x)
    panel.plot(x, v["E"] + v["A"] / n ** v["alpha"] + v["B"] / d ** v["beta"], "k-", linewidth=0.6)
