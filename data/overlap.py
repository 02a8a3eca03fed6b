"""Training text that also stands in texts held out for evaluation (GPT-3, appendix C): a score on
what was learned by heart says nothing.

A run of words in common is compared as it is, not by a hash: among the billions of runs of a
corpus some would collide with a held-out one by chance, and good text would go.
"""

import re
from collections.abc import Iterable, Iterator

# GPT-3, appendix C: what is cut around a run, what is too short to keep, what is past saving.
MARGIN = 200  # characters
SHORTEST_PIECE = 200  # characters
MOST_PIECES = 10


def held_out_runs(texts: Iterable[str], words: int) -> set[str]:
    """All runs of `words` words in the held-out texts; a shorter text has none and cannot be
    found.
    """
    return {run for text in texts for run, _, _ in _runs(text, words)}


def common_run(text: str, held_out: set[str], words: int) -> str | None:
    """The first run of `words` words that a text shares with the held-out ones, or None."""
    return next((run for run, _, _ in _runs(text, words) if run in held_out), None)


def cut(text: str, held_out: set[str], words: int) -> list[str]:
    """The pieces of a text that are left when the common runs and `MARGIN` characters on either
    side are cut out; none when it would be in more than `MOST_PIECES`.

    So a book that quotes one test question loses a paragraph, and a copy of the test everything.
    """
    pieces = []
    start = 0
    for _, first, last in (run for run in _runs(text, words) if run[0] in held_out):
        pieces.append(text[start : max(first - MARGIN, start)])
        start = max(start, last + MARGIN)
    pieces = [piece.strip() for piece in [*pieces, text[start:]]]
    pieces = [piece for piece in pieces if len(piece) >= SHORTEST_PIECE]
    return pieces if len(pieces) <= MOST_PIECES else []


def _runs(text: str, words: int) -> Iterator[tuple[str, int, int]]:
    """Every run of `words` words, without case and punctuation, with the characters at which it
    starts and stops.
    """
    found = list(re.finditer(r"\w+", text))
    lower = [match[0].lower() for match in found]
    for i in range(len(found) - words + 1):
        yield " ".join(lower[i : i + words]), found[i].start(), found[i + words - 1].end()
