"""A vLLM server: started, asked, watched and stopped, or joined where one runs already."""

from __future__ import annotations

import atexit
import json
import os
import secrets
import signal
import subprocess
import tempfile
import threading
from contextlib import suppress
from dataclasses import dataclass
from typing import IO, Any

import httpx

from podium.errors import PodiumError
from podium.sampling.vllm.environment import WORKER, find_python, surroundings
from podium.sampling.vllm.worker import TOKEN

START_SECONDS = 900.0  # reading vLLM and a model for the first time
HELLO_SECONDS = 60.0  # until a new process says where it listens
LAST_LINES = 20  # of the server's log in an error


@dataclass(frozen=True)
class Settings:
    """As `podium.sampling.kinds.VllmConfig` tells them."""

    python: str | None = None
    url: str | None = None
    dtype: str = "auto"
    cache_gb: float = 2.0
    folder: str | None = None
    timeout: float = 300.0


class Lost(Exception):
    """The server died, hangs, or failed in its work: start it again and ask once more."""


class Refused(PodiumError):
    """What was asked cannot be done, however often it is asked."""


class Server:
    """One process of ours that runs vLLM, or the one at `settings.url`.

    threads: of the process, on a CPU. `loaded` is the version of the weights that it was last told
    to read, and None where it has none. Use it under `lock`: samplers of a process share it.
    """

    def __init__(self, settings: Settings, threads: int) -> None:
        self.settings, self.threads = settings, threads
        self.lock = threading.RLock()
        self.loaded: str | None = None
        self.joined = settings.url is not None
        self.starts = 0
        self.url = (settings.url or "").rstrip("/")
        self._token = os.environ.get(TOKEN, "")
        self._process: subprocess.Popen[str] | None = None
        self._log: IO[str] | None = None

    @property
    def runs(self) -> bool:
        """Whether there is a process to ask; of one that was joined it is not known."""
        return self.joined or (self._process is not None and self._process.poll() is None)

    def ask(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        """The answer to a request. The server is started where it does not run.

        Raises:
            Lost: it does not answer. Refused: the answer is no, for a reason that stays.
        """
        self._start()
        first = path == "/load" and self.loaded is None
        # A server that works says so every second, so silence is what counts.
        silence = max(self.settings.timeout, START_SECONDS) if first else self.settings.timeout
        try:
            answer = self._stream(path, body, silence)
        except httpx.ReadTimeout as error:
            raise Lost(f"gave no sign of life for {silence:g} s") from error
        except (httpx.TransportError, ValueError) as error:
            raise Lost(self._fate() or f"broke off: {error or type(error).__name__}") from error
        if "error" not in answer:
            return answer
        if answer["error"] in ("empty", "failed"):
            self.loaded = None
            raise Lost(f"failed: {answer['message']}")
        if answer["error"] == "architecture" and not self.joined:
            self.stop()
            return self.ask(path, body)
        raise self._refused(answer)

    def _stream(self, path: str, body: dict[str, Any], silence: float) -> dict[str, Any]:
        headers = {"Authorization": f"Bearer {self._token}"} if self._token else {}
        timeout = httpx.Timeout(30.0, read=silence)
        with httpx.stream(
            "POST", self.url + path, json=body, headers=headers, timeout=timeout, trust_env=False
        ) as response:
            if response.status_code == 401:
                raise Refused(
                    f"the sampler at {self.url} wants another token",
                    f"set the environment variable {TOKEN} to what the server was started with",
                )
            if response.status_code != 200:
                raise Refused(
                    f"{self.url} answers {response.status_code}: it is no sampler of Podium's",
                    "start one there with `podium sampler serve`",
                )
            for line in response.iter_lines():
                told: dict[str, Any] = json.loads(line)
                if "alive" not in told:
                    return told
        raise ValueError("the answer has no end")

    def _refused(self, answer: dict[str, Any]) -> Refused:
        fix = {
            "architecture": "start it anew with `podium sampler serve`, one server a form of model",
            "folder": "set sampler.folder to a place that Podium and the server both see",
        }
        who = self.url if self.joined else "the vLLM server"
        return Refused(f"{who} refuses: {answer['message']}", fix.get(str(answer["error"])))

    def _start(self) -> None:
        if self.runs:
            return
        self.stop()
        python = find_python(self.settings.python)
        self._log = tempfile.TemporaryFile("w+", errors="replace")  # noqa: SIM115
        self._token = secrets.token_urlsafe(16)
        # In a session of its own, so that Ctrl-C reaches Podium alone; its standard input ends with
        # Podium, however that ends.
        self._process = subprocess.Popen(
            [str(python), str(WORKER), "--child"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=self._log,
            text=True,
            env=surroundings(self.threads, self._token),
            start_new_session=True,
        )
        self.starts += 1
        hello = self._hello()
        self.url = f"http://127.0.0.1:{hello['port']}"

    def _hello(self) -> dict[str, Any]:
        assert self._process is not None and self._process.stdout is not None
        told: list[str] = []
        stdout = self._process.stdout
        reader = threading.Thread(target=lambda: told.append(stdout.readline()), daemon=True)
        reader.start()
        reader.join(HELLO_SECONDS)
        try:
            return dict(json.loads(told[0]))
        except (IndexError, ValueError) as error:
            raise Lost(self._fate() or "did not say where it listens") from error

    def _fate(self) -> str:
        """How our process ended; empty while it runs, or if it is not ours."""
        if self._process is None:
            return ""
        with suppress(subprocess.TimeoutExpired):
            code = self._process.wait(1.0)
            return f"ended by {signal.Signals(-code).name}" if code < 0 else f"ended with {code}"
        return ""

    def last_lines(self) -> str:
        """The end of our process's log; empty for a server that was joined."""
        if self._log is None:
            return ""
        self._log.seek(0)
        return "\n".join(self._log.read().splitlines()[-LAST_LINES:])

    @property
    def pid(self) -> int | None:
        """Our process; None where there is none."""
        return self._process.pid if self._process is not None else None

    def stop(self) -> None:
        """End our process and all that it started. A server that was joined stays."""
        self.loaded = None
        if self._process is None:
            return
        with suppress(ProcessLookupError, PermissionError):
            os.killpg(self._process.pid, signal.SIGKILL)
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                with suppress(OSError):
                    pipe.close()
        self._process = None


SERVERS: dict[tuple[Settings, int], Server] = {}
_users: dict[tuple[Settings, int], int] = {}


def shared_server(settings: Settings, threads: int) -> Server:
    """The server that all samplers of this process with the same section use; each calls `give_up`
    once.
    """
    key = settings, threads
    _users[key] = _users.get(key, 0) + 1
    return SERVERS.setdefault(key, Server(settings, threads))


def give_up(server: Server) -> None:
    """One sampler fewer; with the last the process ends, and frees what it held."""
    key = server.settings, server.threads
    _users[key] = _users.get(key, 1) - 1
    if _users[key] <= 0:
        _users.pop(key)
        SERVERS.pop(key, None)
        server.stop()


@atexit.register
def _stop_all() -> None:
    for server in list(SERVERS.values()):
        server.stop()
