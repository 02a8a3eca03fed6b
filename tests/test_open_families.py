"""The recipe of the real model, on strangers of other families: tiny random Qwen3, Llama-3 and
Gemma models with their own tokenizers and the chat templates that TRL brings, on real data.

Nothing is learned here. What is held is that every stage takes the family as it comes: turn ends,
system turns, heads, caches and log-probabilities.
"""

import json
import subprocess
import sys
from pathlib import Path

import pytest
import transformers
import trl
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

TEMPLATES = Path(trl.__file__).parent / "chat_templates"
SIZES = {
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 1024,
}
FAMILIES = {  # template, model class, special tokens (the second begins, the third ends)
    "qwen3": ("Qwen3ForCausalLM", ["<|endoftext|>", "<|im_start|>", "<|im_end|>"]),
    "llama3": (
        "LlamaForCausalLM",
        ["<|finetune_right_pad_id|>", "<|begin_of_text|>", "<|eot_id|>", "<|start_header_id|>", "<|end_header_id|>"],
    ),
    "gemma": ("GemmaForCausalLM", ["<pad>", "<bos>", "<eos>", "<start_of_turn>", "<end_of_turn>"]),
}  # fmt: skip
TURN_ENDS = {"qwen3": "<|im_end|>", "llama3": "<|eot_id|>", "gemma": "<end_of_turn>"}


def make_model(family: str, folder: Path, real_data: Path) -> None:
    """A model of random weights with a tokenizer of its own, as such a family's folder holds
    them.
    """
    name, special = FAMILIES[family]
    backend = Tokenizer(models.BPE())
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    backend.decoder = decoders.ByteLevel()
    rows = json.loads(
        (real_data / "C_demos" / "llamafactory_demo_sets" / "alpaca_en_demo.json").read_text()
    )
    trainer = trainers.BpeTrainer(
        vocab_size=1500,
        special_tokens=special,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    backend.train_from_iterator([row["output"] for row in rows[:300]], trainer)
    tokenizer = PreTrainedTokenizerFast(
        tokenizer_object=backend,
        pad_token=special[0],
        bos_token=special[1],
        eos_token=special[2],
        additional_special_tokens=special[3:],
    )
    tokenizer.chat_template = (TEMPLATES / f"{family}.jinja").read_text()
    kind = getattr(transformers, name)
    config = kind.config_class(
        vocab_size=len(tokenizer) + 52,  # padded, as these families' are
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        **SIZES,
    )
    kind(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("family", FAMILIES)
def test_the_real_models_recipe_takes_the_family(family, real_data, tmp_path):
    """As users start it. Each answer's turn end is the family's, in training and in sampling."""
    make_model(family, tmp_path / "base", real_data)
    sets = {
        "sft.model": str(tmp_path / "base"),
        "threads": 1,
        "data.demonstrations.train.limit": 24,
        "data.demonstrations.validation.limit": 6,
        "data.rankings.train.limit": 30,
        "data.rankings.validation.limit": 4,
        "reward.max_length": 1024,
        "ppo.total_episodes": 32,
        "ppo.batch_size": 16,
        "ppo.response_length": 24,
        "evals.prompts": 8,
        "evals.best_of": 2,
        "evals.documents_tokens": 2000,
    }
    command = [sys.executable, "-m", "podium.cli", "run", "smollm2"]
    for key, value in sets.items():
        command += ["--set", f"{key}={value}"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    run = tmp_path / "runs" / "smollm2"
    tokenizer = AutoTokenizer.from_pretrained(run / "ppo" / "final")
    assert tokenizer.chat_template == (TEMPLATES / f"{family}.jinja").read_text()
    stops = json.loads((run / "ppo" / "final" / "generation_config.json").read_text())
    ends = stops["eos_token_id"]
    ends = ends if isinstance(ends, list) else [ends]
    assert tokenizer.convert_tokens_to_ids(TURN_ENDS[family]) in ends
    rows = json.loads((run / "evals" / "final" / "results.json").read_text())["rows"]
    assert set(rows) == {"base", "sft", "best_of_n", "ppo_ptx"}
    metrics = [
        json.loads(line) for line in (run / "ppo" / "metrics.jsonl").read_text().splitlines()
    ]
    assert abs(metrics[0]["objective/kl"]) < 0.1  # nothing was learned yet: sampler = reference
