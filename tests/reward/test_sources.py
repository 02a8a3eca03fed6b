"""One split over all sets of rankings: what one set holds back, no other teaches."""

import json

import pytest

from data.jsonl import write_jsonl
from data.records import Ranking
from podium.errors import DataError
from podium.run.context import StageContext
from podium.run.recipe import load_recipe
from reward.planning import initial_model, plan_training, ranking_sets
from reward.sources import draws_of, prompt_key
from tests.reward.conftest import ranking, village_rankings


@pytest.fixture
def sets(make_recipe, tmp_path):
    """`sets(rankings stage by split, export) -> RankingSplits of both`, as the reward stage reads them."""

    def read(stage: dict[str, list[Ranking]], export: list[Ranking]):
        folder = tmp_path / "collected"
        folder.mkdir(exist_ok=True)
        (folder / "stage.json").write_text(json.dumps({"format": 1, "stage": "rankings"}))
        for split, records in stage.items():
            write_jsonl(folder / f"rankings.{split}.jsonl", records)
        write_jsonl(tmp_path / "export.jsonl", export)
        sources = [{"source": str(folder)}, {"source": str(tmp_path / "export.jsonl")}]
        recipe = load_recipe(make_recipe(rankings=sources))
        context = StageContext("reward", recipe, tmp_path / "runs" / "run")
        found = [splits for splits, _ in ranking_sets(recipe.reward.rankings, context)]
        context.close()
        return found

    return read


def prompts(rankings) -> set[str]:
    return {prompt_key(r.prompt) for r in rankings}


def stage_of(**more) -> dict[str, list[Ranking]]:
    """What the stage `rankings` hands over: 40 prompts to learn from, 24 held back."""
    held_back = village_rankings(24, 1)
    heldout_labelers = [
        r.model_copy(update={"cohort": "heldout", "labeler": "eve"}) for r in held_back
    ]
    return {
        "train": village_rankings(40, 0),
        "validation": held_back,
        "heldout": heldout_labelers,
    } | more


def test_what_a_stage_holds_back_an_export_does_not_teach(sets):
    """People ranked the answers to the same prompts: those of the validation prompts validate.
    Seen red with every set split by itself: 22 of 24 validation prompts in training.
    """
    stage = stage_of()
    export = [r.model_copy(update={"labeler": "ana"}) for r in stage["train"] + stage["validation"]]
    found = sets(stage, export)
    taught = prompts(r for splits in found for r in splits.train)
    seen = prompts(r for splits in found for r in (*splits.validation, *splits.heldout))
    assert len(taught) > 30 and len(seen) >= 24 and not taught & seen
    assert prompts(stage["validation"]) <= prompts(found[0].validation)
    moved = [r for r in found[1].validation if prompt_key(r.prompt) in prompts(stage["validation"])]
    assert {r.labeler for r in moved} == {"ana"} and len(moved) == 24
    assert sum(len(part) for splits in found for part in splits[:3]) == 40 + 24 + 24 + 64
    # and the other way round: a tenth of the export's prompts is set aside, by all
    aside = prompts(found[1].validation) - prompts(stage["validation"])
    assert aside and not aside & prompts(found[0].train)


def test_what_is_held_back_is_told(make_recipe, sets, tmp_path):
    """Mutation seen red: the rankings moved without a word."""
    stage = stage_of()
    sets(stage, stage["validation"])
    logbook = (tmp_path / "runs/run/reward/logbook.md").read_text()
    assert "training rankings of prompts that another set holds back (validate instead)" in logbook


def test_a_labeler_held_out_in_one_set_teaches_in_none(sets):
    """Seen red with the cohorts looked at set by set."""
    export = [ranking(f"New {n}?", ["Ana.", "Bram."], [1, 2], labeler="eve") for n in range(5)]
    with pytest.raises(DataError, match="'eve' is in the cohorts train and heldout"):
        sets(stage_of(), export)


def test_sets_without_a_common_prompt_stay_as_they_are(sets):
    """Mutation seen red: all validation rankings put in every set."""
    stage, export = stage_of(), village_rankings(60, 5)
    first, second = sets(stage, export)
    assert first.train == stage["train"] and first.validation == stage["validation"]
    assert first.heldout == stage["heldout"]
    assert len(second.train) + len(second.validation) == 60 and len(second.validation) > 0


def test_a_mixture_s_second_epoch_reads_on(make_recipe, tmp_path):
    """A draw of 100 holds 50 of the 80 rankings of `rare`; two epochs teach what two draws hold,
    each ranking of them once. Seen red when the second epoch repeated the first draw, and when both
    draws were read twice.
    """
    for name, count in (("rare", 80), ("most", 20)):
        write_jsonl(tmp_path / f"{name}.jsonl", village_rankings(count, count))
    parts = ", ".join(f"{{path: {tmp_path}/{name}.jsonl, weight: 1}}" for name in ("rare", "most"))

    def taught(epochs: int):
        recipe = load_recipe(
            make_recipe(f"for-{epochs}", rankings=None, num_train_epochs=epochs),
            [f"data.rankings.train=[{parts}]", "data.rankings.validation=null"],
        )
        context = StageContext("reward", recipe, tmp_path / "runs" / recipe.name)
        sets = ranking_sets(None, context, draws_of(context, None, epochs))
        initial = initial_model(tmp_path / "base", None)
        (plan,) = plan_training(recipe.reward, context, sets, initial)
        context.close()
        prompts_read = [str(item.prompt) for batch in plan.batches for item in batch]
        return sets[0][0], prompts_read

    once, read_once = taught(1)
    twice, read_twice = taught(2)
    assert len(read_once) <= 100 and len(read_twice) <= 200  # what is tied teaches nothing
    assert len(set(read_twice)) > len(set(read_once)) + 15
    held_back = [r.model_dump_json() for r in twice.validation]
    assert held_back and len(held_back) == len(set(held_back))
    assert prompts(once.validation) <= prompts(twice.validation)
