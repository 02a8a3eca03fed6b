"""`trl.DPOTrainer` as a Podium stage: our pairs in our order, and a reference that is read once.

The reference is the model that training starts from. Its log-probability of every different
response is computed before the first update and kept in the stage's folder, so no second model is
in memory, and a resumed run need not read the responses again.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from datasets import Dataset
from safetensors.torch import load_file, save_file
from torch import Tensor
from trl import DPOTrainer
from trl.models import prepare_deepspeed

from dpo.loss import dpo_loss, dpo_margin
from dpo.pairs import Pair
from podium.batching import pad_right, share_of
from podium.engine import all_reduce_sum
from podium.errors import ParentError
from podium.models import evaluating, inside_peft
from podium.run.context import StageContext
from podium.run.trainer import StageTrainer, give_head_a_bias
from podium.sampling.logprobs import token_logprobs
from podium.storage import PARTIAL, publish, writing

Said = tuple[tuple[int, ...], tuple[int, ...]]  # a prompt and a response to it
IGNORED = -100
AGREES = 0.1  # nats a token by which TRL's head and ours may differ; bf16 rounds to hundredths


def to_dataset(pairs: Sequence[Pair], order: Sequence[int]) -> Dataset:
    """Pairs as TRL's collator takes them, in training order."""
    return Dataset.from_dict(
        {
            "prompt_ids": [pairs[i].prompt for i in order],
            "chosen_ids": [pairs[i].chosen for i in order],
            "rejected_ids": [pairs[i].rejected for i in order],
        }
    )


def distinct(pairs: Sequence[Pair]) -> list[Said]:
    """Every different response with its prompt, once, although K - 1 pairs may hold it."""
    found = ((pair.prompt, side) for pair in pairs for side in (pair.chosen, pair.rejected))
    return list(dict.fromkeys(found))


