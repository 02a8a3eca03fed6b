"""The commands that serve a page, started as people start them, and what a visitor does there."""

import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

FINISHED = re.compile(r"(ended|cut off at the limit|stopped) · seed \d+")
PATIENCE_SECONDS = 120
# What axe finds in Gradio's own markup, which nothing outside of it can name or take apart.
GRADIO = (
    ("landmark-unique", ".placeholder-content"),  # two empty logs: a landmark each, without a name
    ("nested-interactive", ".toast-header"),  # a toast's head is a button around its closing button
    ("color-contrast", ".toast-"),  # of a toast that is just coming or going
)
PATIENCE = 1000 * PATIENCE_SECONDS  # as Playwright counts


def command(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "podium.cli", *map(str, arguments)]


@dataclass
class Started:
    """A running command, the addresses it printed by name, and where its complaints go."""

    process: subprocess.Popen
    addresses: dict[str, str]
    complaints: Path

    def interrupt(self) -> int:
        """Ctrl-C; returns the exit code."""
        self.process.send_signal(signal.SIGINT)
        return self.process.wait(PATIENCE_SECONDS)


@contextmanager
def started(folder: Path, *arguments: object, expected: str = "chat") -> Iterator[Started]:
    """`podium ARGUMENTS` with `folder` as its working directory, once it has printed the expected
    address.
    """
    complaints = folder / "stderr.txt"
    with complaints.open("w") as errors:
        process = subprocess.Popen(
            command(*arguments),
            cwd=folder,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env=os.environ
            | {"PYTHONPATH": str(Path(__file__).parents[3]), "PYTHONUNBUFFERED": "1"},
        )
    try:
        addresses: dict[str, str] = {}
        assert process.stdout is not None
        for line in process.stdout:
            addresses |= dict(re.findall(r"(\w[\w ]*): (http://[^\s]+)", line))
            if expected in addresses:
                break
        assert expected in addresses, complaints.read_text()
        yield Started(process, addresses, complaints)
    finally:
        process.kill()
        process.wait()
        process.stdout.close()


def refused(folder: Path, *arguments: object) -> str:
    """What a command says that ends with the exit code for bad input, without a traceback."""
    env = os.environ | {"PYTHONPATH": str(Path(__file__).parents[3])}
    done = subprocess.run(
        command(*arguments),
        cwd=folder,
        capture_output=True,
        text=True,
        env=env,
        timeout=PATIENCE_SECONDS,
        check=False,
    )
    assert done.returncode == 2 and "Traceback" not in done.stderr, done.stderr
    return done.stderr
