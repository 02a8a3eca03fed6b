"""Batches that are written: what comes in, what labelers send, and what goes out of it."""

import json
import random

import pytest
from sqlalchemy import func, select

from app.labeling.collecting import ExportFilter
from app.labeling.edits import edit_distance
from app.labeling.exporting import make_export
from app.labeling.seeds import Seed, add_writing, read_seeds, writing_rules
from app.labeling.task_tables import Assignment, Submission, Suggestion, Written
from data.jsonl import read_jsonl
from data.records import Comparison, Demonstration
from podium.errors import DataError
from tests.app.labeling.making import Browser, add_batch, add_person

PROMPT = [{"role": "user", "content": "Why is the sky blue?"}]


def written_batch(site, kind: str, *seeds: dict, **rules) -> None:
    with site.database.write() as session:
        wanted = writing_rules({"name": kind, "kind": kind} | rules)
        add_writing(session, wanted, [Seed(**seed) for seed in seeds], 1.0)


def turn(role: str, content: str, **more) -> dict:
    return {"role": role, "content": content, **more}


def next_writing(browser: Browser) -> dict:
    found = browser.next()
    assert found["kind"] == "writing", found
    return browser.get(f"/api/writing/{found['assignment']}").json()


def send(browser: Browser, assignment: int, turns: list[dict], verb="submit", key="k" * 8, **more):
    return browser.post(
        f"/api/writing/{assignment}/{verb}",
        {"turns": turns} | more,
        headers={"Idempotency-Key": key},
    )


def suggested(browser: Browser, assignment: int, turns: list[dict], round: int = 0):
    body = {"turns": turns, "round": round}
    return browser.post(f"/api/writing/{assignment}/suggestions", body)


def exported(site, kind: str, record: type, **chosen) -> list:
    made = make_export(site.database, site.exports, kind, ExportFilter(**chosen), None, 9.0)
    return read_jsonl(site.exports / made.file, record)


def slow_distance(first: str, second: str) -> int:
    """Wagner and Fischer's table, row by row."""
    row = list(range(len(second) + 1))
    for i, a in enumerate(first, start=1):
        before, row = row, [i]
        for j, b in enumerate(second, start=1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (a != b)))
    return row[-1]


def test_edit_distance_is_levenshteins():
    """Mutation seen red: the shift of the horizontal steps without its 1."""
    rng = random.Random(0)
    for _ in range(2000):
        first, second = ("".join(rng.choices("ab ", k=rng.randrange(12))) for _ in range(2))
        assert edit_distance(first, second) == slow_distance(first, second), (first, second)
    assert edit_distance("kitten", "sitting") == 3 and edit_distance("", "äß") == 2
    assert edit_distance("x" * 9000 + "y", "y" + "x" * 9000) == 2


def test_a_demonstration_from_prompt_to_record(any_site):
    """The written answer is a Demonstration with what was imported; a change is a new revision and
    the same key twice one row.
    """
    seed = {"prompt": PROMPT, "user": "u1", "use_case": "open QA", "id": "p1", "meta": {"a": 1}}
    written_batch(any_site, "demonstration", seed)
    add_person(any_site, "lea")
    lea = Browser(any_site, "lea")
    task = next_writing(lea)
    assert (task["kind"], task["prompt"], task["suggests"]) == ("demonstration", PROMPT, False)
    number = task["assignment"]
    draft = {"text": "Because of Rayl"}
    assert lea.put(f"/api/writing/{number}/draft", draft).json()["saved"] == f"{number}.1"
    assert next_writing(lea)["draft"]["text"] == "Because of Rayl"
    first = [turn("assistant", "It scatters.")]
    for new in (True, False):
        assert send(lea, number, first, comment="hm").json()["new"] is new
    assert send(lea, number, first, key="otherkey").status_code == 409
    second = [turn("assistant", "It scatters blue light more.")]
    assert send(lea, number, second, verb="revise", key="again---").json()["revision"] == 2
    [record] = exported(any_site, "demonstrations", Demonstration)
    assert [m.content for m in record.messages] == [PROMPT[0]["content"], second[0]["content"]]
    assert (record.user, record.use_case, record.id) == ("u1", "open QA", f"answer-{number}")
    assert record.meta["imported"] == {"id": "p1", "meta": {"a": 1}}
    assert record.meta["kind"] == "demonstration" and record.meta["revision"] == 2
    assert record.meta["labeler"] != "lea" and record.meta["instruction"].startswith("writing dem")
    with any_site.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Written)) == 2
    page = lea.get("/mine").text
    assert f"/write/{number}" in page


