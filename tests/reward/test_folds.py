"""k-fold by labeler: every labeler is left out once, and taste that nobody else shares costs
accuracy.
"""

import inspect
import json
import sys

import pytest
import yaml
from scipy.stats import rankdata

from data.jsonl import write_jsonl
from podium.errors import DataError
from reward.evaluate import score_rankings
from reward.folds import (
    cross_validate,
    group_labelers,
    main,
    pair_accuracy,
    summary,
    table,
)
from tests.reward.conftest import ranking, village_rankings


def test_every_labeler_is_in_one_group():
    groups = group_labelers(village_rankings(20, 0), 2)
    assert groups == [{"l0", "l2"}, {"l1"}]
    with pytest.raises(DataError, match="3 labelers cannot make 4 groups"):
        group_labelers(village_rankings(20, 0), 4)


def test_the_table_is_a_mean_over_folds_and_a_deviation_over_seeds():
    rows = [
        {"seed": seed, "learned_from": own, "left_out_accuracy": 0.5}
        for seed, own in ((0, 0.6), (0, 0.8), (1, 0.8), (1, 1.0))
    ]
    found = summary(rows)
    assert found["learned_from"]["mean"] == pytest.approx(0.8)
    assert found["learned_from"]["std"] == pytest.approx(0.2 / 2**0.5)


def test_the_table_in_words():
    """Mutation seen red: the two accuracies exchanged. One seed has no deviation."""
    rows = [
        {"left_out": ["ana", "bram"], "seed": seed, "learned_from": own, "left_out_accuracy": 0.5}
        for seed, own in ((0, 0.7), (1, 0.8))
    ]
    assert table({"rows": rows, **summary(rows)}).splitlines()[2:] == [
        "| ana, bram | 0 | 70.0 % | 50.0 % |",
        "| ana, bram | 1 | 80.0 % | 50.0 % |",
        "| mean over folds, +- deviation over seeds | | 75.0 +- 7.1 % | 50.0 +- 0.0 % |",
    ]
    assert "| | 70.0 % | 50.0 % |" in table({"rows": rows[:1], **summary(rows[:1])})


def test_accuracy_is_the_share_of_pairs_ordered_as_the_labelers_did(reward_model, tokenizer):
    """A labeler who agrees with the model on every pair but one of four."""
    asked = [
        ranking("Who?", ["Ana.", "Bram, I think.", "Cy."], [1, 2, 3]),
        ranking("?", ["a", "b"], [1, 2]),
    ]
    by_model = [
        r.model_copy(update={"ranks": rankdata(-scores).astype(int).tolist()})
        for r, scores in zip(asked, score_rankings(reward_model, tokenizer, asked), strict=True)
    ]
    assert pair_accuracy(reward_model, tokenizer, by_model, 99) == 1.0
    turned = [by_model[0], by_model[1].model_copy(update={"ranks": by_model[1].ranks[::-1]})]
    assert pair_accuracy(reward_model, tokenizer, turned, 99) == 0.75


def test_a_labeler_with_a_taste_of_their_own_is_not_predicted(make_recipe, tmp_path, monkeypatch):
    """l2 ranks upside down: left out, l2 is predicted worse than chance. Mutations seen red: another
    number of groups or seeds than was asked for; the table of another name.
    """
    path = make_recipe(rankings=str(tmp_path / "rankings"), num_train_epochs=3)
    run = tmp_path / "run"
    (tmp_path / "rankings").mkdir()
    (tmp_path / "rankings" / "stage.json").write_text('{"format": 1, "stage": "rankings"}')
    for split, seed, count in (("train", 0, 90), ("validation", 1, 30)):
        records = [
            r.model_copy(update={"ranks": [10 - rank for rank in r.ranks]})
            if r.labeler == "l2"
            else r
            for r in village_rankings(count, seed)
        ]
        write_jsonl(tmp_path / "rankings" / f"rankings.{split}.jsonl", records)
    run.mkdir()
    (run / "recipe.yaml").write_text(yaml.safe_dump(yaml.safe_load(path.read_text())))
    monkeypatch.setattr(sys, "argv", ["folds", str(run), "--groups", "3", "--seeds", "0"])
    main()
    found = json.loads((run / "reward-folds.json").read_text())
    assert (found["groups"], found["seeds"]) == (3, [0])
    rows = {row["left_out"][0]: row for row in found["rows"]}
    assert rows["l2"]["left_out_accuracy"] < 0.3 < 0.7 < rows["l2"]["learned_from"]
    assert (run / "reward-folds.md").read_text() == table(found)


def test_by_default_it_is_the_paper_s_and_an_error_is_told_in_a_line(tmp_path, monkeypatch, capsys):
    """Five groups and three seeds. Mutation seen red: the error's code left out."""
    defaults = inspect.signature(cross_validate).parameters
    assert (defaults["groups"].default, defaults["seeds"].default) == (5, (0, 1, 2))
    tree = {"name": "run", "reward": {"rankings": [{"source": "rankings"}]}}
    (tmp_path / "recipe.yaml").write_text(yaml.safe_dump(tree))
    monkeypatch.setattr(sys, "argv", ["folds", str(tmp_path)])
    with pytest.raises(SystemExit) as ended:
        main()
    assert ended.value.code == 2
    assert "no single rankings stage to fold over" in "".join(capsys.readouterr())
