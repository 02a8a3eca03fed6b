"""Model shapes by name, from 0.26M to 175B parameters, with the learning rate and batch their
papers trained them at.

Six families. OPT (Zhang et al. 2022, table 1) follows GPT-3's ladder (Brown et al. 2020, table
2.1): learned positions, LayerNorm, ReLU, biases, an inner width of 4 d. `opt-tiny` is metaseq's own
smallest preset ("8m", 4 x 128), which with a vocabulary of 1,024 has 0.94M parameters. LLaMA
(Touvron et al. 2023, table 2): rotary positions, RMSNorm, SwiGLU of about 8/3 d, no biases; the two
`llama3` shapes share key and value heads among query heads (GQA).

What is left out: tensor and pipeline parallelism, and LLaMA 3's rotary scaling beyond its
pretraining context.
"""

import difflib
from dataclasses import dataclass
from typing import Literal

from podium.errors import RecipeError

__all__ = [
    "PRESETS",
    "Family",
    "Preset",
    "preset",
]

Family = Literal["opt", "llama", "gpt1", "gpt2", "neox"]


@dataclass(frozen=True)
class Preset:
    """One shape. `learning_rate` is the peak and `batch_tokens` the full batch in tokens, both as
    published.
    """

    family: Family
    layers: int
    hidden: int
    heads: int
    learning_rate: float
    batch_tokens: int
    kv_heads: int | None = None  # None: as many as heads
    inner: int | None = None  # None: 4 d (OPT)
    embedding: int | None = None  # None: hidden; OPT-350M projects from 512
    norm_first: bool = True  # OPT-350M alone normalises after the residual sum
    tied: bool = True  # is the output projection the input embedding?
    rope_theta: float = 10_000.0
    # of a new model's weights; None: the family's, OPT 0.006, LLaMA 0.02
    initial_std: float | None = None


def _opt(layers: int, hidden: int, heads: int, learning_rate: float, batch_tokens: float) -> Preset:
    return Preset("opt", layers, hidden, heads, learning_rate, int(batch_tokens))


def _llama(layers: int, hidden: int, heads: int, inner: int, learning_rate: float) -> Preset:
    return Preset("llama", layers, hidden, heads, learning_rate, 4_000_000, inner=inner, tied=False)


def _gpt(family: Family, layers: int, hidden: int, heads: int, rate: float, batch: float) -> Preset:
    return Preset(family, layers, hidden, heads, rate, int(batch), tied=family != "neox")


