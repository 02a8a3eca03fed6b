"""A reward that is a Python function: `module:function`, or `path/to/file.py:function`.

    def score(prompts, responses):
        return [-abs(len(response) - 80) / 80 for response in responses]

prompts: a list of `data.records.Prompt` (`prompt.messages[-1].content` is what was asked,
`prompt.meta` what else the data say, a reference answer for example). responses: as many texts. It
returns as many numbers. It is called with some rows at a time in no particular order, so what it
returns for one answer should depend on that answer alone; where it draws random numbers or asks
others, a resumed run is no longer the same run.
"""

import difflib
import importlib
import math
import numbers
import os
import sys
import traceback
import types
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.records import Prompt
from podium.errors import FunctionError
from podium.rewards.protocol import Reward

__all__ = [
    "FunctionReward",
    "load_function",
]

SHOWN = 200  # characters of a prompt or a value in an error

LARGEST = torch.finfo(torch.float32).max


class FunctionReward(Reward):
    """Scores by the function that `ref` names. `file` is its source.

    Raises:
        FunctionError: there is no such function, it raises, or what it returns are not as many
            finite numbers as it was given answers.
    """

    reads_text = True

    def __init__(self, ref: str) -> None:
        super().__init__()
        self.ref = ref
        self.function, self.file = load_function(ref)

    def score_text(self, prompts: Sequence[Prompt], responses: Sequence[str]) -> Tensor:
        """(B,) fp32 on the CPU."""
        asked, said = list(prompts), list(responses)
        try:
            found = self.function(asked, said)
        except Exception as error:
            raise self._raised(error, asked, said) from error
        try:
            values = None if isinstance(found, str | dict) else list(found)
        except TypeError:
            values = None
        if values is None:
            raise self._wrong(f"returned {_short(found)}, not a list of numbers", asked[0])
        if len(values) != len(said):
            raise self._wrong(f"returned {len(values)} scores for {len(said)} answers", asked[0])
        return torch.tensor(
            [self._number(*row) for row in zip(values, asked, said, strict=True)],
            dtype=torch.float32,
        )

    def _number(self, value: Any, prompt: Prompt, response: str) -> float:
        try:
            plain = value.item() if hasattr(value, "item") else value  # of numpy and torch
            number = float(plain) if isinstance(plain, numbers.Real) else math.nan
        except (OverflowError, RuntimeError, TypeError, ValueError):
            number = math.nan  # several numbers for one answer, or one that no float holds
        # A score that overflows fp32 would be infinite there; the comparison refuses NaN too.
        if abs(number) <= LARGEST:
            return number
        raise self._wrong(
            f"returned {_short(value)} for the answer {_short(response)}, not a finite number",
            prompt,
        )

    def _raised(
        self, error: Exception, prompts: list[Prompt], responses: list[str]
    ) -> FunctionError:
        """The error of a function that raised, with the first prompt that makes it raise alone."""
        culprit, answer = prompts[0], responses[0]
        for prompt, response in zip(prompts, responses, strict=True):
            try:
                self.function([prompt], [response])
            except Exception as again:
                error, culprit, answer = again, prompt, response
                break
        what = f"raised {_named(error, self.file)} for the answer {_short(answer)}"
        return self._wrong(what, culprit)

    def _wrong(self, what: str, prompt: Prompt) -> FunctionError:
        return FunctionError(
            f"the reward function '{self.ref}' {what}; the prompt was "
            f"{_short(prompt.messages[-1].content)}",
            f"mend {self.file}",
        )


def load_function(ref: str) -> tuple[Callable[..., Any], Path]:
    """The function that `module:function` or `path/to/file.py:function` names, and its file.

    A file is read anew at each call and stands alone: files beside it are not on the import path.

    Raises:
        FunctionError: no such file, module or function, or importing it raises.
    """
    place, _, name = ref.rpartition(":")
    is_file = place.endswith(".py")
    module, file = _run_file(ref, place) if is_file else _import_module(ref, place)
    function = getattr(module, name, None)
    if callable(function):
        return function, file
    known = [n for n, v in vars(module).items() if callable(v) and not n.startswith("_")]
    near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
    raise FunctionError(
        f"the reward function '{ref}': {file} has no function '{name}'",
        f"did you mean '{place}:{near[0]}'?" if near else f"it has: {', '.join(known) or 'none'}",
    )


def _run_file(ref: str, place: str) -> tuple[types.ModuleType, Path]:
    path = Path(os.path.expandvars(place)).expanduser()
    if not path.is_file():
        raise FunctionError(
            f"the reward function '{ref}': there is no file {path.absolute()}",
            "a path is read from the folder that the command is started in",
        )
    module = types.ModuleType(f"podium_reward_{path.stem}")
    module.__file__ = str(path)
    sys.modules[module.__name__] = module  # dataclasses and pickle look a class's module up
    try:
        # Compiled here and not imported: a cached import can be older than the file.
        exec(compile(path.read_bytes(), str(path), "exec"), module.__dict__)
    except Exception as error:
        raise FunctionError(
            f"the reward function '{ref}': {path} raised {_named(error, path)}", f"mend {path}"
        ) from error
    return module, path


def _import_module(ref: str, place: str) -> tuple[types.ModuleType, Path]:
    try:
        module = importlib.import_module(place)
    except Exception as error:
        raise FunctionError(
            f"the reward function '{ref}': importing '{place}' raised "
            f"{type(error).__name__}: {error}",
            "install the module where Podium runs, or give a file: path/to/file.py:function",
        ) from error
    return module, Path(str(module.__file__))


def _named(error: Exception, file: Path) -> str:
    """The error's kind, text and line in the function's file."""
    lines = [f.lineno for f in traceback.extract_tb(error.__traceback__) if f.filename == str(file)]
    if isinstance(error, SyntaxError):
        lines = [error.lineno]
    return f"{type(error).__name__}: {error}" + (f" (line {lines[-1]})" if lines else "")


def _short(value: Any) -> str:
    text = repr(value)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}..."
