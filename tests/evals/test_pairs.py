"""A served model as the judge: it compares pairs in both orders, and the report says that it is one."""

import json

import numpy as np
import pytest

from data.jsonl import read_jsonl, write_jsonl
from data.records import Message, Prompt
from evals.evaluate import Config, main
from evals.pairs import PairJudge, read_verdict
from evals.records import Answer
from evals.report import render
from evals.winrate import judged_win_rate
from podium.rewards.endpoint import Endpoint
from podium.rewards.specs import EndpointSpec
from podium.run.context import StageContext
from podium.run.recipe import DataConfig, SplitSources, dump_recipe
from tests.evals.miniature import make_recipe, make_run
from tests.podium.rewards.served import serving


def answer(text: str, prompt: int = 0) -> Answer:
    asked = [Message(role="user", content=f"Tale {prompt}?")]
    return Answer(
        row="ppo", prompt=asked, prompt_index=prompt, response=text, tokens=3, finished=True
    )


def prefers_long(question: str) -> str:
    a = question.partition("[Answer A]\n")[2].partition("\n\n[Answer B]\n")
    b = a[2].partition("\n\nWhich answer")[0]
    return f"Verdict: {'tie' if len(a[0]) == len(b) else 'A' if len(a[0]) > len(b) else 'B'}"


def judge(server, folder) -> PairJudge:
    return PairJudge(Endpoint(EndpointSpec(endpoint=server.url, model="m"), folder, 0.001))


def test_wins_losses_and_ties_are_told_from_both_orders(tmp_path):
    """Mutation seen red: the second verdict not turned round."""
    mine = [answer("a long one"), answer("short"), answer("same")]
    theirs = [answer("short"), answer("a long one"), answer("same")]
    with serving(prefers_long) as server:
        assert judge(server, tmp_path).compare(mine, theirs) == [1.0, 0.0, 0.5]
        assert len(server.questions) == 2, "of the mirrored pair the questions are the same ones"


def test_a_judge_that_prefers_what_it_reads_first_decides_nothing(tmp_path):
    """Mutation seen red: one order alone, by which the first model always won."""
    with serving(lambda question: "Verdict: A") as server:
        found = judge(server, tmp_path).compare([answer("x")] * 3, [answer("y")] * 3)
    assert found == [0.5, 0.5, 0.5]


def test_verdicts_are_read_from_words():
    assert [read_verdict(t) for t in ("Verdict: A", "**Verdict: B**", "verdict - Tie")] == [
        1,
        0,
        0.5,
    ]
    assert read_verdict("Verdict: A\nOn reflection,\nVerdict: B") == 0 and read_verdict(" b.") == 0
    with pytest.raises(ValueError):
        read_verdict("Both are good.")


def test_a_judged_win_rate_is_over_prompts():
    found = judged_win_rate(np.array([1.0, 0.5, 0.0, 1.0]), np.array([0, 0, 1, 1]))
    assert found.rate == 0.625 and found.ties == 0.25 and found.prompts == 2
    assert judged_win_rate(np.zeros(2), np.arange(2), np.zeros(2, dtype=bool)) is None


@pytest.mark.slow
def test_a_run_without_a_world_is_judged_by_it_and_the_report_says_so(tokenizer, tmp_path):
    """Seen red: the gold of best-of-n was NaN, which results.json cannot hold."""
    with serving(prefers_long) as server:
        config = Config(
            prompts=3,
            samples=2,
            best_of=2,
            questions=0,
            judge={"endpoint": server.url, "model": "grader"},
        )
        _, run_dir = make_run(tmp_path, tokenizer, config)
        prompts = [Prompt(messages=[Message(role="user", content=f"Tale {i}?")]) for i in range(3)]
        write_jsonl(tmp_path / "prompts.jsonl", prompts)
        own = DataConfig(prompts=SplitSources(test=str(tmp_path / "prompts.jsonl")))
        recipe = make_recipe(config, world=False).model_copy(update={"data": own})
        (run_dir / "recipe.yaml").write_text(dump_recipe(recipe))
        stage = StageContext("evals", recipe, run_dir)
        main(config, stage)
        stage.close()
    found = json.loads((run_dir / "evals/final/results.json").read_text())
    assert found["setup"]["judge"].startswith("an AI judge (grader at http://127.0.0.1")
    assert found["rows"]["sft"]["gold"] is None and found["rows"]["sft"]["win_rate"] == 0.5
    answers = read_jsonl(run_dir / "evals/final/answers.jsonl", Answer)
    for row in ("ppo_ptx", "ppo"):
        mine, sft = ([a for a in answers if a.row == name] for name in (row, "sft"))
        wins = [
            (len(a.response) > len(b.response)) + 0.5 * (len(a.response) == len(b.response))
            for a, b in zip(mine, sft, strict=True)
        ]
        assert found["rows"][row]["win_rate"] == pytest.approx(np.mean(wins))
    assert "an AI judge (grader at" in render(run_dir).read_text()
