"""Mix sources by weight, not by size: GPT-3 saw Wikipedia 3.4 times while most of Common Crawl was
never read.

Source: Brown et al. 2020, section 2.2 and Table 2.2.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "Mixture",
    "SourceReport",
    "mix",
    "mixed_order",
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
    passes: int = 1,
    size: Callable[[Item], float] = lambda item: 1.0,
) -> Mixture[Item]:
    """The items themselves in the order of `mixed_order`, which `size` measures: 1 a record, or
    characters.
    """
    sizes = {name: np.array([size(item) for item in items]) for name, items in sources.items()}
    owner, number, report = mixed_order(sizes, weights, seed=seed, passes=passes)
    held = list(sources.values())
    return Mixture([held[o][n] for o, n in zip(owner, number, strict=True)], report)


def mixed_order(
    sizes: Mapping[str, NDArray[Any]],
    weights: Mapping[str, float],
    *,
    seed: int = 0,
    passes: int = 1,
) -> tuple[NDArray[np.int16], NDArray[np.int64], dict[str, SourceReport]]:
    """Which items to read in which order, so that every source gives its share of what all of them
    hold together, in units of their sizes (records, characters or tokens).

    A source is read through in shuffled passes, so nothing repeats before all of it was seen.
    Weights are normalised. Drawing stops as near to each share as whole items allow.

    Args:
        sizes: by source, (n,) the size of each of its items.
        passes: how often the reader will want the whole. A second pass goes on where the first one
            stopped: with the first draw repeated, most of a large source of small weight would
            never be read, while its few drawn records were read again and again.

    Returns:
        (d,) the source of each item, counted in the order of `sizes`, (d,) its place there, and a
        report by source.
    """
    held = {name: float(values.sum()) for name, values in sizes.items()}
    total = passes * sum(held.values())
    whole = sum(weights[name] for name in sizes)
    # A stream for each source, so that more passes begin as fewer do, whatever lies beside it.
    drawn = {
        name: _draw(values, total * weights[name] / whole, np.random.default_rng([seed, place]))
        for place, (name, values) in enumerate(sizes.items())
    }
    taken = {name: float(sizes[name][indices].sum()) for name, indices in drawn.items()}
    report = {
        name: SourceReport(
            len(indices), taken[name] / sum(taken.values()), taken[name] / held[name]
        )
        for name, indices in drawn.items()
    }
    lengths = [len(indices) for indices in drawn.values()]
    owner = np.repeat(np.arange(len(drawn), dtype=np.int16), lengths)
    order = np.random.default_rng(seed).permutation(len(owner))
    return owner[order], np.concatenate(list(drawn.values()))[order], report


def _draw(sizes: NDArray[Any], wanted: float, rng: np.random.Generator) -> NDArray[np.int64]:
    """Indices in shuffled passes until their sizes sum to `wanted`; the last one stays if that
    comes nearer.
    """
    parts: list[NDArray[np.int64]] = []
    taken = 0.0
    while True:
        order = rng.permutation(len(sizes))
        after = taken + np.cumsum(sizes[order], dtype=np.float64)
        enough = after - sizes[order] / 2 > wanted
        if enough.any():
            return np.concatenate([*parts, order[: int(enough.argmax())]])
        parts.append(order)
        taken = float(after[-1])
