"""`benchmarks.real_tasks` on files of questions with choices, as a person starts it."""

import json
import sys

import pytest

from benchmarks import real_tasks
from benchmarks.real_tasks import ours, rows_of_choices
from evals.loglikelihood import encode_pair, loglikelihoods
from podium.models import save_model


@pytest.fixture
def files(tmp_path):
    """Two files whose last question is beyond the twelve that are asked."""
    words = ["owl", "lantern", "bread, plums", "the owl found a lantern"]
    for name, turn in (("first", 0), ("second", 1)):
        rows = [
            {
                "query": f"Question: what is number {number}?\n",
                "choices": words[number % 3 :] + words[: number % 3],
                "gold": (5 * number // 3 + turn) % 4,
            }
            for number in range(13)
        ]
        (tmp_path / f"{name}.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    return [tmp_path / "first.jsonl", tmp_path / "second.jsonl"]


def test_a_choice_is_right_by_its_sum_or_by_its_sum_for_each_character(
    files, tiny_llama, tokenizer
):
    """Against the definition. Mutations seen red: the first choice always right; by tokens; the
    query without "Answer:"; all rows in place of the first.
    """
    sets = dict(rows_of_choices(files, 12))
    assert list(sets) == ["first", "second"] and all(len(rows) == 12 for rows in sets.values())
    for rows in sets.values():
        found, total = ours(tiny_llama, tokenizer, rows, 128)
        whole, expected = 0.0, {"acc": [], "acc_norm": []}
        for row in rows:
            assert row["context"].endswith("?\nAnswer:")
            pairs = [encode_pair(tokenizer, row["context"], f" {c}") for c in row["choices"]]
            sums = [one.total for one in loglikelihoods(tiny_llama, pairs, 128, batch_tokens=1)]
            whole += sum(sums)
            by_length = [s / len(c) for s, c in zip(sums, row["choices"], strict=True)]
            for name, values in (("acc", sums), ("acc_norm", by_length)):
                expected[name].append(float(values.index(max(values)) == row["answer"]))
        assert found == expected and total == pytest.approx(whole)
    assert found["acc"] != found["acc_norm"], "or the test would not tell them apart"


@pytest.mark.slow
def test_every_file_is_asked_of_both_and_no_answer_differs(
    files, tiny_llama, tokenizer, tmp_path, monkeypatch, capsys
):
    """Mutation seen red: a file's task written when it is asked, which lm-eval no longer sees."""
    pytest.importorskip("lm_eval", reason="lm-eval is not installed: pip install -e '.[eval]'")
    save_model(tiny_llama, tokenizer, tmp_path / "model")
    given = [str(tmp_path / "model"), "12", "--choices", *map(str, files)]
    monkeypatch.setattr(sys, "argv", ["it", *given])
    real_tasks.main()
    lines = [line for line in capsys.readouterr().out.splitlines() if line.startswith("| ")][1:]
    cells = [[cell.strip() for cell in line.split("|")[1:-1]] for line in lines]
    asked = [(file, metric) for file in ("first", "second") for metric in ("acc", "acc_norm")]
    assert [(row[0], row[1]) for row in cells] == asked
    for row in cells:
        assert row[2] == "12" and row[5] == "0" and row[3].split(" ")[0] == row[4]
