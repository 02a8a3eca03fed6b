"""The trust report: figures that can be counted by hand, and nothing that needs the split's own
answers.
"""

import json
from collections import Counter

import numpy as np
import pytest

from data.jsonl import write_jsonl
from data.records import Prompt, Ranking
from data.template import encode_prompt, encode_response
from podium.errors import DataError
from podium.rewards.model import save_reward_model
from podium.statistics import SHARE, Estimate, mean_with_interval
from reward.calibration import negative_log_likelihood, overconfidence, reference_ece
from reward.evaluate import (
    ceiling,
    evaluate_file,
    figures,
    gold_accuracy,
    headline,
    pairs_of,
    ranking_figures,
    score_rankings,
    tau_b,
    text_number,
    trust_report,
)
from reward.report import describe, page_of_plots, write_report
from reward.sources import RankingSplits, split_rankings
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


def test_every_interval_is_over_prompts_not_pairs():
    """Eight rankings of four (48 pairs), seven read right and one wrong: the interval of eight
    outcomes. Seen red with each pair as its own prompt, in each of the four figures.
    """
    records = [ranking(f"Who {i}?", ["a", "b", "c", "d"], [1, 2, 3, 4]) for i in range(8)]
    scores = [np.arange(4.0, 0.0, -1) * (0.5 + i) for i in range(7)] + [np.arange(4.0)]
    pairs = pairs_of(records, scores)
    found = figures(pairs)
    by_prompt = {
        "accuracy": mean_with_interval([1.0] * 7 + [0.0], range(8), SHARE),
        "nll": of_prompts(negative_log_likelihood(pairs.gap)),
        "overconfidence": of_prompts(overconfidence(pairs.gap)),
    }
    for name, expected in by_prompt.items():
        assert found[name] == pytest.approx(expected._asdict()), name
    whole = {name: found["accuracy_by_k"]["4"][name] for name in ("value", "low", "high")}
    assert whole == pytest.approx(found["accuracy"]) and found["accuracy_by_k"]["4"]["pairs"] == 48


def of_prompts(values: np.ndarray) -> Estimate:
    """Of 48 pairs, six a prompt."""
    return mean_with_interval(values.reshape(8, 6).mean(axis=1), range(8))


def test_the_reference_of_calibration_knows_which_texts_the_pairs_share():
    """Seen red with two fresh texts for every pair, and with preferred and other exchanged."""
    records = [ranking(f"Who {i}?", ["a", "b", "c"], [1, 2, 3]) for i in range(30)]
    rng = np.random.default_rng(0)
    pairs = pairs_of(records, [rng.normal(size=3) for _ in records])
    assert pairs.preferred[0] == pairs.preferred[1] == text_number(pairs.prompt[0], "a")
    assert pairs.other[0] == pairs.preferred[2] and pairs.other[1] == pairs.other[2]
    assert len(set(pairs.preferred) | set(pairs.other)) == 90
    mean, high = reference_ece(pairs.gap, pairs.preferred, pairs.other)
    assert figures(pairs)["reference_ece"] == {"value": mean, "high": high}


def test_a_pairs_score_is_the_mean_of_both():
    pairs = pairs_of([ranking("Who?", ["a", "b"], [1, 2])], [np.array([3.0, 1.0])])
    assert pairs.mean_score.tolist() == [2.0]


def test_each_split_is_read_for_itself_and_length_is_learned_from_training(reward_model, tokenizer):
    """Training prefers the short answer, validation (2 prompts) and heldout_labelers (3) the long one, so
    a reader of length is wrong on both. Seen red with validation and heldout exchanged, with
    training in validation's place, with length learned from validation, and turned round.
    """

    def records(name: str, count: int, ranks: list[int]) -> list[Ranking]:
        return [ranking(f"{name} {i}?", ["Ana.", "Ana and Bram."], ranks) for i in range(count)]

    splits = RankingSplits(
        records("t", 4, [1, 2]), records("v", 2, [2, 1]), records("h", 3, [2, 1]), Counter()
    )
    report = trust_report(reward_model, tokenizer, splits)
    assert (report["validation"]["prompts"], report["heldout"]["prompts"]) == (2, 3)
    for split in ("validation", "heldout"):
        assert report[split]["length_only"]["longer_is_better"] is False
        assert report[split]["length_only"]["value"] == 0.0


