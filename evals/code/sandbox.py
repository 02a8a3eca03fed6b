"""Where programs that a model wrote are run, so that none can harm the machine.

A program is untrusted: it may loop for ever, fork, fill memory or disk, read what it finds, or call
home. Codex's authors used gVisor and a firewall (Chen et al. 2021, section 2.3) and say of their
released `reliability_guard` that it is no sandbox. Here `bubblewrap`, the tool that Flatpak stands
on, gives the program namespaces of its own: no network, no other process, no files but Python's own
(read-only) and an empty folder in memory, no environment. The kernel's limits on time, memory,
processes and file size hold inside.
"""

import contextlib
import os
import resource
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Literal

from podium.errors import PlatformError

Verdict = Literal["passed", "failed", "timed out"]

NOBODY = 65534
SCRATCH_BYTES = 16 * 2**20
OUTPUT_BYTES = 2**20
SHOWN_CHARACTERS = 300


@dataclass(frozen=True)
class Limits:
    """What a program may use: seconds on the clock, bytes of memory a process, processes."""

    seconds: float = 5.0
    memory: int = 512 * 2**20
    processes: int = 16


@dataclass(frozen=True)
class Outcome:
    """How a program ended; `detail` is the last line it wrote to stderr, or the reason."""

    verdict: Verdict
    detail: str = ""


def check_sandbox(confined: bool = True) -> None:
    """Find out before anything is sampled whether programs can be run.

    Raises:
        PlatformError: bubblewrap is missing, or the system does not let it make namespaces.
    """
    if not confined:
        return
    if shutil.which("bwrap") is None:
        raise PlatformError(
            "programs that a model wrote run in a sandbox only, and `bwrap` (bubblewrap) is not "
            "installed",
            "apt install bubblewrap; in a throw-away machine --unconfined does without",
        )
    outcome = run_program("pass")
    if outcome.verdict != "passed":
        raise PlatformError(
            f"the sandbox does not start here: {outcome.detail}",
            "allow user namespaces (sysctl kernel.unprivileged_userns_clone=1), or, in a "
            "throw-away machine, give --unconfined",
        )


def run_program(source: str, limits: Limits = Limits(), confined: bool = True) -> Outcome:
    """Run a Python program to its end; it passed when it reached its last line.

    A program that leaves early (`exit()` before the tests) has not passed: after the last line a
    word is written that the program does not know beforehand, and only that word counts.

    Args:
        confined: False leaves out bubblewrap, and with it all but the limits and the empty folder:
            for machines that are thrown away afterwards.
    """
    word = secrets.token_hex(16)
    with tempfile.TemporaryDirectory() as folder, tempfile.TemporaryFile() as output:
        program = Path(folder) / "program.py"
        program.write_text(f"{source}\n\nprint('\\n{word}')\n", encoding="utf-8")
        program.chmod(0o444)
        Path(folder).chmod(0o755)
        with tempfile.TemporaryFile() as errors:
            process = subprocess.Popen(
                [
                    *_limits(limits),
                    *(_confined(folder) if confined else [_python(), "-I", program]),
                ],
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=errors,
                cwd=folder,
                env={"PATH": os.defpath},
                start_new_session=True,
            )
            try:
                process.wait(limits.seconds)
                late = False
            except subprocess.TimeoutExpired:
                late = True
            finally:
                _kill(process)
            if late:
                return Outcome("timed out", f"no end within {limits.seconds:g} s")
            if word.encode() in _tail(output):
                return Outcome("passed")
            said = _tail(errors).decode(errors="replace").strip().splitlines()
            reason = said[-1] if said else _reason(process.returncode)
            return Outcome("failed", reason[:SHOWN_CHARACTERS])


def _confined(folder: str) -> list[str]:
    """bubblewrap's command line: Python's own files and the program, read-only, and no others."""
    shown = ["/usr", "/lib", "/lib64", "/bin", "/etc/ld.so.cache", sys.base_prefix]
    command = ["bwrap", "--die-with-parent", "--new-session", "--clearenv"]
    command += ["--unshare-pid", "--unshare-net", "--unshare-ipc", "--unshare-uts"]
    become = []
    if os.geteuid() == 0:
        # The kernel counts no processes of root, not even in a user namespace, so that a limit on
        # them would hold nothing: root's programs become nobody's.
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}"]
        become += ["--clear-groups", "--no-new-privs"]
    else:
        command += ["--unshare-user", "--uid", str(NOBODY), "--gid", str(NOBODY)]
    for path in dict.fromkeys(shown):
        if Path(path).is_symlink():
            command += ["--symlink", str(Path(path).readlink()), path]
        elif Path(path).exists():
            command += ["--ro-bind", path, path]
    command += ["--proc", "/proc", "--dev", "/dev"]
    command += ["--perms", "1777", "--size", str(SCRATCH_BYTES), "--tmpfs", "/tmp"]
    command += ["--chdir", "/tmp"]
    command += ["--ro-bind", str(Path(folder) / "program.py"), "/tmp/program.py"]
    return [*command, *become, _python(), "-I", "/tmp/program.py"]


def _python() -> str:
    """The interpreter itself, not a virtual environment's link to it: programs get the standard
    library alone.
    """
    return os.path.realpath(sys.executable)


def _limits(limits: Limits) -> list[str]:
    """`prlimit`'s command line. The clock ends a program before the processor's limit does."""
    wanted = {
        "cpu": (resource.RLIMIT_CPU, round(limits.seconds) + 1),
        "as": (resource.RLIMIT_AS, limits.memory),
        "nproc": (resource.RLIMIT_NPROC, limits.processes),
        "fsize": (resource.RLIMIT_FSIZE, OUTPUT_BYTES),
        "core": (resource.RLIMIT_CORE, 0),
        "nofile": (resource.RLIMIT_NOFILE, 64),
    }
    command = ["prlimit"]
    for name, (what, most) in wanted.items():
        ceiling = resource.getrlimit(what)[1]
        bound = most if ceiling == resource.RLIM_INFINITY else min(most, ceiling)
        command.append(f"--{name}={bound}:{bound}")
    return command


def _kill(process: subprocess.Popen[bytes]) -> None:
    """The program with all it started: bubblewrap's namespace ends with its first process."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _tail(file: IO[bytes]) -> bytes:
    handle = file.fileno()
    size = os.fstat(handle).st_size
    return os.pread(handle, 4096, max(0, size - 4096))


def _reason(code: int) -> str:
    number = -code if code < 0 else code - 128  # bubblewrap reports a signal as a shell does
    try:
        return f"killed by {signal.Signals(number).name}"
    except ValueError:
        return f"left with exit code {code} before its last line"
