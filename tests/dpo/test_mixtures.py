"""A mixture of rankings by weight is read on and not read again."""

import pytest

from data.jsonl import write_jsonl
from dpo.train import main
from podium.run.context import StageContext
from podium.run.recipe import load_recipe
from tests.dpo.conftest import rankings


def test_a_mixture_s_second_epoch_reads_on(make_recipe, tmp_path, monkeypatch):
    """A draw of 40 holds 20 of the 32 rankings of `rare`: two epochs read all of them, and no pair
    of the two draws twice. Mutations: one draw whatever the epochs, and both draws read
    twice.
    """
    for name, count, offset in (("rare", 32, 0), ("most", 8, 100)):
        write_jsonl(tmp_path / f"{name}.jsonl", rankings(count, offset))
    parts = ", ".join(f"{{path: {tmp_path}/{name}.jsonl, weight: 1}}" for name in ("rare", "most"))
    recipe = load_recipe(make_recipe(num_train_epochs=2), [f"data.rankings.train=[{parts}]"])
    seen = {}

    class Stopped(Exception):
        pass

    def stop(**what):
        seen.update(what)
        raise Stopped

    monkeypatch.setattr("dpo.train.PreferenceTrainer", stop)
    stage = StageContext("dpo", recipe, tmp_path / "runs" / "run")
    with pytest.raises(Stopped):
        main(recipe.dpo, stage)
    stage.close()
    pairs = seen["pairs"]["train"]
    assert len(seen["order"]) == len(pairs) == 2 * 5 * 40
    prompts = {pair.prompt for pair in pairs}
    assert len(prompts) == 32 + 8
