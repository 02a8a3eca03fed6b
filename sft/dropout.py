"""Residual dropout for fine-tuning (InstructGPT C.1: 0.2), on what each block adds to the residual
stream.
"""

from typing import Any

from torch import nn
from torch.nn import functional as F
from transformers import PreTrainedModel

from podium.errors import RecipeError

__all__ = [
    "set_residual_dropout",
]


def set_residual_dropout(model: PreTrainedModel, probability: float) -> None:
    """Drop elements of every attention's and every feed-forward's output before it is added to the
    residual stream.

    OPT has this dropout built in: its layers' own probability is replaced (released OPT models
    carry 0.1). LLaMA and its relatives (Mistral, Qwen, Gemma, ...) have none, so hooks on
    `self_attn` and `mlp` do the same. Neither changes the configuration, so the saved model is as
    it was. Active in train mode only.

    Raises:
        RecipeError: a probability above 0 for an architecture whose blocks are not known.
    """
    found = False
    layer: Any
    for layer in model.modules():
        if hasattr(layer, "self_attn") and hasattr(layer, "fc1") and hasattr(layer, "dropout"):
            layer.dropout = probability
            found = True
        elif hasattr(layer, "self_attn") and hasattr(layer, "mlp"):
            found = True
            if probability > 0:
                layer.get_submodule("self_attn").register_forward_hook(_Drop(probability))
                layer.get_submodule("mlp").register_forward_hook(_Drop(probability))
    if probability > 0 and not found:
        raise RecipeError(
            f"residual_dropout {probability}: {type(model).__name__} has no blocks that it "
            f"could apply to",
            fix="set residual_dropout to 0 (supported: OPT, LLaMA and models built like it)",
        )


class _Drop:
    """A forward hook: dropout on a block's output, which is a tensor or a tuple that starts with
    one.
    """

    def __init__(self, probability: float) -> None:
        self.probability = probability

    def __call__(self, module: nn.Module, inputs: tuple[Any, ...], output: Any) -> Any:
        if isinstance(output, tuple):
            return (F.dropout(output[0], self.probability, module.training), *output[1:])
        return F.dropout(output, self.probability, module.training)
