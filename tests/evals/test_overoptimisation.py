"""Gao et al.'s curves are recovered where they were planted, and read from a run."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from data.jsonl import write_jsonl
from data.records import Message
from evals.claims import CLAIMS
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


def write_run(folder: Path, b: float = 0.3) -> None:
    """Best of n with a = 1, PPO with a = 0.5, both with `b`; SFT's gold is 2."""
    final = folder / "evals" / "final"
    final.mkdir(parents=True)
    curve = [{"n": n, "kl": k, "gold": 2 + k**0.5 * (1 - b * k**0.5), "reward": 0.0}
             for n, k in ((1, 0.0), (2, 0.19), (4, 0.64), (8, 1.2))]  # fmt: skip
    (final / "results.json").write_text(json.dumps({"best_of_curve": curve}))
    said = Answer(row="sft", prompt=[Message(role="user", content="Hi?")], prompt_index=0,
                  response="Ho.", tokens=2, finished=True)  # fmt: skip
    write_jsonl(final / "answers.jsonl", [said])
    record = {"stage": "evals", "format": 1, "finished": "2026-01-01"}
    (final / STAGE_FILE).write_text(json.dumps(record))
    (folder / "ppo_free").mkdir()
    lines = []
    for group in range(1, 7):
        kl = float(group**2)
        gold = 2 + kl**0.5 * (0.5 - b * np.log(kl**0.5))
        lines += [{"step": len(lines) + 1, "objective/kl": kl, "objective/gold": gold}] * 10
    (folder / "ppo_free" / "metrics.jsonl").write_text("".join(json.dumps(x) + "\n" for x in lines))


def test_a_run_s_curves_are_read_from_its_evaluation_and_its_log(tmp_path):
    """Gold is counted from SFT's. Seen red with gold as it is."""
    write_run(tmp_path)
    found = curves_of(tmp_path)
    assert found["RL"][:2] == pytest.approx((0.5, 0.3))
    assert found["best of n"][:2] == pytest.approx((1.0, 0.3))
    both = over_seeds([found["RL"], found["RL"]])
    assert both["a"]["value"] == pytest.approx(0.5)


def test_the_claim_s_figures_are_those_of_the_three_seeds(tmp_path):
    """b is 0.2, 0.3 and 0.4: 0.3, give or take 4.303 * 0.1 / sqrt(3), Student's with two degrees of
    freedom. Mutations seen red: one seed alone; best of n's figures for PPO's.
    """
    for seed in range(3):
        write_run(tmp_path / f"willowbrook-tax-{seed}", b=0.2 + 0.1 * seed)
    best, ppo = CLAIMS["over-optimisation"].after(tmp_path).splitlines()
    assert best.startswith("best of n: a 1 [1, 1], b 0.3 [0.0516, 0.548], peak ")
    assert ppo.startswith("RL: a 0.5 [0.5, 0.5], b 0.3 [0.0516, 0.548], peak ")
    shutil.rmtree(tmp_path / "willowbrook-tax-2" / "ppo_free")
    assert "RL: a 0.5 [0.5, 0.5], b 0.25" in CLAIMS["over-optimisation"].after(tmp_path)
    for seed in range(3):
        shutil.rmtree(tmp_path / f"willowbrook-tax-{seed}")
    assert CLAIMS["over-optimisation"].after(tmp_path).splitlines() == [
        "best of n: no curve",
        "RL: no curve",
    ]
