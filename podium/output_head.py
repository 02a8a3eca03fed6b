"""How a family turns hidden states into logits, measured once instead of known by name.

Most models multiply the last hidden states by the head and are done. Others scale them before
(MiniCPM, Inkling) or after (Cohere, Granite, Falcon-H1), or cap them (Gemma). The same key of a
config divides in one family and multiplies in another, so what a model does is read off one small
pass of its own: a wrong guess would train PPO on log-probabilities that the sampler never drew.
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from podium.errors import ParentError

ATTRIBUTE = "podium_output_head"  # where a model carries what was measured; copies keep it
TOKENS = 4  # of the pass that measures
TOLERANCE = 1e-3  # of a logit; fp32 passes of the same model differ by 1e-5


@dataclass(frozen=True)
class OutputHead:
    """logits = cap * tanh(after * head(before * hidden) / cap); no cap where it is None."""

    before: float = 1.0
    after: float = 1.0
    cap: float | None = None

    def logits(self, head: nn.Module, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., d)."""
        logits = head(hidden if self.before == 1.0 else hidden * self.before)
        if self.after != 1.0:
            logits = logits * self.after
        return logits if self.cap is None else self.cap * torch.tanh(logits / self.cap)


def output_head(model: Any) -> OutputHead:
    """What was measured on the model; a model made in Python is taken by its config's cap alone."""
    found = getattr(model, ATTRIBUTE, None)
    if found is None:
        text = model.config.get_text_config()
        return OutputHead(cap=getattr(text, "final_logit_softcapping", None))
    return found


@torch.no_grad()
def measure_output_head(model: Any) -> None:
    """Find how the model makes its logits, and note it on the model.

    One pass over four tokens. Call it on whole weights in fp32, before any training.

    Raises:
        ParentError: the logits are not a scaled and capped product with the head, so that nothing
            but the model's own forward could compute them; or there is no such head.
    """
    family = type(model).__name__
    head = model.get_output_embeddings()
    if head is None:
        raise _unknown(family, "has no output head")
    seen: dict[str, Tensor] = {}

    def note(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen["input"], seen["output"] = inputs[0], output

    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, TOKENS + 1, device=head.weight.device)[None] % vocabulary
    hook = head.register_forward_hook(note)
    try:
        logits = model(input_ids=ids, use_cache=False).logits.float()
    finally:
        hook.remove()
    hidden = model.base_model(input_ids=ids, use_cache=False).last_hidden_state
    if "input" not in seen or seen["input"].shape != hidden.shape:
        raise _unknown(family, "does not put its last hidden states through its head")
    before = _factor(hidden, seen["input"])
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    raw = seen["output"].float()
    after = _factor(raw, logits if cap is None else _uncapped(logits, cap))
    measured = OutputHead(before, after, cap)
    error = float((measured.logits(head, hidden).float() - logits).abs().max())
    if not error <= TOLERANCE * max(1.0, float(logits.abs().max())):
        raise _unknown(family, f"computes logits in another way (they differ by {error:.2g})")
    setattr(model, ATTRIBUTE, measured)


def _factor(source: Tensor, target: Tensor) -> float:
    """The number that `source` is multiplied by to give `target`, by least squares; 1 is exact."""
    source, target = source.double().flatten(), target.double().flatten()
    factor = float((source @ target) / (source @ source).clamp(min=1e-30))
    return 1.0 if abs(factor - 1.0) < 1e-5 else factor


def _uncapped(logits: Tensor, cap: float) -> Tensor:
    inside = (logits / cap).clamp(-1 + 1e-6, 1 - 1e-6)
    return torch.atanh(inside) * cap


def _unknown(family: str, what: str) -> ParentError:
    return ParentError(
        f"{family} {what}: its log-probabilities cannot be computed apart from its forward pass",
        "start from another architecture, or open an issue that names this one",
    )
