"""What a model is given of a conversation, and what it gives back, without a browser."""

import json

import pytest

from app.chat.catalog import Catalog, find_checkpoints
from app.chat.conversation import Answer, Conversation, DoesNotFit, Settings, Turn, fit, speak
from app.chat.log import about, log_of, shown, turn_at, typed
from data.records import Message
from data.template import encode_prompt
from podium.errors import ParentError


@pytest.fixture(scope="module")
def catalog(chat_run) -> Catalog:
    return Catalog(chat_run)


@pytest.fixture(scope="module")
def sft(catalog):
    return catalog.speaker("sft")


def said(text: str) -> Answer:
    return Answer("SFT", text=text, tokens=3, ending="ended")


def test_every_language_model_of_the_run_is_offered_and_no_other(catalog, chat_run):
    labels = [checkpoint.label for checkpoint in catalog.checkpoints]
    assert labels == ["base (pretrain)", "SFT (sft)", "PPO-ptx (ppo)", "PPO (ppo_plain)"]
    assert catalog.favourites() == ("ppo", "sft")
    (single,) = find_checkpoints(chat_run / "sft" / "final")
    assert single.key == "model"
    with pytest.raises(ParentError, match="podium run"):
        find_checkpoints(chat_run / "reward")  # a reward model cannot talk


def test_a_base_from_outside_the_run_is_offered_too(chat_run, tmp_path):
    (tmp_path / "sft").symlink_to(chat_run / "sft")
    assert [checkpoint.key for checkpoint in find_checkpoints(tmp_path)] == ["sft"]
    record = json.loads((chat_run / "sft/final/stage.json").read_text())
    base = str(chat_run / "pretrain/final")
    record["parents"] = [{"ref": "x", "path": base, "sha256": "", "stage": None}]
    outside = tmp_path / "again"
    (outside / "sft/final").mkdir(parents=True)
    for file in ("config.json", "model.safetensors"):
        (outside / "sft/final" / file).symlink_to(chat_run / "sft/final" / file)
    (outside / "sft/final/stage.json").write_text(json.dumps(record))
    assert [checkpoint.key for checkpoint in find_checkpoints(outside)] == ["base", "sft"]


def test_the_same_seed_gives_the_same_answer_and_a_retry_the_next_seeds(sft):
    messages = [Message(role="user", content="Tell me a story.")]
    settings = Settings(max_new_tokens=20, seed=5)
    first, again = list(speak(sft, messages, settings)), list(speak(sft, messages, settings))
    assert first == again and first[-1].ending in ("ended", "cut off")
    retried = list(speak(sft, messages, settings, attempt=1))[-1]
    assert retried.text != first[-1].text and retried.seed == 6
    assert list(speak(sft, messages, Settings(max_new_tokens=20, seed=6)))[-1] == retried


def test_an_answer_grows_token_by_token_and_never_shows_half_a_character(sft):
    grown = list(speak(sft, [Message(role="user", content="Hi")], Settings(max_new_tokens=40)))
    assert [answer.tokens for answer in grown[:4]] == [0, 1, 2, 3]
    assert not any(answer.text.endswith("\ufffd") for answer in grown[:-1])


def test_the_oldest_question_and_answer_go_first_when_the_context_is_full(sft):
    """Seen red when one message is dropped at a time (an answer would stand first) and when one
    turn too many is.
    """
    pair = ("user", "assistant")
    turns = [
        Message(role=role, content=f"{number} " + "owl " * 60)
        for number in range(5)
        for role in pair
    ]
    messages = [*turns, Message(role="user", content="And now?")]
    for wanted in range(4, 128, 4):
        ids, room, dropped = fit(sft, messages, wanted)
        assert dropped > 0 and messages[dropped].role == "user"
        assert ids == encode_prompt(sft.tokenizer, messages[dropped:])
        assert len(ids) + room <= sft.context and room == wanted
        longer = encode_prompt(sft.tokenizer, messages[dropped - 2 :])
        assert len(longer) + wanted > sft.context  # no more was dropped than had to be


def test_a_message_too_long_for_the_model_says_how_long(sft):
    with pytest.raises(DoesNotFit, match=r"takes \d+ tokens; SFT \(sft\) reads 512"):
        fit(sft, [Message(role="user", content="owl " * 2000)], wanted=64)


def test_a_wish_longer_than_the_context_gets_what_there_is(sft):
    ids, room, dropped = fit(sft, [Message(role="user", content="Hi")], wanted=5000)
    assert room == sft.context - len(ids) and dropped == 0


def test_each_side_remembers_its_own_answers_until_one_is_kept():
    """Seen red when both sides read the left answer."""
    conversation = Conversation([Turn("a", [said("left"), said("right")]), Turn("b")])
    assert [m.content for m in conversation.messages(1)] == ["a", "right", "b"]
    assert not conversation.same_history()
    conversation.turns[0].kept = 0
    assert [m.content for m in conversation.messages(1)] == ["a", "left", "b"]
    assert conversation.same_history()
    alone = Conversation([Turn("a", [said("left"), None]), Turn("b")])
    # the right side joined later
    assert [m.content for m in alone.messages(1)] == ["a", "left", "b"]


def test_scores_are_the_reward_models(catalog, sft):
    from podium.rewards.model import load_reward_model
    from podium.rewards.score import score_texts

    messages = [Message(role="user", content="What food does Bram like?")]
    model, tokenizer = load_reward_model(catalog.reward_folder)
    (expected,) = score_texts(model, tokenizer, [messages], ["Plum jam."])
    ids = [
        *encode_prompt(sft.tokenizer, messages),
        *sft.tokenizer("Plum jam.", add_special_tokens=False)["input_ids"],
    ]
    assert catalog.score(ids) == pytest.approx(expected, abs=1e-5)
    assert catalog.score([*ids, sft.tokenizer.eos_token_id]) == pytest.approx(expected, abs=1e-5)
    assert catalog.score(ids * 100) is None


@pytest.mark.parametrize(
    "text",
    [
        "<script>alert(1)</script>",
        "a & b",
        "&lt;b&gt;",
        "${1}",
        "<img src=x>",
        "Q&A &#60; &amp;lt;",
        "1 < 2",
    ],
)
def test_shown_text_holds_no_markup_and_comes_back_as_it_was_typed(text):
    """Seen red without the ampersand's escape."""
    assert "<" not in shown(text)
    assert typed(shown(text)) == text


def test_the_log_has_a_line_about_each_answer_and_finds_turns_again():
    answer = Answer("SFT", text="<b>", tokens=1, ending="cut off", seed=7, dropped=2, score=1.234)
    conversation = Conversation([Turn("a", [answer, None]), Turn("b")])
    assert [m["content"] for m in log_of(conversation, 0)] == ["a", "&lt;b>", about(answer), "b"]
    assert about(answer) == (
        "SFT · reward +1.23 · 1 token · cut off at the limit · seed 7"
        " · the 2 oldest messages did not fit and were left out"
    )
    assert [turn_at(conversation, 0, place) for place in range(5)] == [0, None, None, 1, None]
    assert [turn_at(conversation, 1, place) for place in range(3)] == [0, 1, None]
