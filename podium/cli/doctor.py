"""`podium doctor`: what this machine can do, and whether another package hides behind one of our
names.
"""

import importlib.metadata
import importlib.util
import os
import platform
import shutil
from collections.abc import Callable
from pathlib import Path

from podium.errors import PlatformError
from podium.run.registry import packages

ROOT = Path(__file__).resolve().parents[2]

PACKAGES = tuple(
    name for name in dict.fromkeys(("podium", "data", *packages(), "app")) if (ROOT / name).is_dir()
)
GIB = 1024**3


def intruders(names: tuple[str, ...] = PACKAGES) -> dict[str, Path]:
    """Our package names that Python would find outside this checkout, and where."""
    found = {}
    for name in names:
        spec = importlib.util.find_spec(name)
        places = list(spec.submodule_search_locations or [spec.origin or ""]) if spec else []
        if places and not Path(places[0]).resolve().is_relative_to(ROOT):
            found[name] = Path(places[0])
    return found


def refuse_intruders() -> None:
    """Stop before a foreign `data` or `app` is imported in place of ours.

    Raises:
        PlatformError: names the package and where it lies.
    """
    for name, place in intruders().items():
        raise PlatformError(
            f"the package '{name}' is found in {place}, not in this checkout ({ROOT})",
            f"uninstall what put it there, take that folder off PYTHONPATH, or use the "
            f"checkout's own environment: "
            f"{ROOT}/.venv/bin/podium",
        )


def examine() -> list[tuple[str, bool, str]]:
    """Every check as (name, whether it is fine, what was found)."""
    checks: list[tuple[str, Callable[[], tuple[bool, str]]]] = [
        ("Python", _python),
        ("packages", _packages),
        ("torch", _torch),
        ("DeepSpeed", _deepspeed),
        ("libraries", _libraries),
        ("compiler", _compiler),
        ("memory", _memory),
        ("disk", _disk),
    ]
    results = []
    for name, check in checks:
        try:
            fine, text = check()
        except (
            Exception
        ) as error:  # a check that breaks is a finding to show, and the others still run
            fine, text = False, f"{type(error).__name__}: {error}"
        results.append((name, fine, text))
    return results


def _python() -> tuple[bool, str]:
    import sys

    return sys.version_info >= (3, 11), f"{platform.python_version()} ({sys.executable})"


def _packages() -> tuple[bool, str]:
    found = intruders((*PACKAGES, "tests"))
    if found:
        return False, "; ".join(f"'{name}' is found in {place}" for name, place in found.items())
    return True, f"all of {', '.join(PACKAGES)} come from {ROOT}"


def _torch() -> tuple[bool, str]:
    import torch

    from podium import runtime

    if torch.cuda.is_available():
        where = f"{torch.cuda.device_count()} GPU(s), {torch.cuda.get_device_name(0)}"
    else:
        where = "no GPU"
    cores = os.cpu_count() or 1
    return True, (
        f"{torch.__version__}, {where}, {runtime.free_threads()} of {cores} CPU threads free, "
        f"dtype auto = {runtime.resolve_dtype('auto')}"
    )


def _deepspeed() -> tuple[bool, str]:
    import torch

    from podium.engine import EngineConfig, backward, make_engine, step

    model = torch.nn.Linear(2, 1)
    engine = make_engine(model, EngineConfig(), learning_rate=0.1)
    backward(engine, engine(torch.ones(1, 2)).sum())
    step(engine, 0.1)
    return True, f"{importlib.metadata.version('deepspeed')}, took a training step"


def _libraries() -> tuple[bool, str]:
    names = ("transformers", "trl", "peft", "datasets", "gradio", "fastapi", "sqlalchemy")
    return True, ", ".join(f"{name} {importlib.metadata.version(name)}" for name in names)


def _compiler() -> tuple[bool, str]:
    found = shutil.which("c++") or shutil.which("g++") or shutil.which("clang++")
    return True, found or "none (not needed: torch's AdamW is used)"


def _memory() -> tuple[bool, str]:
    import psutil

    free = psutil.virtual_memory().available / GIB
    return free > 4, f"{free:.1f} GiB free (the embedded default needs under 4)"


def _disk() -> tuple[bool, str]:
    free = shutil.disk_usage(Path.cwd()).free / GIB
    return free > 2, f"{free:.1f} GiB free in {Path.cwd()}"
