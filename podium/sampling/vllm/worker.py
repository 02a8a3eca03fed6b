"""The process that runs vLLM for Podium: token ids come in, token ids and log-probabilities go out.

vLLM's own Python runs this file, and Podium is not installed there: nothing of ours is imported.
It speaks HTTP, with JSON both ways. An answer is lines: `{"alive": steps}` about once a second
while vLLM works, then one line with the answer, or with `error` (a word of ERRORS) and `message`.
Every answer says which version of the weights it is from, as it stands in the folder that was read.

`/load` takes the folder of a model, `/generate` rows to continue, `/logprobs` rows to read.
"""

import argparse
import contextlib
import hashlib
import hmac
import json
import os
import queue
import sys
import threading
from collections.abc import Callable
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

VERSION = "podium_version.json"
TOKEN = "PODIUM_SAMPLER_TOKEN"  # the variable with what every request must bring, if it is set
ERRORS = ("empty", "architecture", "folder", "failed")
ALIVE_SECONDS = 1.0
SETTINGS = {
    # The engine in this process: whoever ends it ends all of it.
    "VLLM_ENABLE_V1_MULTIPROCESSING": "0",
    # Where `temper` finds the function that makes log-probabilities.
    "VLLM_USE_V2_MODEL_RUNNER": "0",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "HF_HUB_OFFLINE": "1",
    # As many threads as OMP_NUM_THREADS says, and none nailed to a core that others use too.
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
}
Answer = dict[str, Any]
Tell = Callable[[Answer], None]


class Refusal(Exception):
    """What cannot be done, by a word of ERRORS, and why."""

    def __init__(self, error: str, message: str) -> None:
        super().__init__(message)
        self.answer = {"error": error, "message": message}


class Engine:
    """vLLM with one model, whose weights are replaced in place."""

    def __init__(self) -> None:
        self.llm: Any = None
        self.shape = ""  # what cannot be changed in place: architecture, type, room
        self.version = ""  # of the weights; empty while they are none or half replaced
        self.steps = 0

    def load(self, asked: Answer, tell: Tell) -> Answer:
        """Read the weights in `folder`, for the first time or in place of others."""
        folder = Path(asked["folder"])
        try:
            version = json.loads((folder / VERSION).read_text())["version"]
            config = (folder / "config.json").read_text()
        except OSError as error:
            raise Refusal("folder", f"{folder} cannot be read: {error}") from error
        room = [asked[key] for key in ("dtype", "rows", "cache_bytes")]
        shape = hashlib.sha256(json.dumps([config, room]).encode()).hexdigest()
        if self.llm is not None and shape != self.shape:
            raise Refusal("architecture", "this server was started with a model of another form")
        self.version = ""
        if self.llm is None:
            self.llm, self.shape = self._start(folder, *room), shape
        else:
            self.llm.collective_rpc("reload_weights", kwargs={"weights_path": str(folder)})
            self.llm.collective_rpc(_repack_heads)
            self.llm.reset_prefix_cache()
        self.version = version
        return {"version": self.version}

    def _start(self, folder: Path, dtype: str, rows: int, cache_bytes: int) -> Any:
        import torch

        eager = not torch.cuda.is_available()
        if eager:
            # Without it vLLM's log-probabilities wait 20 s for a compiler on a CPU.
            torch._dynamo.config.disable = True
        from vllm import LLM

        llm = LLM(
            model=str(folder),
            skip_tokenizer_init=True,
            dtype=dtype,
            max_model_len=-1,  # the model's own context, or as much of it as the cache holds
            max_num_seqs=rows,
            kv_cache_memory_bytes=cache_bytes,
            enforce_eager=eager,
            # A prompt read in pieces takes a draw of its seed back, which fails on a CPU (0.32).
            enable_chunked_prefill=False,
            enable_prefix_caching=False,  # nothing of older weights can answer
            logprobs_mode="raw_logprobs",
            seed=0,
            disable_log_stats=True,
        )
        step = llm.llm_engine.step

        def counted() -> Any:
            self.steps += 1
            return step()

        llm.llm_engine.step = counted
        return llm

    def generate(self, asked: Answer, tell: Tell) -> Answer:
        """Continue every row of `prompts`, each with its own seed."""
        from vllm import SamplingParams

        self._need()
        self._temper(asked["temperature"] or 1.0)
        same = {
            "max_tokens": asked["max_new_tokens"],
            "temperature": asked["temperature"],
            "top_p": asked["top_p"],
            "top_k": asked["top_k"],
            "stop_token_ids": asked["stop_token_ids"],
            "allowed_token_ids": self._present(asked["absent_token_ids"]),
            "ignore_eos": True,  # the stops are those that were named
            "logprobs": 0,
            "detokenize": False,
        }
        params = [SamplingParams(seed=seed, **same) for seed in asked["seeds"]]
        rows = []
        for done in self._run(asked["prompts"], params, tell):
            said = done.outputs[0]
            found = zip(said.token_ids, said.logprobs, strict=True)
            rows.append(
                {"tokens": list(said.token_ids), "logprobs": [at[t].logprob for t, at in found]}
            )
        return {"version": self.version, "rows": rows}

    def logprobs(self, asked: Answer, tell: Tell) -> Answer:
        """Log-probabilities of the last `counts[i]` tokens of row i, each count at least 1."""
        from vllm import SamplingParams

        self._need()
        self._temper(asked["temperature"] or 1.0)
        # The last token is the one that may be drawn: so a row may be as long as the context.
        params = [
            SamplingParams(
                max_tokens=1,
                temperature=0,
                logprobs=0,
                prompt_logprobs=0 if count > 1 else None,
                allowed_token_ids=[row[-1]],
                ignore_eos=True,
                detokenize=False,
            )
            for row, count in zip(asked["rows"], asked["counts"], strict=True)
        ]
        found = []
        done = self._run([row[:-1] for row in asked["rows"]], params, tell)
        for row, count, one in zip(asked["rows"], asked["counts"], done, strict=True):
            before = (one.prompt_logprobs or [])[len(row) - count :] if count > 1 else []
            steps = [*before, one.outputs[0].logprobs[0]]
            found.append([at[t].logprob for t, at in zip(row[-count:], steps, strict=True)])
        return {"version": self.version, "rows": found}

    def _need(self) -> None:
        if not self.version:
            raise Refusal("empty", "this server has no weights")

    def _present(self, absent: list[int]) -> list[int] | None:
        if not absent:
            return None
        left_out = set(absent)
        words = self.llm.model_config.hf_text_config.vocab_size
        return [token for token in range(words) if token not in left_out]

    def _temper(self, temperature: float) -> None:
        """Log-probabilities at the temperature, of all tokens: before top-k, top-p and absent ids
        cut the distribution. vLLM gives them at 1, or after the cut.
        """

        def place(worker: Any) -> None:
            worker.model_runner.sampler.compute_logprobs = lambda logits: (
                logits.float() / temperature
            ).log_softmax(-1)

        self.llm.collective_rpc(place)

    def _run(self, prompts: list[list[int]], params: list[Any], tell: Tell) -> list[Any]:
        """vLLM's outputs in order, while `tell` hears of the steps that were made."""
        over = threading.Event()

        def report() -> None:
            told = -1
            while not over.wait(ALIVE_SECONDS):
                if self.steps != told:  # a step that never ends gives no sign of life
                    told = self.steps
                    tell({"alive": told})

        reporter = threading.Thread(target=report, daemon=True)
        reporter.start()
        try:
            rows = [{"prompt_token_ids": prompt} for prompt in prompts]
            return list(self.llm.generate(rows, params, use_tqdm=False))
        finally:
            over.set()
            reporter.join()


