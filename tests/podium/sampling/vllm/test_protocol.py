"""How Podium starts, asks, watches and stops a sampling server, with a process that speaks the
protocol and has no vLLM in it.
"""

import gc
import os
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from podium.errors import PlatformError, PodiumError
from podium.sampling.kinds import VllmConfig, make_sampler, make_streaming_sampler
from podium.sampling.protocol import SamplingParams, StopStrings
from podium.sampling.vllm import server as servers
from podium.sampling.vllm.sampler import StaleWeightsError, row_seed

STAND_IN = Path(__file__).with_name("stand_in.py")
PROMPTS = [[5, 6, 7], [8], [9, 10]]
PARAMS = SamplingParams(6, seed=3)


@pytest.fixture
def requests(tmp_path, monkeypatch) -> Path:
    """The folder in which a file asks the stand-in to misbehave."""
    folder = tmp_path / "requests"
    folder.mkdir()
    monkeypatch.setenv("STAND_IN", str(folder))
    monkeypatch.setattr(servers, "WORKER", STAND_IN)
    return folder


@pytest.fixture
def sample_by(requests, tiny_llama, tmp_path):
    """`sample_by(**keys)` makes a sampler with the stand-in behind it; it ends with the test."""
    made = []

    def make(**keys):
        config = VllmConfig(
            **{"python": sys.executable, "folder": str(tmp_path / "weights"), **keys}
        )
        made.append(make_sampler(config, tiny_llama, 1))
        return made[-1]

    yield make
    for sampler in made:
        sampler.server.stop()


@pytest.fixture
def running(requests):
    """A server that was started by somebody else: its URL."""
    command = [sys.executable, str(STAND_IN)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
        env=os.environ | {"PODIUM_SAMPLER_TOKEN": "open sesame"},
    )  # fmt: skip
    port = process.stdout.readline().split('"port": ')[1].split(",")[0]
    yield f"http://127.0.0.1:{port}"
    process.kill()
    process.communicate()


def test_answers_come_in_order_and_draw_from_streams_by_seed_and_row(sample_by):
    """Mutations seen red: `first_row` left out of the rows; the seed left out of `row_seed`."""
    sampler = sample_by()
    whole = sampler.generate(PROMPTS, PARAMS)
    assert [sample.logprobs[0] for sample in whole] == [-3, -1, -2]
    assert whole[1:] == sampler.generate(PROMPTS[1:], SamplingParams(6, seed=3, first_row=1))
    assert whole[1:] != sampler.generate(PROMPTS[1:], PARAMS)
    assert whole != sampler.generate(PROMPTS, SamplingParams(6, seed=4))
    assert len({row_seed(seed, row) for seed in range(9) for row in range(9)}) == 81
    assert not any(sample.finished for sample in whole)


def test_a_response_ends_with_a_stop_token_or_text(sample_by):
    """Mutations seen red: stop texts are not looked for; the stop tokens are not sent."""
    sampler = sample_by()
    said = sampler.generate(PROMPTS, PARAMS)[0].tokens
    ended = sampler.generate(PROMPTS, SamplingParams(6, seed=3, stop_token_ids=(said[2],)))[0]
    assert ended.tokens == said[:3] and ended.finished and len(ended.logprobs) == 3
    texts = StopStrings((f"<{said[1]}>",), lambda tokens: "".join(f"<{t}>" for t in tokens))
    cut = sampler.generate(PROMPTS, SamplingParams(6, seed=3, stop=texts))[0]
    assert cut.tokens == said[:2] and cut.finished and len(cut.logprobs) == 2


def test_log_probabilities_of_given_answers_and_of_none(sample_by):
    assert sample_by().logprobs(PROMPTS, [[4, 5], [], [6]]) == [[-4, -5], [], [-6]]


