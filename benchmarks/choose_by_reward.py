"""SFT for sixteen epochs: does the validation loss rise while reward and gold still do?

    python -m benchmarks.choose_by_reward --seeds 0 1 2 --out runs/claims

InstructGPT (section 3.5) saw its SFT models overfit on validation loss after one epoch, while the
reward model's score and people's preference went on rising, and chose by the reward. Here every
epoch's weights answer the same held-out prompts; the seed's reward model (`benchmarks.starts`),
which was trained from another SFT model, and the world's gold score read the same answers. The
question is put to two epochs alone, the one of the lowest validation loss and the last, so that
nothing is picked by what is then compared.

The base is the one that all seeds share. Demonstrations are few, or a model of a million parameters
would hardly overfit in sixteen epochs; as in the paper no document is mixed in.
"""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks.rounds import Golds, difference, over_seeds, told, wins
from benchmarks.starts import (
    final,
    options_of,
    reward_of_each,
    told_over_seeds,
    train,
    train_start,
)
from data.template import decode_response, encode_prompt, stop_token_ids
from data.worlds import open_world
from evals.held_out import draw, held_out_prompts, key_of
from podium.engine import checkpoint_weights
from podium.models import load_causal_lm, load_tokenizer
from podium.progress import progress_bar
from podium.rewards.kinds import make_reward
from podium.run.context import checkpoints_of
from podium.run.place import Place
from podium.run.recipe import load_recipe
from podium.runtime import device
from podium.sampling.kinds import make_sampler
from podium.sampling.protocol import SamplingParams
from podium.storage import write_json

EPOCHS = 16
SHOWN = (
    "data.world.demonstrations=240",  # of 8,000: 15 updates an epoch
    "data.world.validation_demonstrations=80",
    f"sft.num_train_epochs={EPOCHS}",
    "sft.aux_share=0",
    f"keep_checkpoints={EPOCHS}",
)
SEEN_FILE = "by-epoch.json"


class Seen(NamedTuple):
    """One seed: validation loss by epoch, and what the same answers got by reward and by gold."""

    losses: list[float]
    rewards: Golds
    golds: Golds


def train_shown(start: Path, seed: int, out: Path, sets: Sequence[str]) -> Path:
    """The run whose SFT has a checkpoint an epoch."""
    own = [*SHOWN, f"sft.model={final(start, 'pretrain')}"]
    return train(out, f"choose-{seed}", seed, ("sft",), [*own, *sets])


def look(run: Path, reward: Path, seed: int, prompts: int, samples: int) -> Seen:
    """Every epoch's answers, read by the reward model and by gold; made once and kept."""
    if not (run / SEEN_FILE).is_file():
        losses = losses_of(run)
        rewards, golds, asked = _answered(run, reward, seed, prompts, samples)
        found = {"losses": losses, "rewards": rewards, "golds": golds, "prompts": asked}
        write_json(run / SEEN_FILE, found)
    kept: dict[str, Any] = json.loads((run / SEEN_FILE).read_text())
    first, second = (
        Golds({epoch: np.array(rows) for epoch, rows in kept[name].items()}, kept["prompts"])
        for name in ("rewards", "golds")
    )
    return Seen(kept["losses"], first, second)


def losses_of(run: Path) -> list[float]:
    """Validation loss after each epoch, in nats a response token."""
    lines = (run / "sft" / "metrics.jsonl").read_text().splitlines()
    rows = [json.loads(line) for line in lines]
    return [row["validation_loss"] for row in rows if "validation_loss" in row]


