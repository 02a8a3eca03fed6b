"""One thread that decodes for everybody who streams from a sampler, in one batch."""

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterator

import torch
from torch import nn

from podium.models import evaluating
from podium.sampling.joined import Joined, JoinedDecoder, JoinedRows, Request
from podium.sampling.prepacked import prepacked
from podium.sampling.protocol import Drawn, SamplingParams, Tell

LINGER_SECONDS = 1.0  # between two requests of one visitor nothing is laid out anew


class Together:
    """Responses drawn in the background. The thread is there while somebody waits and a moment
    longer; a response that nobody wants any more leaves the batch before its next token.

    Args:
        cached: whether the model decodes from our cache.
        slots: rows decoded together at most.
        budget: padded tokens of a pass, and of the cache.
    """

    def __init__(self, model: nn.Module, pad: int, cached: bool, slots: int, budget: int) -> None:
        self.model, self.pad, self.cached = model, pad, cached
        self.slots, self.budget = slots, budget
        self._waiting: deque[Request] = deque()
        self._changed = threading.Condition()
        self._thread: threading.Thread | None = None

    def begin(
        self, prompt: list[int], params: SamplingParams, tell: Tell, top: int | None = None
    ) -> Callable[[], None]:
        """Draw a response; see `podium.sampling.protocol.StreamingSampler.begin`."""
        request = Request(prompt, params, tell, top)
        with self._changed:
            self._waiting.append(request)
            if self._thread is None:
                self._thread = threading.Thread(target=self._run, daemon=True)
                self._thread.start()
            self._changed.notify()

        def give_up() -> None:
            request.cancelled = True

        return give_up

    def stream(self, prompt: list[int], params: SamplingParams) -> Iterator[int]:
        """The tokens of one response as they are drawn, without the stop token."""
        said: queue.SimpleQueue[Drawn | BaseException] = queue.SimpleQueue()
        give_up = self.begin(prompt, params, said.put)
        try:
            while True:
                drawn = said.get()
                if isinstance(drawn, BaseException):
                    raise drawn
                if drawn.token not in params.stop_token_ids:
                    yield drawn.token
                if drawn.end:
                    return
        finally:
            give_up()

    @torch.inference_mode()
    def _run(self) -> None:
        with evaluating(self.model), prepacked(self.model):
            decoder: Joined | None = None
            while True:
                try:
                    with self._changed:
                        decoder = self._admit(decoder)
                        if decoder is None:
                            self._thread = None
                            return
                    decoder.step()
                # Of any kind, no memory for instance: whoever waits is told, and the next request
                # finds a new decoder.
                except Exception as error:
                    self._fail(decoder, error)
                    decoder = None

    def _fail(self, decoder: Joined | None, error: Exception) -> None:
        with self._changed:
            hit = [*(decoder.requests.values() if decoder else ()), *self._waiting]
            self._waiting.clear()
        for request in hit:
            request.tell(error)

    def _admit(self, decoder: Joined | None) -> Joined | None:
        """Whoever waits joins the batch, in the order they came; a row too long for the buffers
        waits until they are empty, and those behind it with it. None once all is quiet.
        """
        self._waiting = deque(request for request in self._waiting if not request.cancelled)
        busy = decoder is not None and decoder.busy
        if not busy and not self._waiting:
            self._changed.wait(LINGER_SECONDS)
            if not self._waiting:
                return None
        if not busy and (decoder is None or not decoder.fits(self._waiting[0])):
            decoder = self._made()
        assert decoder is not None
        joining: list[Request] = []
        while self._waiting and len(joining) < decoder.free and decoder.fits(self._waiting[0]):
            joining.append(self._waiting.popleft())
        decoder.add(joining)
        return decoder

    def _made(self) -> Joined:
        if not self.cached:
            return JoinedRows(self.model, self.pad, self.budget, self.slots)
        longest = max(request.length for request in list(self._waiting)[: self.slots])
        return JoinedDecoder(self.model, self.pad, self.budget, longest, self.slots)
