"""`podium resume RUN --with a.b=c`: a run that is under way is changed on record, and goes on."""

import json

import pytest
from typer.testing import CliRunner

from podium.cli.main import app
from podium.errors import Interrupted, RecipeError
from podium.run.amend import amend
from podium.run.context import StageContext
from tests.pretrain.test_train import assert_same_weights, metrics, timeless, train


@pytest.fixture
def stopped(make_recipe, tmp_path, monkeypatch):
    """The folder of a run that was stopped after update 6 of 12."""
    asked = {"times": 0}

    def stop_at_the_sixth(stage):
        asked["times"] += 1
        return asked["times"] == 6

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "stop_requested", property(stop_at_the_sixth))
        with pytest.raises(Interrupted):
            train(make_recipe(), tmp_path / "runs")
    return tmp_path / "runs/run"


def test_it_goes_on_at_the_new_rate_and_says_so_everywhere(stopped):
    """Mutations seen red: the checkpoints not told, so that the stage is made anew; the rate of
    before.
    """
    before = metrics(stopped / "pretrain")
    sets = ["--with", "pretrain.learning_rate=3e-4", "--with", "pretrain.guard.clip_factor=0.3"]
    done = CliRunner().invoke(app, ["resume", str(stopped), *sets])
    assert done.exit_code == 0, done.output
    log = metrics(stopped / "pretrain")
    assert log[:6] == before and len(log) == 12 and not (stopped / "replaced").exists()
    # By hand: the floor is a tenth of the peak, and the last update reaches it.
    assert log[-1]["learning_rate"] == pytest.approx(3e-5)
    final = stopped / "pretrain/final"
    amendments = json.loads((final / "stage.json").read_text())["amendments"]
    assert amendments == [
        {"after_step": 6, "key": "guard.clip_factor", "was": 1.0, "is": 0.3},
        {"after_step": 6, "key": "learning_rate", "was": 0.003, "is": 0.0003},
    ]
    assert "learning_rate from 0.003 to 0.0003 after step 6" in (final / "README.md").read_text()
    assert "changed by hand after step 6" in (stopped / "pretrain/logbook.md").read_text()


def test_without_a_change_it_is_the_run_that_nobody_stopped(stopped, make_recipe, tmp_path):
    assert CliRunner().invoke(app, ["resume", str(stopped)]).exit_code == 0
    unbroken = train(make_recipe(), tmp_path / "unbroken")
    assert_same_weights(unbroken, stopped / "pretrain")
    assert timeless(unbroken) == timeless(stopped / "pretrain")
    assert "amendments" not in json.loads((stopped / "pretrain/final/stage.json").read_text())


def test_a_kill_between_recipe_and_checkpoint_is_made_good_by_the_same_command(
    stopped, monkeypatch
):
    """Mutation seen red: the recipe compared with itself, which finds no change any more."""
    with monkeypatch.context() as patch:
        patch.setattr("podium.run.amend._tell", lambda *args: pytest.fail("killed"))
        with pytest.raises(pytest.fail.Exception):
            amend(stopped, ["pretrain.learning_rate=3e-4"])
    recipe = amend(stopped, [])
    assert recipe.stage_config("pretrain").learning_rate == 3e-4
    assert json.loads((stopped / "pretrain/amendments.json").read_text())[0]["was"] == 3e-3


def test_what_the_updates_that_are_done_rest_on_cannot_change(stopped):
    written = (stopped / "recipe.yaml").read_text()
    with pytest.raises(RecipeError, match=r"pretrain\.batch_size cannot change") as error:
        amend(stopped, ["pretrain.batch_size=8"])
    assert "engine.gradient_clipping" in error.value.fix
    assert (stopped / "recipe.yaml").read_text() == written
    assert CliRunner().invoke(app, ["resume", str(stopped)]).exit_code == 0
    with pytest.raises(RecipeError, match="'pretrain' is finished, and its learning_rate"):
        amend(stopped, ["pretrain.learning_rate=3e-4"])


def test_what_people_saw_stands_in_the_run_s_logbook(stopped):
    said = ["note", str(stopped), "loss spiked;\nnode 7 was hot"]
    assert CliRunner().invoke(app, said).exit_code == 0
    assert (stopped / "logbook.md").read_text().endswith(" loss spiked; node 7 was hot\n")
