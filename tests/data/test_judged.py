"""Answers with a verdict beside them, as HelpSteer, SHP, PKU-SafeRLHF, Arena and UltraFeedback have
them.
"""

import json

import pytest

from data.readers import read_with_report
from data.records import Comparison, Demonstration, Ranking
from podium.errors import DataError

ASK = "Name a fruit."


def read(tmp_path, rows, format, kind, **more):
    """(records, dropped by reason) of a file with these rows."""
    path = tmp_path / "rows.jsonl"
    path.write_text("\n".join(map(json.dumps, rows)))
    records, report = read_with_report({"path": str(path), "format": format, **more}, kind)
    return records, dict(report.dropped)


def arena(answer):
    return [{"role": "user", "content": ASK}, {"role": "assistant", "content": answer}]


NAMED = {"prompt": ASK, "response_1": "A plum.", "response_2": "No."}
TURNED = {"prompt": ASK, "response_1": "No.", "response_2": "A plum."}
SHP = {"history": ASK, "human_ref_A": "A plum.", "human_ref_B": "No.", "score_A": 9, "score_B": 2}
SAFE = {"prompt": ASK, "response_0": "A plum.", "response_1": "No.", "is_response_0_safe": True}
VOTE = {"conversation_a": arena("A plum."), "conversation_b": arena("No."), "model_a": "m"}
HELPSTEER3 = {"context": arena("A plum.")[:1], "response1": "No.", "response2": "A plum."}


@pytest.mark.parametrize(
    ("row", "strength"),
    [
        (NAMED | {"preference_strength": -3}, 3),
        (TURNED | {"preference_strength": 1}, 1),
        (TURNED | {"preference_strength": "2"}, 2),
        (HELPSTEER3 | {"overall_preference": 2}, 2),
        (SHP | {"labels": 1}, None),
        (SHP | {"human_ref_A": "No.", "human_ref_B": "A plum.", "labels": 0}, None),
        (SAFE | {"better_response_id": 0, "safer_response_id": 1}, None),
        (SAFE | {"response_0": "No.", "response_1": "A plum.", "better_response_id": 1}, None),
        ({"input": ASK, "output_1": "No.", "output_2": "A plum.", "label": 2}, None),
        ({"instruction": ASK, "output_1": "A plum.", "output_2": "No.", "preference": 1.2}, None),
        (VOTE | {"winner": "model_a"}, None),
        (VOTE | {"conversation_a": arena("No."), "conversation_b": arena("A plum."),
                 "winner": "model_b"}, None),
    ],
)  # fmt: skip
def test_the_better_answer_of_two_is_the_one_that_the_verdict_names(tmp_path, row, strength):
    """Seen red with the sign of HelpSteer's preference turned, and with SHP's label turned."""
    [pair], dropped = read(tmp_path, [row], "judged_pair", Comparison)
    assert (pair.chosen, pair.rejected, pair.strength) == ("A plum.", "No.", strength)
    assert [m.content for m in pair.prompt] == [ASK] and not dropped


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (NAMED | {"preference_strength": 0}, "neither answer is better"),
        (NAMED | {"preference_strength": float("nan")}, "preference_strength is no number"),
        (NAMED | {"preference_strength": None}, "null for preference_strength"),
        (SHP | {"labels": 2}, "labels is neither 0 nor 1"),
        (NAMED | {"label": 0}, "label is neither 1 nor 2"),
        (NAMED | {"preference": 1.5}, "neither answer is better"),
        (VOTE | {"winner": "tie (bothbad)"}, "neither answer is better"),
        (NAMED | {"response_2": None, "preference_strength": -1}, "null for response_2"),
    ],
)
def test_a_pair_without_a_preference_is_left_out_and_counted(tmp_path, row, reason):
    good = NAMED | {"preference_strength": -1}
    pairs, dropped = read(tmp_path, [row, good], "judged_pair", Comparison)
    assert len(pairs) == 1 and dropped == {reason: 1}


def test_a_pair_without_a_verdict_is_an_error_with_its_line(tmp_path):
    good = NAMED | {"preference_strength": -1}
    with pytest.raises(DataError, match="line 2, field 'preference_strength': the key is missing"):
        read(tmp_path, [good, NAMED], "judged_pair", Comparison)
    with pytest.raises(DataError, match="line 2, field 'response_1': two answers are missing"):
        read(tmp_path, [good, {"prompt": ASK, "labels": 1}], "judged_pair", Comparison)


