"""A problem on which every engine must agree: six updates of two micro-batches, with clipping and
weight decay.
"""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from podium.engine import EngineConfig, backward, make_engine, step

LEARNING_RATE, WEIGHT_DECAY, CLIPPING = 1e-2, 0.1, 0.5
# (update, micro, row, token)
BATCHES = torch.randint(0, 20, (6, 2, 8, 5), generator=torch.Generator().manual_seed(0))


def new_model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Embedding(20, 16), nn.Linear(16, 32), nn.GELU(), nn.LayerNorm(32), nn.Linear(32, 20)
    )


def loss_of(model: nn.Module, tokens: torch.Tensor) -> torch.Tensor:
    """Learn to multiply by three modulo twenty: mean cross-entropy over the tokens."""
    return F.cross_entropy(model(tokens).flatten(0, 1), (tokens * 3 % 20).flatten())


def train_plainly(updates: int = len(BATCHES)) -> tuple[list[list[float]], dict[str, torch.Tensor]]:
    """(loss, gradient norm before clipping) of each update, and the weights: AdamW in plain
    torch.
    """
    model = new_model()
    decayed = [p for p in model.parameters() if p.dim() >= 2]
    others = [p for p in model.parameters() if p.dim() < 2]
    optimizer = torch.optim.AdamW(
        [
            {"params": decayed, "weight_decay": WEIGHT_DECAY},
            {"params": others, "weight_decay": 0.0},
        ],
        lr=LEARNING_RATE,
        betas=(0.9, 0.95),
        eps=1e-8,
        fused=True,
    )
    history = []
    for batch in BATCHES[:updates]:
        total = 0.0
        for micro in batch:
            loss = loss_of(model, micro) / len(batch)
            loss.backward()
            total += loss.item()
        norm = nn.utils.clip_grad_norm_(model.parameters(), CLIPPING)
        optimizer.step()
        optimizer.zero_grad()
        history.append([total, float(norm)])
    return history, {name: tensor.detach().clone() for name, tensor in model.state_dict().items()}


SHARED = {"stage3_param_persistence_threshold": 0}  # else weights this small stay whole


def shared_out() -> tuple[Any, dict[str, torch.Tensor]]:
    """Forty layers under ZeRO-3, which fetches some ahead once it has seen three updates, and their
    weights.
    """
    torch.manual_seed(0)
    model = nn.Sequential(*(nn.Linear(16, 16) for _ in range(40)))
    before = {name: weight.clone() for name, weight in model.state_dict().items()}
    config = EngineConfig(zero_stage=3, zero_optimization=SHARED)
    engine = make_engine(model, config, learning_rate=0.0)
    for _ in range(3):
        backward(engine, engine(torch.ones(2, 16)).square().mean())
        step(engine, 0.0)
    return engine, before
