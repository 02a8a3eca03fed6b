"""`podium serve`, started as users start it, and OpenAI's own client talking to it."""

import json
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import openai
import pytest

from podium.models import load_causal_lm, load_tokenizer
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.protocol import SamplingParams
from tests.app.chat.starting import PATIENCE_SECONDS, refused, started
from tests.evals.miniature import CONTEXT, make_run

KEY = "a-key-of-sixteen-or-more"
ASKED = [{"role": "user", "content": "What does Bram like?"}]


@pytest.fixture(scope="module")
def run(tokenizer, tmp_path_factory) -> Path:
    """A run with base, SFT, reward, PPO-ptx and plain PPO, all of them untrained."""
    from evals.evaluate import Config

    return make_run(tmp_path_factory.mktemp("runs"), tokenizer, Config())[1]


@pytest.fixture(scope="module")
def served(run, tmp_path_factory):
    """`podium serve RUN --port 0`, with a key from a file and room for twelve answers."""
    folder = tmp_path_factory.mktemp("served")
    (folder / "keys").write_text(f"# of the tests\n{KEY}\n")
    options = ["--port", 0, "--keys", "keys", "--queue", 12]
    with started(folder, "serve", run, *options, expected="endpoint") as running:
        yield running


@pytest.fixture(scope="module")
def address(served) -> str:
    return served.addresses["endpoint"]


@pytest.fixture(scope="module")
def client(address):
    with openai.OpenAI(
        base_url=address, api_key=KEY, timeout=PATIENCE_SECONDS, max_retries=0
    ) as client:
        yield client


def post(address: str, path: str, body, key: str | None = KEY, **headers) -> httpx.Response:
    head = {"authorization": f"Bearer {key}"} if key else {}
    content = body if isinstance(body, bytes) else json.dumps(body).encode()
    return httpx.post(
        address + path, content=content, headers=head | headers, timeout=PATIENCE_SECONDS
    )


def said(stream) -> tuple[str, list[str]]:
    """The text of a stream and why it ended."""
    text, ends = "", []
    for chunk in stream:
        for choice in chunk.choices:
            text += choice.delta.content or ""
            ends += [choice.finish_reason] if choice.finish_reason else []
    return text, ends


def test_the_models_of_the_run_are_listed(client):
    names = [model.id for model in client.models.list()]
    assert names == ["pretrain", "sft", "ppo", "ppo_plain"]
    assert client.models.retrieve("ppo_plain").owned_by == "podium"
    with pytest.raises(
        openai.NotFoundError, match="there is no model 'gpt-4'; there are: pretrain"
    ):
        client.chat.completions.create(model="gpt-4", messages=ASKED)


def test_an_answer_is_what_the_sampler_says_streamed_or_not(client, run):
    """The same seed, the same answer; and the sampler's own, by which the chain is measured."""
    wish = {"model": "ppo", "messages": ASKED, "seed": 7, "max_tokens": 24, "temperature": 0.7}
    whole = client.chat.completions.create(**wish)
    text, ends = said(client.chat.completions.create(**wish, stream=True))
    assert whole.choices[0].message.content == text and whole.choices[0].finish_reason == ends[0]

    from data.records import Message
    from data.template import decode_response, encode_prompt, stop_token_ids

    model, tokenizer = load_causal_lm(run / "ppo/final"), load_tokenizer(run / "ppo/final")
    prompt = encode_prompt(tokenizer, [Message(**ASKED[0])])
    stops = stop_token_ids(tokenizer, model)
    params = SamplingParams(24, temperature=0.7, seed=7, stop_token_ids=stops)
    sample = EmbeddedSampler(model, 1).generate([prompt], params)[0]
    assert decode_response(tokenizer, sample.tokens) == text
    assert whole.usage.prompt_tokens == len(prompt)
    assert whole.usage.completion_tokens == len(sample.tokens) - sample.finished


