"""From scores to advantages: pure functions, tensors in, tensors out.

Everything about the choice of token t stands in column t: its log-probability, its reward, and the
value of the state *before* it. Shapes are (B, T) over prompt and response; `action_mask` (B, T) is
True at response tokens, the stop token among them. Outside the mask results are 0.
"""

import torch
from torch import Tensor

__all__ = [
    "gae",
    "grpo",
    "kl_shaped_rewards",
    "last_action",
    "reinforce_plus_plus",
    "rloo",
    "whiten",
]


def kl_shaped_rewards(
    scores: Tensor, logprobs: Tensor, ref_logprobs: Tensor, action_mask: Tensor, kl_coef: float
) -> Tensor:
    """r_t = -kl_coef (log pi(a_t) - log ref(a_t)), and the score added at the last action.
    InstructGPT, equation 2.

    The KL term is the k1 estimator: its sum over a response is unbiased for the KL of whole
    responses.

    Args:
        scores: (B,), one a response. logprobs, ref_logprobs: (B, T). kl_coef: reward units a nat.

    Returns:
        (B, T) rewards.

    Raises:
        ValueError: shapes that would broadcast silently, or a row without an action.
    """
    _expect_shape("scores", scores, action_mask.shape[:1])
    _expect_shape("logprobs", logprobs, action_mask.shape)
    _expect_shape("ref_logprobs", ref_logprobs, action_mask.shape)
    rewards = torch.where(action_mask, -kl_coef * (logprobs - ref_logprobs), 0.0)
    rewards[torch.arange(len(scores), device=scores.device), last_action(action_mask)] += scores
    return rewards


def last_action(action_mask: Tensor) -> Tensor:
    """Column (B,) of each row's last action. Raises ValueError for a row without one."""
    if not bool(action_mask.any(dim=1).all()):
        raise ValueError("a row without an action has no place for its score")
    columns = torch.arange(action_mask.shape[1], device=action_mask.device)
    return (action_mask * columns).argmax(dim=1)


def gae(
    rewards: Tensor, values: Tensor, action_mask: Tensor, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalised advantage estimation (Schulman et al. 2016): A_t = sum_k (gamma lambda)^k
    delta_{t+k}, with delta_t = r_t + gamma V(s_{t+1}) - V(s_t). The state after the last action is
    terminal: its value is 0.

    Args:
        rewards: (B, T). values: (B, T), V of the state before token t. The actions of a row are
            contiguous.

    Returns:
        advantages and returns = advantages + values, (B, T) each.
    """
    _expect_shape("rewards", rewards, action_mask.shape)
    _expect_shape("values", values, action_mask.shape)
    values = torch.where(action_mask, values, 0.0)  # so that the value after the last action is 0
    advantages = torch.zeros_like(rewards)
    running = next_value = torch.zeros_like(rewards[:, 0])  # (B,)
    for t in reversed(range(rewards.shape[1])):
        delta = rewards[:, t] + gamma * next_value - values[:, t]
        running = torch.where(action_mask[:, t], delta + gamma * gae_lambda * running, 0.0)
        advantages[:, t] = running
        next_value = values[:, t]
    return advantages, torch.where(action_mask, advantages + values, 0.0)


def whiten(values: Tensor, mask: Tensor, shift_mean: bool = True) -> Tensor:
    """Scale the values under the mask to variance 1 and (unless told otherwise) mean 0; 0
    elsewhere.

    Give it the whole batch of an iteration: statistics of a rank or of a minibatch would make the
    gradient depend on the split. `shift_mean=False` keeps the mean, for rewards (Ziegler et al.
    2019).
    """
    _expect_shape("values", values, mask.shape)
    valid = values[mask]
    mean, variance = valid.mean(), valid.var(correction=0)
    whitened = (values - mean) * torch.rsqrt(variance + 1e-8)
    return torch.where(mask, whitened if shift_mean else whitened + mean, 0.0)


def rloo(rewards: Tensor, action_mask: Tensor, num_generations: int) -> Tensor:
    """Leave-one-out: A of every action of response i = R_i - mean of R_j over the other responses
    to its prompt. Ahmadian et al. 2024, "Back to Basics", section 3.2 (REINFORCE leave-one-out).

    R is the reward of the whole response, its KL cost in it; the response is one action. Nothing is
    normalised, as there: advantages are in units of the reward.

    Args:
        rewards: (B, T). The responses to one prompt are `num_generations` neighbouring rows.

    Returns:
        (B, T) advantages, the same at every action of a row.

    Raises:
        ValueError: rows that are no whole groups of at least two.
    """
    groups = _by_prompt(rewards, action_mask, num_generations)
    others = (groups.sum(dim=1, keepdim=True) - groups) / (num_generations - 1)
    return _at_actions(groups - others, action_mask)


def grpo(rewards: Tensor, action_mask: Tensor, num_generations: int) -> Tensor:
    """A of every action of response i = (R_i - mean R) / (std R + 1e-4) over the responses to its
    prompt. Shao et al. 2024, "DeepSeekMath", section 4.1.2 (outcome supervision).

    Where the paper leaves room or we differ: the standard deviation is the sample's, with 1e-4
    added, as TRL has it, so that responses of equal reward teach nothing. The KL cost is in R,
    token by token as in PPO, and not a term of the loss. The loss stays a mean over the tokens of
    a minibatch, where the paper takes the mean of each response first.

    Args, returns and errors as for `rloo`.
    """
    groups = _by_prompt(rewards, action_mask, num_generations)
    centered = groups - groups.mean(dim=1, keepdim=True)
    return _at_actions(centered / (groups.std(dim=1, keepdim=True) + 1e-4), action_mask)


def reinforce_plus_plus(rewards: Tensor, action_mask: Tensor) -> Tensor:
    """A_t = sum of the rewards from token t on, then mean 0 and variance 1 over all tokens of the
    batch. Hu 2025, "REINFORCE++", with discount 1.

    Args:
        rewards: (B, T), of the whole batch of an iteration.

    Returns:
        (B, T) advantages.
    """
    _expect_shape("rewards", rewards, action_mask.shape)
    rewards = torch.where(action_mask, rewards, 0.0)
    return whiten(rewards.flip(1).cumsum(1).flip(1), action_mask)


def _by_prompt(rewards: Tensor, action_mask: Tensor, num_generations: int) -> Tensor:
    """The reward of every whole response, (prompts, num_generations)."""
    _expect_shape("rewards", rewards, action_mask.shape)
    if num_generations < 2 or len(rewards) % num_generations:
        raise ValueError(
            f"{len(rewards)} responses cannot be compared by prompt with ppo.num_generations "
            f"{num_generations}: give whole groups of at least 2"
        )
    return torch.where(action_mask, rewards, 0.0).sum(1).view(-1, num_generations)


def _at_actions(by_prompt: Tensor, action_mask: Tensor) -> Tensor:
    """One number a response, (prompts, num_generations), at each of its actions: (B, T)."""
    return torch.where(action_mask, by_prompt.flatten()[:, None], 0.0)


def _expect_shape(name: str, tensor: Tensor, shape: torch.Size) -> None:
    if tensor.shape != shape:
        raise ValueError(f"{name} has shape {tuple(tensor.shape)}, expected {tuple(shape)}")
