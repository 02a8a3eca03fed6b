"""What both sides of `benchmarks.ppo` read: shapes of models, and folders with the weights, the
tokenizer and the prompts of one, all seeded.
"""

import json
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

STOP, PAD = 2, 1


@dataclass(frozen=True)
class Shape:
    """A model shape and the batch it is measured with."""

    name: str
    vocabulary: int
    batch: int
    micro_batch: int
    prompt_tokens: tuple[int, int]
    response_length: int


SHAPES = (
    Shape("llama-4m", 4096, 64, 8, (16, 48), 512),
    Shape("opt-125m", 50272, 16, 4, (16, 32), 256),
)
QUICK = (Shape("llama-4m", 4096, 16, 8, (16, 32), 32),)


def stop_rate(cap: int) -> float:
    """The chance of every token to be the last for which responses, cut at the cap, have a mean of
    40 % of it.
    """
    return 2.23 / cap  # (1 - exp(-2.23)) / 2.23 = 0.4


def balanced_seeds(shape: Shape, iterations: int, count: int) -> list[int]:
    """The seeds, of the first 64, whose responses come nearest to the mean of 40 % in the counted
    iterations.

    Sixteen lengths have by chance a mean of 30 to 50 %, and the time goes with it. A seed fixes the
    draws of every row, and a row ends at the first that falls to the stop token, which comes third
    after two of the chance of any other.
    """
    from podium.sampling.choice import row_uniforms
    from ppo.learner import sampling_seed

    cap = shape.response_length

    def error(seed: int) -> float:
        means = []
        for iteration in range(2, 2 + iterations):
            draws = (
                row_uniforms(sampling_seed(seed, iteration), range(shape.batch), cap)
                - STOP / shape.vocabulary
            )
            ends = (draws >= 0) & (draws < stop_rate(cap))
            ends[:, -1] = True
            means.append(float((1 + ends.int().argmax(1)).float().mean()) / cap)
        return max(abs(mean - 0.4) for mean in means)

    return sorted(range(64), key=error)[:count]


def write_inputs(shape: Shape, ragged: bool, folder: Path) -> None:
    """Policy, reward model, tokenizer and prompts, seeded. With `ragged` every token may be the
    last one at a constant rate, so lengths are geometric, cut at the cap.
    """
    import torch

    torch.manual_seed(0)
    policy = _policy(shape)
    if ragged:
        _raise_stop(policy, stop_rate(shape.response_length), shape.response_length)
    policy.save_pretrained(folder / "policy")
    _reward(policy).save_pretrained(folder / "reward")
    _write_tokenizer(shape, folder)
    generator = torch.Generator().manual_seed(1)
    low, high = shape.prompt_tokens
    lengths = torch.randint(low, high + 1, (8 * shape.batch,), generator=generator).tolist()
    prompts = [
        torch.randint(10, shape.vocabulary, (n,), generator=generator).tolist() for n in lengths
    ]
    (folder / "prompts.json").write_text(json.dumps(prompts))


def _policy(shape: Shape) -> Any:
    from transformers import LlamaConfig, LlamaForCausalLM, OPTConfig, OPTForCausalLM

    tokens: dict[str, Any] = {"pad_token_id": PAD, "bos_token_id": 0, "eos_token_id": STOP}
    if shape.name == "opt-125m":
        return OPTForCausalLM(OPTConfig(vocab_size=shape.vocabulary, dropout=0.0, **tokens))
    return LlamaForCausalLM(
        LlamaConfig(
            vocab_size=shape.vocabulary,
            hidden_size=192,
            intermediate_size=512,
            num_hidden_layers=6,
            num_attention_heads=4,
            max_position_embeddings=1024,
            tie_word_embeddings=False,
            **tokens,
        )
    )


def _raise_stop(policy: Any, rate: float, length: int) -> None:
    """Make the stop token the next one at this rate everywhere: its row of the head lies along a
    direction of the last hidden state that hardly changes.
    """
    import torch

    head = policy.get_output_embeddings().weight
    with torch.no_grad():
        if policy.config.model_type == "opt":  # the final norm's bias is such a direction
            direction = torch.nn.functional.normalize(torch.randn(head.shape[1]), dim=0)
            policy.model.decoder.final_layer_norm.bias.copy_(30 * direction)
            head[STOP] = direction
        else:  # dimension 0 of the residual stream: large at every token, written by no layer
            policy.model.embed_tokens.weight[:, 0] = 8.0
            for layer in policy.model.layers:
                layer.self_attn.o_proj.weight[0] = 0.0
                layer.mlp.down_proj.weight[0] = 0.0
            head[:, 0] = 0.0
            head[STOP] = 0.0
            head[STOP, 0] = 1.0
        logits = policy.eval()(torch.randint(10, head.shape[0], (4, length))).logits
        height = logits[..., STOP].mean()
        others = logits.index_fill(-1, torch.tensor([STOP]), -torch.inf).logsumexp(-1).mean()
        head[STOP] *= (math.log(rate / (1 - rate)) + others) / height


def _reward(policy: Any) -> Any:
    from transformers import AutoModelForSequenceClassification

    config = type(policy.config).from_dict(policy.config.to_dict() | {"num_labels": 1})
    model = AutoModelForSequenceClassification.from_config(config)
    model.base_model.load_state_dict(policy.base_model.state_dict())
    model.config.reward_bias = 0.0
    return model


def _write_tokenizer(shape: Shape, folder: Path) -> None:
    from tokenizers import Tokenizer, models

    words = {"<bos>": 0, "<pad>": PAD, "<eos>": STOP} | {
        f"w{i}": i for i in range(3, shape.vocabulary)
    }
    Tokenizer(models.WordLevel(words, unk_token="<bos>")).save(str(folder / "tokenizer.json"))
