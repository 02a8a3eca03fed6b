"""Every figure of the trust report on rankings small enough to count: three prompts, two lengths,
two sources, two cohorts.
"""

from collections import Counter

import numpy as np
import pytest

from podium.statistics import SHARE, mean_with_interval
from reward.evaluate import ceiling, figures, pairs_of, prompt_key, ranking_figures, trust_report
from reward.sources import RankingSplits
from tests.reward.conftest import ranking

RECORDS = [
    # all three pairs right; the labeler's best is the longest
    ranking("a?", ["xxx", "xx", "x"], [1, 2, 3], source="books"),
    # one pair, wrong
    ranking("b?", ["x", "yyyy"], [1, 2], source="letters"),
    # two pairs of the tied best with the worst: one right, one wrong
    ranking("c?", ["xx", "yyyy", "zzz"], [1, 1, 2], source="letters"),
]
SCORES = [np.array([3.0, 2.0, 0.0]), np.array([0.0, 1.0]), np.array([2.5, 0.5, 1.5])]
RIGHT = [1.0, 1.0, 1.0, 0.0, 1.0, 0.0]
PROMPT = [0, 0, 0, 1, 2, 2]


def over_prompts(values, index, bounds=SHARE) -> dict:
    return mean_with_interval(values, index, bounds)._asdict()


def test_accuracy_and_its_parts_by_hand():
    """Six pairs of three prompts. Mutations seen red: the bounds of a share left out; another
    field's groups; the smaller gap's accuracy at the larger one's place.
    """
    found = figures(pairs_of(RECORDS, SCORES))
    assert (found["pairs"], found["prompts"]) == (6, 3)
    assert found["accuracy"] == over_prompts(RIGHT, PROMPT)
    three = over_prompts([1.0, 1.0, 1.0, 1.0, 0.0], [0, 0, 0, 2, 2]) | {"pairs": 5}
    two = over_prompts([0.0], [1]) | {"pairs": 1}
    assert found["accuracy_by_k"] == {"2": two, "3": three}
    near = over_prompts([1.0, 1.0, 0.0, 1.0, 0.0], [0, 0, 1, 2, 2]) | {"pairs": 5}
    assert found["accuracy_by_distance"] == {"1": near, "2": over_prompts([1], [0]) | {"pairs": 1}}
    books = over_prompts([1.0] * 3, [0] * 3) | {"pairs": 3}
    letters = over_prompts([0.0, 1.0, 0.0], [1, 2, 2]) | {"pairs": 3}
    assert found["accuracy_by_source"] == {"books": books, "letters": letters}
    # whoever goes by length is right on a's three, wrong on b's, and on one of c's
    length = over_prompts([1.0, 1.0, 1.0, 0.0, 0.0, 1.0], PROMPT)
    assert found["length_only"] == length | {"longer_is_better": True}
    turned = figures(pairs_of(RECORDS, SCORES), longer_is_better=False)["length_only"]
    assert turned["value"] == pytest.approx(1 - length["value"])
    gaps = np.array([1.0, 3.0, 2.0, -1.0, 1.0, -1.0])
    nll = np.log1p(np.exp(-gaps))
    assert found["nll"] == pytest.approx(over_prompts(nll, PROMPT, None))
    surer = 1 / (1 + np.exp(-np.abs(gaps))) - np.array(RIGHT)
    assert found["overconfidence"] == pytest.approx(over_prompts(surer, PROMPT, None))
    one = figures(pairs_of(RECORDS[1:], SCORES[1:]))
    assert one["accuracy_by_source"] == {}, "a single source is no comparison"


def test_the_curves_of_the_report_by_hand():
    """Four gaps are of size 1, of which two are right; each of the six pairs is a bin of its own by
    gap. Confidence is sigmoid(1) = 0.731, sigmoid(2) = 0.881 and sigmoid(3) = 0.953.
    """
    found = figures(pairs_of(RECORDS, SCORES))
    table = found["reliability"]
    assert table["pairs"] == [4, 1, 1] and table["accuracy"] == [0.5, 1.0, 1.0]
    assert table["confidence"] == pytest.approx([0.7311, 0.8808, 0.9526], abs=1e-4)
    assert found["ece"]["value"] == pytest.approx((4 * 0.23106 + 0.11920 + 0.04743) / 6, abs=1e-4)
    assert found["accuracy_by_gap"]["gap"] == [1, 1, 1, 1, 2, 3]
    assert found["accuracy_by_gap"]["accuracy"] == [1, 0, 1, 0, 1, 1]
    by_score = found[
        "accuracy_by_score"
    ]  # the mean of b's two answers, a's last two, a's, c's, ...
    assert by_score["score"] == [0.5, 1.0, 1.0, 1.5, 2.0, 2.5]
    assert by_score["accuracy"] == [0, 1, 0, 1, 1, 1] and by_score["pairs"] == [1] * 6


