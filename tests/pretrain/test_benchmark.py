"""`python -m benchmarks.pretrain`: every side does the same work, and a difference is found."""

from typing import Any

import torch

from benchmarks.pretrain import must_agree
from benchmarks.pretrain_sides import SIDES, Size, Work, make_windows
from pretrain.presets import Preset

TINY = Size(Preset("llama", 2, 32, 2, 1e-3, 64, inner=48), vocabulary=64, windows=3, context=12)
STEPS = 4


class Turns:
    """A pipe in the same process that always says go."""

    def __init__(self) -> None:
        self.losses: list[float] = []

    def recv(self) -> None:
        pass

    def send(self, report: Any) -> None:
        if report != "ready":
            _, loss, _ = report
            self.losses.append(loss)


def losses_of(side: str, document: int | None = None) -> list[float]:
    pipe = Turns()
    work = Work(TINY, make_windows(TINY, document), "fp32", torch.get_num_threads(), STEPS, "sdpa")
    SIDES[side](pipe, work)
    return pipe.losses


def test_the_sides_that_need_nothing_else_do_the_same_work():
    """Hugging Face's trainer goes first: it would join the group of one that Podium's engine starts.
    Mutations seen red: the trainer's clipping, beta2 or decay another one; norms decayed; torch
    without clipping, or with gradients that add up; targets not shifted; a seed for each side; our
    rate doubled.
    """
    found = {side: losses_of(side) for side in ("trainer", "torch", "ours")}
    assert [len(losses) for losses in found.values()] == [STEPS] * 3
    must_agree(found, 1e-6)


def test_podium_alone_keeps_the_documents_of_a_window_apart():
    """Mutation seen red: windows of one document whatever is asked."""
    ours, torchs = losses_of("ours", document=4), losses_of("torch", document=4)
    assert abs(ours[0] - torchs[0]) > 1e-4
