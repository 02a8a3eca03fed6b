"""What `compile: true` needs of the machine. What it computes is tested where it is used."""

import pytest

from podium.compilation import compile_layers, compile_whole
from podium.errors import PlatformError


@pytest.mark.parametrize("compiles", [compile_layers, compile_whole])
def test_a_machine_without_a_compiler_is_told_before_anything_is_read(
    compiles, tiny_llama, monkeypatch, tmp_path
):
    """Seen red without the look for one: torch finds out at the first batch."""
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.delenv("CXX", raising=False)
    with pytest.raises(PlatformError, match=r"needs a C\+\+ compiler on a CPU"):
        compiles(tiny_llama)
    named = tmp_path / "my-compiler"
    named.touch(mode=0o755)
    monkeypatch.setenv("CXX", str(named))
    compiles(tiny_llama)
