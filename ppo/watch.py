"""What a run says about itself: where the seconds go, the numbers people look for, gold scores,
sample texts.

Metric names are those of TRL's PPOTrainer, so that habits and dashboards carry over. Two of them
are another estimate of nearly the same thing:

- `policy/entropy_avg`, here: minus the log-probability of what was sampled, averaged over the
  response tokens of a rollout, before the update; it estimates the policy's entropy a token. TRL:
  the entropy of the whole distribution, from the logits of the update's forward passes, at every
  position, padding after the response too.
- `val/ratio_var`, here: the variance of the ratio over response tokens. TRL: the variance, over
  micro-batches, of each one's mean ratio; it is smaller, about by the tokens of a micro-batch.
"""

import json
import math
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from data.records import Prompt
from podium.storage import write_text
from ppo.losses import explained_variance, k1, k3
from ppo.rollout import RolloutBatch


class Profile:
    """Seconds by name since the last `drain`. On a GPU each measurement waits for the device."""

    def __init__(self, device: torch.device) -> None:
        self.device = device
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, name: str) -> Iterator[None]:
        """Add the seconds spent inside to `name`."""
        began = self._now()
        try:
            yield
        finally:
            self.seconds[name] = self.seconds.get(name, 0.0) + self._now() - began

    def drain(self) -> dict[str, float]:
        """`time/<name>` of everything measured, and start anew."""
        found = {f"time/{name}": seconds for name, seconds in self.seconds.items()}
        self.seconds = {}
        return found

    def _now(self) -> float:
        if self.device.type == "cuda":
            torch.cuda.synchronize(self.device)
        return time.perf_counter()


def rollout_metrics(
    batch: RolloutBatch,
    shaped_scores: Tensor,
    returns: Tensor | None,
    kl_coef: float,
    num_generations: int = 1,
) -> dict[str, float]:
    """What the whole batch says before the update. Sums are over a response, then averaged over
    responses.

    `shaped_scores` (B,): after scaling, clipping and the missing-EOS penalty. `num_generations`
    neighbouring rows answer one prompt. Statistics never see padding.
    """
    mask = batch.action_mask
    lengths = mask.sum(1)  # (B,)
    kl = torch.where(mask, k1(batch.logprobs, batch.ref_logprobs), 0.0).sum(1)
    kl3 = torch.where(mask, k3(batch.logprobs, batch.ref_logprobs), 0.0).sum(1)
    surprise = torch.where(mask, -batch.logprobs, 0.0).sum(1)
    responses = batch.responses()
    values = {
        "objective/kl": kl.mean(),
        "objective/kl_k3": kl3.mean(),
        "objective/entropy": surprise.mean(),
        "policy/entropy_avg": surprise.sum() / lengths.sum(),  # nats a token, as sampled
        "objective/non_score_reward": -kl_coef * kl.mean(),
        "objective/rlhf_reward": shaped_scores.mean() - kl_coef * kl.mean(),
        "objective/scores": batch.scores.mean(),
        "objective/scores_std": batch.scores.std(correction=0),
        "objective/shaped_scores": shaped_scores.mean(),
        "objective/kl_coef": torch.tensor(kl_coef),
        "val/num_eos_tokens": batch.finished.sum(),
        "rollout/eos_rate": batch.finished.float().mean(),
        "rollout/length": lengths.float().mean(),
        "rollout/length_max": lengths.max(),
        "rollout/tokens": lengths.sum(),
        "rollout/distinct": torch.tensor(len(set(map(tuple, responses))) / len(responses)),
        # of prompts: answers to one prompt may well be alike
        "rollout/near_identical": torch.tensor(near_identical(responses[::num_generations])),
    }
    if batch.values is not None and returns is not None:
        values["val/explained_variance"] = explained_variance(batch.values[mask], returns[mask])
    if num_generations > 1:
        groups = shaped_scores.view(-1, num_generations)
        values["objective/group_std"] = groups.std(dim=1).mean()
    return {name: float(value) for name, value in values.items()}


def near_identical(responses: Sequence[Sequence[int]], threshold: float = 0.8) -> float:
    """Share of pairs of responses whose bags of tokens overlap by the threshold (Jaccard): 1 = all
    say the same.

    Neighbours at a few distances stand for all pairs. A response that repeats one token counts as
    that token once, so loops of different lengths are recognised.
    """
    bags = [
        Counter({token: min(n, 3) for token, n in Counter(response).items()})
        for response in responses
    ]
    pairs = [
        (i, (i + distance) % len(bags)) for distance in (1, 2, 3, 5, 8) for i in range(len(bags))
    ]
    pairs = [(i, j) for i, j in pairs if i != j]
    alike = [
        (bags[i] & bags[j]).total() >= threshold * max(1, (bags[i] | bags[j]).total())
        for i, j in pairs
    ]
    return sum(alike) / len(alike) if alike else 0.0


def gold_metrics(world: Any, prompts: Sequence[Prompt], texts: Sequence[str]) -> dict[str, float]:
    """Mean gold score and gold features of the responses: logged to be compared with the proxy,
    never trained on.
    """
    totals: dict[str, list[float]] = {"objective/gold": []}
    for prompt, text in zip(prompts, texts, strict=True):
        totals["objective/gold"].append(world.gold(prompt, text))
        for name, value in world.features(prompt, text).items():
            totals.setdefault(f"gold/{name}", []).append(float(value))
    return {name: sum(values) / len(values) for name, values in totals.items()}


def write_samples(
    folder: Path,
    step: int,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    scores: Sequence[float],
) -> None:
    """`<folder>/<step>.jsonl`: what the policy answers to the fixed prompts at this step."""
    lines = [
        {
            "step": step,
            "prompt": [message.model_dump() for message in prompt.messages],
            "response": text,
            "score": score if math.isfinite(score) else None,
        }
        for prompt, text, score in zip(prompts, texts, scores, strict=True)
    ]
    folder.mkdir(parents=True, exist_ok=True)
    write_text(
        folder / f"{step:05d}.jsonl",
        "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines),
    )
