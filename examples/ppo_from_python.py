"""PPO from Python: no recipe and no run folder, only models, a reward and the loop that PPO is.

    python examples/ppo_from_python.py

A random LLaMA of 40,000 parameters learns to answer with vowels. The four steps of the loop are
those of `ppo/train.py`, which adds prompts by seed, checkpoints, the guard and the pretraining mix.
"""

import copy

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from data.records import Message, Prompt
from data.template import decode_response, encode_prompt
from data.tokenizer_training import train_bpe
from podium.rewards.function import FunctionReward
from ppo.config import Config
from ppo.learner import Learner, Models

QUESTIONS = ["Sing something.", "Say a word.", "What does the owl say?", "Name a letter."]


def score(prompts, responses):
    """The share of vowels in an answer; nothing for an empty one."""
    return [sum(c in "aeiou" for c in text) / max(len(text), 1) for text in responses]


def make_models(tokenizer):
    """Policy, reward and value model; the reference is a copy that the learner makes."""
    shape = LlamaConfig(
        vocab_size=len(tokenizer),
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        max_position_embeddings=128,
        pad_token_id=tokenizer.pad_token_id,
    )
    scalar = copy.deepcopy(shape)
    scalar.num_labels = 1
    value = LlamaForSequenceClassification(scalar)
    return Models(LlamaForCausalLM(shape), FunctionReward(f"{__file__}:score"), value)


def main(iterations: int = 30) -> list[float]:
    """The mean reward of each iteration."""
    torch.manual_seed(0)
    tokenizer = train_bpe([*QUESTIONS, "a e i o u"] * 8, vocab_size=300)
    learner = Learner(
        Config(
            batch_size=32,
            num_mini_batches=2,
            response_length=12,
            learning_rate=3e-3,
            value_learning_rate=3e-3,
            kl_coef=0.01,
            missing_eos_penalty=0.0,
            ptx_coef=0.0,
            warmup_iterations=0,
        ),
        make_models(tokenizer),
        tokenizer.pad_token_id,
        (tokenizer.eos_token_id,),
        seed=0,
        decode=lambda ids: decode_response(tokenizer, ids),
    )
    asked = [Prompt(messages=[Message(role="user", content=text)]) for text in QUESTIONS * 8]
    ids = [encode_prompt(tokenizer, prompt.messages) for prompt in asked]
    rewards = []
    for iteration in range(1, iterations + 1):
        batch = learner.rollout(ids, iteration, asked)  # 1. answer the prompts, read the models
        targets, metrics = learner.targets(batch)  # 2. rewards with KL, advantages, returns
        metrics |= learner.update(batch, targets, None, iteration)  # 3. both losses, one step each
        rewards.append(metrics["objective/scores"])  # 4. look
        print(f"{iteration:3d}  reward {rewards[-1]:.3f}  KL {metrics['objective/kl']:.3f}")
    return rewards


if __name__ == "__main__":
    main()