def test_an_edit_stores_its_distance_and_prefers_what_was_edited(site, browser):
    """Mutation seen red: chosen and rejected of an edit changed round."""
    seed = {"prompt": PROMPT, "responses": ["It is green."], "generators": ["m1"]}
    written_batch(site, "edit", seed, overlap=2)
    texts = {"lea": "It is blue.", "ben": "It is green."}
    for handle, text in texts.items():
        person = browser(handle)
        task = next_writing(person)
        assert task["original"] == "It is green." and "m1" not in str(task)
        assert send(person, task["assignment"], [turn("assistant", text)], key=handle * 3).json()
    edited, unchanged = exported(site, "demonstrations", Demonstration)
    assert edited.meta["edit_distance"] == edit_distance("It is green.", "It is blue.") == 4
    assert unchanged.meta["edit_distance"] == 0
    assert edited.meta["edited"] == {"text": "It is green.", "generator": "m1"}
    [pair] = exported(site, "comparisons", Comparison)  # the unchanged one prefers nothing
    assert (pair.chosen, pair.rejected) == ("It is blue.", "It is green.")
    assert pair.meta["kind"] == "edit" and "inverted" not in pair.meta
    card = (site.exports / "export-0001-demonstrations.md").read_text()
    assert "2 characters changed (median), 1 answers sent unchanged" in card


def test_red_teaming_exports_inverted_comparisons(site, browser):
    """The labeler picks the worse answer: it is `rejected`, and marked. With imported answers there
    is one pick. Mutation seen red: `worse` and `better` changed round.
    """
    seed = {"prompt": PROMPT, "responses": ["kind", "cruel"], "generators": ["m1", "m2"]}
    written_batch(site, "red_team", seed)
    lea = browser("lea")
    number = next_writing(lea)["assignment"]
    pair = suggested(lea, number, []).json()["suggestions"]
    assert pair == suggested(lea, number, []).json()["suggestions"]  # the same after a reload
    assert {p["text"] for p in pair} == {"kind", "cruel"} and "m1" not in str(pair)
    side = [p["text"] for p in pair].index("cruel")
    ids, strength = [p["id"] for p in pair], (-3, 3)[side]
    good = turn("assistant", "cruel", pair=ids, strength=strength)
    for wrong in (
        {"strength": 0},
        {"strength": -strength},
        {"pair": [ids[0], ids[0]]},
        {"pair": [ids[0], 999]},
        {"pair": None, "strength": None},
        {"content": "crueler"},
    ):
        assert send(lea, number, [good | wrong]).status_code == 422, wrong
    assert send(lea, number, [good]).status_code == 200
    assert suggested(lea, number, [good, turn("user", "More?")]).json()["code"] == "no_suggestions"
    [record] = exported(site, "comparisons", Comparison)
    assert (record.chosen, record.rejected, record.strength) == ("kind", "cruel", 3.0)
    assert record.meta["inverted"] is True and record.meta["kind"] == "red_team"
    names = {"left": record.meta["left"], "right": record.meta["right"]}
    assert names[record.meta["picked"]] == "m2"
    assert "**inverted**" in (site.exports / "export-0001-comparisons.md").read_text()


def test_a_dialogue_alternates_and_ends_with_the_assistant(site, browser):
    seed = {"brief": "Ask for a recipe."}
    written_batch(site, "dialogue", seed, {"prompt": PROMPT, "responses": ["Rayleigh.", "Ozone."]})
    lea = browser("lea")
    task = next_writing(lea)
    assert (task["brief"], task["prompt"]) == ("Ask for a recipe.", [])
    number = task["assignment"]
    talk = [turn("user", "Soup?"), turn("assistant", "Boil it."), turn("user", "Salt?")]
    for wrong in (talk, talk[1:2], [talk[0], talk[2]], [talk[0], turn("assistant", " ")]):
        assert send(lea, number, wrong).status_code == 422
    assert suggested(lea, number, talk).json()["code"] == "no_suggestions"
    assert send(lea, number, talk[:2]).status_code == 200

    number = next_writing(lea)["assignment"]
    shown = suggested(lea, number, []).json()["suggestions"]
    begun = turn("assistant", shown[0]["text"] + " Light scatters.", suggestion=shown[0]["id"])
    misplaced = [turn("assistant", "No."), turn("user", "Why?"), begun]
    assert send(lea, number, misplaced, key="2" * 8).status_code == 422  # shown at another turn
    assert send(lea, number, [begun], key="2" * 8).status_code == 200
    first, second = exported(site, "demonstrations", Demonstration)
    assert [m.role for m in first.messages] == ["user", "assistant"]
    assert first.meta["imported"] == {"brief": "Ask for a recipe."}
    [origin] = second.meta["turns"]
    assert origin["suggestion"] == shown[0]["text"] and origin["edit_distance"] == 16


