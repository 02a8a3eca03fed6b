"""lm-eval's tasks inside a run: every model is asked, its scores are lm-eval's own, and the table
compares question by question.
"""

import json
import shutil
import sys

import numpy as np
import pytest

from data.jsonl import read_jsonl
from data.records import Question
from evals.evaluate import Config, main
from evals.harness import SUITES, against_sft, ask, check_tasks, expand
from evals.loglikelihood import accuracies, score_questions
from evals.measure import Tasks
from evals.report import render
from podium.errors import PlatformError, RecipeError
from podium.models import load_causal_lm
from podium.run.context import StageContext
from tests.evals.miniature import make_recipe, make_run


def test_a_difference_is_told_on_the_same_questions():
    """80 questions, 20 gained and 4 lost. Seen red with the difference turned."""
    sft = np.array([1.0] * 40 + [0.0] * 40)
    mine = sft.copy()
    mine[40:60], mine[:4] = 1.0, 0.0
    found = against_sft({"quiz": {"acc": mine.tolist()}}, {"quiz": {"acc": sft.tolist()}})["quiz"]
    assert (found["metric"], found["questions"], found["value"]) == ("acc", 80, 0.7)
    assert found["difference"]["value"] == pytest.approx(0.2)
    assert 0 < found["difference"]["low"] < 0.2 < found["difference"]["high"]


def test_without_lm_eval_a_recipe_with_tasks_is_refused_and_one_without_is_not(monkeypatch):
    monkeypatch.setitem(sys.modules, "lm_eval", None)
    check_tasks([], None)
    with pytest.raises(PlatformError, match="needs lm-eval") as error:
        check_tasks(["piqa"], None)
    assert error.value.fix and "'.[eval]'" in error.value.fix


def test_a_suite_is_asked_as_its_paper_did_unless_the_recipe_says_otherwise():
    """Mutations seen red: a suite with no examples alone; a task twice in one list."""
    found = expand(["opt", "piqa", "mine"], None)
    assert list(found) == [0, 1, 32]
    assert found[0] == [*SUITES["opt"].tasks, "mine"] and "mine" not in found[32]
    assert expand(["instructgpt", "mine"], [5]) == {5: [*SUITES["instructgpt"].tasks, "mine"]}
    assert expand(["piqa"], None) == {0: ["piqa"]} and expand([], [0, 5]) == {}


def test_what_lm_eval_said_of_each_model_is_kept_beside_the_table(copied_run, monkeypatch):
    """Without lm-eval: what it says is made up. Mutations seen red: nothing kept; kept although
    nothing was asked.
    """
    said: list[int] = []

    def told(*asked):
        said.append(len(said))
        return {"quiz": {"acc": [1.0, 0.0]}}, {"said": said[-1]}

    monkeypatch.setattr("evals.measure.ask", lambda *asked, seed: told(*asked))
    small = Config(prompts=1, samples=1, best_of=0, max_new_tokens=2, documents_tokens=512,
                   questions=0, familiar_prompts=0)  # fmt: skip
    kept = copied_run / "evals" / "final" / "lm_eval"
    for tasks in (Tasks(), Tasks({0: ["quiz"]})):
        assert not kept.exists()
        monkeypatch.setattr("evals.evaluate.read_tasks", lambda config, stage, tasks=tasks: tasks)
        shutil.rmtree(copied_run / "evals")
        stage = StageContext("evals", make_recipe(small, ppo=None, ppo_arms={}), copied_run)
        main(stage.config, stage)
        stage.close()
    found = {path.stem: json.loads(path.read_text()) for path in kept.iterdir()}
    assert found == {"base": {"0": {"said": 0}}, "sft": {"0": {"said": 1}}}


@pytest.mark.slow
def test_lm_eval_knows_every_task_of_the_suites():
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[eval]'")
    check_tasks([task for suite in SUITES.values() for task in suite.tasks], None)


