"""TruthfulQA's multiple choice from a file: lm-eval's tasks against its definitions by hand."""

import json
import sys
from pathlib import Path
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import yaml

from evals.loglikelihood import encode_pair, loglikelihoods
from evals.truthful import measure_truthful, read_rows
from podium.errors import DataError
from podium.models import save_model
from podium.statistics import SHARE, mean_with_interval

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


def test_what_lm_eval_is_asked_and_what_is_told(tmp_path, tiny_llama, tokenizer, monkeypatch):
    """lm-eval itself answers in the slow test below. Mutations seen red: MC2's figures for MC1's;
    the limit ignored; examples before the questions.
    """
    save_model(tiny_llama, tokenizer, tmp_path / "model")
    path, asked = tmp_path / "mc_task.json", []
    path.write_text(json.dumps(ROWS))

    def ask(model, tokenizer, names, examples, files, context, limit, seed):
        rows = [json.loads(line) for line in (files / "rows.jsonl").read_text().splitlines()]
        tasks = {
            name: (files / f"{name.removeprefix('local_')}.yaml").read_text() for name in names
        }
        asked.append((type(model).__name__, examples, context, limit, seed, rows, tasks))
        scores = {"local_truthfulqa_mc1": [1.0, 0.0], "local_truthfulqa_mc2": [0.5, 0.2]}
        return SimpleNamespace(scores={n: {"acc": v[: len(rows)]} for n, v in scores.items()})

    monkeypatch.setattr("evals.truthful.ask", ask)
    package, tasks = ModuleType("lm_eval"), ModuleType("lm_eval.tasks")
    package.tasks, tasks.__file__ = tasks, "/their/tasks/__init__.py"
    for module in (package, tasks):
        monkeypatch.setitem(sys.modules, module.__name__, module)
    found = measure_truthful(str(tmp_path / "model"), path)
    one = measure_truthful(str(tmp_path / "model"), path, 1)
    (kind, *rest, rows, files), (*_, first, _) = asked
    assert (kind, rest) == ("LlamaForCausalLM", [0, 128, None, 0])
    assert rows == read_rows(path) and first == rows[:1]
    for name in ("mc1", "mc2"):
        task = yaml.safe_load(files[f"local_truthfulqa_{name}"])
        assert task["include"] == f"/their/tasks/truthfulqa/truthfulqa_{name}.yaml"
        assert task["task"] == f"local_truthfulqa_{name}"
        assert (task["dataset_path"], task["dataset_name"], task["tag"]) == ("json", None, None)
        source = task["dataset_kwargs"]
        folder = Path(source["cache_dir"]).parent
        assert source["data_files"] == {"validation": str(folder / "rows.jsonl")}
    bounded = mean_with_interval([1.0, 0.0], range(2), SHARE)
    assert found == {
        "model": str(tmp_path / "model"), "file": str(path), "questions": 2,
        "mc1": bounded._asdict(),
        "mc2": mean_with_interval([0.5, 0.2], range(2), SHARE)._asdict(),
    }  # fmt: skip
    assert one["questions"] == 1 and one["mc1"]["value"] == 1.0


@pytest.mark.slow
def test_mc1_and_mc2_are_by_hand(tmp_path, tiny_llama, tokenizer):
    """From our own log-likelihoods of lm-eval's text. Mutation seen red: MC2 asked with MC1's
    choices.
    """
    pytest.importorskip("lm_eval")
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
