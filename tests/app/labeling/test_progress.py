"""What the admin pages say about labelers and tasks, on answers made to show it."""

import math

import pytest
from scipy.stats import kendalltau

from app.labeling import progress
from app.labeling.collecting import ExportFilter, collect_rankings
from app.labeling.datacard import agreement_lines, percent
from app.labeling.terminal import print_agreement
from data.agreement import Rate, agreement_report
from tests.app.labeling.making import add_batch, answer_to, candidates


def answer_all(client, choose, **fields) -> None:
    """`choose(task)` gives the tiers; likert follows them unless `fields` say otherwise."""
    while (task := client.next())["kind"] == "task":
        answer = answer_to(task) | {"tiers": choose(task)} | fields
        assert client.submit(task["assignment"], answer).status_code == 200


def shown(task) -> list[list[int]]:
    return [[r["position"]] for r in task["responses"]]


def numbered(task) -> list[list[int]]:
    return sorted(shown(task))


def test_labelers_are_marked_for_what_they_do(site, browser):
    """One ranks by place on the screen, one ties everything at once, one works as asked and fails
    no gold.
    """
    gold = [
        c.model_copy(update={"responses": ["w", "x", "y", "z"], "gold_ranks": [1, 2, 3, 4]})
        for c in candidates(2)
    ]
    add_batch(site, records=[*candidates(12), *gold], overlap=3, gold_every=5)
    answer_all(browser("by-place"), shown)
    answer_all(
        browser("ties"),
        lambda task: [[r["position"] for r in task["responses"]]],
        active_seconds=2.0,
    )
    answer_all(browser("careful"), numbered)
    with site.database.read() as session:
        rows = {row.handle: row for row in progress.labeler_table(session)}
    assert "position bias" in rows["by-place"].flags and rows["by-place"].bias == 1
    assert {"ties everything", "very fast", "fails gold"} <= set(rows["ties"].flags)
    assert (
        rows["ties"].all_tied == 1
        and rows["ties"].median_seconds == 2
        and rows["ties"].bias is None
    )
    assert (
        rows["careful"].flags == []
        and rows["careful"].gold_failures == 0
        and rows["careful"].answers == 14
    )
    assert rows["by-place"].reversals > 0 and rows["careful"].reversals == 0


def test_few_answers_mark_nobody(site, browser):
    add_batch(site, count=progress.MIN_TO_FLAG - 1)
    answer_all(browser("new"), shown, active_seconds=1.0)
    with site.database.read() as session:
        assert progress.labeler_table(session)[0].flags == []


def test_position_bias_is_a_z_score_of_tau():
    """Ranks equal to places give tau 1; under chance a tau of 4 items has variance 2 * 13 / (9 *
    12).
    """
    bias, z = progress.position_bias([[1, 2, 3, 4]] * 9)
    assert bias == 1 and z == pytest.approx(9 / math.sqrt(9 * 26 / 108))
    assert progress.position_bias([[1, 1, 1]]) == (None, 0.0)
    mixed = [[1, 2, 2, 3], [3, 1, 2, 4]]
    expected = sum(kendalltau(range(4), ranks).statistic for ranks in mixed) / 2
    assert progress.position_bias(mixed)[0] == pytest.approx(expected)


def test_gold_checks_count_known_pairs_and_a_tie_is_a_miss():
    assert progress.gold_checks([1, 2, 2], [1, 2, 3]) == [True, True, False]
    assert progress.gold_checks([2, 1], [1, 1]) == []


def test_disputed_tasks_come_worst_first(site, browser):
    add_batch(site, count=3, overlap=2)
    answer_all(browser("lea"), numbered)
    answer_all(
        browser("ben"),
        lambda t: numbered(t)[::-1] if "1?" in t["prompt"][0]["content"] else numbered(t),
    )
    with site.database.read() as session:
        tasks = progress.disputed_tasks(session)
    assert [(t.task, t.agreement) for t in tasks] == [
        ("batch/1", 0),
        ("batch/0", 1),
        ("batch/2", 1),
    ]


def test_agreement_is_shown_live_with_its_tie_rule(site, browser, capsys):
    ada = browser("ada", role="admin")
    add_batch(site, count=2, overlap=2)
    assert "undefined" in "\n".join(ada.get("/api/admin/agreement").json()["lines"])
    answer_all(browser("lea"), numbered)
    answer_all(browser("ben", cohort="heldout"), numbered)
    lines = "\n".join(ada.get("/api/admin/agreement").json()["lines"])
    assert "pairwise, ties: drop" in lines and "heldout x train" in lines and "100.0 %" in lines
    with site.database.read() as session:
        print_agreement(collect_rankings(session, ExportFilter()))
    printed = capsys.readouterr().out
    assert "ties: drop" in printed and "ties must match" in printed and "100.0 %" in printed


def test_progress_counts_skips_and_what_is_in_hand(site, browser):
    add_batch(site, count=3, overlap=2)
    lea, ben, ada = browser("lea"), browser("ben"), browser("ada", role="admin")
    task = lea.next()
    lea.submit(task["assignment"], answer_to(task))
    lea.post(
        f"/api/assignments/{lea.next()['assignment']}/skip",
        {"reason": "broken", "note": "half a word"},
    )
    ben.next()
    row = ada.get("/api/admin/progress").json()[0]
    assert (row["wanted"], row["done"], row["open"], row["skipped"], row["extras"]) == (
        6,
        1,
        1,
        1,
        0,
    )
    assert "half a word" in ada.get("/admin/labelers").text


def test_figures_read_well():
    assert percent(Rate(0.726, 0.015, 0.697, 0.754, 100, 20)) == "72.6 % +- 1.5 [69.7, 75.4]"
    assert percent(Rate(None, None, None, None, 0, 0)) == "undefined"
    assert any("undefined" in line for line in agreement_lines(agreement_report([])))