def _answered(
    run: Path, reward: Path, seed: int, prompts: int, samples: int
) -> tuple[dict[str, Any], dict[str, Any], list[str]]:
    """Scores (P, S) by epoch of the reward model and of gold, and the prompts (P)."""
    place = Place(load_recipe(run / "recipe.yaml"), run, device(), seed)
    folder = final(run, "sft")
    tokenizer, model = load_tokenizer(folder), load_causal_lm(folder).to(place.device)
    scorer = make_reward(str(reward), place).to(place.device).eval()
    world = open_world(run / "world" / "final")
    chosen = draw(held_out_prompts(run), prompts, 0)
    asked = [prompt for prompt in chosen for _ in range(samples)]
    ids = [encode_prompt(tokenizer, prompt.messages) for prompt in asked]
    rewards: dict[str, Any] = {}
    golds: dict[str, Any] = {}
    kept = checkpoints_of(run / "sft")
    with progress_bar(len(kept), f"epochs of {run.name}", "epoch") as bar:
        for number, checkpoint in enumerate(kept, start=1):
            model.load_state_dict(checkpoint_weights(checkpoint), strict=False)
            params = SamplingParams(
                64, stop_token_ids=stop_token_ids(tokenizer, model), seed=1000 * number + seed
            )
            sampler = make_sampler(place.sampler(), model, int(tokenizer.pad_token_id))
            texts = [decode_response(tokenizer, s.tokens) for s in sampler.generate(ids, params)]
            scored = [float(score) for score in scorer(asked, texts)]
            gold = [world.gold(prompt, text) for prompt, text in zip(asked, texts, strict=True)]
            for into, scores in ((rewards, scored), (golds, gold)):
                into[str(number)] = np.array(scores).reshape(-1, samples).tolist()
            bar.advance()
    return rewards, golds, [json.dumps(key_of(prompt.messages)) for prompt in chosen]


def lowest(seen: Seen) -> str:
    """The epoch of the lowest validation loss."""
    return str(1 + int(np.argmin(seen.losses)))


def table(found: Sequence[Seen]) -> str:
    """By epoch, means over the seeds."""
    lines = [
        "| epoch | validation loss | reward | gold | wins against epoch 1 |",
        "|---|---|---|---|---|",
    ]
    for epoch in found[0].golds.scores:
        loss = told_over_seeds([one.losses[int(epoch) - 1] for one in found], ".3f")
        reward, gold = (
            told_over_seeds([float(one.scores[epoch].mean()) for one in part], ".2f")
            for part in ([s.rewards for s in found], [s.golds for s in found])
        )
        won = told(wins([one.golds for one in found], epoch, "1"), ".1%")
        lines.append(f"| {epoch} | {loss} | {reward} | {gold} | {won} |")
    return "\n".join(lines)


def contrast(found: dict[int, Seen]) -> str:
    """The last epoch against the one of the lowest validation loss."""
    lines = [
        "| seed | lowest at | loss there | loss at the end | reward | gold | the last wins |",
        "|---|---|---|---|---|---|---|",
    ]
    pairs = []
    for seed, one in found.items():
        low, last = lowest(one), str(len(one.losses))
        reward, gold = (
            told(difference([part], last, low), "+.2f") for part in (one.rewards, one.golds)
        )
        won = told(wins([one.golds], last, low), ".1%")
        ends = f"{min(one.losses):.3f} | {one.losses[-1]:.3f}"
        lines.append(f"| {seed} | {low} | {ends} | {reward} | {gold} | {won} |")
        pairs.append([_renamed(part, low, last) for part in (one.rewards, one.golds)])
    rewards, golds = ([pair[which] for pair in pairs] for which in (0, 1))
    for name, of in (("all", difference), ("over seeds", over_seeds)):
        reward, gold = (told(of(part, "last", "lowest"), "+.2f") for part in (rewards, golds))
        won = told(wins(golds, "last", "lowest"), ".1%") if name == "all" else ""
        lines.append(f"| {name} | | | | {reward} | {gold} | {won} |")
    return "\n".join(lines)


def _renamed(part: Golds, low: str, last: str) -> Golds:
    """The two epochs under names that all seeds have in common."""
    return Golds({"lowest": part.scores[low], "last": part.scores[last]}, part.prompts)


def main() -> None:
    options = options_of(__doc__, prompts=100).parse_args()
    start = train_start(options.out, options.set)
    found = {}
    for seed, rewarded in reward_of_each(options, start):
        run, reward = train_shown(start, seed, options.out, options.set), final(rewarded, "reward")
        found[seed] = look(run, reward, seed, options.prompts, options.samples)
        print(table(list(found.values())), contrast(found), sep="\n\n", flush=True)


if __name__ == "__main__":
    main()
