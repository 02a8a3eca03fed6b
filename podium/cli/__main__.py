"""`python -m podium.cli` is the `podium` command."""

from podium.cli.main import app

app()
