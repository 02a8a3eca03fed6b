"""Wherever a document begins, the separator stands there and not bos: each place by itself, with a
stranger's tokenizer whose bos begins chat turns. And where bos is meant, it is bos.
"""

import json
from copy import deepcopy
from types import SimpleNamespace
from unittest.mock import Mock

import numpy as np
import pytest
from safetensors import safe_open
from tokenizers.processors import TemplateProcessing
from transformers import LlamaConfig, LlamaForCausalLM

from data.jsonl import write_jsonl
from data.records import Document, Message
from data.sources import Source
from data.special_tokens import document_separator, document_separator_id
from data.template import CHAT_TEMPLATE, encode_prompt, prepare_tokenizer
from data.tokens import content_of, open_store, tokenizer_key
from podium.errors import RecipeError
from podium.models import load_causal_lm, load_tokenizer, save_model
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import validate

SEPARATOR = 0  # <|endoftext|>, in the vocabulary of the fixture `tokenizer`
TALES = [Document(text=f"Tale {number} of an owl in the old barn.") for number in range(40)]


@pytest.fixture
def stranger(tiny_llama, turns_tokenizer, tmp_path):
    """The folder of a model that nobody prepared."""
    assert turns_tokenizer.bos_token_id != SEPARATOR
    save_model(tiny_llama, turns_tokenizer, tmp_path / "stranger")
    return tmp_path / "stranger"


@pytest.fixture
def recipe(stranger, tmp_path):
    """`recipe(**sections)` with documents, demonstrations and prompts of its own."""
    asks = [{"role": "user", "content": "Who?"}]
    says = [*asks, {"role": "assistant", "content": "An owl."}]
    write_jsonl(tmp_path / "documents.jsonl", TALES)
    records = {"documents": tmp_path / "documents.jsonl"}
    for kind, record in (("demonstrations", {"messages": says}), ("prompts", {"messages": asks})):
        records[kind] = tmp_path / f"{kind}.jsonl"
        records[kind].write_text(f"{SimpleNamespace(**record).__dict__}\n".replace("'", '"') * 16)
    data = {
        kind: dict.fromkeys(("train", "validation"), str(path)) for kind, path in records.items()
    }

    def make(**sections):
        shared = {"name": "run", "seed": 3, "dtype": "fp32", "threads": 1, "data": data}
        return validate(shared | sections, "test")

    return make


@pytest.fixture
def stage(recipe, tmp_path):
    """`stage(name, **config) -> StageContext`, opened."""
    opened = []

    def make(name, **config) -> StageContext:
        opened.append(StageContext(name, recipe(**{name: config}), tmp_path / "runs" / name))
        return opened[-1]

    yield make
    for context in opened:
        context.close()


def test_the_store_of_tokens(turns_tokenizer, tokenizer, tmp_path):
    """Its name depends on the separator too, and is what it was where that is bos. Mutations seen
    red: bos before each document; bos in the key.
    """
    write_jsonl(tmp_path / "documents.jsonl", TALES)
    source = Source(path=str(tmp_path / "documents.jsonl"))
    store = open_store(tmp_path / "tokens", source, content_of(source), turns_tokenizer)
    starts = np.concatenate([[0], store.ends[:-1]])
    assert (store.tokens[starts] == SEPARATOR).all()
    assert (np.asarray(store.tokens) == SEPARATOR).sum() == len(TALES)
    rules = turns_tokenizer.backend_tokenizer.to_str()
    assert rules == tokenizer.backend_tokenizer.to_str()
    assert tokenizer_key(turns_tokenizer) == tokenizer_key(tokenizer)


PRETRAIN = {
    "context": 32,
    "tokens": 256,
    "batch_size": 4,
    "warmup_tokens": 0,
    "eval_tokens": 64,
    "learning_rate": 1e-3,
}


def test_pretraining(recipe, stranger, tmp_path, monkeypatch):
    """What the model is asked to keep apart, in training and validation, and the start and end of
    the sample text. Mutations seen red: bos for the objective; for the validation; for the sample.
    """
    import pretrain.train as train

    apart, started = [], []
    evaluate, objective_of = train.evaluate, train.objective_of

    def objective(*arguments):
        made = objective_of(*arguments)
        apart.append(made.separator_id)
        return made

    def held_out(engine, windows, separator_id, *rest):
        apart.append(separator_id)
        generate = engine.module.model.generate
        engine.module.model.generate = lambda ids, **how: (
            started.append((ids[0, 0].item(), how["eos_token_id"])) or generate(ids, **how)
        )
        return evaluate(engine, windows, separator_id, *rest)

    monkeypatch.setattr(train, "objective_of", objective)
    monkeypatch.setattr(train, "evaluate", held_out)
    made = recipe(pretrain=PRETRAIN | {"init_from": str(stranger)})
    assert run_one(made, "pretrain", tmp_path / "runs")
    assert apart == [SEPARATOR] * 2 and started == [(SEPARATOR, SEPARATOR)]
    assert document_separator_id(load_tokenizer(tmp_path / "runs/run/pretrain/final")) == SEPARATOR


