"""Choosing a checkpoint, shared out over processes."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForSequenceClassification

from data.records import Message, Prompt
from podium.rewards.model_reward import ModelReward
from podium.sampling.kinds import EmbeddedConfig
from sft.validation import RewardScorer


@pytest.mark.parametrize("processes", [2, 3, 5])
def test_processes_answer_the_prompts_with_the_draws_of_one(tiny_llama, tokenizer, processes):
    """Each prompt keeps its random numbers, so the score does not depend on their number, even with
    more processes than prompts. Seen red with `prompts[rank::processes]`, whose second row of one
    process drew as the first of the next.
    """
    config = tiny_llama.config
    config.num_labels = 1
    torch.manual_seed(3)
    reward = ModelReward(LlamaForSequenceClassification(config).eval(), tokenizer)
    prompts = [
        Prompt(messages=[Message(role="user", content=f"Name fruit {i}.")]) for i in range(4)
    ]

    def score(rank: int, world_size: int) -> float:
        stage = SimpleNamespace(
            rank=rank,
            world_size=world_size,
            seed=3,
            device=torch.device("cpu"),
            sampler=EmbeddedConfig,
        )
        return RewardScorer(reward, tokenizer, prompts, 12, 4, stage)(tiny_llama)

    parts = [score(rank, processes) for rank in range(processes)]
    assert sum(parts) == pytest.approx(score(0, 1), abs=1e-5)
