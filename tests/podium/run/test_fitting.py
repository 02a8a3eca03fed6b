"""A run that cannot fit is refused before its first stage, with what would make it fit."""

import pytest

from podium.errors import RecipeError
from podium.run import fitting
from podium.run.chain import run_chain
from podium.run.fitting import check_memory, memory_of_a_process
from podium.run.launch import run_one
from podium.run.recipe import validate

GB = 1_000_000_000


@pytest.fixture
def recipe():
    """OPT-125M from nothing, on the village's text, and PPO on top of it."""
    sections = {"sft": {}, "rankings": {}, "reward": {}, "ppo": {}}
    tree = {
        "name": "large",
        "dtype": "fp32",
        "data": {"world": {"name": "willowbrook"}},
        **sections,
    }
    return validate(tree | {"pretrain": {"preset": "opt-125m", "context": 512}}, "test")


@pytest.fixture
def room(monkeypatch):
    def give(size):
        monkeypatch.setattr(fitting, "memory_of_a_process", lambda: int(size))

    return give


def test_the_first_stage_that_cannot_fit_is_named_with_what_would(recipe, room, tmp_path):
    """86 M parameters with gradients and two moments take 16 bytes each: 1.4 GB, in PPO 3.8 with
    the value model, the average of the weights, the reference and the reward model. Mutation seen red: frozen models are not
    counted.
    """
    parameters = 512 * 768 + 2 * 768 + 1024 * 768 + 12 * 7_087_872 + 2 * 768
    needs = (2 * 16 + 4 + 2 * 4) * parameters + 0.9 * GB
    room(needs + 0.1 * GB)
    check_memory(recipe, recipe.chain(), tmp_path)
    room(needs - 0.1 * GB)
    with pytest.raises(RecipeError, match=r"^ppo cannot fit: .* alone take 4\.7 GB") as error:
        check_memory(recipe, recipe.chain(), tmp_path)
    assert "`lora: {}` in the section `ppo:` takes" in error.value.fix
    assert "`engine: {zero_stage: 3}` on 2 processes" in error.value.fix


def test_nothing_is_begun_by_the_chain_or_by_a_stage(recipe, room, tmp_path, monkeypatch):
    """Mutation seen red: `run_one` without the check."""

    def begun(*_):
        pytest.fail("a stage has begun")

    monkeypatch.setattr("podium.run.chain.run_stage", begun)
    monkeypatch.setattr("podium.run.launch.run_stage", begun)
    room(2 * GB)
    with pytest.raises(RecipeError, match="pretrain cannot fit"):
        run_chain(recipe, tmp_path)
    with pytest.raises(RecipeError, match="pretrain cannot fit"):
        run_one(recipe, "pretrain", tmp_path)
    assert list(tmp_path.iterdir()) == []


def test_a_finished_stage_is_not_asked_for_memory(recipe, room, tmp_path):
    """So that what was trained elsewhere goes on here. Mutation seen red: it is looked at."""
    room(2 * GB)
    (tmp_path / "pretrain" / "final").mkdir(parents=True)
    (tmp_path / "pretrain" / "final" / "stage.json").write_text("{}")
    check_memory(recipe, ["pretrain"], tmp_path)


def test_a_model_that_is_not_known_is_left_to_its_stage(room, tmp_path):
    """And one that stands in a folder which holds no model."""
    room(1)
    (tmp_path / "empty").mkdir()
    for ref in ("somebody/unknown", str(tmp_path / "empty")):
        recipe = validate({"name": "far", "sft": {"model": ref}}, "test")
        check_memory(recipe, ["sft"], tmp_path)


def test_processes_of_a_host_share_its_memory_within_the_containers_limit(monkeypatch, tmp_path):
    """Mutation seen red: the limit is ignored."""
    monkeypatch.setattr(fitting, "CGROUP_LIMIT", tmp_path / "memory.max")
    monkeypatch.setattr("torch.cuda.is_available", lambda: False)
    without = memory_of_a_process()
    (tmp_path / "memory.max").write_text("max\n")
    assert memory_of_a_process() == without
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert memory_of_a_process() == without // 2
    (tmp_path / "memory.max").write_text("3000000000\n")
    assert memory_of_a_process() == 1_500_000_000
