"""What the buttons do to a conversation, called as the page calls them, without a browser."""

import json
import re
from types import SimpleNamespace

import pytest

from app.chat.catalog import Catalog
from app.chat.conversation import Answer, Conversation, Turn, fit
from app.chat.log import log_of
from app.chat.page import build, suggestions
from app.chat.talk import Talk
from data.records import Message
from data.template import encode_prompt
from podium.errors import ParentError, PodiumError

# both pickers, side by side, temperature, top-p, length, seed
ONE = ("ppo", "sft", False, 1.0, 1.0, 12, 0)
TWO = ("ppo", "sft", True, 1.0, 1.0, 12, 0)
VISITOR = SimpleNamespace(username="ana")


@pytest.fixture(scope="module")
def talk(chat_run, votes) -> Talk:
    return Talk(Catalog(chat_run), votes)


def finish(conversation: Conversation, *texts: str) -> Conversation:
    conversation.turns.append(Turn("?", [Answer("M", text=text, ending="ended") for text in texts]))
    return conversation


def test_every_answer_ends_with_the_page_ready_for_the_next(talk):
    conversation = Conversation()
    *_, last = talk.send("Hello", conversation, *TWO)
    left, right, _, send, stop, vote_row, suggestion_row = last
    assert len(left["value"]) == len(right["value"]) == 3
    assert (
        send["visible"]
        and not stop["visible"]
        and vote_row["visible"]
        and not suggestion_row["visible"]
    )
    assert not conversation.busy and all(answer.ending for answer in conversation.turns[0].answers)


def test_two_answers_grow_in_turn_and_not_one_after_the_other(talk, monkeypatch):
    monkeypatch.setattr("app.chat.talk.REFRESH_SECONDS", 0.0)
    views = list(talk.send("Hello", Conversation(), *TWO))
    lengths = [
        [len(log["value"][1]["content"]) if len(log["value"]) > 1 else 0 for log in view[:2]]
        for view in views
    ]
    assert any(
        left and right and left < lengths[-1][0] and right < lengths[-1][1]
        for left, right in lengths
    )


def test_stop_keeps_what_was_said(talk, monkeypatch):
    monkeypatch.setattr("app.chat.talk.REFRESH_SECONDS", 0.0)
    conversation = Conversation()
    for number, _ in enumerate(
        talk.send("Hello", conversation, "ppo", "sft", False, 1.0, 1.0, 200, 0)
    ):
        if number == 5:
            talk.halt(conversation)
    answer = conversation.turns[0].answers[0]
    assert answer.ending == "stopped" and 0 < answer.tokens < 10 and answer.score is not None


def test_a_new_chat_in_the_middle_of_an_answer_stays_empty(talk, monkeypatch):
    """Seen red when what was said is finished in the conversation's last turn instead of in its
    own.
    """
    monkeypatch.setattr("app.chat.talk.REFRESH_SECONDS", 0.0)
    conversation = Conversation()
    views = []
    for view in talk.send("Hello", conversation, *ONE):
        views.append(view)
        if len(views) == 4:
            talk.clear(conversation, False)
    assert conversation.turns == [] and views[-1][0]["value"] == [] and not conversation.busy


def test_a_visitor_who_leaves_does_not_block_the_conversation(talk):
    conversation = Conversation()
    answering = talk.send("Hello", conversation, *ONE)
    next(answering)
    assert conversation.busy
    answering.close()
    assert not conversation.busy


@pytest.mark.parametrize("text", ["", "  \n "])
def test_nothing_is_sent_when_there_is_nothing_or_an_answer_is_running(talk, text):
    conversation = Conversation()
    assert list(talk.send(text, conversation, *ONE)) == [] and conversation.turns == []
    busy = Conversation(busy=True)
    assert list(talk.send("Hello", busy, *ONE)) == [] and busy.turns == []


def test_settings_from_outside_the_page_are_held_to_their_limits(talk):
    """Gradio's handlers are public addresses; a browser is not the only one who can call them."""
    conversation = Conversation()
    list(talk.send("Hello", conversation, "ppo", "sft", False, -3, 7.0, 10**9, None))
    assert conversation.turns[0].answers[0].ending in ("ended", "cut off")


