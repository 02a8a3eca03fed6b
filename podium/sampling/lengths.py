"""What every sampler asks of the rows that it is to continue."""

from collections.abc import Sequence

from torch import nn

from podium.errors import PodiumError
from podium.models import context_of, inside_peft


def check_lengths(model: nn.Module, prompts: Sequence[list[int]], new_tokens: int) -> None:
    """Refuse rows that are empty or leave no room for `new_tokens` in the model's context.

    Raises:
        PodiumError: says the length and the context.
    """
    context = context_of(inside_peft(model).config)
    longest, shortest = max(map(len, prompts)), min(map(len, prompts))
    if shortest == 0:
        raise PodiumError(
            "An empty prompt cannot be continued.",
            fix="Begin every prompt with at least one token.",
        )
    if context is not None and longest + new_tokens > context:
        raise PodiumError(
            f"A prompt of {longest} tokens and {new_tokens} new ones exceed the model's "
            f"context of {context}.",
            fix="Shorten or drop long prompts, or lower max_new_tokens.",
        )