@pytest.mark.parametrize("fault", ["die", "fail"])
def test_a_server_that_is_lost_is_started_again_and_the_batch_repeated(sample_by, requests, fault):
    """Mutations seen red: one try; `loaded` kept when the server stops."""
    sampler = sample_by()
    before = sampler.generate(PROMPTS, PARAMS)
    (requests / fault).touch()
    assert sampler.generate(PROMPTS, PARAMS) == before
    assert sampler.server.starts == 2 and not (requests / fault).exists()


def test_a_server_that_died_between_two_batches_is_started_again_once(sample_by):
    """Mutation seen red: whether it runs is not asked before its weights are taken for read."""
    sampler = sample_by()
    before = sampler.generate(PROMPTS, PARAMS)
    dead = psutil.Process(sampler.server.pid)
    dead.kill()
    sampler.server._process.wait()
    assert sampler.generate(PROMPTS, PARAMS) == before and sampler.server.starts == 2


@pytest.mark.slow
def test_a_server_that_hangs_is_started_again_and_a_slow_one_is_not(sample_by, requests):
    """Mutations seen red: no time-out (the test waits a minute); the whole answer must come in it."""
    sampler = sample_by(timeout=2.0)
    before = sampler.generate(PROMPTS, PARAMS)
    (requests / "slow").touch()
    assert sampler.generate(PROMPTS, PARAMS) == before and sampler.server.starts == 1
    (requests / "hang").touch()
    assert sampler.generate(PROMPTS, PARAMS) == before and sampler.server.starts == 2


def test_a_server_that_fails_again_and_again_is_an_error_with_its_last_lines(sample_by, requests):
    """Mutation seen red: the log is not read."""
    (requests / "fail-always").touch()
    sampler = sample_by()
    with pytest.raises(PodiumError, match=r"RuntimeError: out of memory, 3 times") as caught:
        sampler.generate(PROMPTS, PARAMS)
    assert "no memory left on this planet" in str(caught.value)
    assert sampler.server.starts == 3 and sampler.server.pid is None


def test_an_answer_from_other_weights_is_refused_by_name(sample_by, requests, tiny_llama):
    """The server goes on with its first weights. Mutation seen red: the versions not compared."""
    (requests / "stale").touch()
    sampler = sample_by()
    sampler.generate(PROMPTS, PARAMS)
    old = sampler.version
    sampler.update_weights(tiny_llama)
    with pytest.raises(StaleWeightsError, match=f"weights {old}, and {sampler.version} were asked"):
        sampler.generate(PROMPTS, PARAMS)


def test_samplers_with_one_section_share_a_server_that_ends_with_the_last(sample_by, tiny_llama):
    """Mutations seen red: the second sampler's weights are not read; the server is never stopped."""
    first, second = sample_by(), sample_by()
    assert first.server is second.server
    answers = first.generate(PROMPTS, PARAMS)
    assert second.generate(PROMPTS, PARAMS) == answers == first.generate(PROMPTS, PARAMS)
    assert first.server.starts == 1 and first.version != second.version


def test_nothing_is_left_when_the_last_sampler_is_gone(requests, tiny_llama, tmp_path):
    """Mutations seen red: `give_up` stops nothing; the weights stay."""
    config = VllmConfig(python=sys.executable, folder=str(tmp_path / "weights"))
    sampler = make_sampler(config, tiny_llama, 1)
    sampler.generate(PROMPTS, PARAMS)
    process = psutil.Process(sampler.server.pid)
    assert list((tmp_path / "weights").iterdir())
    del sampler
    gc.collect()
    assert not process.is_running() and not list((tmp_path / "weights").iterdir())


def test_the_server_ends_when_podium_is_killed(sample_by):
    """Its standard input ends then. Mutation seen red: `end_with_parent` not started."""
    sampler = sample_by()
    sampler.generate(PROMPTS, PARAMS)
    process = psutil.Process(sampler.server.pid)
    sampler.server._process.stdin.close()
    process.wait(5)


