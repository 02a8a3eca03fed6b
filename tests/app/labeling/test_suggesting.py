"""Suggestions of a served model: the same after a reload, bounded, and never in the way of work."""

import threading
import time

import pytest
from sqlalchemy import func, select

from app.labeling import suggesting
from app.labeling.task_tables import Suggestion
from tests.app.labeling.making import Browser, add_person
from tests.app.labeling.models import ANSWERS, model_server
from tests.app.labeling.test_writing import PROMPT, next_writing, suggested, turn, written_batch


@pytest.fixture
def model():
    with model_server() as running:
        yield running


def task_with(site, browser, model, kind: str = "dialogue", **endpoint):
    """(lea's browser, the number of her assignment)."""
    talks_to = {"url": model.address, "models": ["small"]} | endpoint
    written_batch(site, kind, {"prompt": PROMPT}, endpoint=talks_to)
    lea = browser("lea")
    return lea, next_writing(lea)["assignment"]


def test_the_model_is_asked_once_for_one_conversation(site, browser, model, monkeypatch):
    """Its key comes from the environment and goes nowhere else. Mutation seen red: the look at
    what is kept left out of `_look`.
    """
    monkeypatch.setenv(suggesting.KEY_VARIABLE, "a-secret-key")
    lea, number = task_with(site, browser, model, suggestions=3, max_tokens=7, temperature=0.5)
    first = suggested(lea, number, []).json()["suggestions"]
    assert sorted(s["text"] for s in first) == sorted(ANSWERS[:3])
    assert suggested(lea, number, []).json()["suggestions"] == first
    assert len(model.asked) == 3
    wanted = {"model": "small", "messages": PROMPT, "max_tokens": 7, "temperature": 0.5}
    assert model.asked == [wanted] * 3
    assert {h["Authorization"] for h in model.headers} == {"Bearer a-secret-key"}
    other = suggested(lea, number, [], round=1).json()["suggestions"]
    assert sorted(s["text"] for s in other) == sorted(ANSWERS[3:6])
    talk = [turn("assistant", "So."), turn("user", "And?")]
    assert suggested(lea, number, talk).status_code == 200
    assert [m["content"] for m in model.asked[-1]["messages"]][1:] == ["So.", "And?"]
    assert "a-secret-key" not in str(lea.get(f"/api/writing/{number}").json())


@pytest.mark.parametrize(
    "reply, says",
    [
        (b"no json", "no chat completion"),
        (b'{"choices": []}', "no chat completion"),
        (b'{"choices": [{"message": {"content": null}}]}', "no text"),
        (b'"' + b"x" * (2**20 + 1) + b'"', "too long"),
        (b"[" * 100_000, "no chat completion"),
    ],
)
def test_a_model_that_answers_nonsense_is_told_of(site, browser, model, reply, says):
    lea, number = task_with(site, browser, model)
    model.reply = reply
    failed = suggested(lea, number, [])
    assert failed.status_code == 502 and says in failed.json()["message"]
    model.reply = None
    assert suggested(lea, number, []).status_code == 200  # and nothing is left behind


def test_a_model_that_is_not_there(site, browser, model):
    lea, number = task_with(site, browser, model, url="http://127.0.0.1:9/v1")
    failed = suggested(lea, number, [])
    assert failed.status_code == 502 and "cannot be reached" in failed.json()["message"]


def test_strange_text_is_kept_as_the_database_can(any_site, model):
    """NUL and half a character: a model may say them. Seen red on PostgreSQL."""
    talks_to = {"url": model.address, "models": ["small"], "suggestions": 1}
    written_batch(any_site, "dialogue", {"prompt": PROMPT}, endpoint=talks_to)
    add_person(any_site, "lea")
    lea = Browser(any_site, "lea")
    number = next_writing(lea)["assignment"]
    model.reply = b'{"choices": [{"message": {"content": "a\\u0000b\\ud800c"}}]}'
    [one] = suggested(lea, number, []).json()["suggestions"]
    assert one["text"] == "a\ufffdb?c"


def test_one_person_waits_for_one_model_and_others_work_on(site, browser, model):
    """A slow model takes none of the few threads that answer requests. Mutation seen red:
    `waiting.add` left out.
    """
    lea, number = task_with(site, browser, model)
    ben = browser("ben")
    model.hold = threading.Event()
    replies = []
    asking = threading.Thread(target=lambda: replies.append(suggested(lea, number, [])))
    asking.start()
    deadline = time.monotonic() + 20
    while not suggesting.waiting and time.monotonic() < deadline:
        time.sleep(0.01)
    assert suggested(lea, number, [], round=1).json()["code"] == "busy"
    assert ben.get("/").status_code == 200
    model.hold.set()
    asking.join()
    assert replies[0].status_code == 200 and not suggesting.waiting


def test_suggestions_are_bounded(site, browser, model, monkeypatch):
    monkeypatch.setattr(suggesting, "MOST_SUGGESTIONS", 3)
    lea, number = task_with(site, browser, model)
    assert suggested(lea, number, [], round=suggesting.MOST_ROUNDS).status_code == 409
    assert suggested(lea, number, []).status_code == 200
    assert suggested(lea, number, [], round=1).status_code == 200
    assert suggested(lea, number, [], round=2).json()["code"] == "no_suggestions"
    assert suggested(lea, number, [], round=1).status_code == 200  # what is there is shown again
    with site.database.read() as session:
        assert session.scalar(select(func.count()).select_from(Suggestion)) == 4


def test_two_models_stand_on_drawn_sides(site, browser, model):
    lea, number = task_with(site, browser, model, kind="red_team", models=["small", "large"])
    sides = set()
    talk: list[dict] = []
    for n in range(12):
        suggested(lea, number, talk)
        with site.database.read() as session:
            newest = select(Suggestion.generator).order_by(Suggestion.id.desc()).limit(2)
            sides.add(tuple(session.scalars(newest)))
        talk += [turn("assistant", f"{n}"), turn("user", f"{n}")]
    assert sides == {("small", "large"), ("large", "small")}
