"""The embedded sampler: batched decoding in this process, with nothing but the model.

It has a key-value cache, finished rows leave at once, and waiting prompts take their place
(continuous batching). A model that cannot decode from that cache reads whole rows
(`podium.sampling.uncached`). Log-probabilities come with the samples, of the distribution that was
sampled: at the sampling temperature, before top-k and top-p cut it.
"""

import copy
import threading
from collections.abc import Callable, Iterator, Sequence

import torch
from torch import nn

from podium.attention import attend_in_fp32
from podium.batching import batches_by_length, pad_right
from podium.models import device_of, evaluating, inside_peft
from podium.sampling.compiled import CompiledStep
from podium.sampling.decoder import Decoder
from podium.sampling.draws import Draws
from podium.sampling.lengths import check_lengths
from podium.sampling.logprobs import token_logprobs
from podium.sampling.prepacked import prepacked
from podium.sampling.protocol import Sample, SamplingParams, Tell
from podium.sampling.together import Together
from podium.sampling.uncached import UncachedDecoder, reads_from_cache

__all__ = [
    "EmbeddedSampler",
]


class EmbeddedSampler:
    """Samples from a Hugging Face causal LM in this process.

    Args:
        model: shared, not copied: in-place training updates are seen at once. With `dtype` a copy
            is kept in that type, and `update_weights` refreshes it.
        pad_token_id: fills the padding; what it is does not matter, since padding is never attended
            to.
        max_batch: rows decoded together; further prompts wait and take the place of finished ones.
        max_tokens: padded tokens of one prefill or log-probability pass; bounds the memory of long
            prompts.
        compiled: decode through torch.compile where it serves (`podium.sampling.compiled`); worth
            it for long runs alone.
    """

    def __init__(
        self,
        model: nn.Module,
        pad_token_id: int,
        max_batch: int = 128,
        max_tokens: int = 16384,
        dtype: torch.dtype | None = None,
        compiled: bool = False,
    ) -> None:
        self.pad_token_id = pad_token_id
        self.max_batch = max_batch
        self.max_tokens = max_tokens
        self.dtype = dtype
        self._step = CompiledStep(device_of(model)) if compiled else None
        self._copy: nn.Module | None = None
        self._together: Together | None = None
        self._lock = threading.Lock()
        with evaluating(model):
            self.cached = reads_from_cache(model)
        self.update_weights(model)

    def update_weights(self, model: nn.Module) -> None:
        """Use `model`: itself, or its weights copied into the sampler's own type."""
        self._together = None  # its thread has laid the weights out as they were
        if self.dtype is None:
            self.model = model
            return
        if self._copy is None:
            self._copy = copy.deepcopy(model).eval()
            # Parameters alone are converted. Among the buffers are rotary frequencies, which would
            # be 0.2 % off in bf16.
            for parameter in self._copy.parameters():
                parameter.data = parameter.data.to(self.dtype)
            if device_of(model).type == "cpu" and self.dtype != torch.float32:
                attend_in_fp32(inside_peft(self._copy))
        self._copy.load_state_dict(model.state_dict())
        self.model = self._copy

    @torch.inference_mode()
    def generate(self, prompts: Sequence[list[int]], params: SamplingParams) -> list[Sample]:
        """One sample a prompt, in the prompts' order. Raises PodiumError when a row cannot fit the
        model's context.
        """
        if not prompts:
            return []
        check_lengths(self.model, prompts, params.max_new_tokens)
        step = self._step if self._step is not None and self._step.serves(self.model) else None
        with evaluating(self.model), prepacked(self.model):
            decoder = self._decoder(prompts, params, self.max_batch, step)
            while decoder.busy:
                decoder.step()
        return decoder.samples()

    def _decoder(
        self,
        prompts: Sequence[list[int]],
        params: SamplingParams,
        slots: int,
        step: CompiledStep | None = None,
    ) -> Draws:
        rest = prompts, params, self.pad_token_id, slots, self.max_tokens
        if self.cached:
            return Decoder(self.model, *rest, step)
        return UncachedDecoder(self.model, *rest)

    def stream(self, prompt: list[int], params: SamplingParams) -> Iterator[int]:
        """The tokens of one response as they are drawn, without the stop token: what `generate`
        gives for [prompt]. All who stream at a time share one batch, and no weight may change
        meanwhile.
        """
        check_lengths(self.model, [prompt], params.max_new_tokens)
        yield from self._joined().stream(prompt, params)

    def begin(
        self, prompt: list[int], params: SamplingParams, tell: Tell, top: int | None = None
    ) -> Callable[[], None]:
        """Draw a response in the background, in the batch of all who stream."""
        check_lengths(self.model, [prompt], params.max_new_tokens)
        return self._joined().begin(prompt, params, tell, top)

    def _joined(self) -> Together:
        with self._lock:
            if self._together is None or self._together.model is not self.model:
                self._together = Together(
                    self.model, self.pad_token_id, self.cached, self.max_batch, self.max_tokens
                )
            return self._together

    @torch.inference_mode()
    def logprobs(
        self, prompts: Sequence[list[int]], responses: Sequence[list[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """log p of every response token given its prompt; rows sorted by length, LM head on
        response tokens only.
        """
        total = [
            len(prompt) + len(response) for prompt, response in zip(prompts, responses, strict=True)
        ]
        results: list[list[float]] = [[] for _ in prompts]
        with evaluating(self.model):
            for rows in batches_by_length(total, self.max_tokens):
                batch = pad_right(
                    [prompts[i] + responses[i] for i in rows],
                    self.pad_token_id,
                    device_of(self.model),
                )
                target_mask = torch.zeros_like(batch[0], dtype=torch.bool)
                for place, i in enumerate(rows):
                    target_mask[place, len(prompts[i]) : total[i]] = True
                found = token_logprobs(self.model, *batch, target_mask, temperature or 1.0)
                for i, values in zip(
                    rows, found.cpu().split([len(responses[i]) for i in rows]), strict=True
                ):
                    results[i] = values.tolist()
        return results
