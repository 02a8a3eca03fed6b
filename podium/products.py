"""Products of small layers in bf16 on a CPU: few shapes, because each costs a compilation.

oneDNN makes machine code for every shape of a product that it meets. A layer of 432 x 160 takes
20 ms for the three products of a new number of tokens (forward, and two backward) and 2.5 ms for
those of one that it knows (AMX; 11 and 6 with avx512_bf16 alone), and in passes over answers or
demonstrations the number is new nearly every time. So rows of zeros fill it up to one of eight in
an octave, at most an eighth more. The numbers are those of the plain product but for the order of
sums in bf16.
"""

import torch
import torch.nn.functional as F
from torch import Tensor, nn

__all__ = ["EvenLinear", "even_products", "even_rows"]

# Elements of a weight from which on the product itself takes so long that its compilation is
# little.
BELOW_ELEMENTS = 1 << 19
SMALLEST = 32  # rows; two tiles of AMX
# Rows from which on the zeros cost what they save: a compilation is a tenth of a pass of 2,000
# tokens with 4M parameters, and half of one of 500 with 1M.
MOST = 2048


def even_rows(rows: int) -> int:
    """The number of rows that `rows` are filled up to: at most `SMALLEST` more, or an eighth; above
    `MOST` they stay as they are.
    """
    if rows > MOST:
        return rows
    step = max(SMALLEST, 1 << max(0, (rows - 1).bit_length() - 4))
    return -(-rows // step) * step


class EvenLinear(nn.Linear):
    """torch's linear layer, which under bf16 autocast on a CPU multiplies `even_rows` rows."""

    def forward(self, input: Tensor) -> Tensor:
        """(..., in) -> (..., out)."""
        if torch.compiler.is_compiling() or not _autocasts_to_bf16():
            return super().forward(input)
        rows = input.numel() // self.in_features
        missing = even_rows(rows) - rows
        if missing == 0:
            return super().forward(input)
        flat = input.reshape(rows, self.in_features).to(torch.bfloat16)
        product = F.linear(F.pad(flat, (0, 0, 0, missing)), self.weight, self.bias)
        return product[:rows].view(*input.shape[:-1], self.out_features)


def _autocasts_to_bf16() -> bool:
    return torch.is_autocast_enabled("cpu") and torch.get_autocast_dtype("cpu") == torch.bfloat16


def even_products(model: nn.Module, device: torch.device) -> None:
    """On a CPU make the model's small linear layers `EvenLinear`, in place; weights and names stay.

    Subclasses and layers with quantised weights multiply by themselves and stay as they are.
    """
    if device.type != "cpu":
        return
    for module in model.modules():
        if (
            type(module) is nn.Linear
            and type(module.weight) is nn.Parameter
            and module.weight.numel() < BELOW_ELEMENTS
        ):
            module.__class__ = EvenLinear