def test_ten_clients_at_once_one_of_them_rude(client, served, address):
    """One closes its stream after three events; nine get what they get alone, and the rude one's
    place is free again: twelve more are served. Mutation seen red: `_Stream` closes nothing.
    """
    wish = {"model": "sft", "messages": ASKED, "max_tokens": 60, "temperature": 1.0}
    alone = [said(client.chat.completions.create(**wish, seed=i, stream=True)) for i in range(9)]

    def rude() -> None:
        body = wish | {"seed": 99, "stream": True, "max_tokens": 400, "n": 3}
        with httpx.stream(
            "POST",
            f"{address}/chat/completions",
            json=body,
            headers={"authorization": f"Bearer {KEY}"},
            timeout=PATIENCE_SECONDS,
        ) as response:
            for number, _ in enumerate(response.iter_lines()):
                if number > 6:
                    return

    with ThreadPoolExecutor(10) as pool:
        gone = pool.submit(rude)
        polite = [
            pool.submit(
                lambda i=i: said(client.chat.completions.create(**wish, seed=i, stream=True))
            )
            for i in range(9)
        ]
        assert [one.result() for one in polite] == alone
        gone.result()
    everybody = client.chat.completions.create(**wish | {"max_tokens": 4}, n=12)
    assert len(everybody.choices) == 12
    assert "Traceback" not in served.complaints.read_text()


def test_who_comes_too_many_is_told_to_wait(client):
    with pytest.raises(openai.RateLimitError) as refusal:
        client.chat.completions.create(model="sft", messages=ASKED, n=13, max_tokens=1)
    assert refusal.value.response.headers["retry-after"] == "1"
    assert refusal.value.code == "rate_limit_exceeded"


def test_several_answers_of_one_seed_differ_and_come_again(client):
    wish = {"model": "sft", "messages": ASKED, "seed": 3, "max_tokens": 12, "n": 3}
    first, again = (client.chat.completions.create(**wish) for _ in range(2))
    texts = [choice.message.content for choice in first.choices]
    assert len(set(texts)) == 3
    assert texts == [choice.message.content for choice in again.choices]


def test_a_stop_text_ends_an_answer_before_it_and_is_never_streamed(client):
    """The text is found in what is said without it; it may span tokens."""
    wish = {"model": "sft", "messages": ASKED, "seed": 1, "max_tokens": 40}
    whole = client.chat.completions.create(**wish).choices[0].message.content
    stop = whole[6:9]
    assert stop and stop not in whole[:6]
    ended = client.chat.completions.create(**wish, stop=[stop, "never said"]).choices[0]
    assert ended.message.content == whole[:6] and ended.finish_reason == "stop"
    assert said(client.chat.completions.create(**wish, stop=stop, stream=True)) == (
        whole[:6],
        ["stop"],
    )


def test_logprobs_are_the_models_own(client, run):
    """At temperature 0 with the likeliest beside each; texts carry the older form."""
    chosen = client.chat.completions.create(
        model="sft", messages=ASKED, max_tokens=6, temperature=0, logprobs=True, top_logprobs=2
    ).choices[0]
    assert len(chosen.logprobs.content) == 6
    for token in chosen.logprobs.content:
        assert token.top_logprobs[0].token == token.token
        assert token.logprob == pytest.approx(token.top_logprobs[0].logprob)
        assert token.logprob >= token.top_logprobs[1].logprob
    tokenizer, model = load_tokenizer(run / "sft/final"), load_causal_lm(run / "sft/final")
    prompt = tokenizer("The owl")["input_ids"]
    text = client.completions.create(
        model="sft", prompt="The owl", max_tokens=5, temperature=0.5, seed=2, logprobs=3
    ).choices[0]
    sample = EmbeddedSampler(model, 1).generate(
        [prompt], SamplingParams(5, temperature=0.5, seed=2)
    )[0]
    expected = EmbeddedSampler(model, 1).logprobs([prompt], [sample.tokens])[0]
    assert text.logprobs.token_logprobs == pytest.approx(expected, abs=2e-5)
    # by their text, as this older form has it: parts of characters share one
    assert all(1 <= len(top) <= 3 for top in text.logprobs.top_logprobs)


def test_texts_go_on_one_or_many_and_ids_are_a_prompt_too(client, run):
    tokenizer = load_tokenizer(run / "sft/final")
    wish = {"model": "sft", "max_tokens": 8, "temperature": 0}
    both = client.completions.create(prompt=["The owl", "Ana"], **wish)
    one = client.completions.create(prompt=tokenizer("Ana")["input_ids"], **wish)
    assert [choice.index for choice in both.choices] == [0, 1]
    assert both.choices[1].text == one.choices[0].text != both.choices[0].text
    stream = client.completions.create(
        prompt="Ana", stream=True, stream_options={"include_usage": True}, **wish
    )
    chunks = list(stream)
    assert "".join(c.choices[0].text for c in chunks if c.choices) == one.choices[0].text
    assert chunks[-1].usage.completion_tokens == 8