@pytest.mark.parametrize(
    ("button", "choice", "kept"),
    [
        ("Left is better", "left", 0),
        ("Right is better", "right", 1),
        ("About equal", "tie", 0),
        ("Both bad", "both bad", 0),
    ],
)
def test_a_vote_is_recorded_once_under_the_visitors_name(talk, votes, button, choice, kept):
    conversation = finish(Conversation(), "one", "two")
    talk.vote(conversation, button, VISITOR)
    talk.vote(conversation, button, VISITOR)
    assert (
        votes.kept.pop()[1:] == ("one", "two", choice, ("M", "M"), "ana")
        and conversation.turns[0].kept == kept
    )
    assert not votes.kept


def test_a_later_turn_can_be_voted_on_where_the_first_was_missed(talk, votes):
    """Each side then remembers its own answers: the vote keeps both histories, and both go on from
    the better side's. Seen red: no vote was possible any more.
    """
    conversation = finish(finish(Conversation(), "one", "two"), "three", "four")
    talk.ask(conversation, VISITOR)
    assert not votes.asked  # labelers rank answers to one conversation
    talk.vote(conversation, "Right is better", VISITOR)
    prompt, left, right, choice, *_ = votes.kept.pop()
    assert ([m.content for m in prompt], left, right, choice) == (
        ["?", "one", "?"],
        "three",
        "four",
        "right",
    )
    blind, other = votes.blind.pop()
    assert not blind and [m.content for m in other] == ["?", "two", "?"]
    assert [turn.kept for turn in conversation.turns] == [1, 1] and conversation.same_history()


def test_labelers_are_asked_about_answers_to_one_conversation(talk, votes):
    conversation = finish(finish(Conversation(), "one", "two"), "three", "four")
    conversation.turns[0].kept = 1
    talk.ask(conversation, VISITOR)
    prompt, responses, generators, person = votes.asked.pop()
    assert [message.content for message in prompt] == ["?", "two", "?"]
    assert (responses, generators, person) == (["three", "four"], ["M", "M"], "ana")


BLIND = (*TWO, True)


def test_a_blind_conversation_hides_names_and_scores_until_the_vote(talk, votes):
    """Mutation seen red: `hidden` left out of `about`."""
    conversation = Conversation()
    *_, last = talk.send("Hello", conversation, *BLIND)
    names = [answer.model for answer in conversation.turns[0].answers]
    shown = str(last)
    assert all(name not in shown for name in names) and "reward" not in shown
    assert "Model on the left" in shown and "Model on the right" in shown
    # the pickers cannot tell which is which once there is an answer
    *_, last = talk.send("And?", conversation, "ppo", "ppo", True, 1.0, 1.0, 12, 0, True)
    assert [answer.model for answer in conversation.turns[1].answers] == names
    exported = talk.export(conversation)
    assert exported.count("Hello") == 2 and all(name not in exported for name in names)
    logs = talk.vote(conversation, "About equal", VISITOR)[:2]
    assert votes.blind.pop()[0] is True
    assert all(name in str(log) for name, log in zip(names, logs, strict=True))
    assert "reward" in str(logs)
    list(talk.send("More", conversation, *BLIND))
    talk.vote(conversation, "Left is better", VISITOR)
    assert votes.blind.pop()[0] is False  # the names are known by now


def test_the_sides_of_a_blind_conversation_are_drawn_by_lot(talk):
    """Mutation seen red: `_draw_sides` that keeps the order. Forty draws miss a side by chance once
    in 10^12.
    """
    seen = set()
    for _ in range(40):
        conversation = Conversation()
        views = talk.send("Hello", conversation, *BLIND)
        next(views)
        seen.add(conversation.pair)
        views.close()
    assert seen == {("ppo", "sft"), ("sft", "ppo")}


def test_names_shown_in_the_middle_end_the_blindness(talk, votes):
    conversation = Conversation()
    list(talk.send("Hello", conversation, *BLIND))
    list(talk.send("And?", conversation, *TWO))
    talk.vote(conversation, "Left is better", VISITOR)
    assert votes.blind.pop()[0] is False


