"""The command as a function, run in a folder of its own."""

import pytest
from typer.testing import CliRunner

from podium.cli.main import app


@pytest.fixture
def podium(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return lambda *args: CliRunner().invoke(app, [str(arg) for arg in args])
