"""A web application on a port: until Ctrl-C, or in a thread of this process."""

import asyncio
import logging
import signal
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import uvicorn
from fastapi import FastAPI
from uvicorn.supervisors import Multiprocess

from podium.errors import PlatformError

# labelers read for minutes between requests; a closed connection would fail their next click
KEEP_ALIVE_SECONDS = 75
# a browser that shows the chat holds a connection open for as long as it is looked at
GOODBYE_SECONDS = 3
BACKLOG = 2048
PATIENCE_SECONDS = 60.0


def serve(
    application: FastAPI | Callable[[], FastAPI],
    host: str,
    port: int,
    announce: Callable[[str], None],
    workers: int = 1,
) -> None:
    """Serve until Ctrl-C, which is raised as KeyboardInterrupt when all is closed.

    Args:
        application: with several workers, what each of these processes makes its own from.
        port: 0 = any free one.
        announce: called with the address once the port is ours; who comes early waits, and is
            answered.
        workers: processes on the one port; one that dies is started again.

    Raises:
        PlatformError: the port is taken, or the address is none of this machine's.
    """
    listening = _listen(host, port)
    config = uvicorn.Config(
        application,
        factory=workers > 1,
        workers=workers,
        log_level="warning",
        server_header=False,
        timeout_keep_alive=KEEP_ALIVE_SECONDS,
        timeout_graceful_shutdown=GOODBYE_SECONDS,
    )
    logging.getLogger("uvicorn.error").addFilter(_is_news)
    announce(_address(host, listening))
    if workers > 1:
        _serve_by_several(config, listening)
    else:
        uvicorn.Server(config).run([listening])


def _serve_by_several(config: uvicorn.Config, listening: socket.socket) -> None:
    """As one server does, they end by the signal that stopped them: uvicorn's own supervisor would
    return as if all had been done, and the command's exit code would say so.

    Raises:
        PlatformError: a process did not start, so none would.
    """
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    caught: list[int] = []

    class Supervisor(Multiprocess):
        def handle_int(self) -> None:
            caught.append(signal.SIGINT)
            super().handle_int()

        def handle_term(self) -> None:
            caught.append(signal.SIGTERM)
            super().handle_term()

    Supervisor(config, [listening]).run()
    for number, handler in before.items():
        signal.signal(number, handler)
    if not caught:
        raise PlatformError("a server process did not start", "see the messages above")
    signal.raise_signal(caught[0])


@contextmanager
def serving(application: FastAPI) -> Iterator[str]:
    """An application on a free port, in a thread of this process; yields its address."""
    listening = _listen("127.0.0.1", 0)
    config = uvicorn.Config(
        application, log_level="warning", timeout_graceful_shutdown=GOODBYE_SECONDS
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, args=[[listening]], daemon=True)
    thread.start()
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not server.started:
        if not thread.is_alive() or time.monotonic() > deadline:
            raise PlatformError("the server did not start", "see the messages above")
        time.sleep(0.02)
    try:
        yield _address("127.0.0.1", listening)
    finally:
        server.should_exit = True
        thread.join()


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        listening = socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        raise PlatformError(
            f"cannot listen on {host}:{port}: {error.strerror or error}",
            "take another --port, or --port 0 for a free one",
        ) from error
    listening.set_inheritable(True)  # for the other processes where there are several
    return listening


def _address(host: str, listening: socket.socket) -> str:
    name = {"0.0.0.0": "localhost", "::": "localhost"}.get(host, host)
    port = listening.getsockname()[1]
    return f"http://[{name}]:{port}" if ":" in name else f"http://{name}:{port}"


def _is_news(record: logging.LogRecord) -> bool:
    """Not news: after Ctrl-C, whoever still listens when GOODBYE_SECONDS are over is cut off."""
    cut_off = record.exc_info and isinstance(record.exc_info[1], asyncio.CancelledError)
    return not cut_off and "timeout graceful shutdown exceeded" not in record.msg
