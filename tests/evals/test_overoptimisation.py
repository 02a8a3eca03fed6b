"""Gao et al.'s curves are recovered where they were planted, and read from a run."""

import json

import numpy as np
import pytest

from data.jsonl import write_jsonl
from data.records import Message
from evals.overoptimisation import curves_of, fit_curve, over_seeds
from evals.records import Answer
from podium.run.lineage import STAGE_FILE


@pytest.mark.parametrize("form", ["best of n", "RL"])
def test_a_planted_curve_is_recovered_with_its_peak(form):
    """The peak against a search over d. Seen red with the peaks of the two forms exchanged."""
    kl = np.linspace(0.0, 30, 20)
    d = np.sqrt(kl[1:])
    falls = d if form == "best of n" else np.log(d)
    gain = np.r_[0.0, d * (0.9 - 0.2 * falls)]
    found = fit_curve(kl, gain, form)
    assert (found.a, found.b) == pytest.approx((0.9, 0.2)) and found.points == 19
    search = np.linspace(0.01, 100, 200_000)
    height = search * (0.9 - 0.2 * (search if form == "best of n" else np.log(search)))
    assert found.peak == pytest.approx(search[height.argmax()], abs=0.01)


def test_a_curve_that_only_rises_has_no_peak():
    assert fit_curve([1, 4, 9], [1, 2, 3.5], "best of n").peak is None
    with pytest.raises(ValueError, match="two points"):
        fit_curve([0, 1], [0, 1], "RL")


def test_a_run_s_curves_are_read_from_its_evaluation_and_its_log(tmp_path):
    """Gold is counted from SFT's. Seen red with gold as it is."""
    final = tmp_path / "evals" / "final"
    final.mkdir(parents=True)
    curve = [{"n": n, "kl": k, "gold": 2 + k**0.5 * (1 - 0.3 * k**0.5), "reward": 0.0}
             for n, k in ((1, 0.0), (2, 0.19), (4, 0.64), (8, 1.2))]  # fmt: skip
    (final / "results.json").write_text(json.dumps({"best_of_curve": curve}))
    said = Answer(row="sft", prompt=[Message(role="user", content="Hi?")], prompt_index=0,
                  response="Ho.", tokens=2, finished=True)  # fmt: skip
    write_jsonl(final / "answers.jsonl", [said])
    record = {"stage": "evals", "format": 1, "finished": "2026-01-01"}
    (final / STAGE_FILE).write_text(json.dumps(record))
    (tmp_path / "ppo_free").mkdir()
    lines = []
    for group in range(1, 7):
        kl = float(group**2)
        gold = 2 + kl**0.5 * (0.5 - 0.3 * np.log(kl**0.5))
        lines += [{"step": len(lines) + 1, "objective/kl": kl, "objective/gold": gold}] * 10
    (tmp_path / "ppo_free" / "metrics.jsonl").write_text(
        "".join(json.dumps(x) + "\n" for x in lines)
    )
    found = curves_of(tmp_path)
    assert found["RL"][:2] == pytest.approx((0.5, 0.3))
    assert found["best of n"][:2] == pytest.approx((1.0, 0.3))
    both = over_seeds([found["RL"], found["RL"]])
    assert both["a"]["value"] == pytest.approx(0.5)
