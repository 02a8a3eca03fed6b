"""Faults put in by a tool, a sample of them, and whether the fast tests see them.

    make mutants FOLDER=ppo SEED=1 SAMPLE=40

mutmut makes the mutants. This file runs them, since mutmut's own runner draws no sample, stops at
no budget and leaves decorated functions alone. The tests of a folder run once in a copy of the
tree, which tells how long each takes and which lines it reads. Then each mutant is written into the
copy, and the tests that read its statement run there, the quickest first, in a process forked from
this one, which has imported torch and the other libraries but none of our own code.

docs/lab/mutation.md holds the scores; `tests/mutants.py` is the list by hand beside this one.
"""

import ast
import difflib
import hashlib
import importlib
import json
import os
import random
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from functools import partial
from itertools import islice
from pathlib import Path
from textwrap import indent
from typing import Any, NamedTuple

import libcst as cst
from libcst.metadata import MetadataWrapper, PositionProvider
from mutmut.mutation import file_mutation, pragma_handling
from scipy.stats import binomtest

from tests.mutation_scope import EQUIVALENT, FOLDERS, LEFT_OUT, OPERATORS, Visitor, reason_of

for name, value in (("OMP_NUM_THREADS", "1"), ("TOKENIZERS_PARALLELISM", "false")):
    os.environ.setdefault(name, value)  # a process with threads cannot be forked safely
ROOT = Path(__file__).resolve().parents[1]
CACHE = ROOT / "build" / "mutation.json"  # what each test file reads, while it is unchanged
# CPU seconds of tests, as they took without a fault, that one mutant may cost: of the tests that are
# named for its file, and half as many of all others.
BUDGET = 20.0
MEMORY = 8 << 30  # bytes; a loop that never ends may also grow
PATIENCE = 10.0  # a mutant whose tests take so many times longer hangs, and is killed


class Mutant(NamedTuple):
    """A fault: its file and line, the lines that went and came, and the whole new text."""

    file: str
    line: int
    before: str
    after: str
    text: str


def places_of(tree: Path, file: str) -> list[Callable[[], Mutant | None]]:
    """The mutants of all functions and methods of a file, each made when it is drawn. Imports,
    constants and the fields of a class have none.
    """
    source = (tree / file).read_text()
    wrapper = MetadataWrapper(cst.parse_module(source))
    visitor = Visitor(OPERATORS, pragma_handling.IgnoredCode(set(), set(), set()))
    module = wrapper.visit(visitor)
    places = wrapper.resolve(PositionProvider)

    def make(found: file_mutation.Mutation) -> Mutant | None:
        text = module.deep_replace(found.original_node, found.mutated_node).code
        lines = list(difflib.ndiff(source.splitlines(), text.splitlines()))
        gone, come = (
            "\n".join(line[2:].strip() for line in lines if line.startswith(sign)) for sign in "-+"
        )
        with suppress(SyntaxError):
            ast.parse(text)
            return Mutant(file, places[found.original_node].start.line, gone, come, text)
        return None

    return [
        partial(make, mutation)
        for mutation in visitor.mutations
        if isinstance(mutation.contained_by_top_level_function, cst.FunctionDef)
        and mutation.original_node in places
    ]


def sample_of(tree: Path, folder: str, size: int, seed: int) -> tuple[list[Mutant], int]:
    """`size` mutants of a folder, each as likely as any other, and how many there are."""
    every = [place for file in files_of(tree, folder) for place in places_of(tree, file)]
    drawn = random.Random(seed).sample(every, len(every))
    made = (mutant for place in drawn if (mutant := place()) is not None)
    return list(islice(made, size)), len(every)


def files_of(tree: Path, folder: str) -> list[str]:
    paths = [path for pattern in FOLDERS[folder][0].split() for path in tree.glob(pattern)]
    return sorted({str(path.relative_to(tree)) for path in paths} - LEFT_OUT)


def statement_at(source: str, line: int) -> range:
    """The lines of the smallest statement around `line`, of a compound one its head alone, and of
    a function the whole of it: its defaults are read when its file is imported, by whichever test
    was the first, and asked by those that call it.
    """
    found = range(line, line + 1000)
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.stmt):
            body = getattr(node, "body", None)
            end = max(node.lineno, body[0].lineno - 1) if body else node.end_lineno or node.lineno
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and line <= end:
                end = node.end_lineno or end
            if node.lineno <= line <= end and end - node.lineno < len(found):
                found = range(node.lineno, end + 1)
    return found


