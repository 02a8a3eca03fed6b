"""Every family of causal language models that the installed transformers has, made small, and what
Podium computes of it against the model's own plain forward.

    python -m benchmarks.architectures [FAMILY ...]      writes docs/lab/architectures.md

Columns: the largest error of a log-probability in fp32, of the sampler as it draws, of the passes
that train and of the reference (padded rows), and of evals and ptx (windows of documents kept
apart); whether LoRA wraps and learns, whether the family can carry a reward head, and a PPO step,
whose ratios are 1 before it. The same function serves tests/podium/test_architectures.py.
"""

import sys
import tempfile
from dataclasses import dataclass, fields
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch
from tokenizers import Tokenizer, models
from transformers import PreTrainedTokenizerFast

from benchmarks.small_families import FAMILIES, VOCABULARY, small_model
from data.packing import documents_apart, packs
from podium.architectures import check_language_model
from podium.batching import pad_right
from podium.errors import PodiumError
from podium.lora import LoraConfig, with_lora
from podium.models import check_reward_head, load_causal_lm
from podium.rewards.model import new_reward_model
from podium.rewards.protocol import Reward
from podium.rewards.score import score
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.logprobs import token_logprobs
from podium.sampling.protocol import SamplingParams

PAGE = Path(__file__).resolve().parents[1] / "docs" / "lab" / "architectures.md"
PROMPTS = [[5, 6, 7], [8], [9, 10, 11, 12, 13, 14], [15, 16], [17, 18, 19, 20]]
ROWS = [prompt + list(range(21, 30 - i)) for i, prompt in enumerate(PROMPTS)]
BOS = 1
WINDOWS = [[1, *range(5, 17), 1, *range(20, 31)], [1, *range(31, 48), 1, *range(5, 11)]]


@dataclass
class Row:
    """One family. Errors are of log-probabilities in nats."""

    family: str
    refused: str = ""
    sampler: float = 0.0
    trainer: float = 0.0
    evals: float = 0.0
    how: str = ""
    lora: str = ""
    reward_head: str = ""
    ppo: str = ""


def examine(family: str) -> Row:
    """What Podium makes of a small model of the family."""
    row = Row(family)
    try:
        small = small_model(family)
    except Exception:  # what cannot be made small must be refused by its config alone
        try:
            check_language_model(cast(Any, SimpleNamespace(model_type=family)), "the folder")
        except PodiumError as error:
            row.refused = error.message
            return row
        raise
    with tempfile.TemporaryDirectory() as folder:
        small.save_pretrained(folder)
        a_tokenizer().save_pretrained(folder)
        try:
            model = load_causal_lm(folder)
        except PodiumError as error:
            row.refused = error.message.replace(folder, "the folder")
            return row
        row.sampler, row.trainer, row.evals = sampler(model), trainer(model), evals(model)
        row.how = ", ".join(
            said
            for said, so in (
                ("decodes without a cache", not EmbeddedSampler(model, 0).cached),
                ("documents in rows of their own", not packs(model, BOS)),
            )
            if so
        )
        row.reward_head = reward_head(model, folder)
        row.ppo = ppo(folder, row.reward_head == "yes")
        row.lora = lora(load_causal_lm(folder))
    return row


def a_tokenizer() -> PreTrainedTokenizerFast:
    """A token for every row of a small model."""
    words = {f"w{i}": i for i in range(VOCABULARY)}
    return PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="w3")),
        pad_token="w0",
        bos_token="w1",
        eos_token="w2",
    )


@torch.no_grad()
def plain(model: Any, ids: list[int]) -> torch.Tensor:
    """log p of every token but the first, by the model's own forward on this row alone."""
    logits = model(input_ids=torch.tensor([ids]), use_cache=False).logits[0].float()
    return logits.log_softmax(-1)[:-1].gather(-1, torch.tensor(ids[1:])[:, None]).squeeze(-1)


def sampler(model: Any) -> float:
    """Rows of several lengths on fewer slots, as they are drawn."""
    drawn = EmbeddedSampler(model, 0, max_batch=3).generate(PROMPTS, SamplingParams(10, seed=1))
    return max(
        float((torch.tensor(s.logprobs) - plain(model, p + s.tokens)[len(p) - 1 :]).abs().max())
        for p, s in zip(PROMPTS, drawn, strict=True)
    )


@torch.no_grad()
def trainer(model: Any) -> float:
    """Padded rows, as policy and reference read them."""
    ids, mask = pad_right(ROWS, 0)
    targets = mask.bool()
    targets[:, 0] = False
    found = token_logprobs(model, ids, mask, targets)
    return float((found - torch.cat([plain(model, row) for row in ROWS])).abs().max())


@torch.no_grad()
def evals(model: Any) -> float:
    """Windows of documents against each document alone, the next one's first token included."""
    inputs, targets, _ = documents_apart(torch.tensor(WINDOWS), BOS, model)
    ids = inputs["input_ids"]
    logprobs = model(**inputs).logits[:, :-1].float().log_softmax(-1)
    found = logprobs[targets[:, 1:]].gather(-1, ids[targets][:, None]).squeeze(-1)
    expected = []
    for window in WINDOWS:
        starts = [i for i, token in enumerate(window) if token == BOS]
        for start, end in zip(starts, [*starts[1:], len(window)], strict=True):
            expected.append(plain(model, window[start : end + 1]))
    return float((found - torch.cat(expected)).abs().max())