def test_a_server_that_runs_already_is_joined_and_two_runs_on_it_are_told(
    sample_by, running, monkeypatch
):
    """Mutations seen red: a process of ours is started; the token is not asked for."""
    monkeypatch.setenv("PODIUM_SAMPLER_TOKEN", "open sesame")
    ours, theirs = sample_by(url=running), sample_by(url=running, timeout=9.0)
    assert len(ours.generate(PROMPTS, PARAMS)) == 3 and ours.server.pid is None
    theirs.generate(PROMPTS, PARAMS)
    with pytest.raises(StaleWeightsError, match="a server of its own"):
        ours.generate(PROMPTS, PARAMS)
    monkeypatch.setenv("PODIUM_SAMPLER_TOKEN", "sesame")
    with pytest.raises(PodiumError, match="another token"):
        sample_by(url=running, timeout=8.0).generate(PROMPTS, PARAMS)


def test_a_joined_server_cannot_take_a_model_of_another_form(
    sample_by, running, monkeypatch, tiny_opt
):
    """One of ours is started anew for it."""
    monkeypatch.setenv("PODIUM_SAMPLER_TOKEN", "open sesame")
    joined, own = sample_by(url=running), sample_by()
    for sampler in (joined, own):
        sampler.generate(PROMPTS, PARAMS)
        sampler.update_weights(tiny_opt)
    with pytest.raises(PodiumError, match="a model of another form"):
        joined.generate(PROMPTS, PARAMS)
    assert len(own.generate(PROMPTS, PARAMS)) == 3 and own.server.starts == 2


def test_where_there_is_no_vllm_the_error_says_what_makes_it(tiny_llama, tmp_path, monkeypatch):
    sampler = make_sampler(VllmConfig(python=str(tmp_path / "none")), tiny_llama, 1)
    with pytest.raises(PlatformError, match=r"sampler\.python") as caught:
        sampler.generate(PROMPTS, PARAMS)
    assert "podium sampler install vllm" in caught.value.fix
    monkeypatch.delenv("PODIUM_VLLM_PYTHON", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    with pytest.raises(PlatformError, match="the default folder"):
        make_sampler(VllmConfig(), tiny_llama, 1).generate(PROMPTS, PARAMS)


def test_what_it_cannot_do_is_refused_before_anything_starts(sample_by, tiny_llama, monkeypatch):
    """Mutation seen red: each refusal taken out."""
    sampler = sample_by()
    with pytest.raises(PodiumError, match="context of 128"):
        sampler.generate([[5] * 120], SamplingParams(9))
    with pytest.raises(PodiumError, match="empty prompt"):
        sampler.generate([[]], PARAMS)
    assert sampler.generate([], PARAMS) == [] and sampler.server.starts == 0
    with pytest.raises(PodiumError, match="'vllm' cannot stream"):
        make_streaming_sampler(VllmConfig(python=sys.executable), tiny_llama, 1)
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(PlatformError, match="runs of one process"):
        sample_by()


def test_secrets_stay_here(monkeypatch):
    """Nor does a launcher's group reach the server. Mutation seen red: everything is handed on."""
    from podium.sampling.vllm.environment import surroundings

    monkeypatch.setenv("HF_TOKEN", "hf_secret")
    monkeypatch.setenv("RANK", "1")
    found = surroundings(3, "now")
    assert not {"HF_TOKEN", "RANK"} & found.keys()
    assert found["PODIUM_SAMPLER_TOKEN"] == "now" and found["OMP_NUM_THREADS"] == "3"


def test_the_whole_exchange_is_quick(sample_by):
    """Looking after a server costs milliseconds a batch, not a second."""
    sampler = sample_by()
    sampler.generate(PROMPTS, PARAMS)
    begun = time.monotonic()
    for _ in range(5):
        sampler.generate(PROMPTS, PARAMS)
    assert time.monotonic() - begun < 2.0
