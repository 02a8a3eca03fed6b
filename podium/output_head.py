"""How a family turns hidden states into logits, measured once instead of known by name.

Most models multiply the last hidden states by the head and are done. Others scale them before
(MiniCPM, Inkling) or after (Cohere, Granite, Falcon-H1), or cap them (Gemma). The same key of a
config divides in one family and multiplies in another, so what a model does is read off one small
pass of its own: a wrong guess would train PPO on log-probabilities that the sampler never drew.
Where a head does something else (ModernBERT, xLSTM), logits come from the model's whole forward.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from podium.errors import ParentError

ATTRIBUTE = "podium_output_head"  # where a model carries what was measured; copies keep it
TOKENS = 8  # of the pass that measures; its first half is read again alone
TOLERANCE = 1e-3  # of a logit; fp32 passes of the same model differ by 1e-5


@dataclass(frozen=True)
class OutputHead:
    """logits = cap * tanh(after * head(before * hidden) / cap); no cap where it is None.

    `whole`: this is not how the model does it, and only its whole forward gives logits, at every
    position. What stands for hidden states then are the logits themselves.
    """

    before: float = 1.0
    after: float = 1.0
    cap: float | None = None
    whole: bool = False

    def logits(self, head: nn.Module, hidden: Tensor) -> Tensor:
        """Logits (..., V) of hidden states (..., d)."""
        if self.whole:
            return hidden
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


def body(model: Any) -> Any:
    """The part of a language model without its head. (Llama 4 calls it by a name that the class
    itself does not look for.)
    """
    inner = model.base_model
    return model.get_decoder() if inner is model else inner


def last_states(model: Any, **inputs: Any) -> Tensor:
    """What `OutputHead.logits` makes logits of, (B, T, d): the last hidden states."""
    if output_head(model).whole:
        return model(**inputs).logits
    return body(model)(**inputs).last_hidden_state


@torch.no_grad()
def measure_output_head(model: Any) -> None:
    """Find how the model makes its logits, and note it on the model.

    Three passes over a few tokens. Call it on whole weights in fp32, before any training.

    Raises:
        ParentError: the model cannot read a plain row of ids, or lets a token see those after it.
    """
    family = type(model).__name__
    vocabulary = model.get_input_embeddings().weight.shape[0]
    ids = torch.arange(1, TOKENS + 1, device=model.device)[None] % vocabulary
    try:
        whole = model(input_ids=ids, use_cache=False).logits.float()
        half = model(input_ids=ids[:, : TOKENS // 2], use_cache=False).logits.float()
    except Exception as error:  # of any kind: it is the model's own code that fails
        raise ParentError(
            f"{family} cannot read a plain row of token ids: {type(error).__name__}: {error}",
            "start from a language model that reads text alone",
        ) from error
    ahead = float((whole[:, : TOKENS // 2] - half).abs().max())
    if not ahead <= _tolerance(whole):
        raise ParentError(
            f"{family} lets a token see those after it (they change its logits by {ahead:.2g}), so "
            "nothing can be sampled from it",
            "start from a causal language model; some encoders become one by `is_decoder: true` in "
            "their config.json",
        )
    setattr(model, ATTRIBUTE, _measured(model, ids, whole) or OutputHead(whole=True))


def _measured(model: Any, ids: Tensor, logits: Tensor) -> OutputHead | None:
    """The scaled and capped product that gives these logits; None where none does."""
    head = model.get_output_embeddings()
    if head is None:
        return None
    seen: dict[str, Tensor] = {}

    def note(_module: nn.Module, inputs: tuple[Tensor, ...], output: Tensor) -> None:
        seen["input"], seen["output"] = inputs[0], output

    _while_hooked(head, note, lambda: model(input_ids=ids, use_cache=False))
    output = body(model)(input_ids=ids, use_cache=False)
    hidden = getattr(output, "last_hidden_state", None)
    if hidden is None or "input" not in seen or seen["input"].shape != hidden.shape:
        return None
    before = _factor(hidden, seen["input"])
    cap = getattr(model.config.get_text_config(), "final_logit_softcapping", None)
    raw = seen["output"].float()
    if raw.shape != logits.shape:
        return None
    after = _factor(raw, logits if cap is None else _uncapped(logits, cap))
    measured = OutputHead(before, after, cap)
    error = float((measured.logits(head, hidden).float() - logits).abs().max())
    return measured if error <= _tolerance(logits) else None


def _while_hooked(module: nn.Module, hook: Callable[..., None], run: Callable[[], Any]) -> None:
    handle = module.register_forward_hook(hook)
    try:
        run()
    finally:
        handle.remove()


def _tolerance(logits: Tensor) -> float:
    return TOLERANCE * max(1.0, float(logits.abs().max()))


def _factor(source: Tensor, target: Tensor) -> float:
    """The number that `source` is multiplied by to give `target`, by least squares; 1 is exact."""
    source, target = source.double().flatten(), target.double().flatten()
    factor = float((source @ target) / (source @ source).clamp(min=1e-30))
    return 1.0 if abs(factor - 1.0) < 1e-5 else factor


def _uncapped(logits: Tensor, cap: float) -> Tensor:
    inside = (logits / cap).clamp(-1 + 1e-6, 1 - 1e-6)
    return torch.atanh(inside) * cap