@pytest.mark.parametrize(
    ("change", "status", "param", "words"),
    [
        ({"messages": []}, 400, "messages", "at least 1 item"),
        ({"temperature": 3}, 400, "temperature", "less than or equal to 2"),
        ({"seed": "x"}, 400, "seed", "valid integer"),
        (
            {"stop": ""},
            400,
            "stop.function-after[_stop_text(), function-after[_encodable(), str]]",
            "",
        ),
        ({"max_tokens": 4000}, 400, "max_tokens", f"reads {CONTEXT} tokens in all"),
        ({"tools": [{"type": "function"}]}, 400, "tools", "not supported"),
        ({"response_format": {"type": "json_object"}}, 400, "response_format.type", "'text'"),
        ({"presence_penalty": 1}, 400, "presence_penalty", "Input should be 0"),
        ({"messages": [{"role": "king", "content": "a"}]}, 400, "messages.0.role", "'system'"),
        ({"messages": ASKED * 200}, 400, "messages", f"reads {CONTEXT} tokens in all"),
        ({"model": "nobody"}, 404, "model", "there is no model"),
    ],
)
def test_what_cannot_be_honoured_is_refused_by_name(address, change, status, param, words):
    answer = post(address, "/chat/completions", {"model": "sft", "messages": ASKED} | change)
    error = answer.json()["error"]
    assert answer.status_code == status and error["type"] == "invalid_request_error"
    assert words in error["message"] and (param == error["param"] or change == {"stop": ""})


def test_strangers_broken_bodies_and_other_sites_are_refused(address):
    """Without a key nothing is told, and no long body is read. Every refusal has OpenAI's shape."""
    wish = {"model": "sft", "messages": ASKED, "max_tokens": 1}
    for key in (None, "a-wrong-key-of-sixteen"):
        answer = post(address, "/chat/completions", wish, key)
        assert answer.status_code == 401 and answer.json()["error"]["code"] == "invalid_api_key"
        assert httpx.get(f"{address}/models", headers={}).status_code == 401
        assert post(address, "/chat/completions", b"x" * 100_000, key).status_code == 401
    for broken in (b"{", b"[" * 100_000, b"\xff", b"[]", b"null"):
        answer = post(address, "/chat/completions", broken)
        assert answer.status_code == 400 and answer.json()["error"]["message"]
    assert post(address, "/chat/completions", b"x" * 3_000_000).status_code == 413
    assert post(address, "/chat/completions", wish, origin="http://evil.example").status_code == 403
    assert post(address, "/chat/completions", wish, host="evil.example").status_code == 400
    answer = post(address, "/embeddings", {})
    assert answer.status_code == 404 and answer.json()["error"]["message"] == "Not Found"
    assert post(address, "/chat/completions", wish).status_code == 200


def test_text_in_parts_and_the_developers_word_are_read(client):
    parts = [
        {"role": "developer", "content": "Be brief."},
        {
            "role": "user",
            "content": [
                {"type": "text", "text": "What does "},
                {"type": "text", "text": "Bram like?"},
            ],
        },
    ]
    plain = [{"role": "system", "content": "Be brief."}, *ASKED]
    first, second = (
        client.chat.completions.create(model="sft", messages=m, max_tokens=9, seed=1)
        for m in (parts, plain)
    )
    assert first.choices[0].message.content == second.choices[0].message.content
    with pytest.raises(openai.BadRequestError, match="reads nothing else"):
        image = [{"type": "image_url", "image_url": {"url": "data:,"}}]
        client.chat.completions.create(model="sft", messages=[{"role": "user", "content": image}])


@pytest.mark.slow
def test_without_a_key_only_this_machine_is_served(run, tmp_path):
    assert "no key is asked for" in refused(tmp_path, "serve", run, "--host", "0.0.0.0")
    (tmp_path / "keys").write_text("short\n")
    said = refused(tmp_path, "serve", run, "--keys", "keys")
    assert "line 1: a key has at least 16 characters" in said


@pytest.mark.slow
def test_ctrl_c_ends_it_in_the_middle_of_an_answer(run, tmp_path):
    """One model, without a key."""
    with started(tmp_path, "serve", run / "sft", "--port", 0, expected="endpoint") as running:
        client = openai.OpenAI(base_url=running.addresses["endpoint"], api_key="any")
        assert [model.id for model in client.models.list()] == ["sft"]
        stream = client.chat.completions.create(
            model="sft", messages=ASKED, max_tokens=400, stream=True
        )
        next(iter(stream))
        assert running.interrupt() == 130
    assert "Traceback" not in running.complaints.read_text()
