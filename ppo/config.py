"""The config of the stage `ppo`: every number of appendix C.4 by name, and the two presets.

`preset: willowbrook` (the default) is for models of a million parameters on a laptop, `preset:
instructgpt` is the paper as far as it says: the released policy's learning rate is not published
(9.65e-6 is its SFT's; E.8 says that above 8.05e-6 PPO without ptx diverges), nor is lambda of GAE,
value clipping or advantage whitening. Its final checkpoint was chosen by reward score; ours is the
last one's weight average. Keys given beside a preset win. The presets differ because the
coefficients do not carry over between sizes and normalisations:

- Learning rate 5e-5 (2e-4 in recipes/willowbrook.yaml) against about 1e-5: a model a thousand times
  smaller moves less with the same step, and has some 40 iterations of its own where the paper has
  500.
- `kl_coef` 0.1 against 0.02: Willowbrook's rewards spread over a few units on responses of 20-30
  tokens, so the same pull towards the reference needs more reward a nat. The prototype of this
  world used 0.1.
- `ptx_coef` 0.5 against 27.8: both of our losses are means per token, the policy's over advantages
  of variance 1. There 27.8 lets the language-model gradient drown the policy's (`grad_norm/ppo`,
  `grad_norm/ptx` show it). The paper does not say how its losses are normalised; sums over tokens
  on one side are the likely reason for its number.
- `ptx_ratio` 0.5 against 8: windows an episode. Eight would take most of a ten-minute budget; half
  a window brought the pretraining loss back (docs/lab/results.md).
- `ema_decay` 0.9 against 0.992: it spans 1 / (1 - decay) iterations, 10 of 40 here and 125 of 500
  there.
"""

from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

from podium.engine import EngineConfig
from podium.lora import LoraConfig
from podium.rewards.specs import RewardSpec
from ppo.guard import GuardConfig

__all__ = [
    "Config",
]

PRESETS: dict[str, dict[str, Any]] = {
    "willowbrook": {},
    "instructgpt": {
        "total_episodes": 256_000,
        "batch_size": 512,
        "num_mini_batches": 8,
        "per_device_train_batch_size": 8,
        "max_prompt_tokens": 1024,
        "response_length": 1024,
        "learning_rate": 9.65e-6,
        "value_learning_rate": 9e-6,
        "kl_coef": 0.02,
        "ptx_coef": 27.8,
        "ptx_ratio": 8,
        "ptx_context": 2048,
        "ema_decay": 0.992,
        "missing_eos_penalty": 0.0,
        "guard": {"max_kl": 100.0},
    },
}


Advantage = Literal["gae", "rloo", "grpo", "reinforce++"]
COMPARES_ANSWERS = ("rloo", "grpo")  # need several answers to a prompt


