"""The evaluation in pieces, each kept on the disk as soon as it is made: a kill costs one at most.

A piece is a block of one model's answers, its losses, or its questions. They come in a fixed order
and each depends on the seed and its place alone, so a resumed evaluation makes those that are
missing and ends with the same bits as an unbroken one.
"""

import json
import shutil
from collections.abc import Callable
from typing import Any

from podium.errors import Interrupted
from podium.run.context import StageContext
from podium.storage import write_text


class Pieces:
    """The pieces of one evaluation; `done` counts those asked for so far, in this attempt."""

    def __init__(self, stage: StageContext) -> None:
        found = stage.latest_checkpoint()
        self.stage = stage
        self.folder = stage.dir / "pieces"
        self.kept = found[0] if found else 0  # an earlier attempt made these
        self.done = 0

    def piece(self, make: Callable[[], Any]) -> Any:
        """What `make()` returns (only lists, dicts, numbers, texts and None), made once.

        Every piece comes back through JSON, whose floats are exact, so that it does not matter
        which attempt made it.

        Raises:
            Interrupted: a signal was seen; the piece is kept.
        """
        self.done += 1
        path = self.folder / f"{self.done}.json"
        if self.done > self.kept:
            write_text(path, json.dumps(make()))
            # The checkpoint counts the pieces and knows what they were made from; it copies none.
            self.stage.save_checkpoint(self.done, lambda folder: None)
            if self.stage.stop_requested:
                raise Interrupted(f"evaluation stopped after piece {self.done}, which is kept")
        return json.loads(path.read_text(encoding="utf-8"))

    def clear(self) -> None:
        """Delete the pieces: the stage is finished and holds what was made of them."""
        shutil.rmtree(self.folder)
