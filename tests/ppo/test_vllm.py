"""PPO-ptx with rollouts by vLLM: the weights go over at each iteration, and what it says is learned
from.
"""

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from tests.ppo.runs import metrics, train

pytestmark = [pytest.mark.vllm, pytest.mark.timeout(300)]


@pytest.fixture
def tiny_llama(tokenizer):
    """With heads as wide as vLLM's attention on a CPU wants them."""
    torch.manual_seed(0)
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=64,
            intermediate_size=64,
            num_hidden_layers=2,
            num_attention_heads=2,
            max_position_embeddings=128,
            tie_word_embeddings=True,
            pad_token_id=tokenizer.pad_token_id,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
        )
    ).eval()


def test_ppo_ptx_learns_from_what_vllm_says(make_recipe, tmp_path, vllm_python):
    """The policy moves, and at every iteration the server's log-probabilities are those of the
    trainer's weights of that iteration. Mutation seen red: `update_weights` writes nothing but the
    first time.
    """
    settings = ["sampler.kind=vllm", f"sampler.python={vllm_python}", "sampler.cache_gb=0.25"]
    folder = train(make_recipe(learning_rate=1e-2), tmp_path / "runs", *settings)
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[0]["objective/kl"] == pytest.approx(0.0, abs=1e-5)
    assert lines[-1]["objective/kl"] > 0.01
    # A sampler that rounds otherwise is read again by the trainer unless a recipe says no.
    assert all(line["rollout/sampler_error"] < 1e-3 for line in lines)
