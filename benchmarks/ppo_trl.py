"""The other side of `benchmarks.ppo`: trl 1.12.0's PPOTrainer on one workload, in an environment of
its own, by path.

python benchmarks/ppo_trl.py WORK.json        last line: {"seconds": [...], "memory_bytes": ...}
"""

import json
import re
import sys
import time
from pathlib import Path

import torch
from datasets import Dataset
from transformers import (
    AutoModelForCausalLM,
    AutoModelForSequenceClassification,
    PreTrainedTokenizerFast,
    TrainerCallback,
)
from trl.experimental.ppo import PPOConfig, PPOTrainer


class Clock(TrainerCallback):
    """Seconds of every iteration."""

    def __init__(self):
        self.marks = []

    def on_train_begin(self, args, state, control, **kwargs):
        self.marks.append(time.perf_counter())

    def on_step_end(self, args, state, control, **kwargs):
        self.marks.append(time.perf_counter())


def main(work: dict) -> None:
    torch.set_num_threads(work["threads"])
    torch.manual_seed(work["seed"])
    folder = Path(work["folder"])
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_file=str(folder / "tokenizer.json"),
        pad_token="<pad>",
        eos_token="<eos>",
        padding_side="left",
    )
    policy, reference = (
        AutoModelForCausalLM.from_pretrained(folder / "policy", dtype=torch.float32)
        for _ in range(2)
    )
    reward, value = (
        AutoModelForSequenceClassification.from_pretrained(folder / "reward", dtype=torch.float32)
        for _ in range(2)
    )
    prompts = json.loads((folder / "prompts.json").read_text())
    settings = PPOConfig(
        output_dir=work["scratch"],
        report_to=[],
        save_strategy="no",
        num_sample_generations=0,
        seed=work["seed"],
        use_cpu=not torch.cuda.is_available(),
        bf16=work["dtype"] == "bf16",
        learning_rate=work["learning_rate"],
        per_device_train_batch_size=work["micro_batch"],
        gradient_accumulation_steps=work["batch"] // work["micro_batch"],
        num_mini_batches=1,
        total_episodes=work["batch"] * work["iterations"],
        num_ppo_epochs=work["inner_epochs"],
        response_length=work["response_length"],
        temperature=1.0,
        stop_token_id=work["stop_token_id"],
        local_rollout_forward_batch_size=work["batch"],
        missing_eos_penalty=None,
        kl_coef=0.05,
        gradient_checkpointing=False,
    )
    trainer = PPOTrainer(
        args=settings,
        processing_class=tokenizer,
        model=policy,
        ref_model=reference,
        reward_model=reward,
        value_model=value,
        train_dataset=Dataset.from_dict({"input_ids": prompts}),
        callbacks=[clock := Clock()],
    )
    trainer.train()
    seconds = [
        after - before for before, after in zip(clock.marks[:-1], clock.marks[1:], strict=True)
    ]
    # see peak_resident
    peak = 1024 * int(re.search(r"VmHWM:\s+(\d+)", Path("/proc/self/status").read_text())[1])
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated()
    print(json.dumps({"seconds": seconds, "memory_bytes": peak}))


if __name__ == "__main__":
    main(json.loads(Path(sys.argv[1]).read_text()))
