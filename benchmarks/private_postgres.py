"""A PostgreSQL cluster of one's own in a temporary folder, for benchmarks and tests.

initdb refuses to run as root, so under root the cluster belongs to the system's user `postgres`.
Nothing listens beyond the loopback address and nothing is left behind.
"""

import os
import pwd
import shutil
import socket
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

STARTUP_SECONDS = 60


class Cluster:
    """A running cluster. `url(name)` makes an empty database and returns its SQLAlchemy URL."""

    def __init__(self, folder: Path, binaries: Path, user: str) -> None:
        self.folder, self.binaries, self.user = folder, binaries, user
        self.port = _free_port()

    def start(self) -> None:
        options = (
            f"-p {self.port} -h 127.0.0.1 -k {self.folder} -c fsync=off -c max_connections=200"
        )
        self.run(
            "pg_ctl",
            "start",
            "-w",
            "-t",
            str(STARTUP_SECONDS),
            "-D",
            str(self.folder / "data"),
            "-l",
            str(self.folder / "log"),
            "-o",
            options,
        )

    def stop(self, mode: str = "fast") -> None:
        self.run("pg_ctl", "stop", "-w", "-m", mode, "-D", str(self.folder / "data"))

    def restart_hard(self) -> None:
        """As after a crash: connections die in the middle, the log is replayed."""
        self.stop("immediate")
        self.start()

    def url(self, name: str) -> str:
        self.run("createdb", "-h", "127.0.0.1", "-p", str(self.port), "-U", self.user, name)
        return f"postgresql://{self.user}@127.0.0.1:{self.port}/{name}"

    def run(self, program: str, *arguments: str) -> None:
        as_user = ["runuser", "-u", self.user, "--"] if os.geteuid() == 0 else []
        command = [*as_user, str(self.binaries / program), *arguments]
        done = subprocess.run(
            command, cwd=self.folder, capture_output=True, text=True, timeout=120, check=False
        )
        if done.returncode:
            raise RuntimeError(f"{program}: {done.stdout}{done.stderr}")


def find_binaries() -> Path | None:
    """Where initdb and pg_ctl are: on the path, or in Debian's place. None = not installed."""
    found = shutil.which("initdb")
    if found:
        return Path(found).resolve().parent
    places = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"))
    return places[-1].parent if places else None


@contextmanager
def private_cluster(binaries: Path) -> Iterator[Cluster]:
    """Start a cluster; stop and delete it in the end."""
    user = "postgres" if os.geteuid() == 0 else pwd.getpwuid(os.geteuid()).pw_name
    # not pytest's folder: the other user could not enter it
    folder = Path(tempfile.mkdtemp(prefix="podium-pg-"))
    if os.geteuid() == 0:
        shutil.chown(folder, user)
    cluster = Cluster(folder, binaries, user)
    try:
        cluster.run(
            "initdb",
            "-D",
            str(folder / "data"),
            "-U",
            user,
            "--auth=trust",
            "--no-sync",
            "-E",
            "UTF8",
        )
        cluster.start()
        yield cluster
    finally:
        if (folder / "data" / "postmaster.pid").exists():
            cluster.stop("immediate")
        time.sleep(0.1)
        shutil.rmtree(folder, ignore_errors=True)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
