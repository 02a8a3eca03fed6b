"""What is written for another process to read is the model that samples here, adapters and all."""

import fcntl
import json
import os
import time

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from podium.lora import LoraConfig, with_lora
from podium.sampling.vllm import weights
from podium.sampling.vllm.weights import OWNER, PREFIX, VERSION, Place, write_weights

IDS = torch.arange(6, 20)[None]


def test_adapters_are_added_in_and_the_model_stays_as_it_is(tiny_llama, tmp_path):
    """Mutations seen red: the adapters' product left out; `base_layer` kept in the names."""
    model = with_lora(tiny_llama, LoraConfig(r=2, alpha=64), "CAUSAL_LM", seed=0).eval()
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name:
                weight.fill_(0.1)
        before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
        write_weights(model, tmp_path / "weights", "run-1", torch.float32)
        read = AutoModelForCausalLM.from_pretrained(tmp_path / "weights")
        assert torch.allclose(read(IDS).logits, model(IDS).logits, atol=1e-4)
        with model.disable_adapter():
            assert not torch.allclose(read(IDS).logits, model(IDS).logits, atol=1e-2)
    assert all(torch.equal(before[name], now) for name, now in model.state_dict().items())


def test_weights_are_of_the_type_and_version_that_was_asked(tiny_llama, tmp_path):
    """Mutations seen red: written as they are; the version of the first time."""
    for version, dtype in (("run-1", torch.float32), ("run-2", torch.bfloat16)):
        write_weights(tiny_llama, tmp_path / "weights", version, dtype)
        assert json.loads((tmp_path / "weights" / VERSION).read_text()) == {"version": version}
        found = load_file(tmp_path / "weights" / "model.safetensors")
        assert {tensor.dtype for tensor in found.values()} == {dtype}
    assert [path.name for path in tmp_path.iterdir()] == ["weights"]


@pytest.mark.parametrize("free", [10**12, 0])
def test_shared_memory_is_used_where_there_is_room(tiny_llama, tmp_path, monkeypatch, free):
    """Mutation seen red: the room is not asked for."""
    monkeypatch.setattr(weights, "SHARED_MEMORY", tmp_path / "shm")
    monkeypatch.setattr(weights.tempfile, "gettempdir", lambda: str(tmp_path / "tmp"))
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda path: type("U", (), {"free": free}))
    for name in ("shm", "tmp", "named"):
        (tmp_path / name).mkdir()
    place = Place(tiny_llama, torch.float32, None)
    assert place.path.parent.name == ("shm" if free else "tmp")
    named = Place(tiny_llama, torch.float32, str(tmp_path / "named"))
    assert named.path.parent.name == "named"
    for one in (place, named):
        one.remove()
        assert not one.path.exists()


def test_what_a_killed_process_left_is_removed_and_nothing_that_is_in_use(tiny_llama, tmp_path):
    """Mutations seen red: the lock is not asked; a folder is never old enough."""
    left, used, fresh = (tmp_path / f"{PREFIX}{name}" for name in ("left", "used", "fresh"))
    for folder in (left, used, fresh):
        folder.mkdir()
        (folder / OWNER).touch()
        if folder != fresh:
            os.utime(folder, (time.time() - 120,) * 2)
    with (used / OWNER).open() as owner:
        fcntl.flock(owner, fcntl.LOCK_EX)
        Place(tiny_llama, torch.float32, str(tmp_path)).remove()
        assert sorted(path.name for path in tmp_path.iterdir()) == [fresh.name, used.name]
