"""The list of mutants is true to the code, and those of the day are killed by their tests."""

import ast
import datetime
import os
import random
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.mutants import MUTANTS, ROOT, Mutant, copied_tree, killed
from tests.mutation_scope import EQUIVALENT, REASONS, reason_of

# Each run of the marked suite takes a sample, another one each day; `make mutants-by-hand` all of them.
SEED = (
    os.environ.get("PODIUM_MUTANTS_SEED") or datetime.datetime.now(datetime.UTC).date().isoformat()
)
SAMPLE = random.Random(SEED).sample(MUTANTS, k=min(16, len(MUTANTS)))


@pytest.fixture(scope="module")
def tree() -> Iterator[Path]:
    with copied_tree() as folder:
        yield folder


def name(mutant: Mutant) -> str:
    return f"{mutant.file}:{mutant.replacement.strip() or mutant.text.strip()}"[:60]


@pytest.mark.parametrize("mutant", MUTANTS, ids=name)
def test_a_mutant_is_a_change_of_one_place_that_a_test_is_named_for(mutant):
    """So that the list cannot rot while nobody runs it. Seen red with a text that occurs twice and
    with a test that was renamed.
    """
    assert (ROOT / mutant.file).read_text().count(mutant.text) == 1, mutant.text
    ast.parse((ROOT / mutant.file).read_text().replace(mutant.text, mutant.replacement))
    file, _, test = mutant.test.partition("::")
    functions = [
        n.name for n in ast.walk(ast.parse((ROOT / file).read_text())) if hasattr(n, "name")
    ]
    assert not test or test in functions


@pytest.mark.parametrize("reason", REASONS, ids=lambda reason: f"{reason[0]}:{reason[2]}"[:60])
def test_a_mutant_with_a_reason_is_one_of_the_code_as_it_is(reason):
    """So that the survivors that are excused are those that there are. Seen red with a line that was
    changed since.
    """
    file, before, _ = reason
    lines = {line.strip() for line in (ROOT / file).read_text().splitlines()}
    assert set(before.splitlines()) <= lines


@pytest.mark.parametrize(
    ("before", "after", "same"),
    [
        ("torch.tensor(x, device=self.device) if x", "torch.tensor(x, ) if x", True),
        ("f(x, device=torch.device(name), dtype=y)", "f(x, device=None, dtype=y)", True),
        ("device=stage.device,\n)", ")", True),
        ("zip(a, b, strict=True)", "zip(a, b, strict=False)", True),
        ("zip(a, b, strict=True)", "zip(a, None, strict=True)", False),
        ("f(x, device=self.device, dtype=y)", "f(x, device=self.device, )", False),
        ("f(x, dtype=y)", "f(x, )", False),
    ],
)
def test_only_what_loses_a_device_or_an_assertion_about_lengths_is_excused(before, after, same):
    """Mutation seen red: any change of a call that has a device."""
    reason = reason_of("podium/statistics.py", before, after)
    assert bool(reason and reason.startswith(EQUIVALENT)) == same


@pytest.mark.slow
@pytest.mark.parametrize("mutant", SAMPLE, ids=name)
def test_a_mutant_of_the_day_is_killed(mutant, tree):
    """Sixteen, as each takes a start of Python and its test: 7 s and more."""
    assert killed(mutant, tree), f"PODIUM_MUTANTS_SEED={SEED} draws this sample again"