def test_a_system_prompt_comes_first_and_stays_when_old_turns_go(talk):
    """Seen red before: there was none; mutation seen red: `fit` that drops it with the oldest."""
    conversation = Conversation()
    list(talk.send("Hello", conversation, *ONE, False, "Speak like an owl."))
    list(talk.send("And?", conversation, *ONE, False, "Something else."))
    said = conversation.messages(0)
    assert (said[0].role, said[0].content) == ("system", "Speak like an owl.")
    speaker = talk.catalog.speaker("sft")
    long = [said[0]]
    for number in range(30):
        long += [Message(role="user", content=f"Question {number}?")]
        long += [Message(role="assistant", content="word " * 8)]
    ids, _, dropped = fit(speaker, [*long, Message(role="user", content="Last?")], 12)
    kept = [said[0], *long[1 + dropped :], Message(role="user", content="Last?")]
    assert dropped > 0 and ids == encode_prompt(speaker.tokenizer, kept)


def test_an_answer_ends_before_a_stop_text(talk, monkeypatch):
    """What `generate` would cut, the chat never shows. Mutation seen red: `shown` without holding
    back.
    """
    monkeypatch.setattr("app.chat.talk.REFRESH_SECONDS", 0.0)

    def whole_text(seed: int) -> Answer:
        plain = Conversation()
        list(talk.send("Hello", plain, "ppo", "sft", False, 1.0, 1.0, 60, seed))
        return plain.turns[0].answers[0]

    # an untrained model says anything: take the first answer with two plain characters inside
    seed, whole, stop = next(
        (seed, answer, found[1])
        for seed in range(50)
        if (found := re.search(r"...([ -~]{2}).", (answer := whole_text(seed)).text))
    )
    conversation, texts = Conversation(), []
    for _ in talk.send(
        "Hello", conversation, "ppo", "sft", False, 1.0, 1.0, 60, seed, False, "", stop
    ):
        if conversation.turns and conversation.turns[0].answers[0]:
            texts.append(conversation.turns[0].answers[0].text)
    answer = conversation.turns[0].answers[0]
    assert answer.text == whole.text[: whole.text.index(stop)] and answer.ending == "ended"
    assert answer.tokens < whole.tokens and all(whole.text.startswith(t) for t in texts)
    assert all(len(text) <= len(answer.text) for text in texts)


def test_a_conversation_is_kept_and_comes_back_as_it_was(talk):
    conversation = Conversation()
    list(talk.send("Hello", conversation, *BLIND, "Be brief."))
    again = Conversation()
    again.load(json.loads(json.dumps(conversation.as_json())), 7, 3)
    assert (
        again.hides and again.pair == conversation.pair and (again.stored, again.version) == (7, 3)
    )
    assert again.messages(1) == conversation.messages(1)
    assert log_of(again, 0) == log_of(conversation, 0)


def test_a_refused_vote_says_why_and_can_be_given_again(talk, votes, monkeypatch):
    def refuse(*_, **__):
        raise PodiumError("Log in to vote.")

    monkeypatch.setattr(votes, "record", refuse)
    conversation = finish(Conversation(), "one", "two")
    with pytest.warns(UserWarning, match="Log in to vote"):
        talk.vote(conversation, "Left is better", VISITOR)
    assert conversation.turns[0].kept is None


def test_suggestions_are_prompts_of_the_runs_own_world(chat_run, tmp_path):
    found = suggestions(chat_run)
    assert len(found) == len(set(found)) == 3 and suggestions(tmp_path) == []


def test_a_folder_without_models_is_named(tmp_path):
    with pytest.raises(ParentError, match="no model to talk to"):
        build(tmp_path)


def test_labelers_are_asked_once_about_the_same_two_answers(talk, votes):
    conversation, before = finish(Conversation(), "left", "right"), len(votes.asked)
    talk.ask(conversation, VISITOR)
    talk.ask(conversation, VISITOR)
    assert len(votes.asked) == before + 1


def test_an_answer_never_holds_a_nul(talk, monkeypatch):
    """No database keeps one, and an untrained byte-level model says it: votes on it were refused.

    Seen red without the replacement.
    """
    monkeypatch.setattr("app.chat.conversation.decode_response", lambda tokenizer, ids: "a\x00b")
    conversation = Conversation()
    for _ in talk.send("Hello", conversation, *ONE):
        pass
    assert conversation.turns[0].answers[0].text == "a\ufffdb"