def test_the_turns_of_helpsteer2_s_prompts_are_turns(tmp_path):
    """Seen red: the marks stood in one user turn."""
    prompt = "Hi.\n<extra_id_1>Assistant\nHo.\n\nHo!\n<extra_id_1>User\nName a fruit."
    row = NAMED | {"prompt": prompt, "preference_strength": -1}
    [pair], _ = read(tmp_path, [row], "judged_pair", Comparison)
    turns = [(m.role, m.content) for m in pair.prompt]
    assert turns == [("user", "Hi."), ("assistant", "Ho.\n\nHo!"), ("user", ASK)]


def scored(response, helpfulness, prompt=ASK, **more):
    return {"prompt": prompt, "response": response, "helpfulness": helpfulness, **more}


def test_the_rows_of_one_prompt_are_a_ranking(tmp_path):
    """HelpSteer's ratings, wherever the rows lie; other scores by `fields`. Seen red with rows that
    are put together only where they follow each other.
    """
    rows = [
        scored("A plum.", 4, correctness=1),
        scored("Corks.", 2, "What floats?", correctness=2),
        scored("No.", 0, correctness=3),
        scored("A pear.", 4, correctness=2),
        scored("Ice.", 3, "What floats?", correctness=1),
    ]
    first, second = read(tmp_path, rows, "scored_rows", Ranking)[0]
    assert (first.responses, first.ranks) == (["A plum.", "No.", "A pear."], [1, 2, 1])
    assert second.prompt[0].content == "What floats?" and second.ranks == [2, 1]
    first, _ = read(tmp_path, rows, "scored_rows", Ranking, fields={"score": "correctness"})[0]
    assert first.ranks == [3, 1, 2]
    best = read(tmp_path, rows, "scored_rows", Demonstration)[0]
    assert [d.messages[-1].content for d in best] == ["A plum.", "Ice."]


def test_rated_rows_are_taken_for_what_they_are(podium, tmp_path):
    rows = [scored(text, i, f"Question {i // 2}?") for i, text in enumerate(["No.", "Corks."] * 3)]
    (tmp_path / "train.jsonl").write_text("\n".join(map(json.dumps, rows)))
    done = podium("data", "check", tmp_path / "train.jsonl")
    assert done.exit_code == 0, done.output
    assert "rankings, in the format `scored_rows`\n3 records read" in done.stdout


def test_a_row_without_a_score_is_left_out_alone_or_named(tmp_path):
    rows = [scored("A plum.", 4), scored("A fig.", None), scored("No.", 0), scored("Ice.", 1, "?")]
    [ranking], dropped = read(tmp_path, rows, "scored_rows", Ranking)
    assert ranking.responses == ["A plum.", "No."]
    assert dropped == {
        "an answer without a score or rank": 1,
        "one answer alone to its prompt": 1,
    }
    with pytest.raises(DataError, match="line 3, field 'score': the key is missing"):
        read(tmp_path, [*rows[:2], {"prompt": ASK, "response": "A."}], "scored_rows", Ranking)


def test_scores_as_text_and_ratings_by_aspect(tmp_path):
    """UltraFeedback's. Seen red: text was no score, and the row was left out."""

    def answer(text, **more):
        return {"response": text, "model": "m", **more}

    def rated(*ratings):
        return {f"aspect {i}": {"Rating": rating} for i, rating in enumerate(ratings)}

    row = {"instruction": ASK, "completions": [
        answer("A plum.", overall_score="8.5"), answer("No.", overall_score="6"),
    ]}  # fmt: skip
    [ranking], _ = read(tmp_path, [row], "scored_list", Ranking)
    assert (ranking.ranks, ranking.meta["scores"]) == ([1, 2], [8.5, 6.0])
    row["completions"] = [
        answer("A plum.", annotations=rated("5", "N/A", "4")),
        answer("No.", annotations=rated("1", "2", "N/A"), overall_score="N/A"),
    ]
    [ranking], _ = read(tmp_path, [row], "scored_list", Ranking)
    assert ranking.meta["scores"] == [4.5, 1.5]
    row["completions"][1] = answer("No.", annotations=rated("N/A"))
    good = {"prompt": ASK, "responses": ["A.", "B."], "scores": ["2", "1"]}
    _, dropped = read(tmp_path, [row, good], "scored_list", Ranking)
    assert dropped == {"an answer without a score or rank": 1}
