"""How ZeRO shares a model's weights out over processes, and how they come together again.

`podium.engine` makes the engines; here is what their sharding needs: buffers that fit the model,
weights left to each process module by module, and whole again to be read or saved.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import nn

from podium.mapped import mapped_numbers
from podium.runtime import device, return_large_blocks

__all__ = ["full_state_dict", "gathered", "live_parameters", "share_out", "zero_buffers"]

# Numbers that ZeRO adds up over processes at once, at the most: 200 MB in fp32. DeepSpeed's own
# default is ten times as many, which it sets aside whatever the model's size.
BUCKET = 50_000_000
# Weights that ZeRO-3 keeps whole before it lets the first go, at the most; DeepSpeed's own default.
LIVE_PARAMETERS = 1_000_000_000


def zero_buffers(zero_stage: int, parameters: int) -> dict[str, int]:
    """How much ZeRO adds up at once, and how many weights ZeRO-3 keeps whole at a time, for a model
    of so many `parameters`: a sixteenth and an eighth of them. Under DeepSpeed's own numbers every
    model below a billion parameters stays whole from its first use on, and 2 GB are set aside for
    sums.
    """
    bucket = max(2 * (min(parameters // 16, BUCKET) // 2), 2)  # stages 1 and 2 want an even number
    if zero_stage < 3:
        return {"reduce_bucket_size": bucket, "allgather_bucket_size": bucket}
    live = live_parameters(parameters)
    return {
        "reduce_bucket_size": bucket,
        "stage3_prefetch_bucket_size": bucket,
        "stage3_max_live_parameters": live,
        "stage3_max_reuse_distance": live,
    }


def live_parameters(parameters: int) -> int:
    """Weights that ZeRO-3 keeps whole at a time, of a model of so many."""
    return max(min(parameters // 8, LIVE_PARAMETERS), 1)


def share_out(model: nn.Module, settings: dict[str, Any]) -> None:
    """Leave each process its share of every weight, one module's at a time (ZeRO-3's).

    DeepSpeed would do it for the whole model, and writes the first process's weights into every
    other's beforehand. A weight that is mapped from a file (`podium.mapped`) would become the
    process's own memory by that and stay it until the last is shared out; a copy is gone as soon
    as its weight is.
    """
    import deepspeed

    if device().type == "cpu":
        return_large_blocks()
    sharded: Any = None
    for module in model.modules():
        own = [p for p in module.parameters(recurse=False) if not hasattr(p, "ds_id")]
        if not own:
            continue
        for parameter in own:
            parameter.data = parameter.data.clone()
        if sharded is None:
            deepspeed.zero.Init(module=nn.ParameterList(own), config_dict_or_path=settings)
            sharded = own[0]
        else:
            sharded.convert_to_zero_parameters(param_list=own)


@contextmanager
def gathered(engine: Any) -> Iterator[None]:
    """The weights of the engine's model whole on every process inside, whatever the ZeRO stage.
    Call it on all processes.
    """
    if engine.zero_optimization_stage() < 3:
        yield
        return
    import deepspeed

    settle(engine)
    with deepspeed.zero.GatheredParameters(list(engine.module.parameters())):
        yield


def settle(engine: Any) -> None:
    """Let what ZeRO-3 has fetched for the pass that it expects next arrive, and go. Weights that
    are under way can be neither gathered nor shared out.
    """
    engine.empty_partition_cache()


def full_state_dict(
    engine: Any, inside: str = "", folder: Path | None = None
) -> dict[str, torch.Tensor]:
    """All weights of the engine's model under their plain names. Call it on all processes; complete
    on the main one.

    inside: what the wrapped model's names begin with, for the names of the model itself.
    folder: where weights that ZeRO-3 shards are put together one by one, in a file without a name,
        so that no process holds them all in memory (`podium.mapped`); without it in memory.
    """
    state = {
        name.removeprefix(inside): tensor
        for name, tensor in engine.module.state_dict(keep_vars=True).items()
    }
    if engine.zero_optimization_stage() < 3:
        return {name: tensor.detach().cpu().clone() for name, tensor in state.items()}
    import deepspeed

    settle(engine)
    shapes = [getattr(tensor, "ds_shape", tensor.shape) for tensor in state.values()]
    is_main = torch.distributed.get_rank() == 0
    places = mapped_numbers(shapes, folder) if folder and is_main else [None] * len(shapes)
    found = {}
    for (name, tensor), place in zip(state.items(), places, strict=True):
        with deepspeed.zero.GatheredParameters([tensor], enabled=hasattr(tensor, "ds_id")):
            if is_main and place is not None and tensor.dtype == torch.float32:
                found[name] = place.copy_(tensor.detach())
            elif is_main:
                found[name] = tensor.detach().cpu().clone()
    return found
