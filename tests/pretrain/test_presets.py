"""The presets build the published models: parameter counts, initial weights, names."""

import math

import pytest
import torch

from podium.errors import RecipeError
from pretrain.presets import PRESETS, build_config, build_model, residual_writers

# (vocabulary, context, parameters) of the released checkpoints; OPT's 66B and 175B by hand from
# V d + (T + 2) d + L (12 d^2 + 13 d) + 2 d.
PUBLISHED = {
    "opt-125m": (50272, 2048, 125_239_296),
    "opt-350m": (50272, 2048, 331_196_416),
    "opt-1.3b": (50272, 2048, 1_315_758_080),
    "opt-2.7b": (50272, 2048, 2_651_596_800),
    "opt-6.7b": (50272, 2048, 6_658_473_984),
    "opt-13b": (50272, 2048, 12_853_473_280),
    "opt-30b": (50272, 2048, 29_974_540_288),
    "opt-66b": (50272, 2048, 65_719_701_504),
    "opt-175b": (50272, 2048, 174_604_468_224),
    "llama-260k": (512, 512, 260_032),
    "llama-7b": (32000, 2048, 6_738_415_616),
    "llama-13b": (32000, 2048, 13_015_864_320),
    "llama-33b": (32000, 2048, 32_528_943_616),
    "llama-65b": (32000, 2048, 65_285_660_672),
    "llama3-1b": (128256, 8192, 1_235_814_400),
    "llama3-8b": (128256, 8192, 8_030_261_248),
    # The two defaults of the embedded world, held so that nobody changes them unawares.
    "opt-tiny": (1024, 160, 945_152),
    "llama-tiny": (1024, 160, 1_094_240),
}


@pytest.mark.parametrize("name", PRESETS)
def test_parameter_counts_are_the_published_ones(name):
    from transformers import AutoModelForCausalLM

    vocab_size, context, parameters = PUBLISHED[name]
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(build_config(name, vocab_size, context))
    assert sum(parameter.numel() for parameter in model.parameters()) == parameters


def test_every_preset_has_a_learning_rate_that_falls_with_size():
    ladder = [
        PRESETS[name].learning_rate
        for name in PRESETS
        if name.startswith("opt-") and name != "opt-175b"
    ]
    assert ladder == sorted(ladder, reverse=True)


def test_llama_keeps_its_papers_spread_unless_the_preset_says_otherwise():
    assert build_config("llama-260k", 512, 64).initializer_range == 0.02
    assert build_config("llama-tiny", 512, 64, initializer_range=0.03).initializer_range == 0.03


@pytest.mark.parametrize(
    ("name", "layers", "std"), [("opt-tiny", 4, 0.006), ("llama-tiny", 3, 0.05)]
)
def test_initial_weights_have_the_papers_spread(name, layers, std):
    """Seen red with the 1/sqrt(2 L) of `build_model` removed."""
    torch.manual_seed(0)
    model = build_model(build_config(name, vocab_size=1024, context=64))
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(std, rel=0.02)
    writers = residual_writers(model)
    assert len(writers) == 2 * layers
    for matrix in writers:
        assert matrix.std().item() == pytest.approx(std / math.sqrt(2 * layers), rel=0.03)


def test_unknown_preset_names_the_nearest_one():
    with pytest.raises(RecipeError, match="opt-125") as error:
        build_config("opt-125", 512, 64)
    assert "opt-125m" in str(error.value.fix)
