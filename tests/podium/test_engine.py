"""The engine trains exactly like a plain torch loop, whatever is sharded and however many processes
there are.
"""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE))
from reference_problem import (  # noqa: E402
    BATCHES,
    CLIPPING,
    LEARNING_RATE,
    WEIGHT_DECAY,
    loss_of,
    new_model,
    shared_out,
    train_plainly,
)

from podium.engine import (  # noqa: E402
    EngineConfig,
    all_reduce_sum,
    backward,
    deepspeed_settings,
    init_distributed,
    leave_distributed,
    load_engine,
    make_engine,
    save_engine,
    step,
    world_size,
)
from podium.sharding import full_state_dict, gathered, share_out  # noqa: E402

ZERO_STAGES = [0, 1, 2, 3]


def new_engine(zero_stage: int, dtype="fp32"):
    config = EngineConfig(zero_stage=zero_stage, gradient_clipping=CLIPPING)
    return make_engine(
        new_model(), config, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY, dtype=dtype
    )


def train(engine, batches) -> list[list[float]]:
    history = []
    for batch in batches:
        total = 0.0
        for number, micro in enumerate(batch):
            loss = loss_of(engine, micro) / len(batch)
            backward(engine, loss, last=number == len(batch) - 1)
            total += loss.item()
        history.append([total, step(engine, LEARNING_RATE)])
    return history


@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_losses_norms_and_weights_equal_a_plain_torch_loop(zero_stage):
    """Two micro-batches an update, clipping and weight decay at work; ZeRO-0 to the bit, the others
    to rounding.

    Seen red: `last=True` for every micro-batch (ZeRO-1, ZeRO-2); no clipping (ZeRO-0); biases
    decayed (all).
    """
    expected, weights = train_plainly()
    engine = new_engine(zero_stage)
    tolerance = 0.0 if zero_stage == 0 else 1e-6
    torch.testing.assert_close(train(engine, BATCHES), expected, rtol=0, atol=tolerance)
    torch.testing.assert_close(full_state_dict(engine), weights, rtol=0, atol=tolerance)


@pytest.mark.parametrize("zero_stage", ZERO_STAGES)
def test_a_resumed_engine_goes_on_bit_for_bit(zero_stage, tmp_path):
    """Seen red: load_engine without the optimizer (load_optimizer_states=False)."""
    unbroken = new_engine(zero_stage)
    expected = train(unbroken, BATCHES)
    first = new_engine(zero_stage)
    train(first, BATCHES[:3])
    save_engine(first, tmp_path)
    second = new_engine(zero_stage)
    load_engine(second, tmp_path)
    assert train(second, BATCHES[3:]) == expected[3:]
    for name, tensor in full_state_dict(unbroken).items():
        assert torch.equal(tensor, full_state_dict(second)[name]), name


@pytest.mark.parametrize("in_a_file", [False, True])
def test_shared_weights_are_put_together_after_a_pass_that_nothing_followed(in_a_file, tmp_path):
    """As after an evaluation. (Two processes, which have weights under way then: below.) Mutation
    seen red: every weight in the first one's place.
    """
    engine, before = shared_out()
    engine(torch.ones(2, 16))
    found = full_state_dict(engine, folder=tmp_path if in_a_file else None)
    torch.testing.assert_close(found, before, rtol=0, atol=0)
    assert list(tmp_path.iterdir()) == []
    backward(engine, engine(torch.ones(2, 16)).square().mean())  # and training goes on
    step(engine, 0.0)


def test_weights_are_whole_inside_gathered_and_shared_after_it():
    """Mutation seen red: nothing gathered."""
    engine, before = shared_out()
    engine(torch.ones(2, 16))
    with gathered(engine):
        whole = {name: weight.clone() for name, weight in engine.module.state_dict().items()}
    torch.testing.assert_close(whole, before, rtol=0, atol=0)
    assert all(weight.numel() == 0 for weight in engine.module.parameters())


