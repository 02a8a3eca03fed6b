"""How to spend a budget of compute on pretraining: Kaplan's and Chinchilla's laws side by side.

Kaplan et al. 2020 ("Scaling Laws for Neural Language Models", appendix A, table 6) put most of a
larger budget into parameters; Hoffmann et al. 2022 ("Training Compute-Optimal Large Language
Models", table 3) found that parameters and tokens should grow alike, about 20 tokens a parameter:
Kaplan's runs had not ended their learning-rate schedules. Both count C = 6 N D: two operations a
parameter and token forward, four backward, attention over the context left out.

Pure arithmetic, no model.
"""

from dataclasses import dataclass

from podium.errors import PodiumError
from pretrain.presets import PRESETS

__all__ = ["CARDS", "Card", "Cost", "Plan", "chinchilla", "cost", "flops_of", "kaplan", "nearest"]

PETAFLOP_DAY = 8.64e19  # operations
TOKENS_PER_PARAMETER = 20.0  # Hoffmann et al. 2022, table 3
CHINCHILLA_BATCH = 1.5e6  # tokens; Chinchilla's own began at 1.5M and doubled midway
KILOGRAMS_PER_KWH = 0.385  # LLaMA's figure (Touvron et al. 2023, section 6): the US average
OVERHEAD = 1.1  # power of the building a watt of the card (PUE), as there


@dataclass(frozen=True)
class Card:
    """An accelerator: its peak in bf16 without sparsity, and the power its maker states."""

    flops: float  # a second
    watts: float


CARDS = {
    "v100": Card(125e12, 300),
    "a100": Card(312e12, 400),
    "h100": Card(989e12, 700),
    "h200": Card(989e12, 700),
    "rtx4090": Card(165e12, 450),
}


@dataclass(frozen=True)
class Plan:
    """What one law says. `outside`: how the budget leaves the range the law was measured in."""

    law: str
    parameters: float
    tokens: float
    batch_tokens: float
    outside: str = ""

    @property
    def steps(self) -> float:
        """Updates."""
        return self.tokens / self.batch_tokens


@dataclass(frozen=True)
class Cost:
    """Of so many operations on a card: hours of one card, energy and carbon dioxide."""

    card_hours: float
    kilowatt_hours: float
    kilograms: float


def flops_of(parameters: float, tokens: float) -> float:
    """6 N D, the operations that training takes."""
    return 6 * parameters * tokens


def kaplan(flops: float) -> Plan:
    """N = 1.3e9 C^0.73, B = 2.0e6 C^0.24 tokens, S = 5.4e3 C^0.03 updates, C in petaflop-days.

    N leaves the embeddings out, C is what the best batch would take. Measured from 768 to 1.5e9
    parameters, on budgets up to about a petaflop-day.
    """
    budget = flops / PETAFLOP_DAY
    batch = 2.0e6 * budget**0.24
    outside = "" if 1e-9 <= budget <= 10 else "measured up to about ten petaflop-days only"
    return Plan("Kaplan", 1.3e9 * budget**0.73, batch * 5.4e3 * budget**0.03, batch, outside)


def chinchilla(flops: float) -> Plan:
    """N = (C / (6 x 20))^0.5 and D = 20 N. Measured from 70M to 16B parameters and 5B to 500B
    tokens, on budgets of 6e18 to 3e21; Chinchilla itself (70B) was its test beyond.
    """
    parameters = (flops / (6 * TOKENS_PER_PARAMETER)) ** 0.5
    outside = "" if 6e18 <= flops <= 1e24 else "measured from 6e18 to 3e21 operations"
    tokens = TOKENS_PER_PARAMETER * parameters
    # Small models take smaller batches (table A9 of the paper has 0.5M below 1B parameters).
    batch = CHINCHILLA_BATCH if parameters >= 1e9 else min(0.5e6, tokens / 100)
    return Plan("Chinchilla", parameters, tokens, batch, outside)


def cost(flops: float, card: str, utilisation: float) -> Cost:
    """`utilisation`: the share of the card's peak that a run reaches (MFU): 0.3 to 0.5 is usual.

    Raises:
        PodiumError: an unknown card, or a share outside (0, 1].
    """
    if card not in CARDS:
        raise PodiumError(f"there is no card '{card}'", f"one of {', '.join(CARDS)}")
    if not 0 < utilisation <= 1:
        raise PodiumError(f"a utilisation of {utilisation:g} is no share of the peak", "0.4, say")
    hours = flops / (CARDS[card].flops * utilisation) / 3600
    energy = hours * CARDS[card].watts * OVERHEAD / 1000
    return Cost(hours, energy, energy * KILOGRAMS_PER_KWH)


def nearest(parameters: float) -> str:
    """The preset whose size is nearest on a logarithmic scale, by its name's number."""
    sizes = {name: _named_size(name) for name in PRESETS}
    known = {name: size for name, size in sizes.items() if size}
    return min(known, key=lambda name: max(known[name] / parameters, parameters / known[name]))


def _named_size(name: str) -> float:
    text = name.rsplit("-", 1)[-1]
    unit = {"m": 1e6, "b": 1e9}.get(text[-1:], 0.0)
    try:
        return float(text[:-1]) * unit
    except ValueError:
        return 0.0
