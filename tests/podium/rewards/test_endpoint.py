"""A reward that a served model gives: asked over a real socket, kept on disk, with its key nowhere."""

import pytest
from pydantic import ValidationError

from data.records import Message, Prompt
from podium.errors import EndpointError
from podium.rewards import endpoint as module
from podium.rewards.endpoint import Endpoint, EndpointReward, fill, in_words, read_score
from podium.rewards.kinds import kind_of, make_reward, name_of
from podium.rewards.specs import EndpointSpec, Weighted
from tests.podium.rewards.served import serving
from tests.podium.rewards.test_kinds import Folders

PROMPTS = [Prompt(messages=[Message(role="user", content=f"Tale {i}?")]) for i in range(6)]
ANSWERS = ["a" * (i + 1) for i in range(6)]
KEY = "sk-very-secret-0123456789"


def length(question: str) -> str:
    """A grader that likes length."""
    said = question.partition("[The answer]\n")[2].partition("\n")[0]
    return f"It is clear.\nScore: {len(said)}"


def reward_of(url: str, folder, **keys) -> EndpointReward:
    return EndpointReward(Endpoint(EndpointSpec(endpoint=url, model="m", **keys), folder, 0.001))


def test_scores_come_in_order_and_no_more_at_once_than_allowed(tmp_path):
    """Mutation seen red: `concurrency` left out of the pool (six at once)."""
    with serving(length, slow=0.05) as server:
        found = reward_of(server.url, tmp_path, concurrency=2)(PROMPTS, ANSWERS)
    assert found.tolist() == [1, 2, 3, 4, 5, 6]
    assert server.most == 2 and len(server.questions) == 6
    assert "Tale 0?" in server.questions[0] or "Tale 1?" in server.questions[0]


def test_what_was_answered_is_not_asked_again_and_the_key_is_in_no_file(tmp_path, monkeypatch):
    """Mutations seen red: the reply not kept; the headers kept beside the question."""
    monkeypatch.setenv("MY_KEY", KEY)
    with serving(length) as server:
        first = reward_of(server.url, tmp_path, key_env="MY_KEY")(PROMPTS, ANSWERS)
        again = reward_of(server.url, tmp_path, key_env="MY_KEY")(PROMPTS, ANSWERS)
        assert first.tolist() == again.tolist() and len(server.questions) == 6
        reward_of(server.url, tmp_path, key_env="MY_KEY", temperature=0.5)(PROMPTS[:1], ANSWERS[:1])
        assert len(server.questions) == 7, "other settings are another question"
    assert {h["authorization"] for h in server.headers} == {f"Bearer {KEY}"}
    kept = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert len(kept) == 7 and not any(KEY in path.read_text() for path in kept)


def test_what_is_refused_for_now_or_not_understood_is_asked_again(tmp_path):
    replies = iter([(429, "slow down"), (503, "loading"), "no number here", "Score: 7.5"])
    with serving(lambda question: next(replies)) as server:
        found = reward_of(server.url, tmp_path)(PROMPTS[:1], ANSWERS[:1])
    assert found.tolist() == [7.5] and len(server.questions) == 4


def test_what_never_gives_a_number_names_the_url_the_reply_and_the_fix(tmp_path):
    with serving(lambda question: "I would rather not say.") as server:
        with pytest.raises(EndpointError, match=r"'I would rather not say\.'") as caught:
            reward_of(server.url, tmp_path)(PROMPTS[:1], ANSWERS[:1])
        assert server.url in caught.value.message and "template" in caught.value.fix
    assert not list(tmp_path.rglob("*.json"))


def test_a_server_that_is_not_there_is_named(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "PATIENCE", 2)
    with serving(length) as server:
        gone = server.url
    with pytest.raises(EndpointError, match="cannot be reached") as caught:
        reward_of(gone, tmp_path)(PROMPTS[:1], ANSWERS[:1])
    assert gone in caught.value.message and "what was answered is kept" in caught.value.fix


@pytest.mark.parametrize(
    ("reply", "said", "fix"),
    [
        ((401, f"Incorrect API key provided: {KEY}"), "answered 401.*\\*\\*\\*", "MY_KEY"),
        ((404, "no such model"), "answered 404: no such model", "`model`"),
        ((200, "<html>Welcome</html>"), "does not speak OpenAI's protocol", "localhost:8000/v1"),
    ],
)
def test_what_asking_again_cannot_mend_ends_at_once(tmp_path, monkeypatch, reply, said, fix):
    """And no message repeats the key. Seen red without the replacement in `_error`."""
    monkeypatch.setenv("MY_KEY", KEY)
    with (
        serving(lambda question: reply) as server,
        pytest.raises(EndpointError, match=said) as caught,
    ):
        reward_of(server.url, tmp_path, key_env="MY_KEY")(PROMPTS[:1], ANSWERS[:1])
    assert fix in caught.value.fix and KEY not in str(caught.value)
    assert len(server.questions) == 1


def test_a_key_that_is_not_set_is_said_before_anything_runs(monkeypatch):
    monkeypatch.delenv("MY_KEY", raising=False)
    spec = EndpointSpec(endpoint="http://localhost:1/v1", model="m", key_env="MY_KEY")
    with pytest.raises(EndpointError, match="MY_KEY, which is not set"):
        kind_of(spec).check(spec)


@pytest.mark.parametrize("url", ["https://me:secret@host/v1", "https://host/v1?api-key=secret"])
def test_a_key_in_the_url_is_refused(url):
    """A recipe lies in the run's folder and in its report."""
    with pytest.raises(ValidationError, match="name that by key_env"):
        EndpointSpec(endpoint=url, model="m")
    with pytest.raises(ValidationError, match="give a whole URL"):
        EndpointSpec(endpoint="localhost:8000", model="m")


def test_it_is_a_part_of_a_sum_like_any_other(tmp_path):
    origin = Folders()
    origin.run_dir = tmp_path
    with serving(length) as server:
        spec = EndpointSpec(endpoint=server.url, model="m")
        half = make_reward([Weighted(reward=spec, weight=0.5)], origin)
        assert half(PROMPTS, ANSWERS).tolist() == [0.5, 1, 1.5, 2, 2.5, 3]
        assert name_of(spec) == f"m at {server.url}"
    assert len(list((tmp_path / "asked").rglob("*.json"))) == 6


@pytest.mark.parametrize(
    ("reply", "score"),
    [("Score: 3\nNo, wait.\nScore: 8", 8), ("**Score:** 4.5/10", 4.5), (" 7. ", 7), ("-2", -2)],
)
def test_a_score_is_read_from_words(reply, score):
    assert read_score(reply) == score


def test_a_template_is_filled_once_and_its_other_braces_stay():
    """Mutation seen red: `str.format`, which fails on JSON and fills what an answer wrote."""
    found = fill('{"a": {prompt}} {response}', prompt="{response}", response="R")
    assert found == '{"a": {response}} R'
    turns = [Message(role="user", content="A"), Message(role="assistant", content="B")]
    assert in_words(turns) == "user: A\n\nassistant: B" and in_words(turns[:1]) == "A"
    with pytest.raises(ValueError):
        read_score("There are 3 reasons.")
