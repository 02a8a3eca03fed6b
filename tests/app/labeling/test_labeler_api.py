"""A labeler's way through the API that the page uses: read, rate, rank, save, skip, edit."""

import pytest
from sqlalchemy import select

from app.labeling.task_tables import InstructionRead, PromptRating
from tests.app.labeling.making import Browser, add_batch, add_person, answer_to, candidates


def test_a_session_from_login_to_empty(site, browser):
    add_batch(site, count=2)
    lea = browser("lea")
    first = lea.post("/api/next").json()
    assert first["kind"] == "instructions" and "# Step 1: rate" in first["body"]
    assert lea.post(f"/api/instructions/{first['id']}/read").json() == {"status": "ok"}
    for _ in range(2):
        task = lea.next()
        assert task["kind"] == "task" and len(task["form"]["response_flags"]) == 11
        reply = lea.submit(task["assignment"], answer_to(task)).json()
        assert reply["new"] and reply["revision"] == 1
    assert lea.post("/api/next").json() == {"kind": "empty"}
    assert "answered 2 tasks" in lea.get("/").text


def test_reading_instructions_twice_is_one_row(site, browser):
    add_batch(site)
    lea = browser("lea")
    for _ in range(2):
        assert lea.post("/api/instructions/1/read").status_code == 200
    assert lea.post("/api/instructions/99/read").status_code == 404
    with site.database.read() as session:
        assert len(session.scalars(select(InstructionRead)).all()) == 1


def test_a_draft_comes_back_after_a_new_login(site, browser):
    add_batch(site)
    lea = browser("lea")
    task = lea.next()
    draft = {"tiers": [[task["responses"][0]["position"]]], "comment": "half done", "step": "rank"}
    saved = [
        lea.put(f"/api/assignments/{task['assignment']}/draft", draft).json()["saved"]
        for _ in range(2)
    ]
    assert saved == [f"{task['assignment']}.1", f"{task['assignment']}.2"]
    again = Browser(site, "lea").next()
    assert again["assignment"] == task["assignment"] and again["draft"]["comment"] == "half done"
    assert again["draft"]["step"] == "rank" and again["responses"] == task["responses"]


def test_a_draft_of_another_tab_is_a_conflict(site, browser):
    """The server's side of it: same tab goes on, another tab must have seen the newest; a program
    that names no version overwrites. Seen red before: the last draft won.
    """
    add_batch(site)
    lea = browser("lea")
    path = f"/api/assignments/{lea.next()['assignment']}/draft"

    def put(comment: str, **headers) -> int:
        reply = lea.http.put(
            path, json={"comment": comment}, headers={"X-CSRF-Token": lea.token} | headers
        )
        return reply.status_code

    def tab(name: str, version: int) -> dict:
        return {"Draft-Writer": name, "Draft-Version": str(version)}

    assert put("one", **tab("first", 0)) == 200
    assert put("two", **tab("second", 0)) == 409
    assert put("one more", **tab("first", 0)) == 200  # its own reply was lost
    assert put("two", **tab("second", 2)) == 200
    assert put("three", **tab("first", 2)) == 409
    task = lea.next()
    assert (task["draft"]["comment"], task["draft_version"]) == ("two", 3)
    assert put("a program's") == 200
    assert put("x", **{"Draft-Version": "-1"}) == put("x", **{"Draft-Writer": "a b"}) == 422


def test_an_answer_can_be_changed_and_both_versions_stay(site, browser):
    add_batch(site)
    lea = browser("lea")
    task = lea.next()
    positions = [r["position"] for r in task["responses"]]
    lea.submit(task["assignment"], answer_to(task))
    stored = lea.get(f"/api/assignments/{task['assignment']}").json()
    assert stored["state"] == "submitted" and stored["answer"]["tiers"] == answer_to(task)["tiers"]
    lea.put(f"/api/assignments/{task['assignment']}/draft", {"comment": "on second thoughts"})
    changed = lea.submit(task["assignment"], answer_to(task, positions[::-1]), verb="revise").json()
    assert changed["revision"] == 2
    stored = lea.get(f"/api/assignments/{task['assignment']}").json()
    assert stored["answer"]["tiers"] == [[p] for p in positions[::-1]] and stored["draft"] is None
    assert "Change" in lea.get("/mine").text


def test_revising_what_was_never_answered_is_a_conflict(site, browser):
    add_batch(site)
    lea = browser("lea")
    task = lea.next()
    reply = lea.submit(task["assignment"], answer_to(task), verb="revise")
    assert reply.status_code == 409 and reply.json()["code"] == "not_answered"