@contextmanager
def copied_tree() -> Iterator[Path]:
    """A copy of the project, in a folder that has room for what the tests write."""
    with tempfile.TemporaryDirectory(prefix="mutation-") as folder:
        skip = shutil.ignore_patterns(".*", "__pycache__", "build", "runs", "models", "site")
        yield Path(shutil.copytree(ROOT, Path(folder) / "tree", ignore=skip))


def forked(tree: Path, work: Callable[[], int], limit: float) -> int:
    """What `work` returns in a child process whose code is that of `tree`; 124 after `limit` s."""
    child = os.fork()
    if child == 0:
        code = 99
        try:
            os.setpgid(0, 0)  # whatever the tests start ends with them
            resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, MEMORY))
            log = os.open(tree.parent / "log", os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(log, 1), os.dup2(log, 2)
            os.chdir(tree)
            sys.path[:] = [str(tree), *(p for p in sys.path if Path(p or ".").resolve() != ROOT)]
            os.environ["PYTHONPATH"] = str(tree)
            for name in [name for name in sys.modules if name.split(".")[0] == "tests"]:
                del sys.modules[name]  # this package, of the tree that is not mutated
            importlib.invalidate_caches()
            code = work()
        except BaseException:
            traceback.print_exc()
        finally:
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(code)
    end, done, status = time.monotonic() + limit, 0, 0
    while not done and time.monotonic() < end:
        done, status = os.waitpid(child, os.WNOHANG)
        time.sleep(0.02)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if done:
        return os.waitstatus_to_exitcode(status)
    os.waitpid(child, 0)
    return 124


def run_pytest(tree: Path, *arguments: str, plugins: tuple[Any, ...] = ()) -> int:
    import pytest

    common = ["-q", "-n", "0", "-p", "no:cacheprovider", "--basetemp", str(tree.parent / "made")]
    return int(pytest.main([*common, *arguments], plugins=list(plugins)))


class Record:
    """A pytest plugin: the CPU seconds of each test, fixtures included, and which tests fail."""

    def __init__(self, cover: Any) -> None:
        self.cover = cover
        self.seconds: dict[str, float] = {}
        self.failed: list[str] = []

    def pytest_runtest_logstart(self, nodeid: str) -> None:
        self.cover.switch_context(nodeid)
        self.seconds[nodeid] = -time.process_time()

    def pytest_runtest_logfinish(self, nodeid: str) -> None:
        self.seconds[nodeid] += time.process_time()

    def pytest_runtest_logreport(self, report: Any) -> None:
        self.failed += [report.nodeid] if report.failed else []


def recorded(tree: Path, test: str, files: list[str], out: Path) -> int:
    """Run one file of tests in this process; write to `out` what was recorded of it."""
    import coverage

    read = [str(tree / file) for file in files]
    cover = coverage.Coverage(data_file=None, config_file=False, include=read)
    record = Record(cover)
    cover.start()
    code = run_pytest(
        tree, "-m", "not (slow or gpu or postgres or browser or vllm)", test, plugins=(record,)
    )
    cover.stop()
    found = {file: cover.get_data().contexts_by_lineno(str(tree / file)) for file in files}
    libraries = [name for name, module in sys.modules.items() if str(tree) not in str(module)]
    known = {"seconds": record.seconds, "failed": record.failed, "lines": found}
    out.write_text(json.dumps(known | {"libraries": libraries}))
    return code


def readers(folder: str, tree: Path) -> list[dict[str, Any]]:
    """What was recorded of every file of a folder's tests, now or when it last changed."""
    files, out = files_of(tree, folder), tree.parent / "recorded.json"
    named = [tree / "tests" / name for name in FOLDERS[folder][1].split()]
    paths = sorted(p for n in named for p in ([n] if n.is_file() else n.rglob("test_*.py")))
    cache = json.loads(CACHE.read_text()) if CACHE.exists() else {}
    found = []
    for path in paths:
        test = str(path.relative_to(tree))
        contents = b"".join(p.read_bytes() for p in (path, *(tree / file for file in files)))
        key = f"{folder} {test} {hashlib.sha256(contents).hexdigest()}"
        if key not in cache:
            began = time.monotonic()
            forked(tree, partial(recorded, tree, test, files, out), 900)
            cache[key] = json.loads(out.read_text())
            CACHE.parent.mkdir(exist_ok=True)
            CACHE.write_text(json.dumps({k: v for k, v in cache.items() if not v["failed"]}))
            print(f"  recorded {test} in {time.monotonic() - began:.0f} s", flush=True)
            for failed in cache[key]["failed"]:
                print(f"  fails without any fault, and is left out: {failed}", flush=True)
            out.unlink()
        preload(cache[key]["libraries"])
        found.append(cache[key])
    return found


def preload(libraries: list[str]) -> None:
    """Import what the tests imported, in that order, since some libraries patch others."""
    for name in libraries:
        if name not in sys.modules and not name.startswith(("_pytest", "conftest", "tests")):
            with suppress(BaseException):
                importlib.import_module(name)


def tests_for(mutant: Mutant, tree: Path, found: list[dict[str, Any]]) -> tuple[list[str], float]:
    """The tests that read the mutant's statement, as the budget allows, the quickest first; and
    their seconds. Those that are named for the mutant's file may take the most, since what a whole
    stage writes is seen by slow ones alone.
    """
    lines = statement_at((tree / mutant.file).read_text(), mutant.line)
    seconds: dict[str, float] = {}
    for one in found:
        by_line = one["lines"].get(mutant.file, {})
        names = {name for line in lines for name in by_line.get(str(line), []) if name}
        seconds |= {n: one["seconds"].get(n, 0.0) for n in names - set(one["failed"])}
    quickest = sorted(seconds, key=seconds.__getitem__)
    own = [name for name in quickest if f"/test_{Path(mutant.file).stem}.py" in name]
    chosen = {*affordable(quickest, seconds, BUDGET / 2), *affordable(own, seconds, BUDGET)}
    ordered = [name for name in quickest if name in chosen]
    return ordered, sum(seconds[name] for name in ordered)


def affordable(names: list[str], seconds: dict[str, float], budget: float) -> list[str]:
    """The first of the tests that together take no longer than the budget; one in any case."""
    chosen, total = names[:1], sum(seconds[name] for name in names[:1])
    for name in names[1:]:
        if total + seconds[name] <= budget:
            chosen, total = [*chosen, name], total + seconds[name]
    return chosen


def verdict(mutant: Mutant, tree: Path, found: list[dict[str, Any]]) -> str:
    """killed, hangs (as good), survived, or unread where no fast test reads the statement."""
    chosen, seconds = tests_for(mutant, tree, found)
    if not chosen:
        return "unread"
    file = tree / mutant.file
    whole = file.read_text()
    file.write_text(mutant.text)
    for compiled in (file.parent / "__pycache__").glob(f"{file.stem}.*.pyc"):
        compiled.unlink()
    sys.dont_write_bytecode = True
    try:
        code = forked(tree, lambda: run_pytest(tree, "-x", *chosen), 60 + PATIENCE * seconds)
    finally:
        file.write_text(whole)
        sys.dont_write_bytecode = False
    if code == 99:
        raise RuntimeError((tree.parent / "log").read_text())
    return {0: "survived", 124: "hangs"}.get(code, "killed")


def main(folder: str, size: int = 40, seed: int = 1) -> None:
    """Print a folder's score on a sample, with its interval, and the survivors."""
    began, left = time.monotonic(), []
    with copied_tree() as tree:
        chosen, number = sample_of(tree, folder, size, seed)
        found = readers(folder, tree)
        for count, mutant in enumerate(chosen, start=1):
            start, word = time.monotonic(), verdict(mutant, tree, found)
            left += [(mutant, word)] if word in ("survived", "unread") else []
            place = f"{time.monotonic() - start:4.0f} s  {mutant.file}:{mutant.line}"
            print(f"[{count}/{len(chosen)}] {word:8} {place}", flush=True)
    reasons = [reason_of(mutant.file, mutant.before, mutant.after) for mutant, _ in left]
    for (mutant, word), reason in zip(left, reasons, strict=True):
        print(f"{word} {mutant.file}:{mutant.line} {reason or ''}")
        print(indent(mutant.before, "  - "), indent(mutant.after, "  + "), sep="\n")
    dead = len(chosen) - len(left)
    same = sum(1 for reason in reasons if reason and reason.startswith(EQUIVALENT))
    print(f"{folder}: {score(dead, len(chosen))}; of those that a test can see", end=" ")
    print(f"{score(dead, len(chosen) - same)}; {number} mutants, seed {seed}", end=", ")
    print(f"{(time.monotonic() - began) / 60:.1f} minutes")


def score(dead: int, drawn: int) -> str:
    """Killed of drawn, with the share's 95 % interval (Wilson)."""
    interval = binomtest(dead, drawn).proportion_ci(method="wilson")
    return f"{dead} of {drawn}, {dead / drawn:.0%} [{interval.low:.0%}, {interval.high:.0%}]"


if __name__ == "__main__":
    if sys.argv[1:2] == [] or sys.argv[1] not in FOLDERS:
        sys.exit(f"Name one folder, as in make mutants FOLDER=ppo: {', '.join(FOLDERS)}")
    main(sys.argv[1], *(int(argument) for argument in sys.argv[2:]))