class Config(BaseModel):
    """PPO-ptx. Defaults suit the embedded world on two CPU cores; the paper's value (InstructGPT
    C.4) is named.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    preset: Literal["willowbrook", "instructgpt"] = Field(
        "willowbrook", description="defaults of all other keys"
    )
    # The four models.
    model: str = Field(
        "sft",
        description="policy and reference: a stage of this run, a folder, a hub id; C.3: rl_init",
    )
    reward: RewardSpec = Field(
        "reward",
        description="scores whole responses: a reward stage, folder or hub id, module:function, "
        "path/to/file.py:function, {model: ...} (see ModelSpec), or a list of {reward, weight}",
    )
    value_model: str | None = Field(
        None,
        description="where the value model of `gae` starts; null and C.4: the reward model, or, "
        "where there is none, `model` with a new head",
    )
    lora: LoraConfig | None = Field(
        None, description="train adapters of policy and value; the reference is adapters off"
    )
    frozen_models: Literal["resident", "offload", "sharded"] = Field(
        "resident",
        description="reference and reward: on the device, in CPU memory between rollouts, or "
        "by ZeRO-3",
    )
    # How much.
    total_episodes: int = Field(5_120, gt=0, description="responses over the whole run; C.4: 256k")
    batch_size: int = Field(
        128, gt=0, description="episodes an iteration, over all processes; C.4: 512"
    )
    num_mini_batches: int = Field(
        4, gt=0, description="optimizer steps an inner epoch; C.4: 8 of 64"
    )
    num_ppo_epochs: int = Field(1, gt=0, description="inner epochs over a rollout; C.4: 1")
    per_device_train_batch_size: int = Field(
        32, gt=0, description="rows a training pass: what memory allows"
    )
    per_device_eval_batch_size: int = Field(
        64, gt=0, description="rows a pass of reference, reward and value"
    )
    # Sampling.
    num_generations: int = Field(
        1, gt=0, description="answers to each prompt of a batch; rloo and grpo compare them; C.4: 1"
    )
    max_prompt_tokens: int | None = Field(
        None, gt=0, description="longer prompts are dropped; C: 1,024; null: context"
    )
    response_length: int = Field(64, gt=0, description="most new tokens a response; C: 1,024")
    temperature: float = Field(
        1.0, gt=0, description="of rollouts and of every log-probability; C.4: 1"
    )
    rollout_batch_size: int = Field(
        128, gt=0, description="rows decoded together; waiting prompts refill"
    )
    old_logprobs: Literal["auto", "sampled", "recomputed"] = Field(
        "auto",
        description="of the old policy: the sampler's, or a training pass's; auto: recomputed in "
        "bf16 and from other samplers than the embedded one, where the two round differently",
    )
    # Reward.
    kl_coef: float = Field(0.1, ge=0, description="reward units a nat of per-token KL; C.4: 0.02")
    kl_controller: Literal["fixed", "adaptive"] = Field(
        "fixed", description="adaptive: Ziegler 2019; C.4: fixed"
    )
    kl_target: float = Field(
        6.0, gt=0, description="nats a response that the adaptive controller aims at"
    )
    kl_horizon: float = Field(10_000, gt=0, description="episodes over which it moves")
    missing_eos_penalty: float = Field(
        1.0, ge=0, description="taken from responses that did not end; not in the paper"
    )
    score_clip: float | None = Field(
        None, gt=0, description="scores are held within +-this, after scaling"
    )
    scale_scores: bool = Field(
        False, description="divide scores by their running standard deviation"
    )
    whiten_rewards: bool = Field(
        False, description="per-token rewards to variance 1, mean kept; Ziegler et al. 2019"
    )
    # The update.
    advantage: Advantage = Field(
        "gae",
        description="how an action is judged: `gae` by a value model, the others without one, by "
        "the other answers to the prompt (rloo, grpo) or by the batch (reinforce++)",
    )
    gamma: float = Field(
        1.0, gt=0, le=1, description="discount a token, of gae alone; C.4: 1, no discount"
    )
    gae_lambda: float = Field(
        0.95,
        ge=0,
        le=1,
        description="lambda of generalised advantage estimation, of gae alone; not in the "
        "paper; OpenAI's earlier code: 0.95",
    )
    clip_range: float = Field(0.2, gt=0, description="of the probability ratio; C.4: 0.2")
    clip_range_value: float = Field(
        0.2, gt=0, description="of the value's change; not in the paper"
    )
    vf_coef: float = Field(
        1.0, gt=0, description="of the value loss; it has its own optimizer: only clipping sees it"
    )
    learning_rate: float = Field(
        5e-5, gt=0, description="policy, constant; E.9: above 8.05e-6 diverges without ptx"
    )
    value_learning_rate: float = Field(2e-4, gt=0, description="value model; C.4: 9e-6")
    warmup_iterations: int = Field(10, ge=0, description="linear from a tenth of the rate; C.4: 10")
    adam_beta1: float = Field(
        0.9, ge=0, lt=1, description="decay of AdamW's first moment; appendix C: 0.9"
    )
    adam_beta2: float = Field(
        0.95, ge=0, lt=1, description="decay of AdamW's second moment; appendix C: 0.95"
    )
    adam_epsilon: float = Field(
        1e-8,
        gt=0,
        description="keeps AdamW's step finite; PyTorch's and OPT's; TensorFlow's "
        "differs in meaning",
    )
    weight_decay: float = Field(0.0, ge=0, description="on matrices only; the paper names none")
    # The pretraining mix.
    ptx_coef: float = Field(
        0.5, ge=0, description="times the mean document loss per token; 0 = plain PPO; C.4: 27.8"
    )
    ptx_ratio: float = Field(0.5, gt=0, description="document windows an episode; C.4: 8")
    ptx_context: int = Field(96, gt=1, description="tokens a window; C.4: 2,048")
    # What comes out, and care.
    ema_decay: float = Field(
        0.9, ge=0, lt=1, description="of the weight average, an iteration; C.4: 0.992"
    )
    final_weights: Literal["ema", "last"] = Field(
        "ema", description="what final/ holds; C.4: the average"
    )
    gradient_checkpointing: bool = Field(
        False, description="recompute activations in the backward pass to save memory"
    )
    compile: bool = Field(
        False,
        description="torch.compile: a minute at first, then small models are an eighth faster",
    )
    engine: EngineConfig = Field(
        default_factory=EngineConfig, description="ZeRO stage, offload, gradient clipping"
    )
    guard: GuardConfig = Field(
        default_factory=GuardConfig, description="thresholds that stop a run from going wrong"
    )
    save_steps: int = Field(
        10, gt=0, description="iterations between checkpoints (the guard's way back)"
    )
    sample_steps: int = Field(
        10, gt=0, description="iterations between sample texts at fixed prompts"
    )
    sample_prompts: int = Field(8, ge=0, description="how many fixed prompts")
    gradient_steps: int = Field(
        10, gt=0, description="iterations between measurements of both gradients (ZeRO-0 only)"
    )

    @model_validator(mode="before")
    @classmethod
    def _take_preset(cls, given: Any) -> Any:
        """The preset's values under the given ones."""
        if not isinstance(given, dict):
            return given
        preset = PRESETS.get(given.get("preset", "willowbrook"), {})
        merged = {**preset, **given}
        for key in preset.keys() & given.keys():
            if isinstance(preset[key], dict) and isinstance(given[key], dict):
                merged[key] = {**preset[key], **given[key]}
        return merged

    @model_validator(mode="after")
    def _check_sizes(self) -> "Config":
        if self.batch_size % self.num_mini_batches:
            raise ValueError(
                f"batch_size {self.batch_size} cannot be split into {self.num_mini_batches} "
                f"minibatches"
            )
        if self.lora is not None and self.lora.dropout > 0:
            raise ValueError(
                f"lora.dropout {self.lora.dropout:g}: PPO's ratio compares two passes over the "
                f"same tokens, which must not differ by what they drop; leave it at 0"
            )
        self._check_advantage()
        if self.compile and (self.engine.zero_stage == 3 or self.frozen_models == "sharded"):
            raise ValueError(
                "compile works on whole weights: not with engine.zero_stage 3 or frozen_models "
                "sharded"
            )
        if self.total_episodes < self.batch_size:
            raise ValueError(
                f"total_episodes {self.total_episodes} is less than one batch of {self.batch_size}"
            )
        return self

    def _check_advantage(self) -> None:
        """Whether the batch and the other keys suit the way advantages are made."""
        if self.batch_size % self.num_generations:
            raise ValueError(
                f"batch_size {self.batch_size} holds no whole number of prompts with "
                f"num_generations {self.num_generations} answers each"
            )
        if self.advantage in COMPARES_ANSWERS and self.num_generations < 2:
            raise ValueError(
                f"advantage {self.advantage} compares the answers to one prompt: set "
                f"num_generations to 2 or more (4, say); it is {self.num_generations}"
            )
        if self.has_critic:
            return
        if self.value_model is not None:
            raise ValueError(
                f"value_model {self.value_model} would not be used: advantage {self.advantage} has "
                f"no value model; leave value_model null, or take advantage gae"
            )
        if self.gamma != 1:
            raise ValueError(
                f"gamma {self.gamma:g} would not be used: advantage {self.advantage} does not "
                f"discount; leave gamma at 1, or take advantage gae"
            )

    @property
    def has_critic(self) -> bool:
        """Whether a value model is trained beside the policy."""
        return self.advantage == "gae"

    @property
    def prompts_per_iteration(self) -> int:
        """Different prompts of a rollout."""
        return self.batch_size // self.num_generations

    @property
    def iterations(self) -> int:
        """Rollouts of the whole run."""
        return self.total_episodes // self.batch_size

    @property
    def steps_per_iteration(self) -> int:
        """Optimizer steps of an iteration."""
        return self.num_ppo_epochs * self.num_mini_batches

    @property
    def windows_per_step(self) -> int:
        """ptx windows that join one optimizer step."""
        return (
            max(1, round(self.ptx_ratio * self.batch_size / self.num_mini_batches))
            if self.ptx_coef
            else 0
        )
