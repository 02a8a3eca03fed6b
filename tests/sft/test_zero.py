"""ZeRO, offload and number formats mean the same under TRL's trainer as under our own loops."""

import itertools

import deepspeed
import pytest
import torch
from safetensors.torch import load_file
from trl import SFTConfig

from podium.engine import EngineConfig, leave_distributed, make_engine
from podium.guard import SpikeGuard
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from podium.run.trainer import forget_deepspeed, trainer_arguments

PARAMETERS = 6  # of the smallest model
# A key that one of the two has alone, or sets for a reason of its own:
TRAINERS_OWN = {
    "train_micro_batch_size_per_gpu",  # the trainer counts samples, our loops count tokens
    "gradient_accumulation_steps",
    "stage3_gather_16bit_weights_on_model_save",  # `full_state_dict` gathers for our loops
}


@pytest.fixture(autouse=True)
def _leave_no_trace():
    """No process group, and no ZeRO-3 that transformers would load the next model under."""
    yield
    leave_distributed()
    forget_deepspeed()


def settings_of_our_loops(engine: EngineConfig, dtype: str, monkeypatch) -> dict:
    """What `make_engine` gives to DeepSpeed. (Offloading needs a GPU, so it is not carried out.)"""
    seen = {}

    class Seen(Exception):
        pass

    def initialize(**kwargs):
        seen.update(kwargs["config"])
        raise Seen

    monkeypatch.setattr(deepspeed, "initialize", initialize)
    with pytest.raises(Seen):
        make_engine(torch.nn.Linear(2, 2), engine, learning_rate=1e-3, dtype=dtype)
    return seen


def flat(settings: dict, prefix: str = "") -> dict:
    """Nested settings by dotted names, without what is the trainer's own."""
    found = {}
    for name, value in settings.items():
        if name in TRAINERS_OWN:
            continue
        nested = isinstance(value, dict)
        found |= flat(value, f"{prefix}{name}.") if nested else {prefix + name: value}
    return found


@pytest.mark.parametrize(
    ("zero_stage", "offload", "dtype"),
    itertools.product([0, 1, 2, 3], [False, True], ["fp32", "bf16"]),
)
def test_deepspeed_is_told_the_same_in_every_stage(
    zero_stage, offload, dtype, make_recipe, tmp_path, monkeypatch
):
    """Seen red with settings of SFT's own: `offload` kept ZeRO-3's weights on the device there,
    and bf16 meant weights in bf16 where the other stages keep fp32 weights under autocast.
    """
    config = {"zero_stage": zero_stage, "offload": offload, "gradient_clipping": 0.7}
    recipe = load_recipe(make_recipe(engine=config, dtype=dtype))
    stage = StageContext("sft", recipe, tmp_path / "runs" / "run")
    guard = SpikeGuard(recipe.sft.guard)
    arguments = SFTConfig(
        **trainer_arguments(recipe.stage_config("sft"), stage, guard, 1, PARAMETERS)
    )
    ours = flat(settings_of_our_loops(EngineConfig(**config), dtype, monkeypatch))
    if zero_stage == 0:
        # `podium.engine.step` clips there itself, by the same number.
        assert ours.pop("gradient_clipping") == 0.0
        ours["gradient_clipping"] = 0.7
    if arguments.deepspeed is None:  # one process without ZeRO: torch alone, with torch's autocast
        assert zero_stage == 0 and not offload and arguments.bf16 == (dtype == "bf16")
    else:
        assert flat(arguments.deepspeed) == ours
        assert not arguments.bf16 and not arguments.fp16  # the trainer would set its own


def test_bf16_under_zero_trains_fp32_weights(make_recipe, tmp_path):
    """Seen red with DeepSpeed's bf16 mode: what was saved had been rounded to bf16."""
    weights = {}
    for name, zero_stage in (("alone", 0), ("sharded", 2)):
        recipe = make_recipe(name, dtype="bf16", engine={"zero_stage": zero_stage})
        run_one(load_recipe(recipe), "sft", tmp_path / "runs")
        weights[name] = load_file(tmp_path / "runs" / name / "sft/final/model.safetensors")
    for name, tensor in weights["sharded"].items():
        assert not torch.equal(tensor, tensor.bfloat16().float()), f"{name} was rounded"
        torch.testing.assert_close(tensor, weights["alone"][name], rtol=0.0, atol=0.02)


@pytest.mark.slow
def test_zero_3_in_one_process_learns_what_torch_alone_does(make_recipe, tmp_path):
    """Seen red: without a process group the trainer asks for MPI; with `forget_deepspeed` doing
    nothing, the best model is loaded without its weights, and the last run is one of DeepSpeed too.
    """
    weights = {}
    for name, zero_stage in (("alone", 0), ("sharded", 3), ("again", 0)):
        recipe = make_recipe(name, engine={"zero_stage": zero_stage})
        run_one(load_recipe(recipe), "sft", tmp_path / "runs")
        weights[name] = load_file(tmp_path / "runs" / name / "sft/final/model.safetensors")
    assert weights["sharded"].keys() == weights["alone"].keys()
    for name, tensor in weights["sharded"].items():
        torch.testing.assert_close(tensor, weights["alone"][name], rtol=0.0, atol=1e-3)
        assert torch.equal(weights["again"][name], weights["alone"][name])
