"""Weights in files: parents in fp32 for processes that share them, and room for what is gathered."""

import errno
import json
import os

import pytest
import torch
import yaml
from safetensors.torch import load_file

from podium import mapped
from podium.errors import ParentError, RunFolderError
from podium.mapped import in_fp32, mapped_numbers
from podium.models import load_causal_lm, load_tokenizer
from podium.run.context import StageContext
from podium.run.recipe import load_recipe


@pytest.fixture
def published(tiny_llama, tokenizer, tmp_path):
    """A model as strangers publish it: bf16, with its tokenizer, and with what nobody needs twice."""
    folder = tmp_path / "published"
    tiny_llama.to(torch.bfloat16).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    (folder / "pytorch_model.bin").write_bytes(b"the same weights in another form")
    (folder / "onnx").mkdir()
    return folder


@pytest.mark.parametrize("part_bytes", [2**30, 20_000], ids=["one-file", "many-files"])
def test_a_copy_in_fp32_loads_as_the_published_model_does(
    published, tmp_path, monkeypatch, part_bytes
):
    """The same weights to the bit, in files that are mapped as they are. Mutations seen red: left in
    bf16; the last part not written; a part that forgets the weight which did not fit.
    """
    monkeypatch.setattr(mapped, "PART_BYTES", part_bytes)
    place = in_fp32(published, tmp_path / "run" / "fp32")
    assert place == tmp_path / "run" / "fp32"
    assert set(mapped._types(place)) == {"F32"}
    files = list(place.glob("*.safetensors"))
    assert (len(files) == 1) == (part_bytes == 2**30)
    for file in files:
        weights = load_file(file)
        assert len(weights) == 1 or sum(w.nbytes for w in weights.values()) <= part_bytes
    expected, found = load_causal_lm(published), load_causal_lm(place)
    for name, weight in expected.state_dict().items():
        assert torch.equal(weight, found.state_dict()[name]), name
    assert load_tokenizer(place).get_vocab() == load_tokenizer(published).get_vocab()
    assert not (place / "pytorch_model.bin").exists()


def test_a_model_in_fp32_is_read_where_it_lies(published, tmp_path):
    """Mutation seen red: every model copied."""
    load_causal_lm(published).save_pretrained(tmp_path / "whole")
    assert in_fp32(tmp_path / "whole", tmp_path / "fp32") == tmp_path / "whole"
    assert not (tmp_path / "fp32").exists()


def test_a_folder_without_a_model_is_no_matter(tmp_path):
    assert in_fp32(tmp_path, tmp_path / "fp32") == tmp_path


def test_a_copy_is_made_once_and_half_of_one_is_made_anew(published, tmp_path):
    """After a kill. Mutations seen red: written again; what a kill left behind kept."""
    left = tmp_path / "fp32.partial"
    left.mkdir()
    (left / "model-99999.safetensors").write_bytes(b"half")
    place = in_fp32(published, tmp_path / "fp32")
    assert not left.exists() and not (place / "model-99999.safetensors").exists()
    (place / "seen").touch()
    assert (in_fp32(published, tmp_path / "fp32") / "seen").exists()


def test_room_in_a_file_has_no_name_and_takes_numbers(tmp_path):
    """Mutations seen red: the file kept; all tensors at the file's beginning."""
    first, second, none = mapped_numbers(
        [torch.Size([2, 3]), torch.Size([4]), torch.Size([0])], tmp_path
    )
    assert list(tmp_path.iterdir()) == []
    first.copy_(torch.arange(6.0).view(2, 3))
    second.fill_(7)
    assert first.tolist() == [[0, 1, 2], [3, 4, 5]] and second.tolist() == [7] * 4
    assert none.numel() == 0


def test_a_full_disk_is_an_error_and_no_signal(tmp_path, monkeypatch):
    """Writing into a map of a file that the disk has no room for ends the process by SIGBUS.
    Mutation seen red: the room not asked for.
    """

    def full(*_):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, "posix_fallocate", full)
    with pytest.raises(RunFolderError, match="the disk is full"):
        mapped_numbers([torch.Size([10])], tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_the_index_names_every_weight(published, tmp_path):
    place = in_fp32(published, tmp_path / "fp32")
    index = json.loads((place / "model.safetensors.index.json").read_text())["weight_map"]
    assert index.keys() == load_file(published / "model.safetensors").keys()


def test_a_broken_file_is_left_to_loading_which_names_it(published, tmp_path):
    """Mutation seen red: the error of safetensors let through."""
    (published / "model.safetensors").write_bytes(b"cut off")
    assert in_fp32(published, tmp_path / "fp32") == published
    with pytest.raises(ParentError, match="published"):
        load_causal_lm(published)


@pytest.mark.parametrize(
    ("keys", "copied"),
    [
        ({}, False),
        ({"engine": {"zero_stage": 2}}, False),
        ({"engine": {"zero_stage": 3}}, True),
        ({"frozen_models": "sharded"}, True),
    ],
)
def test_a_stage_that_shares_weights_out_reads_its_parent_in_fp32(
    published, tmp_path, keys, copied
):
    """The lineage names the parent itself. Mutations seen red: ZeRO-3 not asked; frozen models not
    asked.
    """
    recipe = tmp_path / "recipe.yaml"
    recipe.write_text(yaml.safe_dump({"name": "run", "ppo": {"model": str(published), **keys}}))
    stage = StageContext("ppo", load_recipe(recipe), tmp_path / "runs" / "run")
    folder = stage.parent(str(published))
    assert (folder != published) == copied
    assert not copied or folder.is_relative_to(stage.dir)
    (noted,) = stage._inputs()["parents"]
    assert (stage.run_dir / noted["path"]).resolve() == published.resolve()
    stage.close()
