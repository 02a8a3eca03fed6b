"""Narrow weights answer almost as wide ones do, take less memory, and are refused where they would
be no such thing.
"""

import copy
import subprocess
import sys

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel, LlamaConfig, LlamaForCausalLM

from podium.errors import PodiumError, RecipeError
from podium.models import save_model
from podium.run.recipe import load_recipe
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.protocol import SamplingParams
from podium.widths import load_to_answer, memory_of, narrow

PROMPT = [1, 5, 9, 14]
# Largest and mean error in nats of a token's log-probability, of what the model below says with
# certainty: probabilities near one and near zero are among them.
STATED = {"bf16": (0.2, 0.04), "int8": (0.4, 0.07), "int4": (4.0, 0.7)}


def make_model(seed: int = 0) -> LlamaForCausalLM:
    """A model of two layers that is sure of itself, as a trained one is."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=96,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=64,
        tie_word_embeddings=True,
        pad_token_id=0,
    )
    model = LlamaForCausalLM(config).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if weight.ndim == 2:
                weight.normal_(0.0, 0.25 if "embed" in name else weight.shape[1] ** -0.5)
    return model


def logprobs(model, rows: list[list[int]]) -> torch.Tensor:
    found = EmbeddedSampler(model, 0).logprobs([row[:1] for row in rows], [row[1:] for row in rows])
    return torch.tensor(found)


def errors(weights: str, spoil=None) -> tuple[float, float]:
    """The largest and the mean error over twelve rows of three models."""
    found = []
    for seed in range(3):
        model = make_model(seed)
        generator = torch.Generator().manual_seed(seed)
        rows = torch.randint(1, 96, (4, 24), generator=generator).tolist()
        wide, small = logprobs(model, rows), narrow(copy.deepcopy(model), weights)
        if spoil is not None:
            spoil(small)
        found.append((logprobs(small, rows) - wide).abs())
    together = torch.cat(found)
    return float(together.max()), float(together.mean())


@pytest.mark.parametrize("weights", STATED)
def test_log_probabilities_stay_near_those_of_fp32(weights):
    """Twice the error measured. Mutations seen red: a scale whose sign is turned (below); int4 in
    place of int8; weights left as they are (no error at all).
    """
    largest, mean = errors(weights)
    assert 0 < largest < STATED[weights][0] and 0 < mean < STATED[weights][1]


@pytest.mark.parametrize("weights", ["int8", "int4"])
def test_one_turned_scale_is_seen(weights):
    """The bounds above would not hold with the scales of one layer turned."""

    def turn(model) -> None:
        weight = model.model.layers[0].mlp.down_proj.weight
        scale = weight.scale if weights == "int8" else weight.scale_and_zero
        scale.neg_()

    largest, mean = errors(weights, turn)
    assert largest > STATED[weights][0] and mean > STATED[weights][1]


def test_int8_is_what_it_is_by_hand():
    """One scale a row, 127.5 steps to each side. Mutation seen red: one scale for the whole matrix
    (torchao's PerTensor).
    """
    model = make_model()
    weight = model.model.layers[1].mlp.up_proj.weight.detach().clone()  # (128, 64)
    scale = weight.abs().amax(dim=1, keepdim=True) / 127.5
    steps = (weight / scale).round().clamp(-128, 127)
    layer = narrow(model, "int8").model.layers[1].mlp.up_proj
    torch.testing.assert_close(layer.weight.scale, scale)
    # A row's largest weight lies half way between two steps.
    apart = (layer.weight.qdata - steps).abs()
    assert apart.max() <= 1 and bool(((apart == 0) | (weight.abs() > 127.4 * scale)).all())
    given = torch.randn(5, 64, generator=torch.Generator().manual_seed(3))
    by_hand = given @ (layer.weight.qdata * scale).T
    torch.testing.assert_close(layer(given), by_hand, rtol=1e-4, atol=1e-4)


def test_the_body_shrinks_and_the_embedding_stays_in_bf16(tmp_path, tokenizer):
    """Mutations seen red: the head quantised with the rest, so that it was a second copy; memory
    counted by a tensor's elements.
    """
    save_model(make_model(), tokenizer, tmp_path / "model")
    sizes, wide = {}, make_model()
    table = wide.get_input_embeddings().weight.numel()
    body = sum(p.numel() for p in wide.parameters() if p.ndim == 2) - table
    for weights in ("fp32", "bf16", "int8", "int4"):
        model = load_to_answer(tmp_path / "model", weights, torch.device("cpu"))
        words, head = model.get_input_embeddings().weight, model.get_output_embeddings().weight
        assert words is head and type(words) is nn.Parameter
        assert words.dtype is (torch.float32 if weights == "fp32" else torch.bfloat16)
        assert model.model.rotary_emb.inv_freq.dtype is torch.float32
        assert not any(p.requires_grad for p in model.parameters()) or weights == "fp32"
        sizes[weights] = memory_of(model)
    small = 4 * 1000  # norms and rotary frequencies
    for weights, bits in {"fp32": 32, "bf16": 16, "int8": 8, "int4": 5}.items():
        words = table * (4 if weights == "fp32" else 2)
        scales = 4 * 1000 if weights == "int8" else 0
        assert abs(sizes[weights] - words - body * bits / 8) < small + scales, (weights, sizes)
    assert sizes["fp32"] > sizes["bf16"] > sizes["int8"] > sizes["int4"]


@pytest.mark.parametrize("weights", ["bf16", "int8", "int4"])
def test_a_narrow_model_samples_and_streams_the_same(weights):
    """Large layers are laid out anew for decoding, and a quantised one must not be: mutation seen
    red: `packs` without its look at the weight's type.
    """
    model = narrow(make_model(), weights)
    sampler, params = EmbeddedSampler(model, 0), SamplingParams(12, seed=4)
    (whole,) = sampler.generate([PROMPT], params)
    assert list(sampler.stream(PROMPT, params)) == whole.tokens and len(whole.tokens) == 12


def test_a_large_quantised_layer_is_not_laid_out_for_decoding():
    """As above, by the size at which layers are."""
    from podium.sampling.prepacked import packs

    layer = nn.Linear(1024, 1024)
    before = packs(layer)
    holder = nn.Module()
    holder.layer = layer
    from torchao.quantization import Int8WeightOnlyConfig, quantize_

    quantize_(holder, Int8WeightOnlyConfig())
    assert before and not packs(holder.layer)


def test_what_cannot_be_narrowed_is_refused_by_name():
    """Mutations seen red: no look at how much lies in linear layers; none at rows that 32 divides."""
    convolved = GPT2LMHeadModel(GPT2Config(n_layer=1, n_embd=32, n_head=2, vocab_size=64))
    with pytest.raises(PodiumError, match="GPT2LMHeadModel: only 0% of its weights"):
        narrow(convolved, "int8")
    assert narrow(convolved, "bf16").dtype is torch.bfloat16
    shape = {"hidden_size": 40, "intermediate_size": 80, "num_attention_heads": 4}
    odd = LlamaForCausalLM(LlamaConfig(vocab_size=64, num_hidden_layers=1, **shape))
    with pytest.raises(PodiumError, match="int4 takes rows that 32 divides"):
        narrow(odd, "int4")


def test_a_training_stage_refuses_narrow_weights(tmp_path):
    """Mutation seen red: the hint left out, after which it was `did you mean 'sft.weight_decay'`."""
    path = tmp_path / "mine.yaml"
    path.write_text("sft: {model: org/base, weights: int8}\n")
    with pytest.raises(RecipeError, match="unknown key") as caught:
        load_recipe(path)
    assert "'sft.weights'" in str(caught.value)
    assert "sft trains, and narrow weights are for answering alone" in str(caught.value)


@pytest.mark.slow
def test_torchao_warns_of_no_cards_that_are_not_here():
    """Four lines before every command, where it is installed. Seen red without the call."""
    code = (
        "from podium.progress import quieten_torchao\nquieten_torchao()\n"
        "from torchao.quantization import quantize_\n"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == 0 and done.stderr == ""