def test_a_skip_needs_one_of_the_reasons(site, browser):
    add_batch(site, count=1)
    lea = browser("lea")
    task = lea.next()
    path = f"/api/assignments/{task['assignment']}/skip"
    assert lea.post(path, {"reason": "bored"}).status_code == 422
    assert lea.post(path, {"reason": "not my language", "note": "Arabic"}).json() == {
        "status": "skipped"
    }
    assert lea.put(f"/api/assignments/{task['assignment']}/draft", {}).status_code == 410
    assert lea.post("/api/next").json() == {"kind": "empty"}


def test_prompt_flags_use_case_and_language_are_stored(site, browser):
    add_batch(site)
    lea = browser("lea")
    task = lea.next()
    about = {"prompt_flags": ["ambiguous"], "use_case": "closed QA", "language": "Deutsch"}
    assert lea.submit(task["assignment"], answer_to(task) | about).status_code == 200
    with site.database.read() as session:
        row = session.scalars(select(PromptRating)).one()
    assert (
        row.flags["ambiguous"] is True
        and row.flags["closed_domain"] is False
        and len(row.flags) == 11
    )
    assert (row.use_case, row.language) == ("closed QA", "Deutsch")


@pytest.mark.parametrize(
    "change",
    [
        {"prompt_flags": ["no such flag"]},
        {"use_case": "cooking"},
        {"comment": "a\x00b"},
        {"active_seconds": -1},
        {"tiers": [[0, 1, 2, 99]]},
        {"unknown": 1},
        {"responses": [{"position": 0, "likert": 8}]},
    ],
)
def test_what_the_form_does_not_ask_is_refused(site, browser, change):
    add_batch(site)
    lea = browser("lea")
    task = lea.next()
    reply = lea.submit(task["assignment"], answer_to(task) | change)
    assert reply.status_code == 422 and reply.json()["message"]


def test_a_newer_form_asks_other_questions_and_old_answers_stay(site, browser):
    ada, lea = browser("ada", role="admin"), browser("lea")
    add_batch(site, name="old", cohorts=["train"])
    task = lea.next()
    lea.submit(task["assignment"], answer_to(task))
    form = '{"likert": false, "response_flags": [{"name": "polite", "label": "Polite"}]}'
    assert ada.form("/admin/forms", name="short", body=form).status_code == 303
    assert ada.form("/admin/forms", name="short", body="{").status_code == 422
    add_batch(site, name="new", records=candidates(1, k=2), cohorts=["heldout"])
    ben = browser("ben", cohort="heldout")
    task = ben.next()
    assert [flag["name"] for flag in task["form"]["response_flags"]] == ["polite"] and not task[
        "form"
    ]["likert"]
    answer = {"tiers": [[0, 1]], "responses": [{"position": 1, "flags": ["polite"]}]}
    assert ben.submit(task["assignment"], answer).status_code == 200


def test_new_instructions_are_shown_before_the_next_task(site, browser):
    ada, lea = browser("ada", role="admin"), browser("lea")
    add_batch(site, count=1, name="old")
    task = lea.next()
    lea.submit(task["assignment"], answer_to(task))
    assert (
        ada.form("/admin/instructions", name="instructgpt", body="# New\n\n- be brief").status_code
        == 303
    )
    add_batch(site, count=1, name="new")
    shown = lea.post("/api/next").json()
    assert (shown["kind"], shown["version"]) == ("instructions", 2)
    page = lea.get("/instructions").text
    assert "<h2>New</h2>" in page and "<li>be brief</li>" in page


def test_identifiers_beyond_the_database_are_refused_not_crashed_on(browser):
    lea = browser("lea")
    for number in ("0", "-1", str(2**63), "x"):
        assert lea.get(f"/api/assignments/{number}").status_code == 422


def test_an_empty_site_has_a_friendly_page(site, browser):
    lea = browser("lea")
    assert (
        lea.get("/mine").status_code
        == lea.get("/work").status_code
        == lea.get("/instructions").status_code
        == 200
    )
    add_person(site, "ada", role="admin")
    ada = Browser(site, "ada")
    for path in (
        "/admin",
        "/admin/labelers",
        "/admin/disputed",
        "/admin/exports",
        "/admin/people",
        "/admin/events",
    ):
        assert ada.get(path).status_code == 200, path
    assert ada.get("/api/admin/agreement").json()["lines"]
