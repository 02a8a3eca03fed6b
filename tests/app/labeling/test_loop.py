"""The whole loop with models: checkpoints of a run, the site, ten labelers, agreement, export,
reward model.
"""

import hashlib
import json
import random

import pytest
from typer.testing import CliRunner

from app.labeling.cli import app
from app.labeling.importing import Candidates
from app.labeling.site import Settings, open_site
from data.jsonl import read_jsonl, write_jsonl
from data.records import Ranking
from data.worlds import load_world
from evals.evaluate import Config
from podium.run.recipe import DataConfig, Recipe, dump_recipe
from tests.evals.miniature import WORLD, make_run


def village_candidates(split: str, count: int) -> list[Candidates]:
    """Prompts of the village with one right answer and three demonstrations; an untrained model's
    would be all bad.
    """
    world, rng = load_world("willowbrook", seed=0), random.Random(split)
    prompts, found = world.prompts(rng), []
    while len(found) < count:
        prompt = next(prompts)
        texts = [
            world.oracle(prompt),
            *(world.demonstration(prompt, rng).messages[-1].content for _ in range(3)),
        ]
        if len(set(texts)) == 4:
            found.append(
                Candidates(
                    prompt=prompt.messages,
                    responses=texts,
                    split=split,
                    user=prompt.user,
                    source=prompt.source,
                    id=prompt.id,
                    meta=prompt.meta,
                )
            )
    return found


@pytest.mark.slow
def test_from_a_run_to_a_reward_model_on_what_labelers_said(tokenizer, tmp_path):
    """`podium label demo`: import, rank, agree, export, train; the model's stage names the export
    by its hash.
    """
    run = make_run(tmp_path, tokenizer, Config())[1]
    recipe = Recipe(
        name="mini", threads=1, dtype="fp32", data=DataConfig(world=WORLD), reward={"model": "sft"}
    )
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    kept = run / "rankings" / "final" / "candidates.jsonl"
    kept.parent.mkdir(parents=True)
    write_jsonl(kept, village_candidates("train", 20) + village_candidates("validation", 5))
    before = sorted(path.relative_to(run) for path in run.rglob("*"))
    shown = CliRunner().invoke(app, ["demo", str(run), "--prompts", "20"])
    assert shown.exit_code == 0, shown.output

    export = tmp_path / "mini-labeled" / "labeling" / "exports" / "export-0001-rankings.jsonl"
    rankings = read_jsonl(export, Ranking)
    assert {r.cohort for r in rankings} == {"train", "heldout"} and len(
        {r.labeler for r in rankings}
    ) > 2
    stage = json.loads((tmp_path / "mini-labeled" / "reward" / "final" / "stage.json").read_text())
    assert hashlib.sha256(export.read_bytes()).hexdigest() in [
        f["sha256"] for d in stage["data"] for f in d["files"]
    ]
    assert 0 <= stage["metrics"]["accuracy"] <= 1 and 0 <= stage["metrics"]["heldout_accuracy"] <= 1
    # nothing of the run itself changed
    assert sorted(path.relative_to(run) for path in run.rglob("*")) == before
    again = CliRunner().invoke(app, ["demo", str(run), "--prompts", "6"])
    assert again.exit_code == 2 and "already has a site" in again.output


@pytest.mark.slow
def test_answers_of_checkpoints_become_tasks(tokenizer, tmp_path):
    """`podium label sample` with real, if untrained, models."""
    run = make_run(tmp_path, tokenizer, Config())[1]
    recipe = Recipe(name="mini", threads=1, dtype="fp32", data=DataConfig(world=WORLD))
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    options = [
        "--name",
        "sampled",
        "--k",
        "3",
        "--prompts",
        "2",
        "--folder",
        str(tmp_path / "site"),
    ]
    open_site(Settings(folder=tmp_path / "site")).database.close()
    shown = CliRunner().invoke(app, ["sample", str(run), *options])
    assert shown.exit_code == 0 and "batch 'sampled': 2 tasks" in shown.output, shown.output
