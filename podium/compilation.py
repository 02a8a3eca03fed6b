"""torch.compile where a recipe asks for it (`pretrain.compile`, `ppo.compile`): a minute at the
start, then faster passes with the same numbers to rounding.
"""

import os
import shutil

from torch import nn
from transformers import PreTrainedModel

from podium.errors import PlatformError

__all__ = [
    "compile_layers",
    "compile_whole",
]

# torch's 8 are too few for four models, with and without gradients, with one row and with many
RECOMPILE_LIMIT = 64


def compile_layers(model: nn.Module) -> None:
    """Compile every layer of the Hugging Face models inside, in place, for batches of any shape.

    The layers of a model share their code, so one of them is compiled and serves all: 30 s for a
    LLaMA whose compilation as a whole takes 250.

    Raises:
        PlatformError: there is no compiler.
    """
    _need_compiler(model)
    names: set[str] = set()
    for module in model.modules():
        names.update(module._no_split_modules or () if isinstance(module, PreTrainedModel) else ())
    for module in model.modules():
        if type(module).__name__ in names:
            module.compile(dynamic=True, recompile_limit=RECOMPILE_LIMIT)


def compile_whole(module: nn.Module) -> None:
    """Compile all that calling the module does, in place, anew for every shape that it meets.

    What is compiled for a shape does not depend on the shapes before it, so a resumed run computes
    with the same code as one that was never stopped.

    Raises:
        PlatformError: there is no compiler.
    """
    _need_compiler(module)
    module.compile(dynamic=False, recompile_limit=RECOMPILE_LIMIT)


def _need_compiler(module: nn.Module) -> None:
    """torch.compile writes C++ for a CPU, and would say in its own way that nothing can build it
    when the first batch comes: after the documents were made into tokens.
    """
    weight = next(module.parameters(), None)
    names = (os.environ.get("CXX"), "c++", "g++", "clang++")
    on_cpu = weight is not None and weight.device.type == "cpu"
    if on_cpu and not any(shutil.which(name) for name in names if name):
        raise PlatformError(
            "compile: true needs a C++ compiler on a CPU, and there is none on the PATH",
            "install g++ or clang, name one as CXX, or leave compile out",
        )
