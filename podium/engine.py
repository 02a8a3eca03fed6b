"""One DeepSpeed engine for every stage: a laptop's CPU, two processes with gloo, one GPU, or many
nodes.

The order of one update is always the same:

    loss = ...(engine(input_ids=...))    # forward through the engine: ZeRO gathers weights there
    backward(engine, loss, last=True)    # last=False for all but an update's final backward
    grad_norm = step(engine, learning_rate)

Gradients are *averaged* over processes: a loss that is a mean over the global batch is the local
sum divided by the global count, times `world_size()`; a mean over equal local shares needs nothing.
"""

import atexit
import logging
import os
import sys
import warnings
from pathlib import Path
from typing import Any, NoReturn

import torch
from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from torch import nn

from podium.models import count_parameters
from podium.runtime import Dtype, device
from podium.sharding import share_out, zero_buffers

__all__ = [
    "EngineConfig",
    "all_reduce_max",
    "all_reduce_sum",
    "backward",
    "checkpoint_weights",
    "deepspeed_settings",
    "end_process",
    "init_distributed",
    "leave_distributed",
    "load_engine",
    "make_engine",
    "make_frozen_engine",
    "save_engine",
    "set_clipping",
    "step",
    "world_size",
]

# Keys of DeepSpeed's section that others of ours decide.
DECIDED = {"stage": "zero_stage", "offload_optimizer": "offload", "offload_param": "offload"}

# What a launcher would tell a lone process; the last one marks the group as ours.
_ALONE = {"RANK": "0", "LOCAL_RANK": "0", "WORLD_SIZE": "1", "PODIUM_GROUP": "alone"}


