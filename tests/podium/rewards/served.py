"""A real HTTP server that speaks OpenAI's chat completions and says what the test tells it to."""

import json
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Reply = str | tuple[int, str]  # the model's words, or a status and a body


class Served:
    """`url`; what was asked (`questions`), with which headers; how many at once (`most`)."""

    def __init__(self, answer: Callable[[str], Reply], slow: float = 0.0) -> None:
        self.answer, self.slow = answer, slow
        self.questions: list[str] = []
        self.headers: list[dict[str, str]] = []
        self.now = self.most = 0
        self.lock = threading.Lock()
        self.url = ""


@contextmanager
def serving(answer: Callable[[str], Reply], slow: float = 0.0) -> Iterator[Served]:
    """Inside, the server answers at `.url`; `slow` seconds a reply."""
    served = Served(answer, slow)

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            question = body["messages"][-1]["content"]
            with served.lock:
                served.now += 1
                served.most = max(served.most, served.now)
                served.questions.append(question)
                served.headers.append({k.lower(): v for k, v in self.headers.items()})
                found = served.answer(question)
            time.sleep(served.slow)
            status, text = found if isinstance(found, tuple) else (200, _completion(found))
            with served.lock:
                served.now -= 1
            self.send_response(status)
            self.send_header("retry-after", "0")
            self.send_header("content-length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def log_message(self, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    served.url = f"http://127.0.0.1:{server.server_port}/v1"
    try:
        yield served
    finally:
        server.shutdown()
        server.server_close()


def _completion(text: str) -> str:
    return json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]})
