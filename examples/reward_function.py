"""A reward that is a Python function: answers of about forty letters that end as a sentence does.

Any recipe takes it by one key; `podium` is started in the folder that the path is read from:

    podium ppo recipes/willowbrook.yaml --set ppo.reward=examples/reward_function.py:score

or beside the reward model, weighted:

    ppo:
      reward:
        - {reward: reward, weight: 1.0}
        - {reward: examples/reward_function.py:score, weight: 0.5}

`prompts` are records with `messages` and whatever else your data hold in `meta` (a reference
answer, say); `responses` are as many texts, and as many numbers come back. Podium keeps the file's
hash with the run: a changed file makes PPO anew. Where the function fails on an answer, PPO stops,
names the prompt, and goes on from its last checkpoint when the file is mended.
"""

import re

LETTERS = 40


def score(prompts, responses):
    """1 for a sentence of LETTERS letters, less the further from it; 0.5 is for how it ends."""
    return [length_score(response) + ending_score(response) for response in responses]


def length_score(response):
    return 0.5 - min(abs(len(response) - LETTERS) / LETTERS, 1.0) / 2


def ending_score(response):
    return 0.5 if re.search(r"[.!?]\s*$", response) else 0.0