class PreferenceTrainer(StageTrainer, DPOTrainer):
    """DPOTrainer on `pairs["train"]`, in the order `order`; `pairs["validation"]` is measured.

    Args:
        pairs: by split.
        order: indices into the training pairs, one a row of the run.
        reference_key: what the reference is (a hash); with the pairs it names the kept file.
        rows: sequences a pass of the reference and of validation.
        kwargs: StageTrainer's and DPOTrainer's own.
    """

    def __init__(
        self,
        *,
        stage: StageContext,
        pairs: dict[str, list[Pair]],
        order: list[int],
        reference_key: str,
        rows: int,
        **kwargs: Any,
    ) -> None:
        # DPOTrainer asks for the reference while it is being made.
        self.stage, self.pairs, self.order = stage, pairs, order
        self.reference_key, self.rows = reference_key, rows
        self.reference: dict[Said, float] = {}
        super().__init__(
            stage=stage,
            measure=self.preferences,
            train_dataset=to_dataset(pairs["train"], order),
            # It is never read: `preferences` measures the validation pairs.
            eval_dataset=to_dataset(pairs["train"], order[:1]),
            **kwargs,
        )

    def _prepare_dataset(self, dataset: Any, *args: Any, **kwargs: Any) -> Any:
        return dataset  # tokens already, by our template

    def _precompute_ref_logps(self, dataset: Dataset, name: str, batch_size: int) -> Dataset:
        """The dataset with the reference's log-probabilities of both responses."""
        if not self.reference:
            self.reference = self._read_reference()
        for column in ("chosen", "rejected"):
            values = [
                self.reference[tuple(row["prompt_ids"]), tuple(row[f"{column}_ids"])]
                for row in dataset
            ]
            dataset = dataset.add_column(f"ref_{column}_logps", values)
        return dataset

    def _read_reference(self) -> dict[Said, float]:
        """Log-probability of every different response, from the kept file or computed and kept."""
        sequences = distinct([*self.pairs["train"], *self.pairs["validation"]])
        told = json.dumps([self.reference_key, self.stage.dtype, sequences])
        path = self.stage.dir / f"reference-{hashlib.sha256(told.encode()).hexdigest()[:16]}"
        if path.is_dir():
            values = load_file(path / "logprobs.safetensors")["logprobs"]
        else:
            model: Any = self.model
            give_head_a_bias(model)
            self._check_head(model, sequences[0])
            if self.is_deepspeed_enabled:
                model = prepare_deepspeed(model, self.accelerator)
            # The adapters' dropout must be off, too.
            with evaluating(model), self.accelerator.autocast():
                values = self._logprobs(model, sequences)
            self._keep(values, path)
        return dict(zip(sequences, values.tolist(), strict=True))

    def _keep(self, values: Tensor, path: Path) -> None:
        """Write the file, whole or not at all."""
        partial = path.with_name(path.name + PARTIAL)
        if self.stage.is_main:
            with writing(self.stage.dir):
                partial.mkdir(exist_ok=True)
                save_file({"logprobs": values}, str(partial / "logprobs.safetensors"))
                publish(partial, path)
        self.accelerator.wait_for_everyone()

    @torch.no_grad()
    def _logprobs(self, model: Any, sequences: Sequence[Said]) -> Tensor:
        """Log-probability of each response as training computes it, (S,) fp32, on the CPU. Each
        process reads its share, in equally many passes.
        """
        lengths = [len(prompt) + len(response) for prompt, response in sequences]
        order = sorted(range(len(sequences)), key=lambda i: -lengths[i])
        passes = [order[i : i + self.rows] for i in range(0, len(order), self.rows)]
        mine, counting = share_of(len(passes), self.stage.world_size, self.stage.rank)
        found = torch.zeros(len(sequences), dtype=torch.float64, device=self.stage.device)
        for number, chunk in enumerate(mine):
            rows = [sequences[i] for i in passes[chunk]]
            ids, mask, labels = self._padded(rows)
            output = model(
                input_ids=ids,
                attention_mask=mask,
                labels=labels,
                use_cache=False,
                fused_lm_head=True,
            )
            if number < counting:
                found[passes[chunk]] = output.log_probs.sum(1).double()
        return all_reduce_sum(found).float().cpu()

    def _padded(self, rows: Sequence[Said]) -> tuple[Tensor, Tensor, Tensor]:
        """ids, attention mask and labels (IGNORED at the prompt), (B, longest) each."""
        tokenizer: Any = self.processing_class
        device = self.accelerator.device
        ids, mask = pad_right([[*p, *r] for p, r in rows], tokenizer.pad_token_id, device)
        labels, _ = pad_right([[*[IGNORED] * len(p), *r] for p, r in rows], IGNORED, device)
        return ids, mask, labels

    @torch.no_grad()
    def _check_head(self, model: Any, sequence: Said) -> None:
        """TRL knows by name how a family turns hidden states into logits; ours is measured.

        Raises:
            ParentError: they disagree, so that TRL would train on another model's numbers.
        """
        if self.is_deepspeed_enabled:
            return  # the weights may be shards, or not on the device
        ids, mask, labels = self._padded([sequence])
        with evaluating(model), self.accelerator.autocast():
            theirs = model(
                input_ids=ids, attention_mask=mask, labels=labels, fused_lm_head=True
            ).log_probs[labels[:, 1:] != IGNORED]
            ours = token_logprobs(model, ids, mask.bool(), labels != IGNORED, 1.0)
        if not float((theirs - ours).abs().mean()) <= AGREES:
            family = type(inside_peft(model)).__name__
            raise ParentError(
                f"TRL's DPO computes other log-probabilities than {family} itself",
                "take PPO for this family, which measures how its head works",
            )

    def preferences(self, model: Any) -> dict[str, float]:
        """On the validation pairs: the loss, how often the chosen response is preferred (more than
        the reference prefers it), and by how much. Nothing without such pairs.
        """
        pairs = self.pairs["validation"]
        if not pairs:
            return {}
        sequences = distinct(pairs)
        policy = dict(zip(sequences, self._logprobs(model, sequences).tolist(), strict=True))
        chosen, rejected, ref_chosen, ref_rejected = (
            torch.tensor([source[pair.prompt, getattr(pair, side)] for pair in pairs])
            for source in (policy, self.reference)
            for side in ("chosen", "rejected")
        )
        margins = dpo_margin(chosen, rejected, ref_chosen, ref_rejected, self.beta)
        losses = dpo_loss(chosen, rejected, ref_chosen, ref_rejected, self.beta)
        return {
            "validation_loss": float(losses.mean()),
            "validation_accuracy": float((margins > 0).float().mean()),
            "validation_margin": float(margins.mean()),
        }
