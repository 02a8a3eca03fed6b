"""How many windows each update reads: a pure function of the recipe. Which ones they are says
`data.packing.rows_at`, so the number of windows read is the whole position.
"""

from pydantic import BaseModel, ConfigDict, Field

__all__ = [
    "BatchRamp",
    "batch_sizes",
]


class BatchRamp(BaseModel):
    """A batch that grows linearly: many cheap steps early, when the gradient is far from noisy
    (GPT-3 section 2.3).
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    start: int = Field(
        gt=0, description="sequences in the first batch; GPT-3: 32k tokens, 16 sequences of 2,048"
    )
    tokens: int = Field(
        gt=0, description="tokens over which it grows to batch_size; GPT-3: the first 4-12 billion"
    )


def batch_sizes(
    tokens: int, *, context: int, batch_size: int, ramp: BatchRamp | None = None, multiple: int = 1
) -> list[int]:
    """Sequences of every step until `tokens` are read; at least one step.

    With a ramp, sizes grow linearly in tokens, rounded down to a multiple of `multiple`, the number
    of processes.
    """
    sizes: list[int] = []
    read = 0
    while read < tokens or not sizes:
        size = batch_size
        if ramp is not None and read < ramp.tokens:
            size = ramp.start + int((batch_size - ramp.start) * read / ramp.tokens)
            size = max(size // multiple, 1) * multiple
        sizes.append(size)
        read += size * context
    return sizes
