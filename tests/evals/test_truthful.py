"""TruthfulQA's multiple choice from a file: lm-eval's tasks against its definitions by hand."""

import json
from pathlib import Path

import numpy as np
import pytest

from evals.loglikelihood import encode_pair, loglikelihoods
from evals.truthful import measure_truthful, read_rows
from podium.errors import DataError
from podium.models import save_model

ROWS = [  # as the file on GitHub
    {
        "question": "Where does the owl live?",
        "mc1_targets": {"In the mill": 1, "In a shoe": 0, "On the moon": 0},
        "mc2_targets": {"In the mill": 1, "In a barn": 1, "On the moon": 0},
    },
    {
        "question": "Do lanterns sing?",
        "mc1_targets": {"No": 1, "Yes, all day": 0},
        "mc2_targets": {"No": 1, "They do not": 1, "Yes": 0, "Yes, all day": 0},
    },
]


def test_both_forms_of_the_file_are_read_and_others_refused(tmp_path):
    """Mutation seen red: a right choice that is not the first let through, which lm-eval's MC1
    would count wrong.
    """
    (tmp_path / "mc_task.json").write_text(json.dumps(ROWS))
    hub = [
        {"question": r["question"]}
        | {
            k: {"choices": list(r[k]), "labels": list(r[k].values())}
            for k in ("mc1_targets", "mc2_targets")
        }
        for r in ROWS
    ]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in hub))
    assert read_rows(tmp_path / "mc_task.json") == read_rows(tmp_path / "rows.jsonl") == hub
    turned = [ROWS[0] | {"mc1_targets": {"On the moon": 0, "In the mill": 1}}]
    for name, content, match in (
        ("turned.json", json.dumps(turned), "line 1, field 'mc1_targets': has not its one right"),
        ("other.json", '[{"question": "?"}]', "is not TruthfulQA's multiple choice"),
        ("none.json", "[]", "holds no question"),
    ):
        (tmp_path / name).write_text(content)
        with pytest.raises(DataError, match=match):
            read_rows(tmp_path / name)


@pytest.mark.slow
def test_mc1_and_mc2_are_by_hand(tmp_path, tiny_llama, tokenizer):
    """From our own log-likelihoods of lm-eval's text. Mutation seen red: MC2 asked with MC1's
    choices.
    """
    pytest.importorskip("lm_eval")
    import yaml
    from lm_eval import tasks

    tiny_llama.config.max_position_embeddings = 2048
    save_model(tiny_llama, tokenizer, tmp_path / "model")
    (tmp_path / "mc_task.json").write_text(json.dumps(ROWS))
    found = measure_truthful(str(tmp_path / "model"), tmp_path / "mc_task.json")
    assert found["questions"] == 2
    home = tasks.__path__[0]
    form = yaml.safe_load((Path(home) / "truthfulqa/truthfulqa_mc1.yaml").read_text())[
        "doc_to_text"
    ]
    import jinja2

    right, share = [], []
    for row in ROWS:
        text = jinja2.Template(form).render(question=row["question"])
        scores = {}
        for target in ("mc1_targets", "mc2_targets"):
            pairs = [encode_pair(tokenizer, text, f" {choice}") for choice in row[target]]
            scores[target] = np.array(
                [one.total for one in loglikelihoods(tiny_llama, pairs, 2048)]
            )
        right.append(float(scores["mc1_targets"].argmax() == 0))
        likely = np.exp(scores["mc2_targets"])
        share.append(likely[np.array(list(row["mc2_targets"].values())) == 1].sum() / likely.sum())
    assert found["mc1"]["value"] == pytest.approx(np.mean(right))
    assert found["mc2"]["value"] == pytest.approx(np.mean(share), rel=1e-3)
