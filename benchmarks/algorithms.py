"""Six ways to please the labelers of the village, at equal compute: PPO-ptx, plain PPO, RLOO, GRPO,
DPO and best of 16.

    python -m benchmarks.algorithms --runs-dir FOLDER            seeds 0, 1, 2: an hour of a core
    python -m benchmarks.algorithms --runs-dir FOLDER --seeds 0  one seed; the same command goes on
    python -m benchmarks.algorithms --runs-dir FOLDER --table    the tables of what is finished

A seed has one base, one SFT model, one set of rankings and one reward model, those of
`recipes/willowbrook.yaml`; each way starts from the same SFT model. PPO-ptx takes 24 iterations of
128 answers, three fifths of the recipe's. The others take what costs as much CPU time: the numbers
below were set after ten iterations of each on seed 0, and the table tells what each stage then
took. DPO's time includes reading the reference; the reward model's training, which DPO does not
need, is nobody's. Best of 16 trains nothing and pays at every answer.
"""

import argparse
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from podium.run.chain import run_chain
from podium.run.lineage import read_stage_file
from podium.run.recipe import Recipe, validate
from podium.statistics import mean_with_interval

BATCH = 128  # answers an iteration
PTX, PLAIN, GROUPS = 24, 28, 36  # iterations of equal CPU time: a critic and ptx, no ptx, neither
DPO_UPDATES = 60  # of 64 pairs
STAGES = {"ppo_ptx": "ppo", "ppo": "ppo_plain"}  # rows that are not called as their stage is
COLUMNS = (
    "seed", "", "win rate against SFT", "gold", "reward model", "KL", "tokens",
    "pretraining loss", "against SFT's", "CPU s",
)  # fmt: skip
WAYS = ("best_of_n", "ppo_ptx", "ppo", "ppo_rloo", "ppo_grpo", "dpo")
MEANS = (
    "", "win rate, %", "less PPO-ptx's", "gold, less SFT's", "KL",
    "pretraining loss against SFT's, %",
)  # fmt: skip


def recipe_of(seed: int) -> Recipe:
    """The whole run of a seed."""
    without_critic = {"ptx_coef": 0, "num_generations": 4, "total_episodes": GROUPS * BATCH}
    tree: dict[str, Any] = {
        "name": f"algorithms-{seed}",
        "seed": seed,
        "threads": 1,
        "data": {"world": {"name": "willowbrook"}},
        "pretrain": {"preset": "llama-tiny"},
        "sft": {
            "model": "pretrain",
            "learning_rate": 1.5e-3,
            "batch_size": 16,
            "per_device_train_batch_size": 16,
            "num_train_epochs": 2,
            "aux_share": 0.1,
        },
        "rankings": {},
        "reward": {
            "learning_rate": 1.0e-3,
            "batch_size": 4,
            "eval_steps": 300,
            "eval_rankings": 60,
            "save_steps": 200,
        },
        "ppo": {
            "learning_rate": 2.0e-4,
            "value_learning_rate": 5.0e-4,
            "kl_coef": 0.05,
            "total_episodes": PTX * BATCH,
        },
        "ppo_arms": {
            "plain": {"ptx_coef": 0, "total_episodes": PLAIN * BATCH},
            "rloo": {"advantage": "rloo", **without_critic},
            "grpo": {"advantage": "grpo", **without_critic},
        },
        "dpo": {"num_train_epochs": DPO_UPDATES * 64 / 42_756},
        "evals": {"samples": 2, "best_of": 16, "questions": 200},
    }
    return validate(tree, "benchmarks.algorithms")


def rows_of(run: Path) -> list[list[str]]:
    """The rows of a finished run; none before its evaluation."""
    results = run / "evals" / "final" / "results.json"
    if not results.is_file():
        return []
    found = json.loads(results.read_text())
    labels, rows = found["setup"]["labels"], []
    for row, values in found["rows"].items():
        if row == "base":
            continue
        record = read_stage_file(run / STAGES.get(row, row) / "final")
        tax = values["pretrain_loss_increase"]
        ends = [100 * tax[end] for end in ("value", "low", "high")] if tax else None
        rate = [100 * values[f"win_rate{end}"] for end in ("", "_low", "_high")]
        same = row in ("sft", "best_of_n")
        rows.append(
            [
                run.name.removeprefix("algorithms-"),
                labels.get(row, row),
                "" if row == "sft" else "{:.1f} % [{:.1f}, {:.1f}]".format(*rate),
                "{gold:.2f} [{gold_low:.2f}, {gold_high:.2f}]".format(**values),
                f"{values['reward']:.2f}",
                "" if values["kl"] is None else f"{values['kl']:.2f}",
                f"{values['length']:.1f}",
                f"{values['pretrain_loss']:.3f}",
                "" if same or ends is None else "{:+.1f} % [{:+.1f}, {:+.1f}]".format(*ends),
                f"{record['cpu_seconds']:.0f}" if record and not same else "",
            ]
        )
    return rows


def table(runs_dir: Path) -> str:
    """All finished seeds as a table in Markdown."""
    rows = [row for run in sorted(runs_dir.glob("algorithms-*")) for row in rows_of(run)]
    lines: list[Sequence[str]] = [COLUMNS, ["---"] * len(COLUMNS), *rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def means(runs_dir: Path) -> str:
    """Means over the finished seeds, with Student's intervals: what another seed would give. Three
    seeds know little of how far seeds lie apart, so the intervals are wide.
    """
    runs = [run for run in sorted(runs_dir.glob("algorithms-*")) if rows_of(run)]
    found = [json.loads((run / "evals/final/results.json").read_text()) for run in runs]
    labels = found[0]["setup"]["labels"] if found else {}
    lines: list[Sequence[str]] = [MEANS, ["---"] * len(MEANS)]
    for row in [row for row in WAYS if found]:
        ours, sft, ptx = ([one["rows"][name] for one in found] for name in (row, "sft", "ppo_ptx"))
        won = [100 * seed["win_rate"] for seed in ours]
        lead = [a - 100 * b["win_rate"] for a, b in zip(won, ptx, strict=True)]
        gold = [a["gold"] - b["gold"] for a, b in zip(ours, sft, strict=True)]
        kl = [seed["kl"] for seed in ours]
        cells = [labels.get(row, row), _mean(won, "{:.1f}"), _mean(lead, "{:+.1f}")]
        cells += [_mean(gold, "{:.2f}"), _mean(kl, "{:.2f}"), ""]
        if row == "best_of_n":  # trains nothing, and its KL is a bound that is the same everywhere
            cells[4] = f"{kl[0]:.2f}"
        else:
            cells[5] = _mean([100 * s["pretrain_loss_increase"]["value"] for s in ours], "{:+.1f}")
        if row == "ppo_ptx":
            cells[2] = ""
        lines.append(cells)
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _mean(values: list[float], form: str) -> str:
    estimate = mean_with_interval(values, range(len(values)))
    if estimate.low is None or estimate.high is None:  # of one seed
        return form.format(estimate.value)
    return f"{form} [{form}, {form}]".format(estimate.value, estimate.low, estimate.high)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    parser.add_argument("--seeds", type=int, nargs="*", default=[0, 1, 2])
    parser.add_argument("--table", action="store_true", help="train nothing")
    options = parser.parse_args()
    for seed in [] if options.table else options.seeds:
        run_chain(recipe_of(seed), options.runs_dir)
    print(table(options.runs_dir), means(options.runs_dir), sep="\n\n")


if __name__ == "__main__":
    main()
