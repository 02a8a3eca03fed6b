"""`podium fit` on folders of runs as the stage writes them."""

import json

import pytest
import torch
from safetensors.torch import save_file

from podium.errors import PodiumError
from podium.models import save_model
from pretrain.ladder import fit_and_write, fit_runs, in_words, non_embedding, read_runs

SIZES = {"1x8": 700.0, "1x16": 2800.0, "2x16": 5600.0, "2x32": 22400.0, "3x64": 134400.0}


def finished(folder, name, parameters, tokens, loss, start=None, text="village", epochs=0.4):
    final = folder / name / "pretrain" / "final"
    final.mkdir(parents=True)
    save_file({"layer": torch.zeros(int(parameters)), "embed_tokens": torch.zeros(9)},
              final / "model.safetensors")  # fmt: skip
    files = [{"path": "v.jsonl", "sha256": text}]
    record = {
        "stage": "pretrain",
        "format": 1,
        "config": {"init_from": start},
        "tokens": tokens,
        "tokenizer_sha256": "t",
        "data": [{"kind": "documents", "split": "validation", "files": files}],
        "metrics": {"validation_loss": loss, "epochs": epochs},
    }
    (final / "stage.json").write_text(json.dumps(record))


def loss(parameters, tokens):
    return 0.8 + 6 / parameters**0.3 + 60 / tokens**0.4


@pytest.fixture
def runs(tmp_path):
    folder = tmp_path / "runs"
    for size, parameters in SIZES.items():
        for tokens in (10_000, 40_000, 160_000, 640_000):
            finished(folder, f"{size}-{tokens}", parameters, tokens, loss(parameters, tokens))
            other = 2 * loss(parameters, tokens)
            finished(folder, f"s-{size}-{tokens}", parameters, tokens, other, text="instructions")
        for tokens in (2_000, 4_000, 8_000):
            worth = 2 * loss(parameters, tokens + 30 * tokens**0.5 * parameters**0.2)
            start = str(folder / f"{size}-640000")
            finished(folder, f"t-{size}-{tokens}", parameters, tokens, worth, start, "instructions")
    finished(folder, "again", 700.0, 10_000, 99.0, start="elsewhere")
    return folder


@pytest.mark.slow
def test_every_law_is_fitted_to_the_runs_it_is_about(runs, tmp_path):
    """Two texts and tuned models lie together. Mutations seen red: tuned runs taken for runs from
    scratch; texts not told apart.
    """
    found = fit_and_write(runs, tmp_path / "out")
    joint = found["laws"]["L(N, D)"]["values"]
    assert joint["alpha"] == pytest.approx(0.3, abs=0.01)
    assert joint["beta"] == pytest.approx(0.4, abs=0.01)
    assert found["laws"]["L(N)"]["values"]["exponent"] == pytest.approx(0.3, abs=0.01)
    assert found["laws"]["L(D)"]["values"]["exponent"] == pytest.approx(0.4, abs=0.01)
    assert len(found["runs"]) == 20 and found["other text"] == 20 + 15  # of the other text
    # Between the runs from scratch losses are on a straight line, which the law is not quite.
    known = [one for one in found["transfer"] if one["transferred"] is not None]
    assert known and {"a", "b", "k"} <= found["laws"]["D_T"]["values"].keys()
    assert (tmp_path / "out" / "fit.png").stat().st_size > 10_000
    assert json.loads((tmp_path / "out" / "fit.json").read_text())["range"]["tokens"] == [
        1e4,
        6.4e5,
    ]
    assert "beyond it, it is a guess" in in_words(found)
    assert found["range"] == {"parameters": [700.0, 134400.0], "tokens": [1e4, 6.4e5]}
    assert found["L(N) at tokens"] == 6.4e5 and found["L(D) at parameters"] == 134400.0
    assert found["laws"]["L(N)"]["runs"] == 5 and found["laws"]["L(D)"]["runs"] == 4
    ladder = {(run["parameters"], run["tokens"]): run for run in found["runs"]}
    assert set(ladder) == {(n, d) for n in SIZES.values() for d in (1e4, 4e4, 1.6e5, 6.4e5)}
    for (parameters, tokens), run in ladder.items():
        assert run["loss"] == loss(parameters, tokens) and run["flops"] == 6 * parameters * tokens
    costs = [run["flops"] for run in found["frontier"]]
    assert costs == sorted(costs) and {"parameters", "tokens", "loss"} < found["frontier"][0].keys()
    assert len(costs) == found["laws"]["L(C)"]["runs"]
    # All that were tuned, each beside the runs from scratch on its own text.
    assert len(found["transfer"]) == 1 + 15 and found["read more than once"] == []
    tuned = {(one["parameters"], one["tokens"]): one["transferred"] for one in found["transfer"]}
    assert tuned[134400.0, 8000] == pytest.approx(30 * 8000**0.5 * 134400**0.2, rel=0.3)


def test_a_folder_of_tuned_models_alone_has_no_laws(tmp_path):
    """Mutation seen red: the commonest of no texts asked for."""
    finished(tmp_path / "runs", "t", 700, 1000, 2.0, start="elsewhere")
    with pytest.raises(PodiumError, match=r"every model in .* started from another one"):
        fit_runs(tmp_path / "runs")


@pytest.mark.slow
def test_a_law_without_enough_runs_says_so_and_the_others_are_fitted(tmp_path):
    folder = tmp_path / "runs"
    for parameters in (100, 400, 1600, 6400):
        off = loss(parameters, 10_000) * (1.01 if parameters == 400 else 1)
        finished(folder, f"n-{parameters}", parameters, 10_000, off, epochs=3)
    found = fit_and_write(folder, tmp_path / "out")
    assert fit_runs(folder) == found, "the same draws each time"
    assert fit_runs(folder, seed=1)["laws"]["L(N)"] != found["laws"]["L(N)"]
    assert found["read more than once"] == ["n-100", "n-1600", "n-400", "n-6400"]
    assert "several sizes and amounts" in found["laws"]["L(N, D)"]["none"]
    assert "exponent" in found["laws"]["L(N)"]["values"]
    assert "4 of them read their text more than once" in in_words(found)


def test_a_lone_larger_run_does_not_take_the_ladders_place(runs, tmp_path):
    """Seen red on the largest size, of which there was one run, taken for L(D)."""
    finished(runs, "deep", 200_000, 40_000, 3.0)
    finished(runs, "long", 800.0, 900_000, loss(800.0, 900_000))
    found = fit_and_write(runs, tmp_path / "out")
    assert found["L(D) at parameters"] == 134400.0 and found["L(N) at tokens"] == 640_000
    assert "exponent" in found["laws"]["L(D)"]["values"]
    assert found["range"]["parameters"] == [700.0, 200_000]


def test_parameters_are_counted_without_embeddings(tiny_llama, tiny_opt, tokenizer, tmp_path):
    """Seen red with OPT's positions counted."""
    for name, model in (("llama", tiny_llama), ("opt", tiny_opt)):
        save_model(model, tokenizer, tmp_path / name)
        own = sum(p.numel() for n, p in model.named_parameters() if "embed" not in n)
        assert non_embedding(tmp_path / name) == own


def test_a_folder_without_models_is_refused(tmp_path):
    with pytest.raises(PodiumError, match="no finished base model"):
        read_runs(tmp_path)