def _repack_heads(worker: Any) -> None:
    """An output head that shares the embedding's table gets no weights of its own when they are
    reloaded, so the form in which a CPU multiplies by it stays that of the old ones (vLLM 0.32).
    """
    from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

    for module in worker.model_runner.get_model().modules():
        if isinstance(module, ParallelLMHead):
            module.quant_method.process_weights_after_loading(module)


class Job:
    """A request on its way to the main thread, and the lines that come back."""

    def __init__(self, path: str, asked: Answer) -> None:
        self.path, self.asked = path, asked
        self.lines: queue.Queue[Answer] = queue.Queue()


def handler(jobs: "queue.Queue[Job]", token: str) -> type[BaseHTTPRequestHandler]:
    """The class that reads requests, hands them to the main thread, and writes what comes back."""

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            sent = self.headers.get("Authorization", "")
            if token and not hmac.compare_digest(sent.encode(), f"Bearer {token}".encode()):
                self.send_error(401)
                return
            body = self.rfile.read(int(self.headers.get("Content-Length", "0")))
            job = Job(self.path, json.loads(body))
            self.send_response(200)
            self.send_header("Content-Type", "application/jsonl")
            self.end_headers()
            jobs.put(job)
            while True:
                line = job.lines.get()
                with contextlib.suppress(OSError):  # whoever asked may be gone
                    self.wfile.write(json.dumps(line).encode() + b"\n")
                    self.wfile.flush()
                if "alive" not in line:
                    return

        def log_message(self, format: str, *args: Any) -> None:
            """Requests are no news."""

    return Handler


def serve(engine: Any, jobs: "queue.Queue[Job]") -> None:
    """Do one job after the other, on this thread alone: torch's threads belong to it."""
    work = {"/load": engine.load, "/generate": engine.generate, "/logprobs": engine.logprobs}
    while True:
        job = jobs.get()
        try:
            if job.path not in work:
                raise Refusal("failed", f"there is nothing at {job.path}")
            answer = work[job.path](job.asked, job.lines.put)
        except Refusal as refusal:
            answer = refusal.answer
        except Exception as error:  # of any kind: vLLM and torch raise their own
            import traceback

            traceback.print_exc()
            answer = {"error": "failed", "message": f"{type(error).__name__}: {error}"}
        job.lines.put(answer)


def end_with_parent() -> None:
    """End when standard input does: whoever started this process is gone, killed perhaps."""
    while sys.stdin.buffer.read(1):
        pass
    os._exit(0)


def main(engine: Any) -> None:
    """Listen, say where in one line on standard output, and serve."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--host", default="127.0.0.1")
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--child", action="store_true", help="end when standard input does")
    given = parser.parse_args()
    for name, value in SETTINGS.items():
        os.environ.setdefault(name, value)
    jobs: queue.Queue[Job] = queue.Queue()
    listening = ThreadingHTTPServer(
        (given.host, given.port), handler(jobs, os.environ.pop(TOKEN, ""))
    )
    threading.Thread(target=listening.serve_forever, daemon=True).start()
    if given.child:
        threading.Thread(target=end_with_parent, daemon=True).start()
    print(json.dumps({"port": listening.server_address[1], "pid": os.getpid()}), flush=True)
    os.dup2(2, 1)  # libraries print: from here on into the log
    serve(engine, jobs)


if __name__ == "__main__":
    main(Engine())
