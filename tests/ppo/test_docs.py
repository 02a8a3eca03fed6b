"""The page's table of pitfalls names tests that exist."""

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def named_tests(text: str) -> list[tuple[str, str]]:
    """(file, test) of every `file.py::test` in the text; `::test` alone is in the file named before
    it.
    """
    found, file = [], ""
    for name, test in re.findall(r"`(test_\w+\.py)?::(test_\w+)`", text):
        file = name or file
        found.append((file, test))
    return found


def test_every_pitfall_has_tests_and_every_test_named_is_there():
    """Mutation seen red: a test of the table renamed; a row of the table left out."""
    page = (ROOT / "docs/lab/ppo.md").read_text()
    table = page.split("## The pitfalls")[1].split("\n## ")[0]
    rows = re.findall(r"^\| ([\d, ]+) .*$", table, re.MULTILINE)
    assert sorted(int(number) for row in rows for number in row.split(",")) == list(range(1, 18))
    for file, test in named_tests(table):
        found = [
            path for path in ROOT.glob(f"tests/**/{file}") if f"def {test}(" in path.read_text()
        ]
        # other stages have files and tests of the same names; the page is PPO's
        (path,) = [path for path in found if path.parent.name == "ppo"] or found
        assert path.name == file