def test_figures_of_whole_rankings_by_hand():
    """Tau-b of a is 1, of b -1, of c 0: two pairs that cancel. By length the scores of a go up, of b
    too, of c they go down from 2.5 through 1.5 to 0.5 as length goes up: -1.
    """
    found = ranking_figures(RECORDS, SCORES)
    keys = [prompt_key(r.prompt) for r in RECORDS]
    assert found["tau_b"] == over_prompts([1.0, -1.0, 0.0], keys, (-1.0, 1.0))
    assert found["length_correlation"] == over_prompts([1.0, 1.0, -1.0], keys, (-1.0, 1.0))
    level = [np.zeros(3), np.zeros(2), np.zeros(3)]
    assert ranking_figures(RECORDS, level) == {"tau_b": None, "length_correlation": None}
    some = ranking_figures(RECORDS, [SCORES[0], level[1], np.array([1.0, np.nan, 2.0])])
    assert some["length_correlation"]["value"] == 1.0
    assert some["tau_b"]["value"] == pytest.approx(0.0)  # c's two that were scored: -1


class Length:
    """A world that likes length, which is all that is asked of it here."""

    def gold(self, prompt, text):
        return float(len(text))


def test_the_ceiling_is_over_prompts_and_between_labelers():
    """Gold is right on four of the six pairs. Two labelers of a agree on two pairs of three.
    Mutation seen red: the bounds of a share left out.
    """
    assert ceiling(RECORDS, Length())["gold"] == over_prompts([1, 1, 1, 0, 0, 1], PROMPT)
    assert ceiling(RECORDS, None) == {"agreement": {"value": None, "low": None, "high": None}}
    again = RECORDS[0].model_copy(update={"ranks": [1, 3, 2], "labeler": "eve"})
    both = [RECORDS[0].model_copy(update={"labeler": "ana"}), again]
    assert ceiling(both, None)["agreement"]["value"] == pytest.approx(2 / 3)


def test_agreement_across_cohorts_is_between_them_alone(reward_model, tokenizer):
    """Two labelers of either cohort; within a cohort all agree, across none does. Mutations seen
    red: every two labelers compared; the held-out rankings left out.
    """
    first = [ranking("a?", ["xxx", "xx"], [1, 2], labeler=name) for name in ("ana", "bram")]
    turned = [
        ranking("a?", ["xxx", "xx"], [2, 1], labeler=name, cohort="heldout")
        for name in ("eve", "fay")
    ]
    taught = [ranking("t?", ["xx", "x"], [1, 2])]
    splits = RankingSplits(taught, first, turned, Counter())
    found = trust_report(reward_model, tokenizer, splits, Length())
    across = found["agreement_across_cohorts"]
    assert across == {"value": 0.0, "low": None, "high": None}  # of a single prompt
    assert found["validation"]["ceiling"]["agreement"]["value"] == 1.0
    gold = {name: found[name]["ceiling"]["gold"]["value"] for name in ("validation", "heldout")}
    assert gold == {"validation": 1.0, "heldout": 0.0}
    right = {name: found[name]["accuracy"]["value"] for name in ("validation", "heldout")}
    assert right["validation"] + right["heldout"] == 1.0
    # the model's order against gold's, which is the first labelers'
    on_gold = {name: found[name]["accuracy_on_gold"]["value"] for name in ("validation", "heldout")}
    assert on_gold == dict.fromkeys(on_gold, right["validation"])
    assert "accuracy_on_gold" not in trust_report(reward_model, tokenizer, splits)["validation"]
    empty = trust_report(reward_model, tokenizer, RankingSplits(taught, [], [], Counter()))
    assert empty == {}
