"""A program that a model wrote can do nothing but compute: each case is one that tries more."""

import contextlib
import os
import shutil
import socket
import threading
import time
from pathlib import Path

import pytest

from evals.code.sandbox import Limits, check_sandbox, run_program
from podium.errors import PlatformError

needs_bwrap = pytest.mark.skipif(
    shutil.which("bwrap") is None, reason="bubblewrap is not installed"
)
SHORT = Limits(seconds=10)


@needs_bwrap
@pytest.mark.parametrize(
    ("source", "verdict", "detail"),
    [
        ("assert sum([1, 2]) == 3", "passed", ""),
        ("import math, re, collections, typing; assert math.sqrt(4) == 2", "passed", ""),
        ("assert 1 == 2, 'wrong sum'", "failed", "AssertionError: wrong sum"),
        ("def f(:", "failed", "SyntaxError: invalid syntax"),
        # leaving before the last line is no pass
        ("exit(0)", "failed", "left with exit code 0"),
        ("import os; os._exit(0)", "failed", "left with exit code 0"),
        ("print('passed')\nraise SystemExit", "failed", "left with exit code 0"),
    ],
)  # fmt: skip
def test_only_a_program_that_reaches_its_end_passes(source, verdict, detail):
    outcome = run_program(source, SHORT)
    assert (outcome.verdict, outcome.detail[: len(detail)]) == (verdict, detail), outcome


@needs_bwrap
def test_an_endless_loop_ends_on_time():
    began = time.monotonic()
    assert run_program("while True: pass", Limits(seconds=1)).verdict == "timed out"
    assert run_program("import time; time.sleep(60)", Limits(seconds=1)).verdict == "timed out"
    assert time.monotonic() - began < 15


@needs_bwrap
def test_a_fork_bomb_stays_small_and_leaves_nothing_behind():
    """The kernel counts no processes of root, so that root's programs run as nobody."""
    bomb = """
import os, time
made = 0
while True:
    try:
        if os.fork() == 0:
            time.sleep(600)
        made += 1
    except OSError:
        break
assert made < 20, made
"""
    outcome = run_program(bomb, SHORT)
    assert outcome.verdict == "passed", outcome
    patience = time.monotonic() + 10
    while _commands_with("time.sleep(600)") and time.monotonic() < patience:
        time.sleep(0.1)  # the namespace has ended; the kernel takes its processes one by one
    assert not _commands_with("time.sleep(600)")


@needs_bwrap
def test_memory_and_disk_are_bounded():
    hungry = run_program("x = bytearray(2 * 2**30)", SHORT)
    assert (hungry.verdict, hungry.detail) == ("failed", "MemoryError")
    filling = run_program("open('/tmp/x', 'wb').write(b'0' * 2**26)", SHORT)
    assert filling.verdict == "failed"
    talking = run_program("while True: print('x' * 10000)", SHORT)
    assert talking.verdict == "failed"


@needs_bwrap
def test_the_machines_files_are_neither_seen_nor_changed(tmp_path):
    """Mutation: `--ro-bind / /`."""
    secret = tmp_path / "secret.txt"
    secret.write_text("a key")
    tmp_path.chmod(0o777)
    for source in (
        f"open({str(secret)!r}).read()",
        f"open({str(secret)!r}, 'w').write('gone')",
        f"import os; os.remove({str(secret)!r})",
        "open('/etc/passwd').read()",
        "open('/usr/x', 'w')",
        "open('/tmp/program.py', 'w')",
    ):
        assert run_program(source, SHORT).verdict == "failed", source
    assert secret.read_text() == "a key"


@pytest.mark.slow
@needs_bwrap
def test_nobody_is_called_and_no_secret_is_in_the_environment(monkeypatch):
    """Seen red without `--unshare-net`: the listener was reached."""
    monkeypatch.setenv("API_KEY", "s3cret")
    inside = "import os; assert 'API_KEY' not in os.environ, os.environ"
    assert run_program(inside, SHORT).verdict == "passed"
    with socket.create_server(("127.0.0.1", 0)) as server:
        server.settimeout(0.2)
        port, reached = server.getsockname()[1], []

        def listen():
            with contextlib.suppress(OSError):  # nobody called
                reached.append(server.accept())

        listener = threading.Thread(target=listen)
        call = f"import socket; socket.create_connection(('127.0.0.1', {port}), timeout=1)"
        server.settimeout(8)
        listener.start()
        assert run_program(call, SHORT).verdict == "failed"
        server.close()
        listener.join(10)
        assert not reached


@needs_bwrap
def test_other_processes_are_not_seen():
    source = f"import os; os.kill({os.getpid()}, 0)"
    assert run_program(source, SHORT).verdict == "failed"


def test_without_bubblewrap_nothing_runs_unless_told(monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PlatformError, match="bubblewrap") as error:
        check_sandbox()
    assert error.value.fix and "--unconfined" in error.value.fix
    check_sandbox(confined=False)
    assert run_program("assert True", SHORT, confined=False).verdict == "passed"
    assert run_program("exit(0)", SHORT, confined=False).verdict == "failed"


def _commands_with(text: str) -> list[str]:
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):  # it ended while we looked
            command = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            if text in command or "/tmp/program.py" in command:
                found.append(command)
    return found