@pytest.fixture(scope="module")
def asked(tokenizer, tmp_path_factory):
    """A run evaluated with three tasks from files: choices, the same after two examples, and an
    answer that must be written.
    """
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[eval]'")
    files = tmp_path_factory.mktemp("tasks")
    questions = [
        Question(question=f"What comes after {n}?", choices=[str(n + 1), str(n + 2), "naïve"], answer=n % 2)
        for n in range(30)
    ]  # fmt: skip
    data = files / "quiz.jsonl"
    data.write_text("\n".join(question.model_dump_json() for question in questions))
    common = f"""
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}, cache_dir: {files / "cache"}}}
test_split: test
fewshot_split: test
doc_to_text: question
"""
    for name in ("quiz", "quiz_again"):
        (files / f"{name}.yaml").write_text(
            f"task: {name}\noutput_type: multiple_choice\ndoc_to_choice: choices\n"
            f"doc_to_target: answer\nmetric_list: [{{metric: acc}}]\n{common}"
        )
    (files / "written.yaml").write_text(
        "task: written\noutput_type: generate_until\ndoc_to_target: '{{choices[0]}}'\n"
        "generation_kwargs: {until: ['.'], max_gen_toks: 4}\n"
        f"metric_list: [{{metric: exact_match}}]\n{common}"
    )
    config = Config(
        prompts=4, samples=1, best_of=2, documents_tokens=512, questions=0,
        tasks=["quiz", "quiz_again", "written"], task_files=str(files), num_fewshot=[0, 2],
    )  # fmt: skip
    recipe, run_dir = make_run(tmp_path_factory.mktemp("runs"), tokenizer, config)
    stage = StageContext("evals", recipe, run_dir)
    main(stage.config, stage)
    stage.close()
    return run_dir, data


@pytest.mark.slow
def test_every_model_is_asked_and_scored_as_lm_eval_and_we_score(asked, tokenizer):
    """Our own log-likelihood scoring, lm-eval's summary and the table give one number."""
    run_dir, data = asked
    rows = json.loads((run_dir / "evals/final/results.json").read_text())["rows"]
    names = {f"{t}, {n} examples" for t in ("quiz", "quiz_again", "written") for n in (0, 2)}
    assert all(set(row["tasks"]) == names for row in rows.values())
    questions = read_jsonl(data, Question)
    for row in ("sft", "ppo_ptx"):
        found = rows[row]["tasks"]["quiz, 0 examples"]
        stage = {"sft": "sft", "ppo_ptx": "ppo"}[row]
        model = load_causal_lm(run_dir / stage / "final")
        ours = accuracies(score_questions(model, tokenizer, questions, max_length=128))["acc"]
        theirs = json.loads((run_dir / f"evals/final/lm_eval/{row}.json").read_text())
        assert found["value"] == ours == theirs["0"]["results"]["quiz"]["acc,none"]
        assert found["questions"] == 30
    assert rows["sft"]["tasks"]["quiz, 0 examples"]["difference"]["value"] == 0.0
    assert rows["sft"]["tasks"]["written, 0 examples"]["metric"] == "exact_match"


@pytest.mark.slow
def test_the_report_shows_tasks_and_says_where_questions_are_few(asked):
    page = render(asked[0]).read_text()
    assert "lm-eval: quiz, 2 examples" in page
    assert "fewer than 200 questions" in page


@pytest.mark.slow
def test_an_unknown_task_is_refused_by_name(asked):
    with pytest.raises(RecipeError, match="lm-eval has no task 'quizz'"):
        check_tasks(["quizz"], asked[1].parent)


@pytest.mark.slow
def test_an_answer_that_no_model_of_the_context_can_read_is_refused_by_its_question(
    tokenizer, tiny_llama, tmp_path
):
    """A stranger's set and a small context: lm-eval alone ends on an assertion, after all the
    training. Mutations seen red: not looked at; the number of another question.
    """
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[eval]'")
    long = "the owl found a lantern in the old barn " * 8
    rows = [{"q": "Why?", "c": ["yes", "no"], "a": 0} for _ in range(3)]
    rows[1]["c"] = ["yes", long]
    (tmp_path / "why.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    (tmp_path / "why.yaml").write_text(
        "task: why\ndataset_path: json\ntest_split: test\noutput_type: multiple_choice\n"
        f"dataset_kwargs: {{data_files: {{test: {tmp_path / 'why.jsonl'}}}, "
        f"cache_dir: {tmp_path / 'cache'}}}\n"
        "doc_to_text: q\ndoc_to_choice: c\ndoc_to_target: a\nmetric_list: [{metric: acc}]\n"
    )
    told = (tiny_llama, tokenizer, ["why"], 0, tmp_path)
    with pytest.raises(RecipeError, match=r"why, question 2: .* model reads 40: 'the owl found"):
        ask(*told, 40, None, 0)
    assert len(ask(*told, 120, None, 0).scores["why"]["acc"]) == 3