def test_each_module_is_shared_out_before_the_next_is_read(monkeypatch):
    """So that no process holds more of a mapped model than one module. Mutation seen red: all
    modules copied first.
    """
    import deepspeed

    model = torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(3)))
    seen = []
    clone = torch.Tensor.clone

    def watched(tensor, *rest, **more):
        shared = [hasattr(layer.weight, "ds_id") for layer in model]
        seen.append(shared.count(True))
        return clone(tensor, *rest, **more)

    config = EngineConfig(zero_stage=3)
    init_distributed()
    monkeypatch.setattr(torch.Tensor, "clone", watched)
    share_out(model, deepspeed_settings(config, "fp32", 12_480))
    monkeypatch.undo()
    assert seen[:3] == [0, 0, 1]  # a weight and its bias, and the next ones when those are shared
    assert deepspeed.zero.partition_parameters.is_zero_param(model[2].bias)


def test_buffers_follow_from_the_model_and_the_recipe_has_the_last_word():
    """Mutations seen red: DeepSpeed's own numbers; the recipe's left out; no upper bound."""
    small = deepspeed_settings(EngineConfig(zero_stage=3), "fp32", 344_000_000)["zero_optimization"]
    assert small["reduce_bucket_size"] == 344_000_000 // 16
    assert small["stage3_max_live_parameters"] == 344_000_000 // 8
    large = deepspeed_settings(EngineConfig(zero_stage=3), "fp32", 70 * 10**9)["zero_optimization"]
    assert large["reduce_bucket_size"] == 50_000_000
    assert large["stage3_max_live_parameters"] == 10**9
    config = EngineConfig(zero_stage=2, zero_optimization={"reduce_bucket_size": 4})
    assert deepspeed_settings(config, "fp32", 10**9)["zero_optimization"]["reduce_bucket_size"] == 4


@pytest.mark.parametrize(
    ("zero_stage", "keys", "told"),
    [
        (0, {"overlap_comm": True}, "says nothing without zero_stage"),
        (3, {"stage": 2}, "decided by `zero_stage`"),
        (3, {"offload_param": True}, "decided by `offload`"),
        (3, {"reduce_buckets": 4}, "zero_optimization.reduce_buckets"),
        (3, {"reduce_bucket_size": -1}, "zero_optimization.reduce_bucket_size"),
    ],
)
def test_a_key_that_deepspeed_does_not_know_is_refused_by_its_name(zero_stage, keys, told):
    """When the recipe is read. Mutation seen red: the check of each left out."""
    with pytest.raises(ValueError, match=told):
        EngineConfig(zero_stage=zero_stage, zero_optimization=keys)


def test_each_update_uses_the_rate_it_is_given():
    engine = new_engine(0)
    before = full_state_dict(engine)
    backward(engine, loss_of(engine, BATCHES[0][0]))
    step(engine, 0.0)
    assert all(
        torch.equal(before[name], tensor) for name, tensor in full_state_dict(engine).items()
    )


def test_a_lone_process_averages_with_nobody_and_decays_what_no_loss_reaches(monkeypatch):
    """As several do, where DeepSpeed gives such a weight a gradient of zeros. Mutations seen red:
    `enable_backward_allreduce` left on; no zeros.
    """
    monkeypatch.setattr("deepspeed.DeepSpeedEngine.allreduce_gradients", None)
    model = new_model()
    model.register_parameter("spare", torch.nn.Parameter(torch.ones(2, 2)))
    engine = make_engine(model, EngineConfig(), learning_rate=0.5, weight_decay=0.1)
    backward(engine, loss_of(engine, BATCHES[0][0]))
    step(engine, 0.5)
    expected = torch.full((2, 2), 1 - 0.5 * 0.1)
    torch.testing.assert_close(full_state_dict(engine)["spare"], expected)


