"""Weights packed for oneDNN while a CPU decodes: the same text and log-probabilities, and nothing
left behind.
"""

import copy

import pytest
import torch
from torch import nn

from podium.sampling import prepacked as prepacked_module
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.prepacked import prepacked
from podium.sampling.protocol import SamplingParams

pytestmark = pytest.mark.skipif(
    not prepacked_module._types(), reason="this processor has no packed product"
)

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14], [15]]


@pytest.fixture(autouse=True)
def small_weights_too(monkeypatch):
    monkeypatch.setattr(prepacked_module, "FROM_ELEMENTS", 1)


@pytest.fixture(params=["tiny_llama", "tiny_opt"])
def model(request):
    """OPT's layers have biases, which begin as zeros; LLaMA's have none."""
    model = request.getfixturevalue(request.param).eval()
    for name, parameter in model.named_parameters():
        if name.endswith("bias"):
            nn.init.normal_(parameter)
    return model


def packed_layers(model):
    return [name for name, module in model.named_modules() if "forward" in vars(module)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_packed_product_is_the_product(model, dtype):
    """Seen red with the bias dropped (OPT)."""
    if dtype not in prepacked_module._types():
        pytest.skip("this processor does not multiply bf16")
    model = copy.deepcopy(model).to(dtype)
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    with torch.inference_mode():
        expected = model(ids).logits
        with prepacked(model):
            assert len(packed_layers(model)) == sum(
                type(module) is nn.Linear for module in model.modules()
            )
            found = model(ids).logits
    torch.testing.assert_close(
        found, expected, atol=1e-5 if dtype == torch.float32 else 0.05, rtol=0
    )


def test_sampled_text_and_logprobs_do_not_change(model, monkeypatch):
    params = SamplingParams(max_new_tokens=12, seed=3)
    found = EmbeddedSampler(model, pad_token_id=0).generate(PROMPTS, params)
    monkeypatch.setattr(prepacked_module, "FROM_ELEMENTS", 1 << 60)
    expected = EmbeddedSampler(model, pad_token_id=0).generate(PROMPTS, params)
    assert [sample.tokens for sample in found] == [sample.tokens for sample in expected]
    for mine, theirs in zip(found, expected, strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-5)


def test_a_step_of_training_between_two_rollouts_is_seen(model):
    """Seen red with the packed forward left on the layers after `generate`."""
    sampler = EmbeddedSampler(model, pad_token_id=0)
    params = SamplingParams(max_new_tokens=6, temperature=0)
    untouched = copy.deepcopy(model)
    sampler.generate(PROMPTS, params)
    with torch.no_grad():
        for parameter in model.parameters():
            # as an optimizer writes: no version counter moves
            parameter.data.copy_(parameter.data.flip(0))
    after = sampler.generate(PROMPTS, params)
    untouched.load_state_dict(model.state_dict())
    fresh = EmbeddedSampler(untouched, pad_token_id=0).generate(PROMPTS, params)
    assert [sample.tokens for sample in after] == [sample.tokens for sample in fresh]
    for mine, theirs in zip(after, fresh, strict=True):
        assert mine.logprobs == pytest.approx(theirs.logprobs, abs=1e-6)


def test_layers_are_themselves_again_after_an_error(model):
    with pytest.raises(KeyboardInterrupt), prepacked(model):
        assert packed_layers(model)
        raise KeyboardInterrupt
    assert not packed_layers(model)


def test_what_cannot_be_packed_is_left_alone():
    """Seen red with `isinstance` for the exact type, and with the check for a foreign forward left
    out.
    """

    class Doubled(nn.Linear):
        def forward(self, input):
            return 2 * super().forward(input)

    hooked = nn.Linear(4, 4)
    hooked.forward = lambda input: input
    model = nn.ModuleDict(
        {
            "subclass": Doubled(4, 4),
            "hooked": hooked,
            "fp16": nn.Linear(4, 4, dtype=torch.float16),
            "norm": nn.LayerNorm(4),
        }
    )
    with prepacked(model):
        assert packed_layers(model) == ["hooked"]
    assert packed_layers(model) == ["hooked"]
    with torch.autocast("cpu", torch.bfloat16), prepacked(plain := nn.Linear(4, 4)):
        assert not packed_layers(plain)
