"""What one `generate` call has said so far, and how the next tokens are drawn and noted.

Two decoders share it: one reads from a key-value cache, one reads whole rows again. Both draw with
the same numbers, so which of them serves a model changes nothing but the time it takes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from podium.models import device_of
from podium.sampling.choice import pick_tokens, row_uniforms
from podium.sampling.protocol import Sample, SamplingParams


class Draws:
    """The tokens of every row, (rows, max_new_tokens), with their log-probabilities and lengths."""

    def __init__(
        self, model: nn.Module, prompts: Sequence[list[int]], params: SamplingParams
    ) -> None:
        self.model, self.params = model, params
        self.prompts: Sequence[list[int]] | dict[int, list[int]] = prompts
        self.stop = params.stop if params.stop is not None and params.stop.strings else None
        self.device = device_of(model)
        rows = range(params.first_row, params.first_row + len(prompts))
        draws = row_uniforms(
            params.seed, rows, params.max_new_tokens if params.temperature > 0 else 1
        )
        self.uniforms = draws.to(self.device)
        absent = params.absent_token_ids
        self.absent = torch.tensor(absent, device=self.device) if absent else None
        shape = (len(prompts), params.max_new_tokens)
        self.tokens = torch.zeros(shape, dtype=torch.long, device=self.device)
        self.token_logprobs = torch.zeros(shape, device=self.device)
        self.lengths = torch.zeros(len(prompts), dtype=torch.long, device=self.device)

    @property
    def busy(self) -> bool:
        """Whether any row is unfinished."""
        raise NotImplementedError

    def step(self) -> None:
        """One more token for every live row."""
        raise NotImplementedError

    def draw(self, logits: Tensor, rows: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
        """Draw and record one token a row; returns the tokens and which rows are finished."""
        params = self.params
        uniforms = self.uniforms[rows, count] if params.temperature > 0 else self.uniforms[rows, 0]
        # A row's random numbers are drawn ahead and found by its own index and length, so what it
        # says does not depend on its slot or its neighbours.
        drawn, found = pick_tokens(
            logits, uniforms, params.temperature, params.top_k, params.top_p, self.absent
        )
        self.tokens[rows, count] = drawn
        self.token_logprobs[rows, count] = found
        self.lengths[rows] = count + 1
        done = count + 1 >= params.max_new_tokens
        for stop in params.stop_token_ids:
            done = done | (drawn == stop)
        if self.stop is not None:
            said = zip(self.tokens[rows].tolist(), self.lengths[rows].tolist(), strict=True)
            over = [self.stop.found(tokens[:length]) for tokens, length in said]
            done = done | torch.tensor(over, device=self.device)
        return drawn, done

    def samples(self) -> list[Sample]:
        """The finished rows, in the prompts' order."""
        tokens, found = self.tokens.tolist(), self.token_logprobs.tolist()
        stops, texts = self.params.stop_token_ids, self.stop

        def finished(said: list[int]) -> bool:
            return said[-1] in stops or (texts is not None and texts.found(said))

        return [
            Sample(tokens[i][:n], found[i][:n], finished(tokens[i][:n]))
            for i, n in enumerate(self.lengths.tolist())
        ]
