"""What the systems behind Podium claimed, and what became of each claim in miniature.

`podium reproduce --list` prints the table, `podium reproduce NAME` runs a claim's commands again.
A claim is called `held` or `not held` only where its commands were run and a page of docs/lab has
what came out; `begun` says that a part was; `not run` that the commands are there; `not built` that
even they are missing.
"""

import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from podium.errors import PodiumError

State = Literal["held", "partly held", "not held", "begun", "not run", "not built"]
ROOT = Path(__file__).resolve().parents[1]


@dataclass(frozen=True)
class Claim:
    """One row.

    commands: arguments of `python -m`, one call after another; {runs} is the folder for runs. page:
    in docs/lab, with its anchor. finding: what came out, or what is missing.
    """

    says: str
    source: str
    state: State
    finding: str
    commands: tuple[str, ...] = ()
    page: str = ""
    after: Callable[[Path], str] | None = None


def _tax(seed: int) -> str:
    return (
        f"podium.cli run willowbrook-tax --set seed={seed} --set name=willowbrook-tax-{seed} "
        f"--runs-dir {{runs}}"
    )


def _curves(runs: Path) -> str:
    """The fits of the three seeds, in words."""
    from evals.overoptimisation import curves_of, over_seeds

    found = [curves_of(runs / f"willowbrook-tax-{seed}") for seed in range(3)]
    lines = []
    for form in ("best of n", "RL"):
        told = over_seeds([curves[form] for curves in found if form in curves])
        parts = [
            f"{name} {v['value']:.3g}"
            + ("" if v["low"] is None else f" [{v['low']:.3g}, {v['high']:.3g}]")
            for name, v in told.items()
        ]
        lines.append(f"{form}: {', '.join(parts) or 'no curve'}")
    return "\n".join(lines)


