"""The trust report: figures that can be counted by hand, and nothing that needs the split's own
answers.
"""

import json

import numpy as np
import pytest

from data.jsonl import write_jsonl
from podium.errors import DataError
from podium.rewards.model import save_reward_model
from reward.evaluate import (
    evaluate_file,
    figures,
    gold_accuracy,
    pairs_of,
    ranking_figures,
    tau_b,
    trust_report,
)
from reward.report import describe, page_of_plots, write_report
from reward.sources import Splits, split_rankings
from tests.reward.conftest import ranking, village_rankings


def test_pairs_are_seen_from_the_preferred_response():
    """Red with the gap's sign turned and with ties kept."""
    records = [ranking("Who?", ["Ana.", "Bram, I think.", "Cy.", "Ana."], [2, 1, 2, 3])]
    pairs = pairs_of(records, [np.array([1.0, 3.0, 0.5, 1.0])])
    # (better, worse): Bram-Ana, Bram-Cy, Bram-Ana, Cy-Ana; Ana-Ana is one text, Ana-Cy is a tie
    assert sorted(pairs.gap.tolist()) == [-0.5, 2.0, 2.0, 2.5]
    assert sorted(pairs.distance.tolist()) == [1, 1, 1, 2]
    assert set(pairs.k.tolist()) == {4}
    assert pairs.length_gap[pairs.gap == 2.5].tolist() == [len("Bram, I think.") - len("Cy.")]


def test_a_response_over_the_context_is_in_no_pair():
    pairs = pairs_of([ranking("Who?", ["a", "b", "c"], [1, 2, 3])], [np.array([1.0, np.nan, 0.0])])
    assert pairs.gap.tolist() == [1.0]


def test_accuracy_by_hand():
    """Two prompts; three of four pairs right, all of them apart by one place in K = 2."""
    records = [ranking(name, ["good one", "bad"], [1, 2]) for name in ("a", "b", "c")]
    records.append(ranking("d", ["good", "bad one"], [1, 2]))
    pairs = pairs_of(records, [np.array([1.0, 0.0])] * 3 + [np.array([0.0, 1.0])])
    found = figures(pairs)
    assert found["accuracy"]["value"] == 0.75
    assert found["accuracy_by_k"]["2"]["value"] == 0.75
    assert found["length_only"]["value"] == 0.75
    assert found["nll"]["value"] == pytest.approx(
        (3 * np.log1p(np.exp(-1)) + np.log1p(np.exp(1))) / 4
    )
    assert found["pairs"] == found["prompts"] == 4


@pytest.mark.parametrize("seed", range(5))
def test_tau_b_is_scipy_s(seed):
    from scipy.stats import kendalltau

    rng = np.random.default_rng(seed)
    scores, quality = rng.integers(0, 4, 7).astype(float), rng.integers(0, 4, 7)
    assert tau_b(scores, quality) == pytest.approx(kendalltau(scores, quality).statistic)


def test_length_correlation_of_a_length_reader_is_one():
    """Red with the correlation taken over all rankings at once."""
    records = village_rankings(10, 0)
    scores = [np.array([float(len(text)) for text in r.responses]) for r in records]
    assert ranking_figures(records, scores)["length_correlation"]["value"] == pytest.approx(1)


def test_accuracy_against_gold_is_left_out_where_gold_tells_nothing_apart():
    """Seen red without the check for no pairs."""
    asked = [ranking("Who?", ["Ana.", "Bram.", "Cleo."], [1, 2, 3])]
    scores = [np.array([3.0, 1.0, 2.0])]
    assert gold_accuracy(asked, scores, [np.zeros(3)]) is None
    # the model has the last two the other way round
    found = gold_accuracy(asked, scores, [np.array([2.0, 1.0, 0.0])])
    assert found is not None and found["value"] == pytest.approx(2 / 3)


def test_a_report_survives_splits_without_pairs(reward_model, tokenizer, tmp_path):
    report = trust_report(
        reward_model, tokenizer, Splits([], [ranking("Who?", ["a", "b"], [1, 1])], [], {})
    )
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "trust.json").read_text()).get("validation") is None
    assert "nothing is known" in describe(report)


def test_the_command_writes_one_self_contained_page(reward_model, tokenizer, tmp_path):
    save_reward_model(reward_model, tokenizer, tmp_path / "model")
    strangers = [
        r.model_copy(update={"labeler": "eve"}) for r in village_rankings(8, 2, cohort="heldout")
    ]
    write_jsonl(tmp_path / "rankings.jsonl", village_rankings(12, 1) + strangers)
    report = evaluate_file(tmp_path / "model", tmp_path / "rankings.jsonl", tmp_path / "out")
    assert set(report) >= {"validation", "heldout"}
    html = (tmp_path / "out/trust.html").read_text()
    assert "http" not in html.replace("data:image/png", "")
    assert page_of_plots(report)[:4] == b"\x89PNG"


def test_splits_keep_prompts_and_held_out_labelers_apart():
    """Red when the held-out cohort stays in training, and when prompts of training are kept in
    validation.
    """
    mine = village_rankings(40, 0)
    strangers = [
        r.model_copy(update={"labeler": "eve"}) for r in village_rankings(40, 0, cohort="heldout")
    ]
    splits = split_rankings({"train": mine + strangers}, "file")
    taught = {r.prompt[0].content for r in splits.train}
    assert {r.cohort for r in splits.train} == {"train"} and {r.cohort for r in splits.heldout} == {
        "heldout"
    }
    assert not taught & {r.prompt[0].content for r in splits.validation + splits.heldout}
    assert len(splits.train) + len(splits.validation) == 40
    reason = "rankings by held-out labelers whose prompt is also in training (dropped)"
    assert splits.dropped[reason] == len(splits.train)


def test_a_labeler_in_both_cohorts_is_refused():
    mine = village_rankings(4, 0)
    with pytest.raises(DataError, match="'l0' is in the cohorts train and heldout"):
        split_rankings({"train": mine, "heldout": village_rankings(4, 1, cohort="heldout")}, "file")
