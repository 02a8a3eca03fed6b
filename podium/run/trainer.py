"""One of TRL's trainers as a Podium stage: our rows in our order, atomic checkpoints, our log, the
best model kept. SFT and DPO are made of it.

TRL does the training step (its fused head never builds the logits of a whole batch), PEFT,
DeepSpeed and resuming. This file changes only what the stage contract asks for:

- rows are read in the order they are laid out, so the step number is the position in the data;
- a checkpoint is written through `stage.save_checkpoint`, whole or not at all;
- evaluation is an exact mean over tokens, and the best model by the chosen metric lies in `best/`;
- metrics go to the stage's log, and the guard looks at them first: a run that diverges begins again
  from an earlier checkpoint, more slowly.
"""

import json
import os
import shutil
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from peft import PeftModel
from transformers import PreTrainedTokenizerBase, Trainer, TrainerCallback
from transformers.integrations.deepspeed import unset_hf_deepspeed_config
from transformers.trainer_callback import PrinterCallback, ProgressCallback

from data.template import save_stop_token_ids
from podium.engine import EngineConfig, deepspeed_settings, init_distributed
from podium.errors import RecipeError
from podium.guard import SpikeGuard
from podium.lora import LoraConfig, merge_lora
from podium.models import load_causal_lm, resize_for, save_model
from podium.progress import Bar
from podium.run.context import StageContext
from podium.run.rollback import begin_again, go_back, save_guard
from podium.runtime import Dtype
from podium.storage import PARTIAL, publish, writing

BEST_FILE = "best.json"
# What the trainer logs under these names is not logged: to it the whole run is one epoch, and it
# counts tokens from the last resume. `StageCallback` counts both over the whole run.
UNWANTED = {"epoch", "num_tokens"}


class StageTrainer(Trainer):
    """Reads front to back and reports to a stage. Named before a trainer of TRL's, whose step and
    set-up it takes: `class DPO(StageTrainer, DPOTrainer)`.

    Args:
        stage: the running stage.
        guard: its state goes into every checkpoint.
        measure: called with the model in eval mode, gives the validation metrics.
        select_by: the metric that chooses `best/`; None keeps the newest evaluated model.
        higher_is_better: how `select_by` compares.
        kwargs: the trainer's own.
    """

    def __init__(
        self,
        *,
        stage: StageContext,
        guard: SpikeGuard,
        measure: Callable[[Any], dict[str, float]],
        select_by: str | None,
        higher_is_better: bool,
        **kwargs: Any,
    ) -> None:
        super().__init__(**kwargs)
        self.stage, self.guard, self.measure = stage, guard, measure
        self.select_by, self.sign = select_by, 1.0 if higher_is_better else -1.0
        self.best_dir = stage.dir / "best"
        trained: Any = self.model
        give_head_a_bias(trained)
        for chatter in (PrinterCallback, ProgressCallback):
            self.remove_callback(chatter)

    def evaluate(self, *args: Any, **kwargs: Any) -> dict[str, float]:
        """Validation metrics of the model as it is now; keeps it if it is the best so far."""
        model = self.model_wrapped  # DeepSpeed's engine where there is one
        model.eval()
        metrics = self.measure(model)
        self._keep_if_best(metrics)
        self.log(dict(metrics))
        self.control = self.callback_handler.on_evaluate(
            self.args, self.state, self.control, metrics
        )
        model.train()
        return metrics

    def _keep_if_best(self, metrics: dict[str, float]) -> None:
        best = read_best(self.stage)
        name = self.select_by
        if (
            best is not None
            and name is not None
            and self.sign * metrics[name] <= self.sign * best[name]
        ):
            return
        partial = self.best_dir.with_name(self.best_dir.name + PARTIAL)
        with writing(self.stage.dir):
            self.save_model(str(partial), _internal_call=True)
            self.accelerator.wait_for_everyone()
            if self.stage.is_main:
                (partial / BEST_FILE).write_text(
                    json.dumps({"step": self.state.global_step, **metrics})
                )
                publish(partial, self.best_dir)
            self.accelerator.wait_for_everyone()

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        """The trainer's own checkpoint, in a folder that appears only when it is whole. TRL's model
        card is skipped.
        """

        def write(folder: Path) -> None:
            self.args.output_dir, home = str(folder), self.args.output_dir
            Trainer._save_checkpoint(self, model, trial)
            self.args.output_dir = home
            save_guard(self.guard, self.stage, folder)

        step = self.state.global_step
        planned = step % self.args.save_steps == 0 or step >= self.state.max_steps
        self.stage.save_checkpoint(step, write, not planned)


