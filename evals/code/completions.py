"""Answers to programming problems: what is asked, where an answer ends, and which of several to
show.

A base model continues the prompt; a model with turns is asked, and its answer is led by the prompt
in a code block, so that it too continues it (as lm-eval's `humaneval_instruct` does). A completion
ends before the first text that begins something new (Chen et al. 2021, section 3.1).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from transformers import PreTrainedTokenizerBase

from data.records import Message
from data.template import encode_prompt
from podium.sampling.protocol import Sample

Form = Literal["continue", "ask"]

STOPS: dict[Form, tuple[str, ...]] = {
    "continue": ("\nclass ", "\ndef ", "\n#", "\nif ", "\nprint(", "\nassert ", "\n@", "\n```"),
    "ask": ("\n```", "\nclass ", "\ndef ", "\nif __name__", "\nprint(", "\nassert "),
}
_ASKED = (
    "Write a solution to the following problem and make sure that it passes the tests:\n"
    "```python\n{prompt}\n```"
)
_LEAD = "Here is the completed function:\n\n```python\n{prompt}"


@dataclass(frozen=True)
class Completion:
    """One answer, cut where it ends; the sums of its tokens' log-probabilities in nats."""

    text: str
    total_logprob: float
    tokens: int


def encode_problem(tokenizer: PreTrainedTokenizerBase, prompt: str, form: Form) -> list[int]:
    """The ids that the model continues.

    A trailing newline is taken from the prompt: most tokenizers join it with the indentation that
    follows, and a model never saw the two apart.
    """
    prompt = prompt.rstrip("\n")
    if form == "continue":
        ids = tokenizer.encode(prompt, add_special_tokens=False)
        bos = tokenizer.bos_token_id
        return [bos, *ids] if bos is not None and _starts_with_bos(tokenizer) else ids
    asked = encode_prompt(tokenizer, [Message(role="user", content=_ASKED.format(prompt=prompt))])
    lead = tokenizer.encode(_LEAD.format(prompt=prompt), add_special_tokens=False)
    return [*asked, *lead]


def _starts_with_bos(tokenizer: PreTrainedTokenizerBase) -> bool:
    ids = tokenizer.encode("x", add_special_tokens=True)
    return bool(ids) and ids[0] == tokenizer.bos_token_id


def cut(tokenizer: PreTrainedTokenizerBase, sample: Sample, stops: Sequence[str]) -> Completion:
    """A sample as far as the first stop string; only the tokens before it count."""
    tokens = sample.tokens[:-1] if sample.finished else sample.tokens
    said = _decoded(tokenizer, tokens)
    led = 0 if said.startswith("\n") else 1  # the newline that the prompt lost, where it is missing
    text = "\n" * led + said
    ends = [place for stop in stops if (place := text.find(stop, 1)) >= 0]
    if not ends:
        return Completion(text, sum(sample.logprobs), len(sample.logprobs))
    kept, length = text[: min(ends)], 0
    while length < len(tokens) and len(_decoded(tokenizer, tokens[:length])) < len(kept) - led:
        length += 1
    return Completion(kept, sum(sample.logprobs[:length]), length)


def _decoded(tokenizer: PreTrainedTokenizerBase, tokens: Sequence[int]) -> str:
    return str(
        tokenizer.decode(list(tokens), skip_special_tokens=True, clean_up_tokenization_spaces=False)
    )


def chosen_is_right(values: np.ndarray, right: np.ndarray) -> float:
    """Chance that the sample ranked first is right, ties drawn at random.

    Args:
        values: (S,) what the samples are ranked by. right: (S,) whether each passes.
    """
    return float(np.mean(right[values == values.max()]))
