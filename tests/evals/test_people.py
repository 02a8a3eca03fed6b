"""People as judges: the evaluation's candidates go to the labeling site, and its export decides."""

import json

import numpy as np
import pytest

from app.labeling.importing import read_candidates
from data.jsonl import read_jsonl, write_jsonl
from data.records import Message, Prompt, Ranking
from evals.evaluate import Config, main
from evals.people import PeopleJudge, candidates_of
from evals.records import Answer
from evals.report import render
from podium.errors import DataError
from podium.run.context import StageContext
from podium.run.recipe import DataConfig, SplitSources, dump_recipe
from tests.evals.miniature import make_recipe, make_run

ASKED = [Message(role="user", content="Tale?")]


def answer(row: str, text: str, prompt: int = 0) -> Answer:
    return Answer(
        row=row, prompt=ASKED, prompt_index=prompt, response=text, tokens=3, finished=True
    )


def test_people_decide_by_what_they_said_of_both_answers(tmp_path):
    """Two of three prefer a, all tie a and c, nobody saw d. Mutations seen red: ranks not turned
    round, and pairs that nobody saw taken for ties.
    """
    said = [[1, 2, 1], [1, 2, 1], [2, 1, 2]]
    path = tmp_path / "export.jsonl"
    rows = [
        Ranking(prompt=ASKED, responses=["a", "b", "c"], ranks=ranks, labeler=f"l{n}")
        for n, ranks in enumerate(said)
    ]
    write_jsonl(path, rows)
    judge = PeopleJudge(path)
    mine, theirs = [answer("ppo", "a")] * 3, [answer("sft", t) for t in ("b", "c", "d")]
    found = judge.compare(mine, theirs)
    assert found[:2] == [pytest.approx(2 / 3), 0.5] and np.isnan(found[2])
    assert judge.compare(theirs[:1], mine[:1]) == [pytest.approx(1 / 3)]
    assert judge.name == "3 people in 3 rankings (export.jsonl)"
    with pytest.raises(DataError, match=r"export\.jsonl.* ranks none of the pairs"):
        judge.compare([answer("ppo", "x")], [answer("sft", "y")])


def test_people_are_asked_about_first_answers_that_differ():
    answers = [answer("sft", "a"), answer("ppo", "b"), answer("ppo", "c")]
    answers += [answer("sft", "same", 1), answer("ppo", "same", 1)]
    (one,) = candidates_of(answers)
    assert (one.responses, one.generators) == (["a", "b"], ["sft", "ppo"])


@pytest.mark.slow
def test_an_evaluation_is_ranked_by_people_and_judged_by_them(tokenizer, tmp_path):
    """Who sees the candidates prefers the shorter ones; the same seed draws the same answers again.
    The win rate is over the pairs that were seen.
    """
    small = {"prompts": 3, "samples": 2, "best_of": 0, "questions": 0}
    _, run_dir = make_run(tmp_path, tokenizer, Config(**small))
    prompts = [Prompt(messages=[Message(role="user", content=f"Tale {i}?")]) for i in range(3)]
    write_jsonl(tmp_path / "prompts.jsonl", prompts)
    own = DataConfig(prompts=SplitSources(test=str(tmp_path / "prompts.jsonl")))
    final = run_dir / "evals" / "final"

    def evaluate(**more) -> dict:
        config = Config(**small, **more)
        recipe = make_recipe(config, world=False).model_copy(update={"data": own})
        (run_dir / "recipe.yaml").write_text(dump_recipe(recipe))
        stage = StageContext("evals", recipe, run_dir)
        main(config, stage)
        stage.close()
        return json.loads((final / "results.json").read_text())

    evaluate()
    asked = read_candidates(final / "candidates.jsonl", gold=False)
    assert len(asked) == 3 and {"sft", "ppo_ptx"} <= set(asked[0].generators)
    rankings = [
        Ranking(
            prompt=one.prompt,
            responses=one.responses,
            ranks=[1 + sum(len(o) < len(r) for o in one.responses) for r in one.responses],
            generators=one.generators,
            labeler="lea",
        )
        for one in asked
    ]
    write_jsonl(tmp_path / "export.jsonl", rankings)
    found = evaluate(judge={"people": str(tmp_path / "export.jsonl")})
    assert found["setup"]["judge"] == "1 people in 3 rankings (export.jsonl)"
    answers = read_jsonl(final / "answers.jsonl", Answer)
    first = {(a.row, a.prompt_index): a for a in reversed(answers)}
    wins = []
    for n in range(3):
        mine, theirs = (len(first[row, n].response) for row in ("ppo_ptx", "sft"))
        wins.append(0.5 + 0.5 * np.sign(theirs - mine))
    row = found["rows"]["ppo_ptx"]
    assert row["win_rate"] == pytest.approx(np.mean(wins)) and row["win_rate_prompts"] == 3
    assert "1 people in 3 rankings" in render(run_dir).read_text()