def test_the_ceiling_is_what_gold_reaches_on_the_labels():
    """A world whose gold is the length, labels that prefer the longer one twice out of three. Seen
    red with the gold score's sign turned.
    """
    labels = [[2, 1], [2, 1], [1, 2]]
    records = [ranking(f"{i}?", ["Ana.", "Ana and Bram."], own) for i, own in enumerate(labels)]
    assert ceiling(records, LengthWorld())["gold"]["value"] == pytest.approx(2 / 3)
    assert ranking_figures(records, [np.array([0.0, 1.0])] * 3)["tau_b"]["value"] == pytest.approx(
        1 / 3
    )


class LengthWorld:
    """As much of a world as a ceiling asks of one."""

    def gold(self, prompt: Prompt, text: str) -> float:
        return float(len(text))


def test_a_response_that_just_fits_is_scored(reward_model, tokenizer):
    """Seen red with < for <=."""
    asked = ranking("Who?", ["Ana.", "Ana and Bram in the mill."], [1, 2])
    longest = len(encode_prompt(tokenizer, asked.prompt)) + len(
        encode_response(tokenizer, asked.responses[1])
    )
    for room, finite in ((longest, [True, True]), (longest - 1, [True, False])):
        (scores,) = score_rankings(reward_model, tokenizer, [asked], room)
        assert np.isfinite(scores).tolist() == finite


def test_the_headline_takes_each_number_from_its_split():
    """Seen red with the splits exchanged, and with length's accuracy for the model's."""

    def section(start: float) -> dict:
        names = ("accuracy", "ece", "nll", "length_only", "accuracy_on_gold")
        values = {name: {"value": start + i} for i, name in enumerate(names)}
        return values | {"ceiling": {"agreement": {"value": start + 8}, "gold": {"value": start}}}

    found = headline({"validation": section(10), "heldout": section(20)})
    expected = {"accuracy": 0, "ece": 1, "nll": 2, "labeler_agreement": 8, "ceiling_accuracy": 0}
    expected |= {"gold_accuracy": 4}
    assert found == {name: 10 + value for name, value in expected.items()} | {
        f"heldout_{name}": 20 + value for name, value in expected.items()
    }


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
        reward_model, tokenizer, RankingSplits([], [ranking("Who?", ["a", "b"], [1, 1])], [], {})
    )
    write_report(report, tmp_path)
    assert json.loads((tmp_path / "trust.json").read_text()).get("validation") is None
    assert "nothing is known" in describe(report)


def test_the_command_writes_one_self_contained_page(reward_model, tokenizer, tmp_path):
    save_reward_model(reward_model, tokenizer, tmp_path / "model")
    heldout_labelers = [
        r.model_copy(update={"labeler": "eve"}) for r in village_rankings(8, 2, cohort="heldout")
    ]
    write_jsonl(tmp_path / "rankings.jsonl", village_rankings(12, 1) + heldout_labelers)
    report = evaluate_file(tmp_path / "model", tmp_path / "rankings.jsonl", tmp_path / "out")
    assert set(report) >= {"validation", "heldout"}
    # of 8 and 12 rankings, those with an untied pair; red when held-out labelers' part is everybody else's
    told_apart = [
        sum(len(set(r.ranks)) > 1 for r in part)
        for part in (village_rankings(12, 1), heldout_labelers)
    ]
    assert [report[split]["prompts"] for split in ("validation", "heldout")] == told_apart
    assert told_apart[0] != told_apart[1]
    html = (tmp_path / "out/trust.html").read_text()
    assert "http" not in html.replace("data:image/png", "")
    assert page_of_plots(report)[:4] == b"\x89PNG"


def test_splits_keep_prompts_and_held_out_labelers_apart():
    """Red when the held-out cohort stays in training, and when prompts of training are kept in
    validation.
    """
    mine = village_rankings(40, 0)
    heldout_labelers = [
        r.model_copy(update={"labeler": "eve"}) for r in village_rankings(40, 0, cohort="heldout")
    ]
    splits = split_rankings({"train": mine + heldout_labelers}, "file")
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
