"""Models without positions of their own, whose attention falls off with distance (ALiBi): MPT and
BLOOM, through PPO with a critic and without.
"""

from pathlib import Path

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    BloomConfig,
    BloomForCausalLM,
    MptConfig,
    MptForCausalLM,
)

from podium.models import load_causal_lm, save_model
from tests.ppo.runs import metrics, train

PROMPTS = [[5, 6, 7], [8, 9], [10, 11, 12, 13, 14, 15], [16]]
MPT = {"d_model": 32, "n_heads": 4, "n_layers": 2, "expansion_ratio": 2, "max_seq_len": 128}
BLOOM = {"hidden_size": 32, "n_head": 4, "n_layer": 2}
FAMILIES = {
    "mpt": (MptForCausalLM, MptConfig, MPT),
    "bloom": (BloomForCausalLM, BloomConfig, BLOOM),
}


@pytest.fixture
def policy_folder(request, tokenizer, tmp_path) -> Path:
    """In place of the LLaMA of the tests around: the policy, and what the reward starts from.
    Weights are large enough that distance matters.
    """
    model, config, shape = FAMILIES[request.param]
    names = ("bos_token_id", "eos_token_id", "pad_token_id")
    ids = {name: getattr(tokenizer, name) for name in names}
    torch.manual_seed(0)
    made = model(config(vocab_size=len(tokenizer), initializer_range=0.3, **shape, **ids))
    save_model(made.eval(), tokenizer, tmp_path / "policy")
    return tmp_path / "policy"


@pytest.mark.parametrize("policy_folder", ["mpt"], indirect=True)
@pytest.mark.parametrize("how", [{}, {"advantage": "rloo", "num_generations": 4}])
def test_a_run_learns_from_the_very_policy_that_it_sampled(make_recipe, tmp_path, how):
    """What the sampler said of its tokens, the reference and the first pass of training agree
    before anything is learned. Mutation seen red: a sampler whose mask shows the padding, and that
    is believed without being measured.
    """
    folder = train(make_recipe(**how), tmp_path / "runs")
    first, *_, last = metrics(folder)
    assert abs(first["objective/kl"]) < 1e-4 and first["objective/kl_k3"] < 1e-4
    assert all(line["val/ratio_first_error"] < 1e-4 for line in metrics(folder))
    assert last["objective/kl_k3"] > 1e-3
    assert ("val/explained_variance" in first) == (how == {})
    assert load_causal_lm(folder / "final").config.model_type == "mpt"


@pytest.mark.parametrize("policy_folder", ["mpt", "bloom"], indirect=True)
def test_a_token_is_read_as_in_its_row_alone(make_learner, policy_folder, reward_folder):
    """Log-probabilities, values and scores of padded rows against transformers' own pass over each.
    Mutation seen red: a value read after its token.
    """
    batch = make_learner().rollout(PROMPTS, 1)
    policy = load_causal_lm(policy_folder)
    critic = AutoModelForSequenceClassification.from_pretrained(reward_folder).eval()
    for i, mask in enumerate(batch.attention_mask):
        ids = batch.input_ids[i : i + 1, mask]
        actions = batch.action_mask[i, mask]
        with torch.no_grad():
            said = policy(input_ids=ids).logits[0].log_softmax(-1)
            whole = ids if batch.finished[i] else torch.cat([ids, torch.tensor([[3]])], dim=1)
            states = critic.base_model(input_ids=whole).last_hidden_state
            worth = critic.score(states)[0, :, 0] - 0.25  # reward_bias; a cut answer as if ended
        chosen = said[:-1].gather(1, ids[0, 1:, None])[:, 0][actions[1:]]
        for read in (batch.logprobs, batch.ref_logprobs):
            torch.testing.assert_close(read[i, mask][actions], chosen, atol=1e-4, rtol=0)
        torch.testing.assert_close(
            batch.values[i, mask][actions],
            worth[: len(actions) - 1][actions[1:]],
            atol=1e-4,
            rtol=0,
        )
        torch.testing.assert_close(batch.scores[i], worth[-1], atol=1e-4, rtol=0)
