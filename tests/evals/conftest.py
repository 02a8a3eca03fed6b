"""The miniature run, evaluated once for all tests here."""

import shutil
from pathlib import Path

import pytest

from benchmarks import starts
from evals.evaluate import Config, main
from podium.run.context import StageContext
from tests.evals.miniature import make_run

EVALS = Config(prompts=6, samples=2, best_of=4, documents_tokens=1024, questions=12)


@pytest.fixture(scope="session")
def mini_run(tokenizer, tmp_path_factory) -> Path:
    """The folder of a finished run."""
    recipe, run_dir = make_run(tmp_path_factory.mktemp("runs"), tokenizer, EVALS)
    stage = StageContext("evals", recipe, run_dir)
    main(stage.config, stage)
    stage.close()
    return run_dir


@pytest.fixture
def copied_run(mini_run, tmp_path) -> Path:
    """The same run, to change."""
    return Path(shutil.copytree(mini_run, tmp_path / "mini"))


@pytest.fixture
def made(monkeypatch):
    """The recipes that a claim's benchmark would train, by name."""
    recipes = {}

    def note(recipe, out):
        recipes[recipe.name] = recipe
        return out / recipe.name

    monkeypatch.setattr(starts, "run_chain", note)
    return recipes