class StageCallback(TrainerCallback):
    """Passes steps, metrics and the wish to stop between the trainer and the stage, and lets the
    guard look at every step.
    """

    def __init__(
        self,
        stage: StageContext,
        guard: SpikeGuard,
        bar: Bar,
        step_tokens: Sequence[int],
        steps_per_epoch: float,
    ) -> None:
        self.stage, self.guard, self.bar = stage, guard, bar
        self.steps_per_epoch = steps_per_epoch
        self.step_tokens = step_tokens
        self.busy_seconds, self.busy_tokens, self.began = 0.0, 0, 0.0
        # a step's training metrics, until its evaluation joins them in one line
        self.waiting: dict[str, float] = {}

    # Seconds and tokens of the updates alone, so that speed does not depend on how often the run is
    # evaluated or saved.

    def on_train_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        use_rate(kwargs["optimizer"], kwargs["lr_scheduler"], args.learning_rate)

    def on_step_begin(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.began = time.perf_counter()

    def on_step_end(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        self.busy_seconds += time.perf_counter() - self.began
        self.busy_tokens += self.step_tokens[state.global_step - 1]
        if state.global_step >= state.max_steps:
            control.should_evaluate = True  # so that the last model can be the best one, too
        if self.stage.stop_requested:
            control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, **kwargs: Any) -> None:
        logs: dict[str, float] = kwargs["logs"]
        if "train_runtime" in logs:  # the trainer's own summary at the end of the run
            return
        metrics = {name: value for name, value in logs.items() if name not in UNWANTED}
        if "loss" in metrics:
            # The trainer evaluates and saves after it has logged: never a model that has diverged.
            if problem := self.guard.breach(metrics["loss"], metrics.get("grad_norm")):
                go_back(self.guard, self.stage, state.global_step, problem)
                begin_again(self.guard, self.stage)
            metrics["epoch"] = state.global_step / self.steps_per_epoch
            metrics["tokens"] = sum(self.step_tokens[: state.global_step])
            metrics["tokens_per_second"] = self.tokens_per_second
            self.bar.advance(tokens=self.step_tokens[state.global_step - 1], loss=metrics["loss"])
            self.waiting = metrics
            if control.should_evaluate:  # the next log has the validation metrics of this step
                return
        self.stage.log(state.global_step, self.waiting | metrics)

    @property
    def tokens_per_second(self) -> float:
        """Of the updates alone, evaluation and saving left out; 0 before the first."""
        return self.busy_tokens / self.busy_seconds if self.busy_seconds else 0.0


def use_rate(optimizer: Any, scheduler: Any, learning_rate: float) -> None:
    """Go on at the rate that the trainer was given, where the checkpoint was made at another peak:
    the guard has lowered it, or somebody did (`podium resume --with`).
    """
    schedule = getattr(scheduler, "scheduler", scheduler)  # accelerate wraps it
    before = schedule.base_lrs[0]
    if before == learning_rate:
        return
    schedule.base_lrs = [learning_rate] * len(schedule.base_lrs)
    for group in optimizer.param_groups:
        group["lr"] *= learning_rate / before
        group["initial_lr"] = learning_rate
    schedule._last_lr = [group["lr"] for group in optimizer.param_groups]


def give_head_a_bias(model: Any) -> None:
    """TRL reads `bias` of the output head, which PEFT's wrapper of a tied head lacks where tokens
    train.
    """
    head = model.get_output_embeddings()
    if not hasattr(head, "bias"):
        head.bias = None


def read_best(stage: StageContext) -> dict[str, float] | None:
    """Step and metrics of the model in `best/`; None when there is none yet."""
    path = stage.dir / "best" / BEST_FILE
    return json.loads(path.read_text()) if path.is_file() else None


def forget_later_best(stage: StageContext, step: int) -> None:
    """Remove a best model from after the checkpoint the run goes on from: the run will come by it
    again.
    """
    best = read_best(stage)
    if stage.is_main and best is not None and best["step"] > step:
        shutil.rmtree(stage.dir / "best")


def trainer_arguments(
    config: Any, stage: StageContext, guard: SpikeGuard, steps_per_epoch: int, parameters: int
) -> dict[str, Any]:
    """What SFT and DPO tell their trainers alike, with everything off that would talk, upload or
    shuffle. `config`: a stage's, with the fields that are read here. `guard` slows down.
    `parameters`: of the model.

    Raises:
        RecipeError: the batch cannot be split evenly.
    """
    rows_a_pass = min(config.per_device_train_batch_size, config.batch_size // stage.world_size)
    if rows_a_pass == 0 or config.batch_size % (rows_a_pass * stage.world_size):
        raise RecipeError(
            f"{stage.name}.batch_size {config.batch_size} is no multiple of "
            f"{config.per_device_train_batch_size} rows "
            f"a pass on {stage.world_size} processes",
            fix="choose per_device_train_batch_size so that it divides each process's share of "
            "the batch",
        )
    eval_steps = config.eval_steps or max(steps_per_epoch, 1)
    clipping = guard.clip_factor * config.engine.gradient_clipping
    engine: EngineConfig = config.engine.model_copy(update={"gradient_clipping": clipping})
    with_deepspeed = stage.world_size > 1 or engine.zero_stage > 0 or engine.offload
    if with_deepspeed:
        init_distributed()  # a lone process needs a group too, and the trainer makes none
    return {
        "output_dir": str(stage.dir / "checkpoints"),
        "seed": stage.seed,
        "use_cpu": stage.device.type == "cpu",
        "bf16": stage.dtype == "bf16" and not with_deepspeed,
        "num_train_epochs": 1,  # the laid-out rows hold all epochs
        "train_sampling_strategy": "sequential",
        "max_length": None,  # what is too long was dropped
        "per_device_train_batch_size": rows_a_pass,
        "gradient_accumulation_steps": config.batch_size // (rows_a_pass * stage.world_size),
        "learning_rate": guard.lr_factor * config.learning_rate,
        "lr_scheduler_type": "cosine_with_min_lr",
        "lr_scheduler_kwargs": {"min_lr_rate": config.min_lr_rate},
        "warmup_steps": config.warmup_ratio,  # below 1 the trainer reads a ratio
        "adam_beta1": config.adam_beta1,
        "adam_beta2": config.adam_beta2,
        "weight_decay": config.weight_decay,
        "max_grad_norm": engine.gradient_clipping,
        "gradient_checkpointing": config.gradient_checkpointing,
        "deepspeed": trainer_settings(engine, stage.dtype, parameters) if with_deepspeed else None,
        "eval_strategy": "steps",
        "eval_steps": eval_steps,
        "save_strategy": "steps",
        "save_steps": config.save_steps or eval_steps,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,  # a NaN must end the run, not be averaged away
        "disable_tqdm": True,
        "report_to": "none",
    }


def save_best(
    stage: StageContext,
    tokenizer: PreTrainedTokenizerBase,
    parent: Path,
    lora: LoraConfig | None,
    folder: Path,
) -> None:
    """The best model as a plain folder; adapters are merged into the model of `parent` and kept
    beside it in adapter/.
    """
    if not stage.is_main:
        return
    best = stage.dir / "best"
    if lora is None:
        tuned = load_causal_lm(best)
        save_stop_token_ids(tokenizer, tuned)
        save_model(tuned, tokenizer, folder)
        return
    base = load_causal_lm(parent)
    resize_for(tokenizer, base)
    save_stop_token_ids(tokenizer, base)
    save_model(merge_lora(PeftModel.from_pretrained(base, str(best))), tokenizer, folder)
    shutil.copytree(
        best,
        folder / "adapter",
        ignore=shutil.ignore_patterns("best.json", "training_args.bin", "*.md"),
    )


def trainer_settings(engine: EngineConfig, dtype: Dtype, parameters: int) -> dict[str, Any]:
    """DeepSpeed under the trainer, which counts samples and fills in `auto` from its arguments.

    Its own bf16 must be off: as everywhere in Podium DeepSpeed brings autocast (the trainer's would
    make it keep the weights in bf16).
    """
    settings = deepspeed_settings(engine, dtype, parameters)
    settings["train_micro_batch_size_per_gpu"] = "auto"
    settings["gradient_accumulation_steps"] = "auto"
    if engine.zero_stage == 3:
        settings["zero_optimization"]["stage3_gather_16bit_weights_on_model_save"] = True
    return settings


def forget_deepspeed() -> None:
    """Take back what the trainer's arguments told this process about DeepSpeed.

    Otherwise transformers would load every later model under this run's ZeRO-3, without its
    weights, and a later trainer that asked for no DeepSpeed would get it.
    """
    unset_hf_deepspeed_config()
    os.environ.pop("ACCELERATE_USE_DEEPSPEED", None)
