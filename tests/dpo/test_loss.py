"""The loss against the paper's formula, written out."""

import math

import pytest
import torch

from dpo.loss import dpo_loss, dpo_margin


def test_the_loss_is_equation_7():
    """Rafailov et al. 2023. Mutations seen red: the sign of the margin; reference and policy
    exchanged; the reference's two responses exchanged; beta left out.
    """
    rows = [(-5.0, -9.0, -6.0, -7.0), (-3.0, -2.0, -4.0, -8.0), (-1.5, -1.0, -1.0, -1.0)]
    columns = [torch.tensor(column) for column in zip(*rows, strict=True)]
    found = dpo_loss(*columns, 0.3)
    for value, (chosen, rejected, ref_chosen, ref_rejected) in zip(found, rows, strict=True):
        ratio_chosen = math.exp(chosen) / math.exp(ref_chosen)
        ratio_rejected = math.exp(rejected) / math.exp(ref_rejected)
        inside = 0.3 * math.log(ratio_chosen) - 0.3 * math.log(ratio_rejected)
        assert float(value) == pytest.approx(-math.log(1 / (1 + math.exp(-inside))), rel=1e-5)


def test_where_policy_and_reference_are_equal_nothing_is_preferred():
    logprobs = torch.tensor([-5.0, -2.0]), torch.tensor([-7.0, -1.0])
    assert torch.allclose(dpo_loss(*logprobs, *logprobs, 0.1), torch.tensor(math.log(2.0)))
    assert not dpo_margin(*logprobs, *logprobs, 0.1).any()


def test_the_gradient_makes_the_chosen_response_likelier():
    """Mutation seen red: the sign of the margin."""
    chosen, rejected = (torch.tensor([-4.0], requires_grad=True) for _ in range(2))
    dpo_loss(chosen, rejected, chosen.detach(), rejected.detach(), 0.2).backward()
    assert float(chosen.grad) == pytest.approx(-0.1) and float(rejected.grad) == pytest.approx(0.1)


def test_shapes_that_would_broadcast_are_refused():
    """Mutation seen red: the check left out; (N,) against (N, 1) made N x N losses."""
    flat, column = torch.zeros(3), torch.zeros(3, 1)
    for place in range(1, 4):
        arguments = [flat] * 4
        arguments[place] = column
        with pytest.raises(ValueError, match="shapes differ"):
            dpo_loss(*arguments, 0.1)
