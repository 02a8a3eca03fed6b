"""Open Assistant trees: a small one by hand, and the real ones against the rankings cut out of them
by other code.
"""

import json

from data.readers import read_source
from data.records import Demonstration, Prompt, Ranking


def node(text, role, replies=(), **more):
    return {"message_id": text, "text": text, "role": role, "replies": list(replies), **more}


TREE = {
    "message_tree_id": "q",
    "prompt": node("q", "prompter", [
        node("worse", "assistant", [node("why?", "prompter", [node("so", "assistant", rank=0)])], rank=1),
        node("best", "assistant", [
            node("more?", "prompter", [node("b", "assistant", rank=1), node("a", "assistant", rank=0, synthetic=True)]),
            node("thanks", "prompter"),
        ], rank=0),
        node("spam", "assistant", rank=2, deleted=True),
        node("unranked", "assistant"),
    ]),
}  # fmt: skip


def read(tmp_path, kind):
    (tmp_path / "tree.jsonl").write_text(json.dumps(TREE))
    records = read_source({"path": str(tmp_path / "tree.jsonl"), "format": "oasst_tree"}, kind)
    return [([m.content for m in getattr(r, "messages", None) or r.prompt], r) for r in records]


def test_demonstrations_follow_the_best_answers(tmp_path):
    """Seen red with `_best` sorting by rank downwards."""
    assert [said for said, _ in read(tmp_path, Demonstration)] == [["q", "best", "more?", "a"]]


def test_rankings_are_the_questions_with_two_ranked_answers(tmp_path):
    """Ranks count from 1 here, from 0 there; what was deleted is not ranked. Seen red without the
    `deleted` filter.
    """
    found = [(said, r.responses, r.ranks, r.generators) for said, r in read(tmp_path, Ranking)]
    assert found == [
        (["q"], ["worse", "best"], [2, 1], ["human", "human"]),
        (["q", "best", "more?"], ["b", "a"], [2, 1], ["human", "model"]),
    ]


def test_prompts_are_all_questions_with_what_was_said_before(tmp_path):
    said = [said for said, _ in read(tmp_path, Prompt)]
    assert said == [["q"], ["q", "worse", "why?"], ["q", "best", "more?"], ["q", "best", "thanks"]]


def test_real_trees_hold_the_rankings_others_cut_out(real_data):
    """The 212 rankings of oasst_kway_en.jsonl are those we find in the 100 trees they came from."""
    trees = {
        "path": str(real_data / "C_demos/oasst_en_100_trees/en_100_tree.jsonl"),
        "format": "oasst_tree",
    }
    kway = {
        "path": str(real_data / "D_prefs/oasst_human_kway/oasst_kway_en.jsonl"),
        "format": "oasst_kway",
    }

    def content(ranking):
        order = sorted(zip(ranking.ranks, ranking.responses, ranking.generators, strict=True))
        return [m.content.strip() for m in ranking.prompt], [(g, r.strip()) for _, r, g in order]

    ours, theirs = ([content(r) for r in read_source(spec, Ranking)] for spec in (trees, kway))
    assert len(theirs) == 212 and sorted(ours) == sorted(theirs)
    assert len(read_source(trees, Demonstration)) == 102 and len(read_source(trees, Prompt)) == 480
