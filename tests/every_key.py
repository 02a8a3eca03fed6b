"""What the tests of every key have in common: one run without the change, one with it."""

from collections.abc import Callable
from typing import Any

Change = tuple[Any, str, dict[str, Any]]  # the new value, what must differ, what it needs


class EveryKey:
    """`says(name, **keys)` runs a stage and tells what can be seen of it. Runs without a change are
    kept, since most keys share one.
    """

    def __init__(self) -> None:
        self._unchanged: dict[str, dict[str, Any]] = {}

    def check(self, says: Callable[..., dict[str, Any]], key: str, change: Change) -> None:
        """A key that nobody reads changes nothing, and fails here."""
        value, observed, needed = change
        if str(needed) not in self._unchanged:
            self._unchanged[str(needed)] = says("plain", **needed)
        changed = says("changed", **{**needed, key: value})
        assert self._unchanged[str(needed)][observed] != changed[observed]
