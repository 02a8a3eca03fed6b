"""What a sampler is: rollouts, candidates to rank, best-of-n, evals and chat ask for no more."""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, Protocol, runtime_checkable

from torch import nn

__all__ = [
    "Drawn",
    "Sample",
    "Sampler",
    "SamplingParams",
    "StopStrings",
    "StreamingSampler",
    "Tell",
]


@dataclass(frozen=True)
class StopStrings:
    """Texts that end a response as soon as one of them stands in it, whatever tokens it is made of.

    strings: none of them empty; without any nothing ends early. decode: tokens of a response to its
    text. A sampler ends the row (`found`) and keeps its tokens as they were drawn; whoever shows
    the text cuts it (`text`).
    """

    strings: tuple[str, ...]
    decode: Callable[[list[int]], str]

    def found(self, tokens: list[int]) -> bool:
        """Whether the response has come to one of them. A character is at most four tokens."""
        longest = max(map(len, self.strings), default=0)
        return self._first(self.decode(tokens[-4 * (longest + 2) :])) is not None

    def text(self, tokens: list[int]) -> str:
        """What a response says, before the first of them."""
        return self.cut(self.decode(tokens))

    def cut(self, text: str) -> str:
        """The text before the first of them."""
        return text[: self._first(text)]

    def shown(self, text: str) -> str:
        """`cut` of a text that still grows: an end that may become one of them is held back."""
        held = max(
            (n for s in self.strings for n in range(1, len(s)) if text.endswith(s[:n])), default=0
        )
        return self.cut(text[: len(text) - held])

    def _first(self, text: str) -> int | None:
        return min((at for s in self.strings if (at := text.find(s)) >= 0), default=None)


@dataclass(frozen=True)
class SamplingParams:
    """How to sample. The same parameters and prompts give the same text, however the batch is
    split.

    temperature 0 is greedy; top_k 0 and top_p 1.0 are off; a response ends with the first of
    stop_token_ids that is drawn or where a text of `stop` stands, without any never before
    max_new_tokens; none of absent_token_ids is ever drawn (`podium.models.absent_token_ids`).
    Prompt i draws from the stream (seed, first_row + i): a rank that holds rows 64..127 of a batch
    sets first_row 64.
    """

    max_new_tokens: int
    temperature: float = 1.0
    top_p: float = 1.0
    top_k: int = 0
    stop_token_ids: tuple[int, ...] = ()
    absent_token_ids: tuple[int, ...] = ()
    seed: int = 0
    first_row: int = 0
    stop: StopStrings | None = None


@dataclass(frozen=True)
class Sample:
    """One response. `tokens` ends with a stop token or a stop text when `finished`; `logprobs` has
    one entry a token.
    """

    tokens: list[int]
    logprobs: list[float]
    finished: bool


class Sampler(Protocol):
    """What a sampling backend offers; another one (vLLM) needs only these three.

    `podium.sampling.kinds.make_sampler` makes one.
    """

    def generate(self, prompts: Sequence[list[int]], params: SamplingParams) -> list[Sample]:
        """One sample a prompt, in the prompts' order."""
        ...

    def logprobs(
        self, prompts: Sequence[list[int]], responses: Sequence[list[int]], temperature: float = 1.0
    ) -> list[list[float]]:
        """log p of every response token given its prompt, at the temperature."""
        ...

    def update_weights(self, model: nn.Module) -> None:
        """Sample from these weights from now on."""
        ...


@dataclass(frozen=True)
class Drawn:
    """One token of a response as it is drawn; the stop token too, where one ends it.

    logprob, top: the model's own at temperature 1, of this token and of the likeliest ones, as
    (token, log-probability); 0 and none where nobody asked. end: why this token is the last.
    """

    token: int
    logprob: float = 0.0
    top: tuple[tuple[int, float], ...] = ()
    end: Literal["", "stop", "length"] = ""


Tell = Callable[[Drawn | BaseException], None]


@runtime_checkable
class StreamingSampler(Sampler, Protocol):
    """A sampler that can also say a response token by token, many of them at once; the chat and
    the endpoint ask for one.
    """

    def stream(self, prompt: list[int], params: SamplingParams) -> Iterator[int]:
        """The tokens of one response as they are drawn, without the stop token."""
        ...

    def begin(
        self, prompt: list[int], params: SamplingParams, tell: Tell, top: int | None = None
    ) -> Callable[[], None]:
        """Draw a response in the background, together with those of others.

        Args:
            tell: called in another thread with every token, or with what went wrong.
            top: how many of the likeliest tokens are told beside each, or None for no
                log-probabilities.

        Returns:
            a function that gives the response up.
        """
        ...
