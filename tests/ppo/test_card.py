"""What a finished run says of itself, from numbers that were made up."""

from types import SimpleNamespace

import pytest
import torch

from ppo.config import Config
from ppo.learner import sampling_seed
from ppo.train import card, headline
from ppo.watch import near_identical, rollout_metrics

METRICS = {
    "objective/scores": 1.25,
    "objective/gold": 4.5,
    "objective/kl": 2.5,
    "rollout/length": 17.25,
    "rollout/eos_rate": 0.875,
    "ptx/loss": 3.0,
    "lr": 1e-5,
}


def learner(**changed) -> SimpleNamespace:
    known = {"metrics": METRICS, "rollbacks": 2, "episodes": 4096, "stop_token_ids": (3,)}
    return SimpleNamespace(**known | changed)


def test_the_headline_takes_each_number_from_the_last_iteration():
    """Mutations seen red: another metric under the name; the rollbacks of that iteration."""
    last = METRICS | {"guard/rollbacks": 1}
    expected = {"score": 1.25, "gold": 4.5, "kl": 2.5, "length": 17.25, "eos_rate": 0.875}
    expected |= {"ptx_loss": 3.0, "rollbacks": 2}
    assert headline(learner(metrics=last)) == expected
    assert headline(learner(metrics={"objective/kl": 2.5})) == {"kl": 2.5, "rollbacks": 2}


def test_the_card_says_what_was_learned_from(tokenizer):
    """Mutations seen red: the planned episodes; the last weights called the average."""
    config = Config(batch_size=512, ptx_coef=27.8, kl_coef=0.02, learning_rate=9e-6, ema_decay=0.99)
    text = card(config, learner(), tokenizer)
    assert text.startswith(
        "A policy trained with PPO-ptx (coefficient 27.8): 4,096 episodes in 8 iterations, KL "
        "coefficient 0.02, learning rate 9e-06; the weights are the average of decay 0.99.\n\n"
        "In the last iteration: reward 1.250, 2.50 nats a response from its start, 17.2 tokens, "
        "88% ended by themselves. `value/` holds the value model"
    )
    group = Config(
        batch_size=512, ptx_coef=0.0, advantage="rloo", num_generations=4, final_weights="last"
    )
    text = card(group, learner(metrics={}), tokenizer)
    assert text.startswith("A policy trained with RLOO without the pretraining mix, 4 answers a ")
    assert "the weights are the last.\n\nThe guard took every iteration back. There is no" in text
    assert "advantages are rloo's." in text


def test_a_rollout_is_sampled_as_the_recipe_says(make_learner):
    """And an iteration's random numbers are its own: of no other iteration, nor seed. Mutations
    seen red: another temperature, the end tokens left out, each rank's first row the first.
    """
    made = make_learner(seed=5, temperature=0.7, response_length=9, absent_token_ids=(11,))
    params = made.sampling(4, first_row=6)
    assert (params.max_new_tokens, params.temperature, params.first_row) == (9, 0.7, 6)
    assert (params.stop_token_ids, params.absent_token_ids) == ((3,), (11,))
    assert params.seed == sampling_seed(5, 4) and made.sampling(4).first_row == 0
    seeds = {sampling_seed(seed, iteration) for seed in range(20) for iteration in range(200)}
    assert len(seeds) == 20 * 200


def test_group_and_sameness_metrics_by_hand():
    """Two prompts, two answers each: the groups' deviations are 1 and 2 (of n - 1). Of four answers
    two are the same; of the two prompts' first answers none.
    """
    from ppo.rollout import RolloutBatch

    ids = torch.tensor([[1, 5, 6], [1, 5, 6], [1, 7, 8], [1, 7, 9]])
    actions = torch.tensor([[False, True, True]] * 4)
    zero = torch.zeros(4, 3)
    batch = RolloutBatch(ids, torch.ones_like(actions), actions, zero, zero, None,
                         torch.tensor([1.0, 2.0, 3.0, 4.0]), torch.ones(4, dtype=bool))  # fmt: skip
    shaped = torch.tensor([0.0, 2**0.5, 1.0, 1.0 + 2 * 2**0.5])
    found = rollout_metrics(batch, shaped, None, 0.1, num_generations=2)
    assert found["objective/group_std"] == pytest.approx(1.5)
    assert found["rollout/distinct"] == 0.75 and found["rollout/near_identical"] == 0.0
    assert "val/explained_variance" not in found
    alone = rollout_metrics(batch, shaped, None, 0.1)
    assert "objective/group_std" not in alone and alone["rollout/near_identical"] > 0


@pytest.mark.parametrize(("common", "alike"), [(8, 1.0), (7, 0.0)])
def test_answers_are_nearly_the_same_from_four_fifths_on(common, alike):
    """Eight tokens of ten in all, or seven of eleven. Mutation seen red: beyond four fifths only."""
    first = list(range(9))
    second = [*range(common), *range(50, 50 + 9 - common)]
    assert near_identical([first, second], threshold=common / (18 - common)) == 1.0
    assert near_identical([first, second]) == alike
