"""Every error a user can cause: one sentence that names the file and field, one that says what to
do, and an exit code.

Exit codes: 2 bad input, 3 training diverged, 4 the run folder cannot be written, 130/143 stopped by
Ctrl-C / SIGTERM.
"""

import signal
from pathlib import Path

__all__ = [
    "DataError",
    "DivergenceError",
    "FunctionError",
    "Interrupted",
    "ParentError",
    "PlatformError",
    "PodiumError",
    "RecipeError",
    "RunFolderError",
]


class PodiumError(Exception):
    """A problem the user can fix. `fix` is the advice printed under the message."""

    exit_code = 2

    def __init__(self, message: str, fix: str | None = None) -> None:
        super().__init__(message)
        self.message = message
        self.fix = fix

    def __str__(self) -> str:
        return f"{self.message}\n  fix: {self.fix}" if self.fix else self.message


class RecipeError(PodiumError):
    """The recipe or a --set cannot be understood."""


class DataError(PodiumError):
    """A data file is missing, empty or malformed; names the file, the line and the field where it
    is known.
    """

    def __init__(
        self,
        path: str | Path,
        line: int | None = None,
        field: str | None = None,
        problem: str = "",
        fix: str | None = None,
    ) -> None:
        place = (
            str(path)
            + (f", line {line}" if line is not None else "")
            + (f", field '{field}'" if field else "")
        )
        super().__init__(f"{place}: {problem}", fix)
        self.path, self.line, self.field, self.problem = str(path), line, field, problem


class ParentError(PodiumError):
    """A parent stage has no finished output, or does not fit the other parents (another tokenizer
    or template).
    """


class FunctionError(PodiumError):
    """A function from outside Podium is missing, raised, or returned what cannot be used; names the
    function. A stage that stops by it goes on from its last checkpoint once the file is mended.
    """


class EndpointError(PodiumError):
    """A model served over HTTP cannot be asked; names the URL. What it answered before is kept."""


class RunFolderError(PodiumError):
    """The run folder cannot be written: full disk, no permission, or another podium works in it."""

    exit_code = 4


class DivergenceError(PodiumError):
    """A loss or gradient became NaN or infinite."""

    exit_code = 3


class PlatformError(PodiumError):
    """The machine or the Python environment cannot do what was asked."""


class Interrupted(PodiumError):
    """A stage stopped on request, after a checkpoint. `podium.run.launch` fills in the signal."""

    def __init__(self, message: str = "stopped on request", signum: int = signal.SIGINT) -> None:
        super().__init__(message)
        self.caught(signum)

    def __str__(self) -> str:
        return f"{self.message}; {self.fix}" if self.fix else self.message

    def caught(self, signum: int) -> None:
        """This signal it was."""
        self.signum, self.exit_code = signum, 128 + int(signum)
