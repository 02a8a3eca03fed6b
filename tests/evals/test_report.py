"""The report of a whole run in miniature and of an unfinished one: the JSON table, the page, the
text.
"""

import json
import re
import shutil
import subprocess
import sys

import pytest

from evals import plots
from evals.report import FIELDS, render, table
from evals.runs import planned_stages, read_run

ROWS = ["base", "sft", "best_of_n", "ppo_ptx", "ppo"]
STAGES = ["world", "pretrain", "sft", "reward", "ppo", "ppo_plain", "evals"]


def test_the_table_is_the_json_object_that_was_promised(mini_run):
    found = json.loads(json.dumps(table(mini_run)))
    assert list(found) == [*ROWS, "wall_seconds", "cpu_seconds"]
    assert all(list(found[row]) == list(FIELDS) for row in ROWS)
    assert list(found["wall_seconds"]) == list(found["cpu_seconds"]) == STAGES


def test_the_page_is_one_file_that_needs_no_network(mini_run, capsys):
    page = render(mini_run).read_text()
    assert not re.search(r"""(src|href)=["'](?!data:)|url\(|@import|<script""", page)
    # a panel each: 2 against the KL, 1 of the guard's, 5 of losses; the trust page is not in this run
    assert page.count("data:image/png;base64,") == 8
    for heading in (
        "Reward and gold against the KL",
        "Losses",
        "Answers side by side",
        "Stages: cost, lineage, files",
    ):
        assert heading in page
    assert page.count('class="sample"') == 6
    printed = capsys.readouterr().out
    assert "PPO-ptx" in printed and "win rate vs SFT" in printed and "report.html" in printed
    assert printed.index("RLHF ") < printed.index("The price: ") < printed.index("win rate vs SFT")
    assert "the run cost" in printed and "Wh" in printed


def test_a_run_without_a_world_has_no_gold(copied_run, capsys):
    """Its scores are the judge's, in the heading, in the pictures' titles and beside the samples.
    Seen red with "gold" in all three.
    """
    path = copied_run / "evals/final/results.json"
    results = json.loads(path.read_text())
    results["setup"]["judge"] = "an independent reward"
    for values in results["rows"].values():
        values["features"] = {}
    path.write_text(json.dumps(results))
    page = render(copied_run).read_text()
    assert "gold" not in page and "gold" not in (copied_run / "report.md").read_text()
    assert "<th>judge's score</th>" in page.replace("&#39;", "'")
    printed = capsys.readouterr().out
    assert "model      judge's score" in printed and "gold" not in printed


def test_what_models_say_is_shown_as_text(copied_run):
    """Seen red with autoescape off."""
    path = copied_run / "evals/final/answers.jsonl"
    lines = [
        json.loads(line) | {"response": "<script>alert(1)</script> | {{ 7 * 7 }}"}
        for line in path.open()
    ]
    path.write_text("\n".join(map(json.dumps, lines)))
    page = render(copied_run).read_text()
    assert "<script>" not in page and "&lt;script&gt;alert(1)" in page and "{{ 7 * 7 }}" in page
    text = (copied_run / "report.md").read_text()
    assert "<script>" not in text and "\\| {{ 7 * 7 }}" in text


def test_the_markdown_has_the_table_the_answers_and_the_stages(mini_run):
    render(mini_run)
    text = (mini_run / "report.md").read_text()
    assert (
        "| best of 4 |" in text
        and text.count("\n## ") == 7
        and str(mini_run / "ppo_plain" / "final") in text
    )
    widths = [line.count(" | ") for line in text.splitlines() if line.startswith("| ")]
    assert all(width in (2, 6, 7) for width in widths)  # whole rows, whatever the answers hold


@pytest.mark.parametrize("gone", [["evals"], ["evals", "ppo", "ppo_plain"], STAGES])
def test_an_unfinished_run_says_what_is_missing_and_the_command(copied_run, gone, capsys):
    for stage in gone:
        shutil.rmtree(copied_run / stage)
    found = table(copied_run)
    assert set(found["missing"]) == set(gone)
    assert (
        found["missing"]["evals"]
        == f"podium run {copied_run / 'recipe.yaml'} --runs-dir {copied_run.parent}"
    )
    assert set(found["wall_seconds"]) == set(STAGES) - set(gone) and not set(ROWS) & set(found)
    assert f"<b>{gone[-1]}</b>: made by <code>podium run" in render(copied_run).read_text()


def test_planned_stages_follow_the_recipe(copied_run):
    assert planned_stages(copied_run) == STAGES
    assert read_run(copied_run).missing == {}


def test_pictures_take_the_lines_that_have_both_numbers():
    lines = [
        {"step": 1, "loss": 2.0},
        {"step": 2, "loss": None},
        {"step": 3, "loss": 1.0, "eval_loss": 1.5},
    ]
    steps, values = plots.series(lines, "step", "loss")
    assert (steps.tolist(), values.tolist()) == ([1.0, 3.0], [2.0, 1.0])
    (panel,) = plots.losses({"sft": lines})
    assert panel.startswith(b"\x89PNG")
    assert plots.losses({"sft": []}) == plots.watched({}, {}) == []
    assert plots.reward_against_kl({}, {}, {}) == []


def test_showing_a_table_does_not_wait_for_torch(mini_run):
    code = f"import sys; from evals.report import table; table({str(mini_run)!r}); sys.exit('torch' in sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