class EngineConfig(BaseModel):
    """How the optimizer's memory is spread; the arithmetic is the same for every choice."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    zero_stage: int = Field(
        0,
        ge=0,
        le=3,
        description="what is sharded over processes: 1 optimizer, 2 and gradients, 3 and weights",
    )
    offload: bool = Field(
        False, description="keep the optimizer (ZeRO-3: weights too) in CPU memory; for GPUs"
    )
    gradient_clipping: float = Field(
        1.0, gt=0, description="largest gradient norm; GPT-3 and OPT: 1.0"
    )
    zero_optimization: dict[str, bool | int | float | str] = Field(
        default_factory=dict,
        description="more of DeepSpeed's section of this name, as `{overlap_comm: true}`; buckets "
        "and live parameters follow from the model's size without it",
    )

    @model_validator(mode="after")
    def _check_zero_optimization(self) -> "EngineConfig":
        if not self.zero_optimization:
            return self
        if self.zero_stage == 0:
            raise ValueError("zero_optimization says nothing without zero_stage 1, 2 or 3")
        for key in DECIDED.keys() & self.zero_optimization.keys():
            raise ValueError(f"zero_optimization.{key} is decided by `{DECIDED[key]}`")
        from deepspeed.runtime.zero.config import DeepSpeedZeroConfig

        try:
            DeepSpeedZeroConfig(**self.zero_optimization)
        except ValidationError as error:
            first = error.errors()[0]
            name = ".".join(str(part) for part in first["loc"])
            raise ValueError(f"zero_optimization.{name}: {first['msg']} (DeepSpeed)") from None
        return self


def world_size() -> int:
    """Processes that train together (1 without a launcher)."""
    return torch.distributed.get_world_size() if torch.distributed.is_initialized() else 1


def init_distributed() -> None:
    """Join the processes of a launcher (torchrun, deepspeed), or start a group of one; a second
    call does nothing.

    A lone process needs the group too: DeepSpeed asks it for its size. It is kept in memory, so no
    port is opened.
    """
    _hush()
    import deepspeed.ops

    # DeepSpeed compiles a shared-memory op at start-up and dies where there is no C++ compiler;
    # gloo does without it.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    if not torch.distributed.is_initialized():
        backend = "nccl" if torch.cuda.is_available() else "gloo"
        if torch.cuda.is_available():
            torch.cuda.set_device(device())
        if "RANK" in os.environ:
            torch.distributed.init_process_group(backend)
        else:
            # DeepSpeed reads its rank from these even when the group exists already
            os.environ.update(_ALONE)
            store = torch.distributed.HashStore()
            torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)


def end_process(exit_code: int = 0) -> NoReturn:
    """End the process once its work is done; the last line of a program that a launcher may start.

    In a launcher's group the exit functions run and the output is flushed, but the interpreter is
    not taken down. A thread of gloo frees the tensors of the last collective when it finds the
    time, and needs Python for it; where it finds that time after Python's end, a process whose work
    is done aborts (SIGABRT) and the launcher calls the run failed. Destroying the group does not
    help, since DeepSpeed holds it too.
    """
    if not torch.distributed.is_initialized():
        sys.exit(exit_code)
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(exit_code)


def leave_distributed() -> None:
    """Dissolve a lone process's group of one; a launcher's group stays. What ZeRO-3 put in the
    place of torch's linear layer goes.

    Stages share one process, and a stage must not find out what ran before it: with the group left
    behind, TRL's trainer would wrap its model for distributed training in `podium run`, but not
    when it is resumed on its own; and under DeepSpeed's linear layer weights in 8 bits are an
    error.
    """
    if torch.distributed.is_initialized() and all(
        os.environ.get(k) == v for k, v in _ALONE.items()
    ):
        import deepspeed

        deepspeed.comm.destroy_process_group()
        for name in _ALONE:
            del os.environ[name]
    parameters = sys.modules.get("deepspeed.runtime.zero.partition_parameters")
    if parameters is not None:
        patched = parameters.InsertPostInitMethodToModuleSubClasses
        nn.functional.linear = getattr(patched, "linear_bk", nn.functional.linear)


def make_engine(
    model: nn.Module,
    config: EngineConfig,
    *,
    learning_rate: float,
    betas: tuple[float, float] = (0.9, 0.95),
    eps: float = 1e-8,
    weight_decay: float = 0.0,
    dtype: Dtype = "fp32",
) -> Any:
    """A DeepSpeed engine around `model` with torch's AdamW. Weights and optimizer stay fp32; bf16
    is autocast.

    Biases and norm weights (fewer than two dimensions) are not decayed. Only parameters that
    require gradients train. Source of the betas: InstructGPT appendix C (0.9, 0.95 in every stage).
    """
    init_distributed()
    import deepspeed

    trained = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trained if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in trained if p.dim() < 2], "weight_decay": 0.0},
    ]
    groups = [group for group in groups if group["params"]]
    # Fused: one pass over memory instead of a dozen; five times faster on a CPU at 100M parameters.
    optimizer = torch.optim.AdamW(groups, lr=learning_rate, betas=betas, eps=eps, fused=True)
    settings = deepspeed_settings(config, dtype, count_parameters(model))
    if config.zero_stage == 3:
        share_out(model, settings)
    if config.zero_stage == 0:
        # Without ZeRO, DeepSpeed clips but forgets the norm, so `step` does both there.
        settings["gradient_clipping"] = 0.0
    engine, *_ = deepspeed.initialize(model=model, optimizer=optimizer, config=settings)
    engine.podium_clipping = config.gradient_clipping
    if config.zero_stage == 0 and world_size() == 1:
        # There is nobody to average with: DeepSpeed would only copy all gradients to and fro.
        engine.enable_backward_allreduce = False
    return engine


def deepspeed_settings(config: EngineConfig, dtype: Dtype, parameters: int) -> dict[str, Any]:
    """What DeepSpeed is told, under our loops and under TRL's trainer alike. `parameters`: of the
    model, which its buffers are sized by.

    Weights and optimizer stay fp32 and bf16 is autocast, so a run can move between ZeRO stages and
    one process without them, and a small update is never lost to rounding.
    """
    zero: dict[str, Any] = {"stage": config.zero_stage, "overlap_comm": False}
    if config.zero_stage:
        zero |= zero_buffers(config.zero_stage, parameters)
    if config.offload:
        zero["offload_optimizer"] = {"device": "cpu"}
        if config.zero_stage == 3:
            zero["offload_param"] = {"device": "cpu"}
    zero |= config.zero_optimization
    settings: dict[str, Any] = {
        # Only DeepSpeed's own sample counter reads these two: our loops count tokens.
        "train_micro_batch_size_per_gpu": 1,
        "gradient_accumulation_steps": 1,
        "gradient_clipping": config.gradient_clipping,
        "zero_optimization": zero,
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,  # DeepSpeed's own CPU Adam must be compiled
        "steps_per_print": 10**9,
    }
    if dtype == "bf16":
        # An empty list of "safe" modules keeps gradients in fp32 on the wire.
        settings["torch_autocast"] = {
            "enabled": True,
            "dtype": "bfloat16",
            "lower_precision_safe_modules": [],
        }
    return settings


def make_frozen_engine(model: nn.Module, dtype: Dtype) -> Any:
    """A ZeRO-3 engine without an optimizer: a model that is only read, spread over the processes,
    which gather one layer at a time.
    """
    init_distributed()
    import deepspeed

    settings = deepspeed_settings(EngineConfig(zero_stage=3), dtype, count_parameters(model))
    share_out(model, settings)
    engine, *_ = deepspeed.initialize(model=model, config=settings)
    engine.eval()
    return engine


def backward(engine: Any, loss: torch.Tensor, last: bool = True) -> None:
    """Add the gradient of `loss` (scalar). Gradients are averaged over processes at the backward
    marked `last`.
    """
    engine.set_gradient_accumulation_boundary(last)
    engine.backward(loss, scale_wrt_gas=False)


def step(engine: Any, learning_rate: float) -> float:
    """Clip, update all parameters at `learning_rate`, forget the gradients; returns the norm before
    clipping.
    """
    for group in engine.optimizer.param_groups:
        group["lr"] = learning_rate
    if engine.zero_optimization_stage() == 0:
        for parameter in engine.module.parameters():
            if parameter.requires_grad and parameter.grad is None:
                parameter.grad = torch.zeros_like(parameter)  # as among several processes
        norm = nn.utils.clip_grad_norm_(engine.module.parameters(), engine.podium_clipping)
        engine.step()
        return float(norm)
    engine.step()
    return float(engine.get_global_grad_norm())


def set_clipping(engine: Any, gradient_clipping: float) -> None:
    """Another largest gradient norm from the next step on."""
    engine.podium_clipping = gradient_clipping
    if hasattr(engine.optimizer, "clip_grad"):  # ZeRO's optimizers cut by themselves
        engine.optimizer.clip_grad = gradient_clipping


def save_engine(engine: Any, folder: Path) -> None:
    """Weights and optimizer for resuming, every process its share. Call it on all processes."""
    engine.save_checkpoint(str(folder), tag="engine")


def load_engine(engine: Any, folder: Path) -> None:
    """Put back what `save_engine` wrote, bit for bit. The ZeRO stage and number of processes must
    be the same.
    """
    loaded, _ = engine.load_checkpoint(str(folder), tag="engine")
    if loaded is None:
        raise FileNotFoundError(f"{folder} holds no engine state")


def checkpoint_weights(folder: Path) -> dict[str, torch.Tensor]:
    """The weights in a checkpoint of a stage, under their plain names: of the policy in PPO's, of
    the model in any other. Incomplete where it holds adapters, or was written under ZeRO 3.
    """
    from safetensors.torch import load_file

    saved = sorted(folder.glob("checkpoint-*/*.safetensors"))  # as Hugging Face's trainers write
    if saved:
        return {name: tensor for file in saved for name, tensor in load_file(file).items()}
    places = (folder / "policy" / "engine", folder / "engine")
    states = [place / "mp_rank_00_model_states.pt" for place in places]
    found = next((state for state in states if state.is_file()), None)
    if found is None:
        return {}
    weights: dict[str, torch.Tensor] = torch.load(found, map_location="cpu", weights_only=False)[
        "module"
    ]
    # Our loops train a module around the model, which gives a loss or log-probabilities.
    wrapped = all(name.startswith("model.") for name in weights)
    return {name.removeprefix("model."): w for name, w in weights.items()} if wrapped else weights


def all_reduce_sum(tensor: torch.Tensor) -> torch.Tensor:
    """The sum of `tensor` over processes, in place; the tensor itself in a lone process."""
    if world_size() > 1:
        torch.distributed.all_reduce(tensor)
    return tensor


def all_reduce_max(tensor: torch.Tensor) -> torch.Tensor:
    """The largest of `tensor` over processes, in place; the tensor itself in a lone process."""
    if world_size() > 1:
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
    return tensor


def _hush() -> None:
    """DeepSpeed prints dozens of lines at start-up that say nothing about the run."""
    os.environ.setdefault("DS_ACCELERATOR", "cuda" if torch.cuda.is_available() else "cpu")
    logging.getLogger("DeepSpeed").setLevel(logging.ERROR)
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed\..*")