# GPT-3's ladder gives 2.0e-4 at 1.3B, 1.6e-4 at 2.7B, 1.2e-4 at 6.7B, 1.0e-4 at 13B and 0.6e-4 at
# 175B; OPT kept these but for 175B, where its table prints 1.2e-4. opt-tiny has metaseq's 1e-3;
# llama-tiny's are our own, measured on the village: many small updates beat few large ones,
# learning starts sooner from larger weights, and three wide layers learn more in the same time than
# four narrow ones.
PRESETS: dict[str, Preset] = {
    "opt-tiny": _opt(4, 128, 2, 1e-3, 0.125e6),
    "opt-125m": _opt(12, 768, 12, 6.0e-4, 0.5e6),
    "opt-350m": Preset("opt", 24, 1024, 16, 3.0e-4, 500_000, embedding=512, norm_first=False),
    "opt-1.3b": _opt(24, 2048, 32, 2.0e-4, 1e6),
    "opt-2.7b": _opt(32, 2560, 32, 1.6e-4, 1e6),
    "opt-6.7b": _opt(32, 4096, 32, 1.2e-4, 2e6),
    "opt-13b": _opt(40, 5120, 40, 1.0e-4, 4e6),
    "opt-30b": _opt(48, 7168, 56, 1.0e-4, 4e6),
    "opt-66b": _opt(64, 9216, 72, 0.8e-4, 2e6),
    "opt-175b": _opt(96, 12288, 96, 1.2e-4, 2e6),
    # llama2.c's stories260K
    "llama-260k": Preset("llama", 5, 64, 8, 1e-3, 131_072, kv_heads=4, inner=172),
    "llama-tiny": Preset("llama", 3, 160, 5, 3e-3, 640, inner=432, initial_std=0.05),
    "llama-7b": _llama(32, 4096, 32, 11008, 3.0e-4),
    "llama-13b": _llama(40, 5120, 40, 13824, 3.0e-4),
    "llama-33b": _llama(60, 6656, 52, 17920, 1.5e-4),
    "llama-65b": _llama(80, 8192, 64, 22016, 1.5e-4),
    # The 1B's rate is not published (it was pruned and distilled from the 8B); the 8B's stands in.
    "llama3-1b": Preset(
        "llama", 16, 2048, 32, 3.0e-4, 4_000_000, kv_heads=8, inner=8192, rope_theta=500_000.0
    ),
    "llama3-8b": Preset(
        "llama",
        32,
        4096,
        32,
        3.0e-4,
        4_000_000,
        kv_heads=8,
        inner=14336,
        tied=False,
        rope_theta=500_000.0,
    ),
    "gpt1-117m": _gpt("gpt1", 12, 768, 12, 2.5e-4, 32_768),
    # GPT-2's rates were tuned by hand and not published; those of GPT-3's sizes stand in.
    "gpt2-124m": _gpt("gpt2", 12, 768, 12, 6.0e-4, 0.5e6),
    "gpt2-355m": _gpt("gpt2", 24, 1024, 16, 3.0e-4, 0.5e6),
    "gpt2-774m": _gpt("gpt2", 36, 1280, 20, 2.5e-4, 0.5e6),
    "gpt2-1.5b": _gpt("gpt2", 48, 1600, 25, 2.0e-4, 0.5e6),
    "gpt3-125m": _gpt("gpt2", 12, 768, 12, 6.0e-4, 0.5e6),
    "gpt3-350m": _gpt("gpt2", 24, 1024, 16, 3.0e-4, 0.5e6),
    "gpt3-760m": _gpt("gpt2", 24, 1536, 16, 2.5e-4, 0.5e6),
    "gpt3-1.3b": _gpt("gpt2", 24, 2048, 16, 2.0e-4, 1e6),
    "gpt3-2.7b": _gpt("gpt2", 32, 2560, 32, 1.6e-4, 1e6),
    "gpt3-6.7b": _gpt("gpt2", 32, 4096, 32, 1.2e-4, 2e6),
    "gpt3-13b": _gpt("gpt2", 40, 5120, 40, 1.0e-4, 2e6),
    "gpt3-175b": _gpt("gpt2", 96, 12288, 96, 0.6e-4, 3.2e6),
    "pythia-70m": _gpt("neox", 6, 512, 8, 1.0e-3, 2_097_152),
    "pythia-160m": _gpt("neox", 12, 768, 12, 6.0e-4, 2_097_152),
    "pythia-410m": _gpt("neox", 24, 1024, 16, 3.0e-4, 2_097_152),
    "pythia-1b": _gpt("neox", 16, 2048, 8, 3.0e-4, 2_097_152),
    "pythia-1.4b": _gpt("neox", 24, 2048, 16, 2.0e-4, 2_097_152),
    "pythia-2.8b": _gpt("neox", 32, 2560, 32, 1.6e-4, 2_097_152),
    "pythia-6.9b": _gpt("neox", 32, 4096, 32, 1.2e-4, 2_097_152),
    "pythia-12b": _gpt("neox", 36, 5120, 40, 1.2e-4, 2_097_152),
    "neox-20b": _gpt("neox", 44, 6144, 64, 0.97e-4, 3.15e6),
}


def preset(name: str) -> Preset:
    """The preset of that name. Raises RecipeError with the nearest name for an unknown one."""
    if name not in PRESETS:
        near = difflib.get_close_matches(name, PRESETS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"choose one of {', '.join(PRESETS)}"
        raise RecipeError(f"no model preset is called {name!r}", fix=hint)
    return PRESETS[name]
