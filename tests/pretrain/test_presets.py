"""The presets build the published models: parameter counts, initial weights, names."""

import math

import pytest
import torch
from torch.nn import functional as F

from data.packing import documents_apart
from podium.errors import RecipeError
from pretrain.architecture import build_config, build_model, residual_writers
from pretrain.presets import PRESETS, Preset
from pretrain.updates import LanguageModel

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
    "gpt1-117m": (40478, 512, 116_534_784),
    "gpt2-124m": (50257, 1024, 124_439_808),
    "gpt2-355m": (50257, 1024, 354_823_168),
    "gpt2-774m": (50257, 1024, 774_030_080),
    "gpt2-1.5b": (50257, 1024, 1_557_611_200),
    # GPT-3's are not released: by hand from V d + T d + L (12 d^2 + 13 d) + 2 d.
    "gpt3-125m": (50257, 2048, 125_226_240),
    "gpt3-350m": (50257, 2048, 355_871_744),
    "gpt3-760m": (50257, 2048, 760_300_032),
    "gpt3-1.3b": (50257, 2048, 1_315_723_264),
    "gpt3-2.7b": (50257, 2048, 2_651_553_280),
    "gpt3-6.7b": (50257, 2048, 6_658_404_352),
    "gpt3-13b": (50257, 2048, 12_853_386_240),
    "gpt3-175b": (50257, 2048, 174_604_259_328),
    "pythia-70m": (50304, 2048, 70_426_624),
    "pythia-160m": (50304, 2048, 162_322_944),
    "pythia-410m": (50304, 2048, 405_334_016),
    "pythia-1b": (50304, 2048, 1_011_781_632),
    "pythia-1.4b": (50304, 2048, 1_414_647_808),
    "pythia-2.8b": (50304, 2048, 2_775_208_960),
    "pythia-6.9b": (50432, 2048, 6_857_302_016),
    "pythia-12b": (50688, 2048, 11_846_072_320),
    "neox-20b": (50432, 2048, 20_554_567_680),
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
    for family in ("gpt2-", "gpt3-", "pythia-"):
        rates = [shape.learning_rate for name, shape in PRESETS.items() if name.startswith(family)]
        assert rates == sorted(rates, reverse=True)


def test_llama_keeps_its_papers_spread_unless_the_preset_says_otherwise():
    assert build_config("llama-260k", 512, 64).initializer_range == 0.02
    assert build_config("llama-tiny", 512, 64, initializer_range=0.03).initializer_range == 0.03


@pytest.mark.parametrize(
    ("name", "layers", "std"),
    [
        ("opt-tiny", 4, 0.006),
        ("llama-tiny", 3, 0.05),
        ("gpt1-small", 3, 0.02),
        ("gpt2-small", 3, 0.02),
        ("neox-small", 3, 0.02),
    ],
)
def test_initial_weights_have_the_papers_spread(name, layers, std, monkeypatch):
    """Seen red with the 1/sqrt(2 L) of `build_model` removed, and with GPT-2's scaled twice."""
    for family in ("gpt1", "gpt2", "neox"):
        monkeypatch.setitem(PRESETS, f"{family}-small", Preset(family, 3, 96, 4, 1e-3, 1000))
    torch.manual_seed(0)
    model = build_model(build_config(name, vocab_size=1024, context=64))
    assert model.get_input_embeddings().weight.std().item() == pytest.approx(std, rel=0.02)
    writers = residual_writers(model)
    assert len(writers) == 2 * layers
    for matrix in writers:
        assert matrix.std().item() == pytest.approx(std / math.sqrt(2 * layers), rel=0.03)


@pytest.mark.parametrize("family", ["gpt1", "gpt2", "neox"])
def test_a_new_model_of_every_family_keeps_documents_apart(family, monkeypatch):
    """By the mask or in rows of its own: two documents of a window give the losses of each alone.

    Mutation seen red: windows read as one document.
    """
    monkeypatch.setitem(PRESETS, "small", Preset(family, 2, 32, 4, 1e-3, 1000))
    torch.manual_seed(0)
    model = build_model(build_config("small", vocab_size=40, context=16)).eval()
    first, second = [1, 5, 9, 7, 3], [1, 8, 4, 30, 22, 11]
    together = LanguageModel(model)
    with torch.no_grad():
        apart = documents_apart(torch.tensor([first + second]), 1, model)
        found = together(apart.inputs, apart.targets)
        alone = [
            F.cross_entropy(
                model(torch.tensor([ids])).logits[0, :-1], torch.tensor(ids[1:]), reduction="sum"
            )
            for ids in ([*first, 1], second)
        ]
    assert float(found) == pytest.approx(float(sum(alone)), rel=1e-5)


def test_unknown_preset_names_the_nearest_one():
    with pytest.raises(RecipeError, match="opt-125") as error:
        build_config("opt-125", 512, 64)
    assert "opt-125m" in str(error.value.fix)
