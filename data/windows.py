"""Documents that lie on disk as tokens, put in the order of their mixture and cut into windows.

`data.tokens` makes what is read here. Nothing is read before it is asked for: an order is numbers,
and a window is found by where its documents end.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch

from data.mixture import mixed_order
from data.tokens import TokenStore
from podium.errors import DataError

__all__ = [
    "DocumentTokens",
    "Windows",
    "mixed",
]


@dataclass(frozen=True)
class DocumentTokens:
    """Documents of one or more stores in an order: `owner` (d,) is each one's store and `number`
    (d,) its place there; both None where one store is read in its own order.
    """

    stores: Sequence[TokenStore]
    owner: np.ndarray | None = None
    number: np.ndarray | None = None
    epochs: dict[str, float] = field(default_factory=dict)

    def __len__(self) -> int:
        return len(self.stores[0]) if self.owner is None else len(self.owner)

    def __getitem__(self, index: int) -> np.ndarray:
        """The ids of a document with its separator before them, (n,)."""
        if self.owner is None or self.number is None:
            store, number = self.stores[0], index
        else:
            store, number = self.stores[self.owner[index]], int(self.number[index])
        start = int(store.ends[number - 1]) if number else 0
        return store.tokens[start : store.ends[number]]

    def ends(self) -> np.ndarray:
        """(d,) where each document ends when they lie one after the other."""
        if self.owner is None or self.number is None:
            return self.stores[0].ends
        lengths = np.empty(len(self), dtype=np.int64)
        for place, store in enumerate(self.stores):
            here = self.owner == place
            lengths[here] = np.diff(store.ends, prepend=0)[self.number[here]]
        return np.cumsum(lengths)


def mixed(
    stores: dict[str, TokenStore], weights: dict[str, float], passes: int = 1
) -> DocumentTokens:
    """The stores' documents one source after the other, or, where there are weights, so mixed that
    each source gives its share of the tokens.
    """
    held = list(stores.values())
    if len(held) == 1 and not weights:
        return DocumentTokens(held)
    if not weights:
        owner = np.repeat(np.arange(len(held), dtype=np.int16), [len(store) for store in held])
        return DocumentTokens(held, owner, np.concatenate([np.arange(len(s)) for s in held]))
    lengths = {name: np.diff(store.ends, prepend=0) for name, store in stores.items()}
    owner, number, report = mixed_order(lengths, weights, passes=passes)
    epochs = {name: part.epochs for name, part in report.items()}
    return DocumentTokens(held, owner, number, epochs)


class Windows:
    """Full windows of `context` tokens over documents that lie one after the other, as
    `data.packing.pack` cuts them; read from the disk when they are asked for. An error calls the
    documents by their `split` and names the config `field` that holds the context.

    Raises:
        DataError: all documents together do not fill one window.
    """

    def __init__(self, documents: DocumentTokens, context: int, *, split: str, field: str) -> None:
        self._documents, self.context = documents, context
        self._ends = documents.ends()
        if len(self) == 0:
            raise DataError(
                f"documents ({split})",
                problem=f"{len(documents)} documents do not fill one window of {context} tokens",
                fix=f"give more documents or set a smaller {field}",
            )

    def __len__(self) -> int:
        return int(self._ends[-1]) // self.context

    def __getitem__(self, rows: slice | np.ndarray | torch.Tensor) -> torch.Tensor:
        """The windows at `rows`, (R, context) int32."""
        if isinstance(rows, slice):
            rows = np.arange(*rows.indices(len(self)))
        wanted = np.asarray(rows)
        out = np.empty((len(wanted), self.context), dtype=np.int32)
        for place, row in enumerate(wanted):
            self._fill(out[place], int(row) * self.context)
        return torch.from_numpy(out)

    def _fill(self, out: np.ndarray, start: int) -> None:
        documents = self._documents
        if documents.owner is None:  # one store in its own order lies as it is read
            out[:] = documents.stores[0].tokens[start : start + len(out)]
            return
        filled = 0
        index = int(np.searchsorted(self._ends, start, side="right"))
        while filled < len(out):
            ids = documents[index]
            skipped = start + filled - (int(self._ends[index]) - len(ids))
            part = ids[skipped : skipped + len(out) - filled]
            out[filled : filled + len(part)] = part
            filled, index = filled + len(part), index + 1
