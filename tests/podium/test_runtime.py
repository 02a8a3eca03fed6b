"""Seeds, threads and number formats."""

import random

import numpy as np
import pytest
import torch

from podium import runtime


def draw():
    return random.random(), float(np.random.rand()), torch.rand(3).tolist()


def test_a_seed_fixes_every_generator_and_a_state_continues_it():
    runtime.seed_everything(7)
    first = draw()
    state = runtime.rng_state()
    second = draw()
    runtime.set_rng_state(state)
    assert draw() == second
    runtime.seed_everything(7)
    assert draw() == first != second


def test_threads_obey_the_environment_then_the_recipe(monkeypatch):
    before = torch.get_num_threads()
    try:
        monkeypatch.setenv("OMP_NUM_THREADS", "1")
        assert runtime.set_threads("auto") == 1 == torch.get_num_threads()
        assert runtime.set_threads(2) == 2 == torch.get_num_threads()
    finally:
        torch.set_num_threads(before)


@pytest.mark.parametrize(
    ("idle", "allowed", "physical", "threads"),
    [
        ([1.0, 1.0, 1.0, 1.0], 4, 2, 2),
        ([1.0, 1.0], 2, 2, 2),
        ([0.9, 0.1], 2, 2, 1),
        ([0.0, 0.0], 2, 2, 1),
        ([1.0, 1.0, 1.0, 1.0], 1, 4, 1),
    ],
)
def test_auto_threads_are_idle_cores_up_to_the_physical_ones(
    monkeypatch, idle, allowed, physical, threads
):
    """`idle` is each core's idle share while we look."""
    looks = iter([[0.0] * len(idle), [share * 0.01 for share in idle]])
    times = type("Times", (), {"__init__": lambda self, idle: setattr(self, "idle", idle)})
    monkeypatch.setattr(
        runtime.psutil, "cpu_times", lambda percpu: [times(value) for value in next(looks)]
    )
    monkeypatch.setattr(runtime.psutil, "cpu_count", lambda logical: physical)
    monkeypatch.setattr(
        runtime.os, "sched_getaffinity", lambda pid: set(range(allowed)), raising=False
    )
    assert runtime.free_threads(sample_seconds=0.01) == threads


@pytest.mark.parametrize(("has_bf16", "dtype"), [(True, "bf16"), (False, "fp32")])
def test_auto_dtype_follows_the_processor(monkeypatch, has_bf16, dtype):
    monkeypatch.setattr(runtime.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(runtime, "cpu_has_bf16", lambda: has_bf16)
    assert runtime.resolve_dtype("auto") == dtype
    assert runtime.resolve_dtype("fp32") == "fp32" and runtime.resolve_dtype("bf16") == "bf16"


def test_autocast_is_bf16_or_nothing():
    a = torch.ones(2, 2)
    with runtime.autocast(torch.device("cpu"), "bf16"):
        assert (a @ a).dtype == torch.bfloat16
    with runtime.autocast(torch.device("cpu"), "fp32"):
        assert (a @ a).dtype == torch.float32