def test_infilling(tiny_llama, turns_tokenizer):
    """Mutation seen red: bos, so that a window is one document."""
    from pretrain.blanks import Infilling
    from pretrain.infilling import objective_of

    prepare_tokenizer(turns_tokenizer)
    objective = objective_of(Infilling(), 0, turns_tokenizer, tiny_llama, 48)
    assert objective.separator_id == SEPARATOR


def test_the_documents_in_sft(stage, stranger, turns_tokenizer):
    """Mutation seen red: bos."""
    from sft.batches import Row
    from sft.train import lay_out

    rows = [Row([7] * 6, [7] * 6) for _ in range(24)]
    found, _ = lay_out(stage("sft", model=str(stranger)), turns_tokenizer, rows, 1, 8, 0.25)
    extra = [token for row in found for token in row.input_ids if row not in rows]
    assert extra[0] == SEPARATOR and turns_tokenizer.bos_token_id not in extra


def test_ptx(recipe, stage, stranger, tmp_path, monkeypatch):
    """Mutations seen red: bos for the learner; bos where it is measured whether the model packs."""
    import ppo.inputs
    import ppo.train as train

    class Reached(Exception):
        pass

    asked = []

    def packs(model, separator_id):
        asked.append(separator_id)
        return True

    def learner(*_, separator_id, **__):
        asked.append(separator_id)
        raise Reached

    (tmp_path / "one.py").write_text("def one(prompts, responses):\n    return [1.0]\n")
    # A pad that ends turns is refused by PPO: it starts from what SFT made.
    tokenizer = prepare_tokenizer(load_tokenizer(stranger))
    tokenizer.save_pretrained(stranger)
    monkeypatch.setattr(ppo.inputs, "packs", packs)
    monkeypatch.setattr(train, "Learner", learner)
    context = stage(
        "ppo",
        model=str(stranger),
        reward=f"{tmp_path / 'one.py'}:one",
        ptx_coef=0.5,
        ptx_context=16,
        response_length=12,
    )
    with pytest.raises(Reached):
        train.main(context.config, context)
    assert asked == [SEPARATOR] * 2


def test_the_loss_on_held_out_text(turns_tokenizer, monkeypatch):
    """Mutations seen red: bos before the documents; bos told to the loss."""
    from evals import measure

    seen = []
    monkeypatch.setattr(
        measure,
        "block_losses",
        lambda model, blocks, separator_id: seen.append((blocks, separator_id)) or np.zeros(1),
    )
    config = SimpleNamespace(max_position_embeddings=32)
    config.get_text_config = lambda: config
    bench = SimpleNamespace(
        tokenizer=turns_tokenizer,
        documents_tokens=320,
        held_out=SimpleNamespace(documents=TALES),
    )
    measure._losses(SimpleNamespace(config=config), bench)
    [(blocks, separator_id)] = seen
    assert separator_id == SEPARATOR == blocks[0, 0]
    assert turns_tokenizer.bos_token_id not in blocks


def test_a_completion_of_nothing(turns_tokenizer):
    """Mutation seen red: bos, after which the model would write a turn."""
    from app.endpoint.application import _prompts

    speaker = SimpleNamespace(tokenizer=turns_tokenizer)
    rows = _prompts(speaker, SimpleNamespace(prompts=["", "An owl"]))
    assert rows == [[SEPARATOR], turns_tokenizer("An owl")["input_ids"]]


def test_where_bos_is_meant_it_is_bos(turns_tokenizer, tmp_path):
    """Chat templates, Podium's too, lm-eval's rule for a text without context, and code for a tokenizer that
    puts bos before every text itself. Mutations seen red: the separator in each.
    """
    from evals.code.completions import encode_problem
    from evals.loglikelihood import encode_pair

    prepare_tokenizer(turns_tokenizer)
    bos = turns_tokenizer.bos_token_id
    asked = [Message(role="user", content="Who?")]
    assert encode_prompt(turns_tokenizer, asked).count(bos) == 2
    own = deepcopy(turns_tokenizer)
    own.chat_template = CHAT_TEMPLATE
    prepare_tokenizer(own)
    assert document_separator_id(own) == SEPARATOR and encode_prompt(own, asked)[0] == bos
    assert encode_pair(turns_tokenizer, "", "honey")[0] == [bos]
    assert encode_problem(turns_tokenizer, "x", "continue")[0] not in (bos, SEPARATOR)
    turns_tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|user|> $A", special_tokens=[("<|user|>", bos)]
    )
    assert encode_problem(turns_tokenizer, "x", "continue")[0] == bos
    assert turns_tokenizer("x")["input_ids"][0] == bos


