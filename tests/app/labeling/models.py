"""A server of chat completions on this machine: answers that can be told apart, and failures."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any

ANSWERS = [f"Answer {word}." for word in ("one", "two", "three", "four", "five", "six")]


class ModelServer:
    """`asked` are the bodies of all requests; `broken` makes it answer 500."""

    def __init__(self) -> None:
        self.asked: list[dict[str, Any]] = []
        self.headers: list[dict[str, str]] = []
        self.broken = threading.Event()
        self.hold: threading.Event | None = None  # nothing is answered before it is set
        self.reply: bytes | None = None  # in place of an answer
        self.lock = threading.Lock()
        self.address = ""

    def answer(self, body: dict[str, Any]) -> tuple[int, bytes]:
        if self.hold is not None:
            self.hold.wait(20)
        if self.broken.is_set():
            return 500, b"{}"
        with self.lock:
            text = ANSWERS[len(self.asked) % len(ANSWERS)]
            self.asked.append(body)
        if self.reply is not None:
            return 200, self.reply
        choice = {"index": 0, "message": {"role": "assistant", "content": text}}
        return 200, json.dumps({"choices": [choice]}).encode()


@contextmanager
def model_server() -> Iterator[ModelServer]:
    model = ModelServer()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            model.headers.append(dict(self.headers))
            status, content = model.answer(body)
            self.send_response(status)
            self.send_header("Content-Length", str(len(content)))
            self.end_headers()
            self.wfile.write(content)

        def log_message(self, *_: Any) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    model.address = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield model
    finally:
        server.shutdown()
        server.server_close()
