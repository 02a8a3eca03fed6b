"""Docstrings speak of what is there. A name under `Args:` is a parameter of the function; a name
between backticks is one too, or one that its own file or another of ours has.
"""

import ast
import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
FOLDERS = ("podium", "data", "pretrain", "sft", "reward", "dpo", "ppo", "evals", "app")
FILES = [path for folder in FOLDERS for path in sorted((ROOT / folder).rglob("*.py"))]
# Names of other people's libraries and models, and names that users may give.
NOT_OURS = {"AutoModelForSequenceClassification", "embed_in", "embed_tokens", "wte", "sdpa"}
NOT_OURS |= {"X", "plain", "ppo_plain", "ppo_ptx", "rloo_ptx"}
Function = ast.FunctionDef | ast.AsyncFunctionDef
HasDocstring = Function | ast.ClassDef | ast.Module


def names_in(tree: ast.AST) -> set[str]:
    """Every name that code uses or defines, and every word of its strings; not of docstrings."""
    docstrings = {
        id(node.body[0].value)
        for node in ast.walk(tree)
        if isinstance(node, HasDocstring) and node.body and isinstance(node.body[0], ast.Expr)
    }
    found: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str):
            found |= set() if id(node) in docstrings else set(re.findall(r"\w+", node.value))
        else:
            texts = (getattr(node, key, None) for key in ("id", "attr", "arg", "name"))
            found |= {part for text in texts if isinstance(text, str) for part in text.split(".")}
    return found


def definitions(path: Path) -> set[str]:
    """What other files may speak of: the file, its folder, its functions, its classes and their
    fields.
    """
    found = {path.stem, path.parent.name}
    for node in ast.parse(path.read_text()).body:
        found |= {node.name} if isinstance(node, Function | ast.ClassDef) else set()
        if isinstance(node, ast.ClassDef):
            fields = (part.target for part in node.body if isinstance(part, ast.AnnAssign))
            found |= {field.id for field in fields if isinstance(field, ast.Name)}
    return found


ANYWHERE = set().union(*map(definitions, FILES))


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_names_in_docstrings_are_those_of_the_code(path):
    """Seen red with `generations_a_prompt` in a docstring of ppo/advantages.py, with `logprop` in one
    of ppo/losses.py, and with a name of `podium.batching.share_of` that was there no more.
    """
    tree = ast.parse(path.read_text())
    known = names_in(tree) | ANYWHERE | NOT_OURS
    wrong = [
        f"{node.name} (line {node.lineno}): `{name}`"
        for node in ast.walk(tree)
        if isinstance(node, Function)
        for name in re.findall(r"(?<!`)`([A-Za-z_]\w*)`(?!`)", ast.get_docstring(node) or "")
        if name not in known
    ]
    assert not wrong


def described(docstring: str) -> list[str]:
    """The names that a section `Args:` describes: `name: ...`, or `one, two: ...`, at the start of
    a sentence.
    """
    section = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", docstring, re.DOTALL | re.MULTILINE)
    text = re.sub(r"\s+", " ", section[1]).strip() if section else ""
    found = re.findall(r"(?:^|[.;] )((?:\*{0,2}\w+(?:, )?)+): ", text)
    return [name.strip("*") for names in found for name in names.split(", ")]


@pytest.mark.parametrize("path", FILES, ids=lambda path: str(path.relative_to(ROOT)))
def test_arguments_that_are_described_are_parameters(path):
    """Seen red with `uniform` for `uniforms` in `podium.sampling.choice.pick_tokens`."""
    wrong = []
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, Function):
            parameters = {part.arg for part in ast.walk(node.args) if isinstance(part, ast.arg)}
            names = described(ast.get_docstring(node) or "")
            wrong += [f"{node.name}: {name}" for name in names if name not in parameters]
    assert not wrong


def test_descriptions_are_read():
    text = "Pick.\n\nArgs:\n    logits: (B, V), any type. one, two:\n        both.\n    last: x.\n\nReturns:\n    y"
    assert described(text) == ["logits", "one", "two", "last"]