def test_the_bos_of_a_gguf_file_is_bos(turns_tokenizer):
    """llama.cpp writes it where the template says bos. Mutation seen red: the separator."""
    from app.gguf_file import Tokens, _add_tokenizer

    prepare_tokenizer(turns_tokenizer)
    writer = Mock()
    _add_tokenizer(writer, turns_tokenizer, Tokens("gpt-2", [], [], []), (2,))
    writer.add_bos_token_id.assert_called_once_with(turns_tokenizer.bos_token_id)
    writer.add_add_bos_token.assert_called_once_with(False)


def test_an_adapter_holds_no_embedding_and_other_tokens_make_the_stage_anew(
    recipe, stranger, tmp_path
):
    """No token is new, so peft stores no table of them. What an older Podium made, whose record
    says nothing of the keys, is up to date while the recipe says nothing either. Mutations seen
    red: a pad of a new name; the keys not handed on; not noted; not compared.
    """
    section = {"model": str(stranger), "num_train_epochs": 1, "batch_size": 8, "lora": {"r": 2}}
    final = tmp_path / "runs" / "run" / "sft" / "final"

    def run(**chosen) -> tuple[bool, str, str]:
        ran = run_one(recipe(sft=section, special_tokens=chosen), "sft", tmp_path / "runs")
        made = load_tokenizer(final)
        assert len(made) == len(load_tokenizer(stranger))
        return ran, document_separator(made), made.pad_token

    assert run() == (True, "<|endoftext|>", "<|pad|>")
    with safe_open(final / "adapter" / "adapter_model.safetensors", "pt") as adapter:
        names = adapter.keys()
    assert names and not [name for name in names if "embed" in name]
    record = json.loads((final / "stage.json").read_text())
    nothing = {"document_separator": None, "pad_token": None}
    assert record.pop("special_tokens") == nothing
    (final / "stage.json").write_text(json.dumps(record))
    assert run() == (False, "<|endoftext|>", "<|pad|>")
    chosen = {"document_separator": "<|system|>", "pad_token": "<|assistant|>"}
    assert run(**chosen) == (True, "<|system|>", "<|assistant|>")
    assert run(**chosen) == (False, "<|system|>", "<|assistant|>")


def test_an_adapter_of_smollm2_holds_no_embedding(recipe, smollm2_folder, tmp_path):
    """With the real tokenizer around a small model: 49,152 rows, which an adapter of 32 KB in place
    of 3 MB leaves out. Mutation seen red: a new pad always.
    """
    config = LlamaConfig(
        vocab_size=49_152,
        hidden_size=16,
        intermediate_size=16,
        num_hidden_layers=1,
        num_attention_heads=2,
        max_position_embeddings=128,
        tie_word_embeddings=True,
    )
    save_model(LlamaForCausalLM(config), load_tokenizer(smollm2_folder), tmp_path / "small")
    section = {"model": str(tmp_path / "small"), "num_train_epochs": 1, "lora": {"r": 2}}
    assert run_one(recipe(sft=section), "sft", tmp_path / "runs")
    final = tmp_path / "runs" / "run" / "sft" / "final"
    assert len(load_tokenizer(final)) == load_causal_lm(final).config.vocab_size == 49_152
    assert (final / "adapter" / "adapter_model.safetensors").stat().st_size < 50_000


@pytest.mark.parametrize(
    ("name", "key"),
    [
        ("pretrain", "init_from"),
        ("pretrain", "tokenizer"),
        ("sft", "model"),
        ("reward", "model"),
        ("dpo", "model"),
        ("ppo", "model"),
        ("evals", "sft"),
    ],
)
def test_no_stage_takes_other_tokens_than_its_model_keeps(recipe, stranger, tmp_path, name, key):
    """Mutation seen red: the recipe's keys not handed on, in each of the stages."""
    tokenizer = prepare_tokenizer(load_tokenizer(stranger))
    tokenizer.save_pretrained(stranger)
    sections = {name: {key: str(stranger)}, "special_tokens": {"document_separator": "<|system|>"}}
    with pytest.raises(RecipeError, match=r"special_tokens\.document_separator: .* keeps"):
        run_one(recipe(**sections), name, tmp_path / "runs")


def test_a_tokenizer_of_podiums_own_keeps_its_tokens(recipe, tmp_path):
    """Mutation seen red: the keys handed on for existing models alone."""
    made = recipe(pretrain=PRETRAIN, special_tokens={"pad_token": "<|end|>"})
    with pytest.raises(RecipeError, match=r"pad_token: .* keeps '<\|pad\|>'"):
        run_one(made, "pretrain", tmp_path / "runs")
