"""What a comparison says, of answers and verdicts that were made up: every figure of
comparison.json, and every one that is printed.
"""

import numpy as np
import pytest

from data.records import Message
from evals.records import Answer
from evals.rounds import _page
from evals.verdicts import Judged, Met, against, elo, games, in_words, model_row

ASKED = [Message(role="user", content="Tale?")]


def answers(lengths, samples=1) -> list[Answer]:
    """Every second one ends by itself; tokens say nothing about the length in characters."""
    return [
        Answer(row="m", prompt=ASKED, prompt_index=i // samples, response="x" * n, tokens=1,
               finished=i % 2 == 0)
        for i, n in enumerate(lengths)
    ]  # fmt: skip


class Longer:
    """Prefers the longer answer."""

    name = "the longer"

    def compare(self, mine, theirs):
        gaps = [len(a.response) - len(b.response) for a, b in zip(mine, theirs, strict=True)]
        return [0.5 + 0.5 * np.sign(gap) for gap in gaps]


def test_a_model_s_row_is_its_mean_over_prompts():
    """Twelve prompts, two answers each: 1 and 3, whose mean no prompt differs from."""
    score = np.tile([1.0, 3.0], (12, 1))
    met = Met(["a", "b"], [answers([4, 8] * 12, 2)] * 2, [score + 5, score], Judged("j"), 2)
    row = model_row(met, 1)
    assert (row["name"], row["characters"], row["finished"]) == ("b", 6.0, 0.5)
    assert row["score"]["value"] == row["score"]["low"] == row["score"]["high"] == 2.0
    assert model_row(met, 0)["score"]["value"] == 7.0
    assert model_row(Met(["a"], [answers([4])], None, Judged("j"), 1), 0)["score"] is None


def test_by_scores_every_answer_meets_every_one_to_the_same_prompt():
    """Two prompts, two answers each. Like lengths are those within a tenth of the longer."""
    mine, theirs = answers([10, 20, 100, 30], 2), answers([10, 40, 95, 200], 2)
    scores = [np.array([[1.0, 2.0], [3.0, 0.0]]), np.array([[1.0, 0.0], [5.0, 0.0]])]
    found = games(Met(["a", "b"], [mine, theirs], scores, Judged("j"), 2), 0, 1)
    assert found.outcome.tolist() == [0.5, 1, 1, 1, 0, 1, 0, 0.5]
    assert found.prompt.tolist() == [0, 0, 0, 0, 1, 1, 1, 1]
    assert found.near.tolist() == [True, False, False, False, True, False, False, False]


def test_a_judge_of_pairs_compares_answer_for_answer_and_rates_what_it_compared():
    """The first model against the others alone. Mutations seen red: the models exchanged; every
    pair of models asked about.
    """
    lengths = ([20] * 12, [19] * 11 + [30], [10] * 11 + [30])
    given, judge = [answers(ls) for ls in lengths], Judged("j", pairs=Longer())
    met = Met(["a", "b", "c"], given, None, judge, 1)
    found = games(met, 1, 0)
    assert found.outcome.tolist() == [0] * 11 + [1] and found.prompt.tolist() == [*range(12)]
    assert found.near.tolist() == [True] * 11 + [False]
    rows = against(met)
    assert [(r["first"], r["second"], r["comparisons"]) for r in rows] == [
        ("a", "b", 12),
        ("a", "c", 12),
    ]
    assert [r["length_matched"] and r["length_matched"]["comparisons"] for r in rows] == [11, None]
    ratings = elo(met)
    assert list(ratings) == ["a", "b", "c"] and ratings["a"]["value"] > ratings["b"]["value"]
    assert ratings["b"]["value"] == pytest.approx(ratings["c"]["value"], abs=0.01)
    assert elo(Met(["a", "b"], given[:2], None, judge, 1)) == {}


def test_where_there_is_no_rating_the_reason_stands_in_its_place():
    """Who never won has none. Mutation seen red: no rating at all without its reason."""
    given = [answers([length] * 12) for length in (30, 20, 10)]
    found = elo(Met(["a", "b", "c"], given, None, Judged("j", pairs=Longer()), 1))
    assert list(found) == ["none"] and "never" in found["none"]


RESULT = {
    "prompts": 30,
    "samples": 2,
    "judge": "the gold score",
    "notes": ["b learned another world"],
    "models": [
        {"name": "r/a", "score": {"value": 1.5, "low": 1.25, "high": 1.75}, "characters": 40.4,
         "finished": 0.96},
        {"name": "r/b", "score": None, "characters": 20.0, "finished": 0.5},
    ],
    "against": [
        {"first": "r/a", "second": "r/b", "rate": 0.7, "low": 0.6, "high": 0.8, "ties": 0.12,
         "length_matched": {"rate": 0.55, "low": 0.45, "high": 0.65, "comparisons": 17},
         "verdict": "r/a beats r/b"},
        {"first": "r/a", "second": "r/c", "rate": 0.5, "low": None, "high": None, "ties": 1.0,
         "length_matched": None, "verdict": "r/a met too few"},
    ],
    "elo": {"r/a": {"value": 51.4, "low": 20.0, "high": 80.0}, "none": "too few games"},
}  # fmt: skip


def test_what_is_printed_is_what_was_found():
    assert in_words(RESULT).splitlines() == [
        "30 held-out prompts, 2 answers each; judge: the gold score",
        "note: b learned another world",
        "  r/a: score 1.500 [1.250, 1.750], 40 characters, 96% ended by themselves",
        "  r/b: 20 characters, 50% ended by themselves",
        "r/a against r/b: wins 70.0% [60.0%, 80.0%], ties (12%) counted half; of like length "
        "55.0% [45.0%, 65.0%] in 17 pairs",
        "  r/a beats r/b",
        "r/a against r/c: wins 50.0%, ties (100%) counted half; no pair of like length",
        "  r/a met too few",
        "Elo r/a: +51 [+20, +80]",
        "Elo none: too few games",
    ]


def test_a_round_s_page_has_a_table_a_judge():
    """Mutations seen red: the rating of another model; the note on the held-out half at the gold."""
    score = {"value": 2.0, "low": 1.5, "high": 2.5}
    models = [{"name": f"runs/round-{n}/ppo", "score": score} for n in (1, 2)]
    rated = {"runs/round-2/ppo": {"value": 12.0, "low": -3.0, "high": 27.0}}
    found = {
        "held_out": {"judge": "the reward", "models": models, "elo": rated},
        "gold": {"judge": "the gold", "models": models[:1], "elo": {"none": "too few"}},
    }
    assert [line for line in _page(found, 2).splitlines() if line] == [
        "# After round 2",
        "## the reward",
        "Trained on the other half of the prompts; no policy was trained on it.",
        "| model | score | Elo |",
        "| --- | --- | --- |",
        "| round-1 ppo | 2.00 [1.50, 2.50] | - |",
        "| round-2 ppo | 2.00 [1.50, 2.50] | +12 [-3, +27] |",
        "## the gold",
        "| model | score | Elo |",
        "| --- | --- | --- |",
        "| round-1 ppo | 2.00 [1.50, 2.50] | - |",
        "From comparison.json of compare-2-*.",
    ]
