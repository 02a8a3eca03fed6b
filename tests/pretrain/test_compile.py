"""`pretrain.compile`: the same training to rounding, the same bits after an interruption, and a
plain refusal where every batch would have a shape of its own.
"""

import json
from functools import partial
from pathlib import Path

import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file
from transformers import MambaConfig, MambaForCausalLM

from podium.errors import Interrupted, RecipeError
from podium.models import save_model
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from pretrain import train as stage_file
from pretrain.config import Config
from pretrain.updates import LanguageModel, compile_reading


def trained(recipe: Path, runs: Path) -> Path:
    """The stage's folder after a run here."""
    loaded = load_recipe(recipe)
    run_one(loaded, "pretrain", runs)
    return runs / loaded.name / "pretrain"


def numbers(folder: Path, *names: str) -> torch.Tensor:
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return torch.tensor([line[name] for line in lines for name in names if name in line])


@pytest.fixture
def small(make_recipe, tiny_llama, tokenizer, tmp_path):
    """A recipe that goes on from a model of two layers, which is compiled in seconds."""
    save_model(tiny_llama, tokenizer, tmp_path / "base")
    return partial(make_recipe, init_from=str(tmp_path / "base"))


@pytest.fixture
def calls(monkeypatch):
    """How often torch's compiler was asked for code."""
    found, compile_whole = [], stage_file.compile_reading

    def noted(reader, *window):
        compile_whole(reader, *window)
        reader._compiled_call_impl, inner = None, reader._compiled_call_impl

        def call(*args, **keywords):
            found.append(reader.training)
            return inner(*args, **keywords)

        reader._compiled_call_impl = call

    monkeypatch.setattr(stage_file, "compile_reading", noted)
    return found


@pytest.mark.slow
def test_a_compiled_training_is_the_same_to_rounding(small, tmp_path, calls):
    """Losses and norms of twelve updates, and two validations, with all that reaches into the
    model's passes. Seen red with nothing compiled (no calls), and with the embedding's gradient
    shrunk by a hook on the tensor, which the compiler left out without a word.
    """
    more = {"embedding_gradient": 0.1, "gradient_checkpointing": True, "eval_tokens": 128}
    plain = trained(small("plain", **more), tmp_path)
    assert calls == []
    compiled = trained(small("compiled", compile=True, **more), tmp_path)
    assert {True, False} == set(calls), "training and validation"
    names = ("loss", "grad_norm", "validation_loss")
    expected, found = (numbers(folder, *names) for folder in (plain, compiled))
    torch.testing.assert_close(found, expected, rtol=2e-3, atol=0)


@pytest.mark.slow
def test_a_compiled_run_goes_on_to_the_same_weights_bit_for_bit(small, tmp_path, monkeypatch):
    """A ramp of batches, so that the shapes come in another order after the interruption."""
    more = {"compile": True, "batch_ramp": {"start": 3, "tokens": 600}, "eval_tokens": 128}
    whole = trained(small("whole", **more), tmp_path)
    recipe = small("broken", **more)
    asked = iter(range(1, 100))
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        patch.setattr(StageContext, "stop_requested", property(lambda _: next(asked) == 7))
        trained(recipe, tmp_path)
    torch._dynamo.reset()  # as in a new process
    broken = trained(recipe, tmp_path)
    first, second = (load_file(f / "final" / "model.safetensors") for f in (whole, broken))
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert torch.equal(numbers(whole, "loss"), numbers(broken, "loss"))


@pytest.mark.parametrize(
    ("more", "problem"),
    [({"engine": {"zero_stage": 3}}, "whole weights"), ({"infilling": {}}, "one shape")],
)
def test_what_cannot_be_compiled_is_refused_when_the_recipe_is_read(more, problem):
    """Seen red without either check."""
    with pytest.raises(ValidationError, match=problem):
        Config(compile=True, **more)


def test_a_model_that_reads_documents_row_by_row_is_not_compiled():
    """A state runs on through a window, so each document is a row as long as it is."""
    config = MambaConfig(vocab_size=64, hidden_size=16, num_hidden_layers=1, state_size=4)
    reader = LanguageModel(MambaForCausalLM(config))
    window = torch.tensor([[1, 5, 6, 1, 7, 8, 9, 10]])
    with pytest.raises(RecipeError, match=r"MambaForCausalLM reads each document in a row"):
        compile_reading(reader, window, separator_id=1)
    assert reader._compiled_call_impl is None
