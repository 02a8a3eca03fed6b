"""Mix sources by weight, not by size: GPT-3 saw Wikipedia 3.4 times while most of Common Crawl was
never read.

Source: Brown et al. 2020, section 2.2 and Table 2.2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Generic, TypeVar

import numpy as np

__all__ = [
    "Mixture",
    "SourceReport",
    "mix",
]

Item = TypeVar("Item")


@dataclass(frozen=True)
class SourceReport:
    """What one source gave to a mixture; `epochs` is how often it was read through."""

    records: int
    share: float
    epochs: float


@dataclass(frozen=True)
class Mixture(Generic[Item]):
    """Mixed items in shuffled order, and a report by source name."""

    items: list[Item]
    report: dict[str, SourceReport]


def mix(
    sources: Mapping[str, Sequence[Item]],
    weights: Mapping[str, float],
    *,
    seed: int = 0,
    total: float | None = None,
    passes: int = 1,
    size: Callable[[Item], float] = lambda item: 1.0,
) -> Mixture[Item]:
    """Draw from every source its share of `total`, in units of `size` (one a record, or characters,
    or tokens).

    A source is read through in shuffled passes, so nothing repeats before all of it was seen.
    `total` is by default what the sources hold together; weights are normalised. Drawing stops as
    near to each share as whole items allow.

    Args:
        passes: how often the reader will want `total`. A second pass goes on where the first one
            stopped: with the first draw repeated, most of a large source of small weight would
            never be read, while its few drawn records were read again and again.
    """
    rng = np.random.default_rng(seed)
    sizes = {name: [size(item) for item in items] for name, items in sources.items()}
    held = {name: sum(values) for name, values in sizes.items()}
    total = passes * (sum(held.values()) if total is None else total)
    whole = sum(weights[name] for name in sources)

    items: list[Item] = []
    drawn: dict[str, list[int]] = {}
    for number, (name, source) in enumerate(sources.items()):
        # A stream for each source, so that more passes begin as fewer do, whatever lies beside it.
        own = np.random.default_rng([seed, number])
        drawn[name] = _draw(sizes[name], total * weights[name] / whole, own)
        items += [source[i] for i in drawn[name]]
    taken = {name: sum(sizes[name][i] for i in indices) for name, indices in drawn.items()}
    report = {
        name: SourceReport(
            len(drawn[name]), taken[name] / sum(taken.values()), taken[name] / held[name]
        )
        for name in sources
    }
    return Mixture([items[i] for i in rng.permutation(len(items))], report)


def _draw(sizes: Sequence[float], wanted: float, rng: np.random.Generator) -> list[int]:
    """Indices in shuffled passes until their sizes sum to `wanted`; the last one stays if that
    comes nearer.
    """
    indices: list[int] = []
    taken = 0.0
    while True:
        for i in rng.permutation(len(sizes)):
            if taken + sizes[i] / 2 > wanted:
                return indices
            indices.append(int(i))
            taken += sizes[i]
