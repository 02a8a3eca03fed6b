"""Small layers under bf16 autocast on a CPU: the plain product's numbers at few numbers of rows."""

import copy

import pytest
import torch
import torch.nn.functional as F
from torch import nn

from podium.products import EvenLinear, even_products, even_rows
from podium.runtime import autocast

CPU = torch.device("cpu")


@pytest.fixture
def layers():
    """The same layer plain and even."""
    torch.manual_seed(0)
    plain = nn.Linear(24, 40)
    even = copy.deepcopy(plain)
    even_products(even, CPU)
    return plain, even


def passed(layer, rows, dtype="bf16"):
    """Output, gradient of the input, of the weight and of the bias for rows of fixed numbers."""
    draws = torch.Generator().manual_seed(rows)
    inputs = torch.randn(3, rows, 24, generator=draws).requires_grad_()
    weights = torch.randn(3, rows, 40, generator=draws)
    layer.zero_grad()
    with autocast(CPU, dtype):
        output = layer(inputs)
    (output.float() * weights).sum().backward()
    return output.detach(), inputs.grad, layer.weight.grad, layer.bias.grad


@pytest.mark.parametrize("rows", [1, 7, 33, 100])
def test_output_and_gradients_are_those_of_the_plain_product(layers, rows):
    """Mutations seen red: the zeros put before the rows; the last rows kept in place of the
    first.
    """
    expected, found = passed(layers[0], rows), passed(layers[1], rows)
    assert found[0].shape == expected[0].shape and found[0].dtype == expected[0].dtype
    for one, other in zip(expected, found, strict=True):
        torch.testing.assert_close(other.float(), one.float(), rtol=1e-2, atol=1e-2)


def test_the_product_meets_few_numbers_of_rows(layers, monkeypatch):
    """Mutation seen red: nothing filled up."""
    seen, product = set(), F.linear

    def linear(input, weight, bias=None):
        seen.add(input.numel() // input.shape[-1])
        return product(input, weight, bias)

    monkeypatch.setattr(F, "linear", linear)
    with torch.no_grad(), autocast(CPU, "bf16"):
        for rows in range(1, 1200, 7):
            layers[1](torch.zeros(rows, 24))
    assert len(seen) < 30 and seen == {even_rows(rows) for rows in range(1, 1200, 7)}


def test_at_most_an_eighth_is_added():
    """And nothing to many rows. Mutations seen red: twice the step; rows cut instead of filled; no
    end.
    """
    for rows in range(1, 20_000):
        assert rows <= even_rows(rows) <= max(rows + 31, rows * 1.125)
        assert even_rows(even_rows(rows)) == even_rows(rows)
    assert len({even_rows(rows) for rows in range(512, 1024)}) == 9
    assert even_rows(2049) == 2049 and even_rows(2047) == 2048


def test_fp32_is_the_plain_product_to_the_bit(layers):
    """MKL compiles nothing for a shape. Mutation seen red: filled up without a look at autocast
    (bf16 then).
    """
    for one, other in zip(passed(layers[0], 7, "fp32"), passed(layers[1], 7, "fp32"), strict=True):
        assert torch.equal(one, other)


def test_large_layers_subclasses_and_a_gpu_keep_theirs():
    """Mutations seen red: the size not looked at; the device not looked at; every subclass."""

    class Own(nn.Linear):
        pass

    model = nn.Sequential(nn.Linear(8, 8), nn.Linear(1024, 512), Own(8, 8))
    even_products(model, torch.device("cuda"))
    assert [type(layer) for layer in model] == [nn.Linear, nn.Linear, Own]
    even_products(model, CPU)
    assert [type(layer) for layer in model] == [EvenLinear, nn.Linear, Own]


def test_what_is_compiled_is_left_to_the_compiler(layers):
    """Its products are its own, and numbers of rows would be conditions of the graph. Mutation seen
    red: filled up there too.
    """
    seen = []

    def backend(graph, example):
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    compiled = torch.compile(layers[1], backend=backend, dynamic=True, fullgraph=True)
    with torch.no_grad(), autocast(CPU, "bf16"):
        assert compiled(torch.zeros(7, 24)).shape == (7, 40)
    assert seen and not any("pad" in target for target in seen)
