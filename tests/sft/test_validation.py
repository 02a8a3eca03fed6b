"""Choosing a checkpoint, shared out over processes."""

from types import SimpleNamespace

import pytest
import torch
from transformers import LlamaForSequenceClassification

from data.records import Message, Prompt
from podium.rewards.model_reward import ModelReward
from podium.sampling.kinds import EmbeddedConfig
from sft.batches import IGNORED, Row
from sft.validation import RewardScorer, validation_metrics


def test_the_metrics_are_means_over_response_tokens(tiny_llama, tokenizer):
    """By the definition, row by row without padding; nine rows, one token the likeliest. Mutations
    seen red: labels shifted, the mean over rows, tokens of the prompt in
    the accuracy, a batch left out.
    """
    draw = torch.Generator().manual_seed(5)
    rows, nll, right = [], [], []
    for length in (9, 4, 17, 6, 12, 5, 8, 3, 11):
        ids = torch.randint(6, len(tokenizer), (length,), generator=draw)
        with torch.no_grad():
            prefix = tiny_llama(ids[None, :-1]).logits[0]
            ids[-1] = prefix[-1].argmax() if length % 2 else ids[-1]
            logprobs = prefix.log_softmax(-1)
        answer = range(length // 2, length)
        nll += [-logprobs[at - 1, ids[at]].item() for at in answer]
        right += [int(logprobs[at - 1].argmax() == ids[at]) for at in answer]
        labels = [IGNORED] * (length // 2) + ids[length // 2 :].tolist()
        rows.append(Row(ids.tolist(), labels))
    assert 0 < sum(right) < len(right)
    expected = {"validation_loss": sum(nll) / len(nll), "token_accuracy": sum(right) / len(right)}
    stage = SimpleNamespace(rank=0, world_size=1, device=torch.device("cpu"))
    for batch_size in (1, 4, 20):
        found = validation_metrics(
            tiny_llama,
            rows,
            pad_token_id=tokenizer.pad_token_id,
            batch_size=batch_size,
            stage=stage,
        )
        assert found == pytest.approx(expected, rel=1e-5)


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