TAX_RUNS = tuple(_tax(seed) for seed in range(3))
CLAIMS: dict[str, Claim] = {
    "ptx": Claim(
        "the pretraining mix keeps what RL unlearns, and a higher KL penalty cannot replace it",
        "InstructGPT, section 4.2, figures 33 and 34",
        "held",
        "on three seeds for the pretraining loss; no tax on facts is seen, with or without",
        TAX_RUNS,
        "results.md#the-chain-on-willowbrook-and-what-ptx-is-for",
    ),
    "over-optimisation": Claim(
        "gold rises, then falls with the square root of the KL while the reward model's score "
        "rises; best of n spends less KL",
        "Gao et al. 2022, sections 3.1 to 3.3",
        "partly held",
        "on three seeds for one reward model; its size and data were not varied",
        TAX_RUNS,
        "results.md#driven-too-hard",
        _curves,
    ),
    "held-out-labelers": Claim(
        "held-out labelers prefer the model about as much as training labelers do",
        "InstructGPT, section 4.1 and appendix E.2",
        "partly held",
        "for the reward model's accuracy (0.4 to 2.1 points lower), on three seeds of simulated "
        "labelers; the policies were not judged by them",
        TAX_RUNS,
        "results.md#the-reward-model-of-these-runs",
    ),
    "calibration": Claim(
        "a preference model trained for one epoch is calibrated",
        "Bai et al. 2022, section 3.3",
        "held",
        "expected calibration error 0.016 to 0.017 on three seeds, of a perfectly calibrated model "
        "0.009 to 0.010; where PPO pushes answers is not measured",
        TAX_RUNS,
        "results.md#the-reward-model-of-these-runs",
    ),
    "whole-rankings": Claim(
        "all pairs of a ranking in one batch; shuffled pairs overfit within one pass",
        "InstructGPT, section 3.5",
        "partly held",
        "pairs fit the training set harder for 4.6 times the tokens; no collapse within one pass",
        (
            "benchmarks.reward_overfitting --keep {runs}/overfitting --rankings 160 "
            "--validation 80 --epochs 6 --batch-size 8 --seeds 0 1 2",
        ),
        "results.md#rankings-against-shuffled-pairs",
    ),
    "algorithms": Claim(
        "PPO-ptx, PPO, RLOO, GRPO, DPO and best of n at equal compute",
        "asked by practitioners; each one's own paper",
        "begun",
        "three seeds; no order among the policies is shown",
        ("benchmarks.algorithms --runs-dir {runs} --seeds 0 1 2",),
        "algorithms.md",
    ),
    "scaling": Claim(
        "loss is a power of parameters, of data and of compute; pretraining is worth data",
        "Kaplan et al. 2020; Hoffmann et al. 2022; Hernandez et al. 2021",
        "begun",
        "one seed: loss falls with both, but not as a sum of two powers; a start from text "
        "was worth five to eleven times the instructions that followed",
        ("benchmarks.scaling {runs}/ladder", "podium.cli fit {runs}/ladder --out {runs}/fit"),
        "scaling.md",
    ),
    "choose-by-reward": Claim(
        "SFT overfits its validation loss while reward and preference still rise",
        "InstructGPT, section 3.5",
        "not held",
        "three seeds: the loss rises by a third after epoch 3 or 4; reward and gold do not rise",
        ("benchmarks.choose_by_reward --seeds 0 1 2 --reward-seed 0 --out {runs}/claims",),
        "claims.md#choosing-by-reward",
    ),
    "small-beats-large": Claim(
        "a small model with RLHF is preferred to a far larger one with SFT alone",
        "InstructGPT, figure 1",
        "not held",
        "three seeds, 0.24M against 1.1M: 0.22 less gold, 47 % wins; PPO was short, its one reward "
        "model weak",
        ("benchmarks.small_beats_large --seeds 0 1 2 --reward-seed 0 --out {runs}/claims",),
        "claims.md#small-against-large",
    ),
    "rl-init-mix": Claim(
        "a tenth of pretraining data in the fine-tune that PPO starts from helps it",
        "InstructGPT, appendix C.3",
        "partly held",
        "three seeds: the pretraining loss stays 0.6 lower and the policy nearer to its start; no "
        "difference in gold or wins is shown",
        ("benchmarks.rl_start --seeds 0 1 2 --reward-seed 0 --out {runs}/claims",),
        "claims.md#a-tenth-of-pretraining-data-in-the-start",
    ),
    "reward-model-size": Claim(
        "larger reward models and more data are over-optimised less",
        "Gao et al. 2022, figure 3",
        "partly held",
        "three seeds of best of n: 2,400 rankings beat 150; of 0.24M to 3.6M parameters no order "
        "is shown at 600 rankings; PPO against each is not built",
        ("benchmarks.reward_size --seeds 0 1 2 --out {runs}/claims",),
        "claims.md#size-and-data-of-the-reward-model",
    ),
    "helpful-or-harmless": Claim(
        "helpfulness and harmlessness pull apart; a model of both kinds of rankings learns both",
        "Bai et al. 2022, section 4",
        "partly held",
        "three seeds: of helpful rankings alone 30 % right on the harmless kind, the other way "
        "round chance; a mixture is as good on either as the model of that kind alone",
        ("benchmarks.helpful_or_harmless --seeds 0 1 2 --out {runs}/claims",),
        "claims.md#helpful-or-harmless",
    ),
    "fresh-rankings": Claim(
        "rounds of rankings of the newest policy improve it further",
        "Bai et al. 2022, section 4.5; InstructGPT, section 3.6",
        "not held",
        "three seeds, small: 49 % wins against as many rankings taken at once, +0.06 gold against "
        "half of them; the policy was still near SFT",
        ("benchmarks.rounds --seeds 1 2 3 --out {runs}/rounds",),
        "rounds.md",
    ),
    "divergence-recovery": Claim(
        "a run that diverges is saved by an earlier checkpoint and a lower rate",
        "Zhang et al. 2022 (OPT), section 2.5",
        "held",
        "a rate ten times too high recovers by itself on three seeds, 0.2 % below the good runs "
        "(without the guard 126 % above); the rule was made on the same seeds",
        ("benchmarks.divergence --seeds 3 --out {runs}",),
        "divergence.md",
    ),
    "narrow-weights": Claim(
        "weights in 8 and 4 bits answer nearly as well as whole ones",
        "Zeng et al. 2022 (GLM-130B), section 5",
        "partly held",
        "perplexity rises by 0.3 % at most in 4 bits, on one model of the village and on "
        "SmolLM2-135M; wins are not shown to differ; no speed is gained at these sizes",
        (
            "podium.cli run willowbrook --runs-dir {runs}",
            "benchmarks.widths {runs}/willowbrook/ppo/final "
            "{runs}/willowbrook/world/final/documents.validation.jsonl --run {runs}/willowbrook",
        ),
        "widths.md",
    ),
}


def table() -> str:
    """What `podium reproduce --list` prints."""
    lines = []
    for name, claim in CLAIMS.items():
        lines.append(f"{name}: {claim.state}. {claim.says} ({claim.source})")
        lines.append(f"    {claim.finding}")
        if claim.page:
            lines.append(f"    docs/lab/{claim.page}")
        lines += [f"    python -m {command.format(runs='runs')}" for command in claim.commands]
    return "\n".join(lines)


def reproduce(name: str, runs: Path, say: Callable[[str], None]) -> None:
    """Run a claim's commands, one after another; finished stages are skipped.

    Raises:
        PodiumError: no such claim, none that can be run, or one of its commands failed.
    """
    if name not in CLAIMS:
        raise PodiumError(f"there is no claim '{name}'", f"one of: {', '.join(CLAIMS)}")
    claim = CLAIMS[name]
    if not claim.commands:
        raise PodiumError(
            f"'{name}' is not built: {claim.finding}", "podium reproduce --list tells of the others"
        )
    say(f"{claim.says}\n({claim.source}); so far: {claim.state}, {claim.finding}")
    for command in claim.commands:
        # Split before the folder goes in: its name may hold spaces.
        words = [word.format(runs=runs.absolute()) for word in command.split()]
        say(f"\n$ python -m {' '.join(words)}")
        ended = subprocess.run([sys.executable, "-m", *words], cwd=ROOT)
        if ended.returncode != 0:
            raise PodiumError(
                f"the command ended with {ended.returncode}",
                "mend what it says and give the same command: what is finished is kept",
            )
    if claim.after is not None:
        say("\n" + claim.after(runs))
    say(f"\nwhat came out here before: docs/lab/{claim.page}" if claim.page else "")
