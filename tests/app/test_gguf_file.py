"""`podium export --gguf`: read back by transformers, and by llama.cpp itself."""

from dataclasses import replace

import pytest
import torch
from jinja2 import Environment
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    LlamaForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
)

from app.gguf_file import export_gguf
from data.records import Message
from data.template import decode_response, encode_prompt, stop_token_ids
from podium.errors import PodiumError
from podium.models import load_causal_lm, load_tokenizer, save_model
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.protocol import SamplingParams
from tests.conftest import SENTENCES

gguf = pytest.importorskip("gguf")
SHAPE = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 512,
    "rope_parameters": {"rope_type": "default", "rope_theta": 500.0},
}
QUESTION = "What does Bram like? 12 plums,  isn't it?\n"


@pytest.fixture(params=["llama", "llama, untied", "qwen2"])
def folder(request, tokenizer, tmp_path):
    """A model with two spare rows that has learned a few sentences by heart: what it says is text,
    since llama.cpp's server tells no parts of characters.
    """
    torch.manual_seed(0)
    kinds = {"llama": (LlamaConfig, LlamaForCausalLM), "qwen2": (Qwen2Config, Qwen2ForCausalLM)}
    config, model = kinds[request.param.split(",")[0]]
    tied = "untied" not in request.param
    made = model(config(vocab_size=len(tokenizer) + 2, tie_word_embeddings=tied, **SHAPE))
    optimizer = torch.optim.AdamW(made.parameters(), lr=3e-3)
    said = [[*tokenizer(text)["input_ids"], tokenizer.eos_token_id] for text in SENTENCES * 8]
    ids = torch.tensor([token for row in said for token in row][:400]).view(4, 100)
    for _ in range(60):
        made(ids, labels=ids).loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    save_model(made.eval(), tokenizer, tmp_path / "model")
    return tmp_path / "model"


@pytest.mark.slow
def test_transformers_reads_the_same_logits_back(folder, tmp_path):
    """Mutations seen red: queries and keys left in Hugging Face's order; the rope's base left out."""
    export_gguf(folder, tmp_path / "model.gguf", "f32")
    back = AutoModelForCausalLM.from_pretrained(
        tmp_path, gguf_file="model.gguf", dtype=torch.float32
    )
    ids = torch.randint(6, 300, (2, 60), generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = load_causal_lm(folder)(ids).logits, back(ids).logits
    assert torch.allclose(ours, theirs, atol=1e-4)


@pytest.mark.slow
def test_llama_cpp_says_the_same_for_200_tokens(folder, tmp_path):
    """Its tokenizer, its template and its greedy tokens, and where an answer ends. Mutations seen
    red: queries and keys left in Hugging Face's order; another token as the end of a turn.
    """
    xllamacpp = pytest.importorskip("xllamacpp")
    settings = xllamacpp.CommonParams()
    settings.model.path = str(export_gguf(folder, tmp_path / "model.gguf", "f32"))
    settings.n_ctx, settings.n_parallel, settings.verbosity = 512, 1, -1
    settings.cpuparams.n_threads, settings.warmup = 1, False
    server = xllamacpp.Server(settings)
    tokenizer, model = load_tokenizer(folder), load_causal_lm(folder)
    prompt = encode_prompt(tokenizer, [Message(role="user", content=QUESTION)])
    sampler, greedy = EmbeddedSampler(model, 1), SamplingParams(200, temperature=0)
    asked = {"temperature": 0, "n_predict": 200}
    text = server.handle_completions(
        asked | {"prompt": prompt, "ignore_eos": True, "logprobs": 1, "n_probs": 1}
    )
    said = [token["id"] for token in text["choices"][0]["logprobs"]["content"]]
    stops = stop_token_ids(tokenizer, model)
    never = replace(greedy, absent_token_ids=stops)
    assert said == sampler.generate([prompt], never)[0].tokens and len(said) == 200
    chat = server.handle_chat_completions(
        {"messages": [{"role": "user", "content": QUESTION}], "temperature": 0, "max_tokens": 200}
    )
    sample = sampler.generate([prompt], replace(greedy, stop_token_ids=stops))[0]
    assert sample.finished and len(sample.tokens) < 200
    assert chat["usage"]["prompt_tokens"] == len(prompt)
    assert chat["choices"][0]["finish_reason"] == "stop"
    assert chat["choices"][0]["message"]["content"] == decode_response(tokenizer, sample.tokens)


def test_the_template_is_plain_jinja(folder, tmp_path):
    """As other readers of the file render it: transformers' marks of what is learned are none.
    Mutation seen red: the template as it is.
    """
    file = export_gguf(folder, tmp_path / "model.gguf")
    template = gguf.GGUFReader(file).fields["tokenizer.chat_template"].contents()
    tokenizer = load_tokenizer(folder)
    asked = [
        {"role": "user", "content": QUESTION},
        {"role": "assistant", "content": "Jam."},
        {"role": "user", "content": "Why?"},
    ]
    rendered = (
        Environment()
        .from_string(template)
        .render(
            messages=asked,
            add_generation_prompt=True,
            bos_token=tokenizer.bos_token,
            eos_token=tokenizer.eos_token,
        )
    )
    expected = tokenizer.apply_chat_template(asked, tokenize=False, add_generation_prompt=True)
    assert rendered == expected


def test_narrow_weights_make_smaller_files_that_still_read(folder, tmp_path):
    """Norms stay f32; layers that do not divide into blocks stay f16."""
    sizes = []
    for width in ("f32", "bf16", "q8_0", "q4_0"):
        file = export_gguf(folder, tmp_path / f"{width}.gguf", width)
        sizes.append(file.stat().st_size)
        kinds = {tensor.name: tensor.tensor_type.name for tensor in gguf.GGUFReader(file).tensors}
        assert kinds["blk.0.ffn_down.weight"] == width.upper()
        assert kinds["output_norm.weight"] == "F32"
    assert sizes == sorted(sizes, reverse=True)


def test_what_has_no_place_in_the_file_is_refused_by_name(
    tiny_opt, tiny_llama, tokenizer, tmp_path
):
    save_model(tiny_opt, tokenizer, tmp_path / "opt")
    with pytest.raises(PodiumError, match="OPTForCausalLM is not exported"):
        export_gguf(tmp_path / "opt", tmp_path / "a.gguf")
    tiny_llama.config.rope_parameters = {
        "rope_type": "linear",
        "factor": 2.0,
        "rope_theta": 10000.0,
    }
    save_model(tiny_llama, tokenizer, tmp_path / "scaled")
    with pytest.raises(PodiumError, match="'rope_parameters' is"):
        export_gguf(tmp_path / "scaled", tmp_path / "a.gguf")
    assert not list(tmp_path.glob("*.gguf*"))


def test_the_command_takes_a_run_and_one_of_its_stages(podium, tokenizer, tmp_path):
    from evals.evaluate import Config
    from tests.evals.miniature import make_run

    run = make_run(tmp_path, tokenizer, Config())[1]
    done = podium("export", run, "--gguf", "best.gguf")
    assert done.exit_code == 0 and "ppo/final" in done.output, done.output
    done = podium("export", run, "--gguf", "sft.gguf", "--stage", "sft", "--width", "q8_0")
    assert done.exit_code == 0 and "sft/final" in done.output
    done = podium("export", run, "--gguf", "x.gguf", "--stage", "dpo")
    assert done.exit_code == 2 and "holds no model 'dpo'" in done.output
