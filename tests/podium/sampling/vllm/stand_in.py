"""The worker with an engine that needs no vLLM: it speaks the protocol in a process of its own, and
fails on request.

A file in $STAND_IN is a request: `die`, `hang`, `fail` are taken away by the first generation that
finds them, those with `-always` stay; `stale` keeps the first version for good; `slow` works for
three seconds.
"""

import hashlib
import importlib.util
import os
import signal
import sys
import time
from pathlib import Path

ROOT = Path(__file__).parents[4]
spec = importlib.util.spec_from_file_location(
    "worker", ROOT / "podium" / "sampling" / "vllm" / "worker.py"
)
worker = importlib.util.module_from_spec(spec)
spec.loader.exec_module(worker)
PLACE = Path(os.environ["STAND_IN"])


def asked_for(what: str) -> bool:
    once, always = PLACE / what, PLACE / f"{what}-always"
    if once.exists():
        once.unlink()
        return True
    return always.exists()


class StandIn(worker.Engine):
    """Says tokens that follow from prompt and seed; log-probabilities are minus the length."""

    def _start(self, folder, *room):
        print("the stand-in starts", file=sys.stderr, flush=True)

        class Nothing:
            def collective_rpc(self, *args, **kwargs):
                pass

            def reset_prefix_cache(self):
                pass

        return Nothing()

    def load(self, asked, tell):
        before = self.version
        answer = super().load(asked, tell)
        if before and (PLACE / "stale").exists():
            self.version = before
        return answer | {"version": self.version}

    def generate(self, asked, tell):
        self._need()
        if asked_for("die"):
            os.kill(os.getpid(), signal.SIGKILL)
        if asked_for("fail"):
            print("no memory left on this planet", file=sys.stderr, flush=True)
            raise RuntimeError("out of memory")
        if asked_for("hang"):
            time.sleep(60)
        if asked_for("slow"):
            for second in range(15):
                time.sleep(0.2)
                tell({"alive": second})
        rows = []
        for prompt, seed in zip(asked["prompts"], asked["seeds"], strict=True):
            drawn = hashlib.sha256(f"{prompt}{seed}".encode()).digest()[: asked["max_new_tokens"]]
            tokens = [5 + byte for byte in drawn]
            stops = [n for n, token in enumerate(tokens) if token in asked["stop_token_ids"]]
            tokens = tokens[: stops[0] + 1] if stops else tokens
            rows.append({"tokens": tokens, "logprobs": [-float(len(prompt))] * len(tokens)})
        return {"version": self.version, "rows": rows}

    def logprobs(self, asked, tell):
        self._need()
        pairs = zip(asked["rows"], asked["counts"], strict=True)
        return {
            "version": self.version,
            "rows": [[-float(t) for t in row[-count:]] for row, count in pairs],
        }


if __name__ == "__main__":
    worker.main(StandIn())
