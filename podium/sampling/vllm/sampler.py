"""Sampling by vLLM behind Podium's protocol: prompts go over as token ids, answers come back as
token ids with their log-probabilities, and every answer names the weights that gave it.

It is synchronous: nothing is sampled while something is learned. A row draws from a stream of its
own, but vLLM's sums depend on who shares its batch, so the last digits and now and then a token
differ from run to run: such a sampler is not `exact`.
"""

from __future__ import annotations

import hashlib
import os
import secrets
import time
import weakref
from collections.abc import Sequence
from typing import Any, cast

import torch
from torch import nn

from podium.errors import PlatformError, PodiumError
from podium.progress import say
from podium.sampling.lengths import check_lengths
from podium.sampling.protocol import Sample, SamplingParams
from podium.sampling.vllm.server import Lost, Settings, give_up, shared_server
from podium.sampling.vllm.weights import Place, write_weights

TRIES = 3  # of one batch, each but the first on a server that was started again
PAUSE_SECONDS = 10.0
DTYPES = {"fp32": torch.float32, "bf16": torch.bfloat16}


class StaleWeightsError(PodiumError):
    """An answer came from other weights than those that were asked."""


class VllmSampler:
    """Samples from a copy of the weights that a vLLM server holds.

    Args:
        settings: the recipe's section.
        model: its weights go over before the first batch, and at every `update_weights`.
        rows: decoded together; others wait.
        dtype: of the weights where `settings` leaves it open; None for that of the model.

    Raises:
        PlatformError: there is no vLLM, or this run has several processes.
    """

    def __init__(
        self, settings: Settings, model: nn.Module, rows: int, dtype: torch.dtype | None
    ) -> None:
        if int(os.environ.get("WORLD_SIZE", "1")) > 1:
            raise PlatformError(
                "sampler.kind vllm serves runs of one process, and this one has "
                f"{os.environ['WORLD_SIZE']}",
                "start the stage without torchrun, or set sampler.kind to embedded",
            )
        self.settings, self.rows = settings, rows
        self.dtype = DTYPES.get(settings.dtype) or dtype or next(model.parameters()).dtype
        self.server = shared_server(settings, torch.get_num_threads())
        self._freed = weakref.finalize(self, give_up, self.server)
        self._run = secrets.token_hex(4)  # so that no two samplers' versions are the same
        self._updates = 0
        self._model = model
        self._place: Place | None = None
        self.version = ""

    def update_weights(self, model: nn.Module) -> None:
        """Hand over these weights: written whole here, read by the server before the next batch."""
        self._model = model
        if self._place is None:
            self._place = Place(model, self.dtype, self.settings.folder)
            weakref.finalize(self, self._place.remove)
        self._updates += 1
        self.version = f"{self._run}-{self._updates}"
        write_weights(model, self._place.path / "weights", self.version, self.dtype)

    def generate(self, prompts: Sequence[list[int]], params: SamplingParams) -> list[Sample]:
        """One sample a prompt, in the prompts' order.

        Raises:
            PodiumError: a row cannot fit the model's context, or the server fails again and again.
            StaleWeightsError: the answers are another model's.
        """
        if not prompts:
            return []
        check_lengths(self._model, prompts, params.max_new_tokens)
        rows = range(params.first_row, params.first_row + len(prompts))
        asked = {
            "prompts": [list(prompt) for prompt in prompts],
            "seeds": [row_seed(params.seed, row) for row in rows],
            "max_new_tokens": params.max_new_tokens,
            "temperature": params.temperature,
            "top_p": params.top_p,
            "top_k": params.top_k,
            "stop_token_ids": list(params.stop_token_ids),
            "absent_token_ids": list(params.absent_token_ids),
        }
        found = self._ask("/generate", asked, len(prompts))
        return [_sample(row["tokens"], row["logprobs"], params) for row in found]

    def logprobs(
        self, prompts: Sequence[list[int]], responses: Sequence[list[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """log p of every response token given its prompt, at the temperature."""
        pairs = list(zip(prompts, responses, strict=True))
        some = [i for i, (_, response) in enumerate(pairs) if response]
        results: list[list[float]] = [[] for _ in pairs]
        if not some:
            return results
        check_lengths(self._model, [pairs[i][0] + pairs[i][1] for i in some], 0)
        asked = {
            "rows": [pairs[i][0] + pairs[i][1] for i in some],
            "counts": [len(pairs[i][1]) for i in some],
            "temperature": temperature,
        }
        for i, values in zip(some, self._ask("/logprobs", asked, len(some)), strict=True):
            results[i] = values
        return results

    def _ask(self, path: str, body: dict[str, Any], count: int) -> list[Any]:
        """`count` rows, on the weights of this sampler; a server that is lost is started again."""
        if not self.version:
            self.update_weights(self._model)
        with self.server.lock:
            for attempt in range(1, TRIES + 1):
                try:
                    self._load()
                    answer = self.server.ask(path, body)
                    break
                except Lost as lost:
                    last = self.server.last_lines()
                    self.server.stop()
                    if attempt == TRIES:
                        raise self._given_up(lost, last) from lost
                    say(f"vLLM's server {lost}; the batch is sampled again ({attempt + 1}/{TRIES})")
                    if self.server.joined:  # its owner may be starting it again
                        time.sleep(PAUSE_SECONDS)
        if answer["version"] != self.version:
            self.server.loaded = None
            raise StaleWeightsError(
                f"vLLM's server answers with the weights {answer['version'] or '(none)'}, and "
                f"{self.version} were asked",
                "give each run a server of its own: leave sampler.url out, or name another",
            )
        rows = cast("list[Any]", answer["rows"])
        if len(rows) != count:
            raise PodiumError(f"vLLM's server answers {len(rows)} rows, and {count} were asked")
        return rows

    def _load(self) -> None:
        if self.server.loaded == self.version and self.server.runs:
            return
        assert self._place is not None
        asked = {
            "folder": str(self._place.path / "weights"),
            "dtype": str(self.dtype).removeprefix("torch."),
            "rows": self.rows,
            "cache_bytes": int(self.settings.cache_gb * 2**30),
        }
        self.server.ask("/load", asked)
        self.server.loaded = self.version

    def _given_up(self, lost: Lost, last: str) -> PodiumError:
        where = f"at {self.settings.url} " if self.settings.url else ""
        said = f"\nits last lines:\n{last}" if last else ""
        return PodiumError(
            f"vLLM's server {where}{lost}, {TRIES} times{said}",
            "see what it says; sampler.cache_gb and sampler.timeout may have to grow, and "
            "sampler.kind embedded samples without it",
        )


def row_seed(seed: int, row: int) -> int:
    """The seed of a row's stream, in [0, 2**63): another for every (seed, row)."""
    digest = hashlib.sha256(f"{seed}:{row}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _sample(tokens: list[int], logprobs: list[float], params: SamplingParams) -> Sample:
    """What vLLM said, up to the first text of `stop`; texts it does not know, so it went on."""
    stop = params.stop
    if stop is not None and stop.strings:
        for length in range(1, len(tokens) + 1):
            if stop.found(tokens[:length]):
                return Sample(tokens[:length], logprobs[:length], True)
    return Sample(tokens, logprobs, tokens[-1] in params.stop_token_ids)