def lora(model: Any) -> str:
    """Whether every adapter gets a gradient, and the wrapped model starts as the model itself."""
    before = plain(model, ROWS[0])
    wrapped: Any = with_lora(model, LoraConfig(r=4, alpha=8), "CAUSAL_LM", 0)
    ids = torch.tensor(ROWS[:1])
    targets = torch.ones_like(ids, dtype=torch.bool)
    targets[:, 0] = False
    logprobs = token_logprobs(wrapped, ids, torch.ones_like(ids), targets)
    if float((logprobs.detach() - before).abs().max()) > 1e-4:
        return "changes the model before it has learned"
    logprobs.sum().backward()
    adapters = [p for n, p in wrapped.named_parameters() if p.requires_grad and "lora_B" in n]
    learning = sum(p.grad is not None and bool(p.grad.any()) for p in adapters)
    return "yes" if adapters and learning else "no gradient"


@torch.no_grad()
def reward_head(model: Any, folder: str) -> str:
    """Whether padded rows score what the model's own forward gives for each row alone."""
    try:
        check_reward_head(model.config, "the folder")
        scorer = new_reward_model(folder, a_tokenizer(), 0).eval()
    except PodiumError as error:
        if "no product" in error.message:
            return "in transformers no product, refused"
        return "none in transformers" if "no reward head" in error.message else error.message
    found = score(scorer, *pad_right(ROWS, 0))
    own = torch.cat([scorer(input_ids=torch.tensor([row])).logits[0] for row in ROWS])
    worst = float((found - own).abs().max())
    return "yes" if worst < 1e-4 else f"off by {worst:.2g}"


class Length(Reward):
    """Longer answers are better."""

    reads_text = False

    def forward(
        self,
        prompts: Any,
        responses: Any,
        input_ids: torch.Tensor | None = None,
        attention_mask: torch.Tensor | None = None,
    ) -> torch.Tensor:
        """(B,)"""
        assert attention_mask is not None
        return attention_mask.sum(1).float()


def ppo(folder: str, own_value: bool) -> str:
    """One iteration with the mix of documents. The value model is of the family where it can be."""
    from ppo.config import Config
    from ppo.learner import Learner, Models

    with tempfile.TemporaryDirectory() as other:
        if not own_value:
            small_model("llama").save_pretrained(other)
        value = new_reward_model(folder if own_value else other, a_tokenizer(), 0)
    config = Config(
        batch_size=4,
        total_episodes=4,
        num_mini_batches=2,
        response_length=6,
        ptx_coef=0.5,
        warmup_iterations=0,
        gradient_steps=100,
    )
    models = Models(load_causal_lm(folder), Length(), value)
    learner = Learner(config, models, 0, (2,), seed=0, separator_id=BOS)
    before = [p.detach().clone() for p in learner.policy.module.parameters()]
    batch = learner.rollout(PROMPTS[:4], 1)
    targets, metrics = learner.targets(batch)
    windows = iter([torch.tensor(WINDOWS)] * 2)
    metrics |= learner.update(batch, targets, windows, 1)
    off, kl = metrics["val/ratio_first_error"], abs(metrics["objective/kl"])
    if off > 1e-3 or kl > 1e-3:
        return f"ratio off by {off:.2g}, KL {kl:.2g} before any step"
    moved = any(
        not torch.equal(a, b)
        for a, b in zip(before, learner.policy.module.parameters(), strict=True)
    )
    return "yes" if moved else "nothing moved"


def as_markdown(rows: list[Row]) -> str:
    """The page."""
    import transformers

    served = [row for row in rows if not row.refused]
    refused = [row for row in rows if row.refused]
    worst = {
        name: max(getattr(row, name) for row in served) for name in ("sampler", "trainer", "evals")
    }
    lines = [
        "# Architectures",
        "",
        "Written by `python -m benchmarks.architectures`: every family of causal language models "
        f"in transformers {transformers.__version__}, made small with random weights of standard "
        "deviation 0.3, in fp32 on a CPU. Numbers are the largest error of a log-probability "
        "against the model's own forward on each row alone. `tests/podium/test_architectures.py` "
        "holds them below 1e-4.",
        "",
        f"{len(served)} families are served (largest errors: sampler {worst['sampler']:.1e}, "
        f"trainer {worst['trainer']:.1e}, evals {worst['evals']:.1e}); {len(refused)} are refused "
        "by name when a folder of theirs is given.",
        "",
        "| family | sampler | trainer, reference | evals, ptx | LoRA | reward head | PPO step "
        "| how |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for row in served:
        cells = [f"{value:.0e}" for value in (row.sampler, row.trainer, row.evals)]
        cells += [row.lora, row.reward_head, row.ppo, row.how]
        lines.append(f"| {row.family} | {' | '.join(cells)} |")
    lines += ["", "## Refused", "", "| family | sentence |", "|---|---|"]
    lines += [f"| {row.family} | {' '.join(row.refused.split())} |" for row in refused]
    return "\n".join(lines) + "\n"


def main(families: list[str]) -> None:
    """Examine and write; with families named, print only."""
    rows = []
    for family in families or FAMILIES:
        rows.append(examine(family))
        told = {f.name: getattr(rows[-1], f.name) for f in fields(Row)}
        print({name: value for name, value in told.items() if value not in ("", 0.0)}, flush=True)
    if not families:
        PAGE.write_text(as_markdown(rows), encoding="utf-8")


if __name__ == "__main__":
    main(sys.argv[1:])
