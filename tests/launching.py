"""Commands in processes of their own, one or several that train together, without the seconds that
each would spend on importing torch, transformers, TRL and DeepSpeed.

The fork server of Python's `multiprocessing` is one process that has imported them and does nothing
but fork. What it forks has every right of a process: it is killed alone, has a state of its own, and
executes the module as `python -m` does. What torchrun tells its processes is told here the same way,
with the store that they meet in; of each stage one test still starts torchrun itself.
"""

import gc
import multiprocessing
import multiprocessing.connection
import os
import runpy
import subprocess
import sys
import time
import warnings
from collections.abc import Sequence
from multiprocessing.process import BaseProcess
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
STAGES = ["pretrain.train", "sft.train", "reward.train", "dpo.train", "ppo.train"]
SERVER = multiprocessing.get_context("forkserver")
LIBRARIES = ["deepspeed.ops.op_builder.all_ops", "transformers.models.llama.modeling_llama"]
SERVER.set_forkserver_preload([*STAGES, *LIBRARIES, "app.labeling.application"])
LONGEST_SECONDS = 500


def begin(module: str, *arguments: object, output: Path, **environment: object) -> BaseProcess:
    """`python -m MODULE ARGUMENTS` on one thread, in the folder of `output`, the file that takes what
    it says. `environment` is added to the test's own.
    """
    variables = dict(os.environ) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    variables |= {name: str(value) for name, value in environment.items()}
    process = SERVER.Process(
        target=_become, args=(module, [str(word) for word in arguments], output, variables)
    )
    process.start()
    return process


def launch(
    module: str, *arguments: object, processes: int, folder: Path, torchrun: bool = False
) -> None:
    """The command in so many processes that train together, to their end, in `folder`. `torchrun`:
    by the launcher that users have, whose processes import everything anew.

    Raises:
        AssertionError: one of them failed; with what it said last.
    """
    if torchrun:
        _torchrun(module, *arguments, processes=processes, folder=folder)
        return
    from torch.distributed import TCPStore

    store = TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    group = {
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": store.port,
        "TORCHELASTIC_USE_AGENT_STORE": True,  # meet in the launcher's store, and make none
        "WORLD_SIZE": processes,
        "LOCAL_WORLD_SIZE": processes,
    }
    outputs = [folder / f"rank-{rank}.txt" for rank in range(processes)]
    started = [
        begin(module, *arguments, output=output, RANK=rank, LOCAL_RANK=rank, **group)
        for rank, output in enumerate(outputs)
    ]
    _await(started)
    _assert_done(started, outputs)


def run(module: str, *arguments: object, output: Path) -> None:
    """The command in one process that belongs to no group, to its end.

    Raises:
        AssertionError: it failed; with what it said last.
    """
    process = begin(module, *arguments, output=output)
    _await([process])
    _assert_done([process], [output])


def _torchrun(module: str, *arguments: object, processes: int, folder: Path) -> None:
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    command += ["--nproc-per-node", str(processes), "--module", module, *map(str, arguments)]
    done = subprocess.run(
        command,
        cwd=folder,
        env=dict(os.environ) | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=LONGEST_SECONDS,
    )
    assert done.returncode == 0, done.stderr[-3000:]


def _await(started: Sequence[BaseProcess]) -> None:
    """Until all have ended. Where one fails, the others, which would wait for it, are killed."""
    deadline = time.monotonic() + LONGEST_SECONDS
    while any(process.is_alive() for process in started):
        if any(process.exitcode for process in started) or time.monotonic() > deadline:
            for process in started:
                process.kill()
        multiprocessing.connection.wait([p.sentinel for p in started if p.is_alive()], timeout=1)


def _assert_done(started: Sequence[BaseProcess], outputs: Sequence[Path]) -> None:
    said = "\n".join(output.read_text()[-3000:] for output in outputs)
    assert [process.exitcode for process in started] == [0] * len(started), said


def _become(module: str, arguments: list[str], output: Path, environment: dict[str, str]) -> None:
    """In the forked process: be the command."""
    import torch

    gc.freeze()  # what is imported is no garbage, and stages look for some at every checkpoint
    with output.open("w") as file:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(output.parent)
    torch.set_num_threads(1)
    # The server has imported the module, whose code is now executed a second time.
    warnings.filterwarnings("ignore", category=RuntimeWarning, module="runpy")
    sys.argv = [module, *arguments]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
