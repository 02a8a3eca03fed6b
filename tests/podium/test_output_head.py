"""Hidden states become logits as the model's own forward makes them, whatever its family does."""

import pytest
import torch
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    Cohere2Config,
    Cohere2ForCausalLM,
    Gemma2Config,
    Gemma2ForCausalLM,
    GraniteConfig,
    GraniteForCausalLM,
    LlamaForCausalLM,
)

from podium.errors import ParentError
from podium.output_head import OutputHead, measure_output_head, output_head
from podium.sampling.logprobs import head_logits, token_logprobs

SIZE = {
    "vocab_size": 64,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MLA = {"q_lora_rank": 16, "kv_lora_rank": 16, "qk_nope_head_dim": 8, "qk_rope_head_dim": 4}


def minicpm3():
    more = MLA | {"v_head_dim": 8, "dim_model_base": 8, "num_key_value_heads": 4}
    return AutoModelForCausalLM.from_config(AutoConfig.for_model("minicpm3", **(SIZE | more)))


FAMILIES = {
    "cohere2": (lambda: Cohere2ForCausalLM(Cohere2Config(**SIZE)), OutputHead(after=0.0625)),
    "granite": (
        lambda: GraniteForCausalLM(GraniteConfig(**SIZE, logits_scaling=8.0)),
        OutputHead(after=0.125),
    ),
    "gemma2": (
        lambda: Gemma2ForCausalLM(Gemma2Config(**SIZE, head_dim=8, query_pre_attn_scalar=8)),
        OutputHead(cap=30.0),
    ),
    "minicpm3": (minicpm3, OutputHead(before=0.25)),
}


@pytest.mark.parametrize("family", FAMILIES)
def test_log_probabilities_are_those_of_the_models_own_forward(family):
    """Seen red with the head alone: nats off for every one of these but Gemma."""
    build, expected = FAMILIES[family]
    torch.manual_seed(0)
    model = build().eval()
    for parameter in model.parameters():
        if parameter.dim() > 1:
            torch.nn.init.normal_(parameter, std=0.3)
    measure_output_head(model)
    found = output_head(model)
    assert found.cap == expected.cap
    assert (found.before, found.after) == pytest.approx((expected.before, expected.after), rel=1e-6)

    ids = torch.randint(3, 64, (2, 9))
    target_mask = torch.ones_like(ids, dtype=torch.bool)
    target_mask[:, :4] = False
    with torch.no_grad():
        ours = token_logprobs(model, ids, torch.ones_like(ids), target_mask)
        own = model(ids, use_cache=False).logits.float().log_softmax(-1)[:, :-1]
    theirs = own.gather(-1, ids[:, 1:, None]).squeeze(-1)[target_mask[:, 1:]]
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


def test_a_plain_head_is_left_exactly_as_it_is(tiny_llama):
    """No factor of 0.9999999: every recorded trajectory rests on it."""
    measure_output_head(tiny_llama)
    assert output_head(tiny_llama) == OutputHead()
    hidden = torch.randn(3, 32)
    assert torch.equal(head_logits(tiny_llama, hidden), tiny_llama.lm_head(hidden))


class Squared(LlamaForCausalLM):
    """A family that nobody has seen yet."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits.square()
        return output


def test_a_head_that_is_no_scaled_product_is_read_by_the_whole_forward(tiny_llama):
    """Mutation seen red: `whole` left out of `last_states`, which took the hidden states alone."""
    model = Squared(tiny_llama.config).eval()
    measure_output_head(model)
    assert output_head(model) == OutputHead(whole=True)
    ids = torch.randint(3, 64, (2, 9))
    target_mask = torch.ones_like(ids, dtype=torch.bool)
    target_mask[:, 0] = False
    with torch.no_grad():
        ours = token_logprobs(model, ids, torch.ones_like(ids), target_mask)
        own = model(ids, use_cache=False).logits.float().log_softmax(-1)[:, :-1]
    theirs = own.gather(-1, ids[:, 1:, None]).flatten()
    torch.testing.assert_close(ours, theirs, rtol=0, atol=1e-5)


class Ahead(LlamaForCausalLM):
    """An encoder in a language model's clothes: every token sees the whole row."""

    def forward(self, *args, **kwargs):
        output = super().forward(*args, **kwargs)
        output.logits = output.logits + output.logits.mean(dim=1, keepdim=True)
        return output


def test_a_model_that_sees_later_tokens_is_refused_by_name(tiny_llama):
    """Seen red: BERT was sampled from, each token knowing those that were to come."""
    with pytest.raises(ParentError, match="Ahead lets a token see those after it"):
        measure_output_head(Ahead(tiny_llama.config).eval())


def test_a_model_that_wants_more_than_ids_is_refused_by_name(tiny_llama):
    class Pictures(LlamaForCausalLM):
        def forward(self, *args, **kwargs):
            raise ValueError("pixel_values are missing")

    with pytest.raises(ParentError, match=r"Pictures cannot read a plain row .*pixel_values"):
        measure_output_head(Pictures(tiny_llama.config).eval())
