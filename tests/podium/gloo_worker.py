"""Run by torchrun in test_engine.py: the reference problem on two processes, one JSON line of
losses per ZeRO stage.
"""

import sys
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).parent))
from reference_problem import (
    BATCHES,
    CLIPPING,
    LEARNING_RATE,
    WEIGHT_DECAY,
    loss_of,
    new_model,
    shared_out,
)

from podium.engine import (
    EngineConfig,
    all_reduce_sum,
    backward,
    end_process,
    init_distributed,
    make_engine,
    step,
)
from podium.sharding import full_state_dict, gathered
from podium.storage import write_json

out = Path(sys.argv[1])
init_distributed()
rank, size = torch.distributed.get_rank(), torch.distributed.get_world_size()
for zero_stage in range(4):
    config = EngineConfig(zero_stage=zero_stage, gradient_clipping=CLIPPING)
    engine = make_engine(
        new_model(), config, learning_rate=LEARNING_RATE, weight_decay=WEIGHT_DECAY
    )
    history = []
    for batch in BATCHES:  # (micro, rows, length)
        mine = batch[:, rank::size]
        total = torch.zeros(())
        for number, micro in enumerate(mine):
            # A mean over equal local shares: DeepSpeed's averaging over processes makes it the
            # global mean.
            loss = loss_of(engine, micro) / len(mine)
            backward(engine, loss, last=number == len(mine) - 1)
            total += loss.detach()
        history.append([float(all_reduce_sum(total)) / size, step(engine, LEARNING_RATE)])
    weights = {name: tensor.tolist() for name, tensor in full_state_dict(engine).items()}
    if rank == 0:
        write_json(out / f"zero{zero_stage}.json", {"history": history, "weights": weights})

# After a pass that nothing followed DeepSpeed has weights of the one it expects under way.
engine, before = shared_out()
engine(torch.ones(2, 16))
found = full_state_dict(engine, folder=out)
engine(torch.ones(2, 16))
with gathered(engine):
    whole = {name: weight.clone() for name, weight in engine.module.state_dict().items()}
if rank == 0:
    ways = {"full_state_dict": found, "gathered": whole}
    write_json(
        out / "whole.json",
        {
            way: all(torch.equal(weights[name], before[name]) for name in before)
            for way, weights in ways.items()
        },
    )
end_process()