def test_rankings_and_texts_do_not_mix(site, browser):
    """A site with both: every page, agreement and export of rankings reads only rankings, and each
    kind of task refuses the other kind's answer. Seen red: the labelers' page met texts.
    """
    written_batch(site, "edit", {"prompt": PROMPT, "responses": ["What?"]})
    written_batch(site, "dialogue", {"brief": "Talk."})
    lea, ada = browser("lea"), browser("ada", role="admin")
    number = next_writing(lea)["assignment"]
    answer = {"tiers": [], "responses": []}
    assert lea.submit(number, answer).status_code == 422
    assert lea.get(f"/api/assignments/{number}").json() == {"kind": "writing", "assignment": number}
    assert send(lea, number, [turn("assistant", "So.")]).status_code == 200
    skipped = next_writing(lea)["assignment"]
    assert lea.post(f"/api/assignments/{skipped}/skip", {"reason": "other"}).status_code == 200
    add_batch(site, count=1)
    task = lea.next()
    assert task["kind"] == "task" and task["instructions"] == "instructgpt@1"
    ranked = lea.get(f"/api/writing/{task['assignment']}")
    assert ranked.status_code == 409 and ranked.json()["code"] == "ranked"
    for path in ("", "/labelers", "/disputed", "/exports", "/results", "/writing", "/instructions"):
        assert ada.get(f"/admin{path}").status_code == 200, path
    assert "So." in ada.get("/admin/writing").text
    assert ada.get("/api/admin/agreement").status_code == 200
    assert "answered 1 task" in lea.get("/").text


@pytest.mark.parametrize(
    "kind, seed, says",
    [
        ("demonstration", {"brief": "no prompt"}, "has no prompt"),
        ("edit", {"prompt": PROMPT}, "has no answer to be edited"),
        ("red_team", {"prompt": PROMPT, "responses": ["one"]}, "has no model to talk to"),
        ("red_team", {"brief": "Talk."}, "has no model to talk to"),
        ("dialogue", {}, "has no prompt"),
        (
            "demonstration",
            {"prompt": [*PROMPT, {"role": "assistant", "content": "x"}]},
            "the last message is assistant",
        ),
        ("demonstration", {"prompt": [{"role": "user", "content": "a\x00"}]}, "NUL"),
    ],
)
def test_what_cannot_be_written_from_is_refused(site, browser, kind, seed, says):
    ada = browser("ada", role="admin")
    file = {"file": ("seeds.jsonl", json.dumps(seed) + "\n")}
    reply = ada.http.post(
        "/admin/writing",
        data={"name": "b", "kind": kind, "cohorts": "train", "csrf_token": ada.token},
        files=file,
    )
    assert reply.status_code == 422 and says in reply.text
    assert "<td>" not in ada.get("/admin").text  # nothing is kept


def test_records_of_ours_are_seeds(tmp_path):
    """Prompts and demonstrations as they are; what closes a demonstration is edited."""
    path = tmp_path / "mixed.jsonl"
    lines = [
        '{"messages": [{"role": "user", "content": "q"}], "id": "p"}',
        '{"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]}',
    ]
    path.write_text("\n".join(lines))
    prompt, demonstration = read_seeds(path)
    assert (prompt.id, prompt.responses) == ("p", []) and len(prompt.prompt) == 1
    assert demonstration.responses == ["a"] and demonstration.prompt == prompt.prompt
    path.write_text('{"prompt": "q"}')
    with pytest.raises(DataError, match=r"mixed\.jsonl, line 1"):
        read_seeds(path)


def test_a_researcher_may_not_name_an_endpoint(site, browser):
    """The server calls it: an admin's decision, as with webhooks."""
    rosa = browser("rosa", role="researcher")
    fields = {"name": "b", "kind": "dialogue", "cohorts": "train", "csrf_token": rosa.token}
    talk = fields | {"url": "http://127.0.0.1:9/v1", "models": "m"}
    for sent, status in ((talk, 403), (fields, 303)):
        file = {"file": ("s.jsonl", '{"brief": "Talk."}\n')}
        reply = rosa.http.post("/admin/writing", data=sent, files=file)
        assert reply.status_code == status, reply.text


def test_no_suggestions_of_another_persons_task(site, browser):
    written_batch(site, "dialogue", {"prompt": PROMPT, "responses": ["a"]}, overlap=2)
    lea, ben = browser("lea"), browser("ben")
    number = next_writing(lea)["assignment"]
    assert suggested(lea, number, []).status_code == 200
    assert suggested(ben, number, []).status_code == 404
    assert send(ben, number, [turn("assistant", "a")]).status_code == 404
    assert ben.get(f"/api/writing/{number}").status_code == 404
    with site.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Suggestion)) == 1
        assert session.scalar(select(func.count()).select_from(Submission)) == 0
        assert session.scalar(select(func.count()).select_from(Assignment)) == 1