def test_frozen_parameters_stay():
    model = new_model()
    model[0].weight.requires_grad_(False)
    before = model[0].weight.clone()
    engine = make_engine(model, EngineConfig(), learning_rate=LEARNING_RATE)
    train(engine, BATCHES)
    assert torch.equal(full_state_dict(engine)["0.weight"], before)


def test_bf16_is_autocast_over_fp32_weights():
    """The matrix products are in bf16; weights, gradients and the optimizer are not."""
    engine = new_engine(0, "bf16")
    assert engine(BATCHES[0][0]).dtype == torch.bfloat16
    history = train(engine, BATCHES)
    assert all(tensor.dtype == torch.float32 for tensor in full_state_dict(engine).values())
    expected, _ = train_plainly()
    torch.testing.assert_close(
        [loss for loss, _ in history], [loss for loss, _ in expected], rtol=0.02, atol=0.0
    )
    assert history != expected


def test_a_lone_process_sums_to_itself():
    assert world_size() == 1
    assert all_reduce_sum(torch.tensor([1.0, 2.0])).tolist() == [1.0, 2.0]


def test_leaving_the_group_leaves_no_trace_and_a_new_one_can_be_joined():
    """A stage must not find out what ran before it in the same process. Seen red with ZeRO-3's
    linear layer left in torch's place, under which a model in 8 bits cannot answer.
    """
    linear = torch.nn.functional.linear
    before = {name: os.environ.get(name) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    for zero_stage in (2, 3):
        engine = new_engine(zero_stage)
        assert torch.distributed.is_initialized()
        train(engine, BATCHES[:1])
        leave_distributed()
        assert not torch.distributed.is_initialized()
        assert torch.nn.functional.linear is linear
        assert {name: os.environ.get(name) for name in before} == dict.fromkeys(before)
    leave_distributed()  # nothing to leave


def test_it_starts_without_a_compiler(tmp_path):
    """A machine with nothing on PATH but Python: no C++ compiler, no ninja."""
    code = (
        "import shutil, torch; assert not shutil.which('c++') and not shutil.which('g++')\n"
        "from podium.engine import *\n"
        "e = make_engine(torch.nn.Linear(2, 1), EngineConfig(), learning_rate=0.1)\n"
        "backward(e, e(torch.ones(1, 2)).sum()); print('norm', step(e, 0.1))"
    )
    environment = {
        k: v
        for k, v in os.environ.items()
        if k not in ("CC", "CXX", "RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    environment |= {
        "PATH": str(tmp_path),
        "PYTHONPATH": str(HERE.parent.parent),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run(
        [sys.executable, "-c", code], env=environment, capture_output=True, text=True, timeout=120
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("norm") and not done.stderr, done.stderr


@pytest.mark.slow
def test_two_gloo_processes_train_like_one(tmp_path):
    """torchrun with two processes, each with half of every batch, ZeRO 0 to 3 in turn.

    Seen red: `last=True` for every micro-batch; and, in one run of ten, a worker that does not leave
    by `end_process`.
    """
    expected, weights = train_plainly()
    command = [
        sys.executable,
        "-m",
        "torch.distributed.run",
        "--standalone",
        "--nproc-per-node",
        "2",
    ]
    environment = {
        k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")
    }
    environment |= {"PYTHONPATH": str(HERE.parent.parent), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [*command, str(HERE / "gloo_worker.py"), str(tmp_path)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=240,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for zero_stage in ZERO_STAGES:
        found = json.loads((tmp_path / f"zero{zero_stage}.json").read_text())
        torch.testing.assert_close(found["history"], expected, rtol=0, atol=2e-6)
        for name, tensor in weights.items():
            torch.testing.assert_close(
                torch.tensor(found["weights"][name]), tensor, rtol=0, atol=1e-5
            )
    whole = json.loads((tmp_path / "whole.json").read_text())
    assert whole == {"full_state_dict": True, "gathered": True}
