"""The machine: seeds, threads, device and number format, each decided in one place."""

import ctypes
import gc
import os
import random
import resource
import time
from contextlib import AbstractContextManager, suppress
from pathlib import Path
from typing import Any, Literal

import numpy as np
import psutil
import torch

__all__ = [
    "Dtype",
    "autocast",
    "cpu_has_bf16",
    "device",
    "forget_peak_memory",
    "free_threads",
    "peak_memory",
    "release_memory",
    "resolve_dtype",
    "return_large_blocks",
    "rng_state",
    "seed_everything",
    "set_rng_state",
    "set_threads",
]

Dtype = Literal["fp32", "bf16"]
PEAK_SWITCH = Path("/proc/self/clear_refs")
M_MMAP_THRESHOLD = -3  # glibc's malloc.h


def seed_everything(seed: int) -> None:
    """Seed Python, numpy and torch (all devices)."""
    random.seed(seed)
    np.random.seed(seed % 2**32)
    torch.manual_seed(seed)


def rng_state() -> dict[str, Any]:
    """The state of every global generator, for a checkpoint (`torch.save` it)."""
    state: dict[str, Any] = {
        "python": random.getstate(),
        "numpy": np.random.get_state(),
        "torch": torch.get_rng_state(),
    }
    if torch.cuda.is_available():
        state["cuda"] = torch.cuda.get_rng_state()
    return state


def set_rng_state(state: dict[str, Any]) -> None:
    """Put back what `rng_state` returned."""
    random.setstate(state["python"])
    np.random.set_state(state["numpy"])
    torch.set_rng_state(state["torch"])
    if "cuda" in state and torch.cuda.is_available():
        torch.cuda.set_rng_state(state["cuda"])


def device() -> torch.device:
    """This process's GPU where there is one (LOCAL_RANK under a launcher), the CPU otherwise."""
    if torch.cuda.is_available():
        return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))
    return torch.device("cpu")


def resolve_dtype(wanted: Literal["auto", "fp32", "bf16"]) -> Dtype:
    """`auto` is bf16 where the processor multiplies it in hardware (avx512_bf16, a recent GPU),
    fp32 elsewhere.
    """
    if wanted != "auto":
        return wanted
    if torch.cuda.is_available():
        return "bf16" if torch.cuda.is_bf16_supported(including_emulation=False) else "fp32"
    return "bf16" if cpu_has_bf16() else "fp32"


def cpu_has_bf16() -> bool:
    """Whether Linux reports bf16 products for this processor (avx512_bf16)."""
    try:
        return "avx512_bf16" in Path("/proc/cpuinfo").read_text()
    except OSError:  # not Linux
        return False


def autocast(device: torch.device, dtype: Dtype) -> AbstractContextManager[Any]:
    """Matrix products in bf16 with fp32 weights, or (fp32) nothing at all."""
    return torch.autocast(device.type, dtype=torch.bfloat16, enabled=dtype == "bf16")


def free_threads(sample_seconds: float = 0.3) -> int:
    """Threads this process may use without pushing others aside: idle allowed cores now, never
    above the physical ones.

    Two threads on a busy machine can be eight times slower than one, so a core that others keep
    busy does not count.
    """
    allowed = (
        sorted(os.sched_getaffinity(0))
        if hasattr(os, "sched_getaffinity")
        else list(range(os.cpu_count() or 1))
    )
    before = psutil.cpu_times(percpu=True)
    time.sleep(sample_seconds)
    after = psutil.cpu_times(percpu=True)
    idle = sum(after[c].idle - before[c].idle for c in allowed if c < len(after)) / sample_seconds
    physical = psutil.cpu_count(logical=False) or len(allowed)
    return max(1, min(len(allowed), physical, round(idle)))


def set_threads(wanted: int | Literal["auto"]) -> int:
    """Set torch's thread count and return it.

    `auto` obeys OMP_NUM_THREADS where somebody set it (torchrun does), else takes what is free.
    """
    if wanted == "auto":
        exported = os.environ.get("OMP_NUM_THREADS", "")
        threads = int(exported) if exported.isdigit() and int(exported) > 0 else free_threads()
    else:
        threads = wanted
    torch.set_num_threads(threads)
    return threads


def release_memory() -> None:
    """Give memory that is free back to the system.

    Batches of ever new lengths leave the C heap in pieces; glibc keeps those until it is told, a GB
    after an hour.
    """
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()
    # glibc only
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None) if os.name == "posix" else None
    if trim is not None:
        trim(0)


def return_large_blocks() -> None:
    """From now on memory of a megabyte or more goes back to the system as soon as it is free.

    glibc raises that limit to 32 MB as it goes, and keeps what is below it. Under ZeRO-3, which
    gathers and drops weights all the time, a process on a CPU held 9.1 GB for 3.7 GB in use.
    """
    mallopt = getattr(ctypes.CDLL(None), "mallopt", None) if os.name == "posix" else None
    if mallopt is not None:
        mallopt(M_MMAP_THRESHOLD, 2**20)


def forget_peak_memory() -> None:
    """Let `peak_memory` begin anew at what the process holds now. Linux alone can, and some of its
    sandboxes do not let it.
    """
    with suppress(OSError):
        PEAK_SWITCH.write_text("5", encoding="ascii")


def peak_memory() -> int:
    """The most bytes that this process held at a time since `forget_peak_memory`, or, where that
    cannot be, since it began.
    """
    if PEAK_SWITCH.exists():
        status = Path("/proc/self/status").read_text(encoding="utf-8")
        return 1024 * int(status.split("VmHWM:")[1].split()[0])
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
