"""What the fine-tuning stage lays out before it trains, and what it says, each by itself."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from transformers import BloomConfig, BloomForCausalLM, LlamaConfig, LlamaForCausalLM

from data.jsonl import read_jsonl, write_jsonl
from data.records import Demonstration, Document, Message
from data.template import encode_prompt
from podium.errors import DataError, RecipeError
from podium.models import (
    UNSTATED_CONTEXT,
    absent_in_words,
    absent_token_ids,
    load_causal_lm,
    save_model,
)
from podium.run.context import StageContext
from podium.run.recipe import load_recipe
from sft.batches import IGNORED, EncodedDemonstrations, Row, encode_demonstrations, lay_out_batches
from sft.config import Config
from sft.dropout import _Drop, set_residual_dropout
from sft.train import card, encode, lay_out, main, make_measure, to_dataset, tokens_by_step


class Reached(Exception):
    """Everything is laid out and the trainer would be made."""


@pytest.fixture
def stage(make_recipe, tmp_path):
    """`stage(own=None, **config) -> StageContext` of SFT, opened; `own` are demonstrations that
    take the place of the fixture's in both splits.
    """
    opened = []

    def make(own: list[Demonstration] | None = None, **config) -> StageContext:
        path = make_recipe(f"run{len(opened)}", **config)
        for split in ("train", "validation") if own else ():
            write_jsonl(tmp_path / f"demonstrations.{split}.jsonl", own)
        recipe = load_recipe(path)
        opened.append(StageContext("sft", recipe, tmp_path / "runs" / recipe.name))
        return opened[-1]

    yield make
    for context in opened:
        context.close()


@pytest.fixture
def laid_out(stage, monkeypatch):
    """`laid_out(own=None, **config)`: what the stage hands to its trainer."""

    def make(own: list[Demonstration] | None = None, **config) -> SimpleNamespace:
        handed: dict = {}

        def reached(**how):
            handed.update(how)
            raise Reached

        monkeypatch.setattr("sft.train.FineTuner", reached)
        context = stage(own, **config)
        with pytest.raises(Reached):
            main(context.config, context)
        return SimpleNamespace(**handed)

    return make


def talk(*turns: str) -> list[Message]:
    roles = ("user", "assistant")
    return [Message(role=roles[i % 2], content=turn) for i, turn in enumerate(turns)]


def learned(tokenizer, dataset) -> set[str]:
    """The texts that the loss of the rows looks at."""
    return {
        tokenizer.decode([token for token in labels if token != IGNORED])
        for labels in dataset["labels"]
    }


def test_the_loss_looks_at_all_answers_or_at_the_last(laid_out, tokenizer):
    """And at their thinking or not; of the validation's rows too. Mutations seen red: a key not
    read; read for the training rows alone.
    """
    thought = "<think>\nHm.\n</think>\n\nFigs."
    both = [Demonstration(messages=talk("What does Bram like?", "Jam.", "And Ana?", thought))] * 8
    for keys, expected in (
        ({"loss_on": "answers"}, f"Jam.<|end|>{thought}<|end|>"),
        ({"loss_on": "last_answer"}, f"{thought}<|end|>"),
        ({"loss_on": "last_answer", "loss_on_thinking": False}, "Figs.<|end|>"),
    ):
        handed = laid_out(both, **keys)
        for data in (handed.train_dataset, handed.eval_dataset):
            assert learned(tokenizer, data) == {expected}


def test_the_trainer_is_handed_what_the_recipe_says(laid_out, tmp_path, tokenizer):
    """Mutations seen red: the checkpoint of the smallest score; the last one whatever is asked for;
    the rows of one epoch; the model's weights of another type.
    """
    plain = laid_out(num_train_epochs=2)
    assert (plain.select_by, plain.higher_is_better) == ("validation_loss", False)
    assert len(plain.train_dataset) == 2 * 40 and len(plain.eval_dataset) == 12
    assert plain.peft_config is None and plain.processing_class.get_vocab() == tokenizer.get_vocab()
    config = plain.model.config
    assert config.pad_token_id == tokenizer.pad_token_id
    assert {weight.dtype for weight in plain.model.parameters()} == {torch.float32}
    last = laid_out(num_train_epochs=2, select_by="last", lora={"r": 2})
    assert (last.select_by, last.higher_is_better) == (None, False)
    assert last.peft_config.r == 2 and last.peft_config.task_type == "CAUSAL_LM"
    assert last.train_dataset["input_ids"][:] == plain.train_dataset["input_ids"][:]
    (tmp_path / "rewards.py").write_text("def f(prompts, responses): return [0.0] * len(prompts)")
    reward = f"{tmp_path / 'rewards.py'}:f"
    scored = laid_out(select_by="reward_score", reward=reward)
    assert (scored.select_by, scored.higher_is_better) == ("reward_score", True)


def test_the_adapters_are_drawn_by_the_seed_whatever_loading_drew(laid_out, monkeypatch):
    """Mutation seen red: the generator left as loading left it."""

    def load(parent):
        torch.rand(3)
        return load_causal_lm(parent)

    monkeypatch.setattr("sft.train.load_causal_lm", load)
    laid_out(num_train_epochs=1)
    drawn = torch.rand(2)
    torch.manual_seed(3)
    assert torch.equal(drawn, torch.rand(2))


def test_a_model_that_states_no_longest_sequence_is_told_of(laid_out, tmp_path, tokenizer):
    """And one with rows that the tokenizer has no token for. Mutation seen red: said of every
    model.
    """
    laid_out()
    assert not (tmp_path / "runs" / "run0" / "sft" / "logbook.md").exists()
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1}
    config = LlamaConfig(vocab_size=len(tokenizer) + 5, num_attention_heads=2, **sizes)
    save_model(LlamaForCausalLM(config), tokenizer, tmp_path / "wide")
    laid_out(model=str(tmp_path / "wide"))
    absent = absent_token_ids(tokenizer, config)
    said = (tmp_path / "runs" / "run1" / "sft" / "logbook.md").read_text()
    assert len(absent) == 5 and said.endswith(f" {absent_in_words(absent)}\n")
    alibi = BloomConfig(vocab_size=len(tokenizer), hidden_size=16, n_layer=1, n_head=2)
    save_model(BloomForCausalLM(alibi), tokenizer, tmp_path / "endless")
    laid_out(model=str(tmp_path / "endless"))
    said = (tmp_path / "runs" / "run2" / "sft" / "logbook.md").read_text()
    assert f"the model states no longest sequence: {UNSTATED_CONTEXT} tokens are taken" in said


def test_rows_that_do_not_fit_are_counted_by_what_they_exceed(stage, tokenizer):
    """Limits of prompt and answer are the recipe's, the context the model's; a weight of 0 leaves
    nothing to learn. Mutations seen red: the two limits exchanged; the counts of another kind.
    """
    unlearned = talk("Hi", "Yes.")
    unlearned[1] = unlearned[1].model_copy(update={"weight": 0.0})
    own = [
        Demonstration(messages=talk("Hi", "Yes.")),
        Demonstration(messages=talk("owl " * 30, "Yes.")),
        Demonstration(messages=talk("owl " * 30, "No.")),
        Demonstration(messages=talk("Hi", "owl " * 30)),
        Demonstration(messages=unlearned),
    ]
    context = stage(own)
    found = encode(context, tokenizer, 1000, "train", (20, 10))
    assert (len(found.rows), found.long_prompts, found.long_responses) == (1, 2, 1)
    assert found.without_loss == 1 and found.dropped == 4
    said = (context.dir / "logbook.md").read_text()
    assert "train: dropped 4 of 5 demonstrations (2 prompts and 1 answers over" in said
    assert "1 with nothing to learn" in said
    assert len(encode(context, tokenizer, 1000, "train", (None, 10)).rows) == 3
    assert len(encode(context, tokenizer, 1000, "train", (20, None)).rows) == 2
    with pytest.raises(DataError) as none:
        encode(context, tokenizer, 3, "validation", (None, None))
    assert "all 5 are longer" in none.value.message and "(1)" in none.value.message
    assert "sft.max_prompt_tokens" in none.value.fix and "3 tokens" in none.value.fix
    assert EncodedDemonstrations([], 1, 2, 4).dropped == 7


def test_a_row_that_just_fits_is_kept(tokenizer):
    """Each limit to the token. Mutations seen red: each comparison made strict, or lax."""
    one = Demonstration(messages=talk("What does Bram like?", "Plum jam."))
    (row,) = encode_demonstrations(tokenizer, [one], context=1000).rows
    whole = len(row.input_ids)
    prompt = len(encode_prompt(tokenizer, one.messages[:-1]))
    for limits, fits in (
        ({"context": whole}, (1, 0, 0)),
        ({"context": whole - 1}, (0, 0, 1)),
        ({"context": prompt + 1}, (0, 0, 1)),
        ({"context": prompt}, (0, 1, 0)),
        ({"context": 1000, "max_prompt_tokens": prompt}, (1, 0, 0)),
        ({"context": 1000, "max_prompt_tokens": prompt - 1}, (0, 1, 0)),
        ({"context": 1000, "max_response_tokens": whole - prompt}, (1, 0, 0)),
        ({"context": 1000, "max_response_tokens": whole - prompt - 1}, (0, 0, 1)),
    ):
        found = encode_demonstrations(tokenizer, [one], **limits)
        assert (len(found.rows), found.long_prompts, found.long_responses) == fits, limits


def test_a_mix_reads_documents_in_an_order_of_the_seed_and_counts_their_tokens(
    stage, tokenizer, tmp_path
):
    """A quarter of each batch, from documents with their end-of-text before them. Mutations seen
    red: documents in the file's order; the demonstrations' tokens counted with them.
    """
    context = stage()
    tales = [Document(text=f"Tale {number} of an owl.") for number in range(20)]
    write_jsonl(tmp_path / "documents.jsonl", tales)
    rows = [Row([i] * (5 + i % 3), [i] * (5 + i % 3)) for i in range(6, 30)]
    found, tokens = lay_out(context, tokenizer, rows, 1, 8, 0.25)
    batches = lay_out_batches(
        [len(row.input_ids) for row in rows], epochs=1, batch_size=8, aux_share=0.25, seed=3
    )
    assert [len(batch) for batch in batches] == [6] * 4 and len(found) == 32
    extra = [found[8 * i + k] for i in range(4) for k in (6, 7)]
    assert [found[8 * i : 8 * i + 6] for i in range(4)] == [
        [rows[k] for k in batch] for batch in batches
    ]
    assert tokens == sum(len(row.input_ids) for row in extra) > 0
    assert all(row.labels == row.input_ids for row in extra)
    documents = [document.text for document in context.records("documents")]
    read = [
        token
        for i in np.random.default_rng(3).permutation(len(documents))
        for token in (
            tokenizer.bos_token_id,
            *tokenizer.encode(documents[i], add_special_tokens=False),
        )
    ]
    assert [token for row in extra for token in row.input_ids] == read[:tokens]
    alone, none = lay_out(context, tokenizer, rows, 1, 8, 0.0)
    assert none == 0 and len(alone) == 24


def test_tokens_are_counted_by_update():
    rows = [Row([1] * n, [1] * n) for n in (3, 4, 5, 6, 7)]
    assert tokens_by_step(rows, 2) == [7, 11, 7]
    assert to_dataset(rows[:2])[1] == {"input_ids": [1] * 4, "labels": [1] * 4}


def test_checkpoints_are_judged_on_held_out_prompts_that_leave_room(
    stage, tmp_path, tiny_llama, tokenizer
):
    """As many as the recipe says, of those that fit with an answer; by the loss alone where no
    reward chooses. Mutations seen red: prompts that do not fit asked; all asked; the last message
    left in the prompt.
    """
    context = stage()
    rows = encode(context, tokenizer, 128, "validation", (None, None)).rows
    pieces = context, tokenizer, rows, 128
    measure = make_measure(context.config, *pieces)
    plain = measure(tiny_llama)
    assert plain.keys() == {"validation_loss", "token_accuracy"}
    (tmp_path / "rewards.py").write_text(
        "ASKED = []\n"
        "def f(prompts, responses):\n"
        "    ASKED.append((prompts, responses))\n"
        "    return [float(len(p.messages[-1].content)) for p in prompts]\n"
    )
    held_out = read_jsonl(tmp_path / "demonstrations.validation.jsonl", Demonstration)
    asked = [d.messages[0].content for d in held_out]
    chosen = {"select_by": "reward_score", "reward": f"{tmp_path / 'rewards.py'}:f"}
    for keys, expected in (
        ({"reward_prompts": 5, "max_response_tokens": 9}, asked[:5]),
        ({"reward_prompts": 50, "max_response_tokens": 9}, asked),
    ):
        scored = stage(**chosen, **keys)
        found = make_measure(scored.config, scored, *pieces[1:])(tiny_llama)
        mean = sum(map(len, expected)) / len(expected)
        assert found == plain | {"reward_score": pytest.approx(mean)}
    lengths = [len(encode_prompt(tokenizer, d.messages[:-1])) for d in held_out]
    room = (
        128 - sorted(lengths)[4]
    )  # just enough for the five shortest prompts, or as many as those
    tight = stage(**chosen, max_response_tokens=room)
    found = make_measure(tight.config, tight, *pieces[1:])(tiny_llama)
    fit = [text for text, n in zip(asked, lengths, strict=True) if n <= sorted(lengths)[4]]
    assert 5 <= len(fit) < 12
    assert found["reward_score"] == pytest.approx(sum(map(len, fit)) / len(fit))
    for wrong in (chosen | {"reward": None}, chosen | {"engine": {"zero_stage": 3}}):
        context = stage(**wrong)
        with pytest.raises(RecipeError, match=r"sft.select_by: reward_score needs a reward"):
            make_measure(context.config, context, *pieces[1:])


def test_the_card_says_what_was_learned_and_how_it_was_chosen(tokenizer):
    """Mutation seen red: the mix said of a run without one."""
    headline = {"demonstrations": 40, "step": 6, "validation_loss": 1.23456, "token_accuracy": 0.5}
    config = Config(model="base", num_train_epochs=1.5, select_by="validation_loss")
    text = card(config, headline, tokenizer, [tokenizer.eos_token_id])
    assert text.startswith(
        "A model that follows instructions, fine-tuned from `base` on 40 demonstrations for 1.5 "
        "epochs (all weights); the loss covers the answers alone.\n\nChosen by validation loss at "
        "update 6: validation loss 1.2346 nats a response token, token accuracy 0.500.\n\n"
    )
    mixed = Config(model="base", aux_share=0.1, lora={"r": 4}, select_by="last")
    text = card(mixed, headline, tokenizer, [tokenizer.eos_token_id])
    assert "(LoRA rank 4, 10% of each batch from the pretraining documents)" in text
    assert "Chosen by last at update 6" in text


def test_dropout_falls_on_what_blocks_add_in_training_alone(tiny_llama, tiny_opt):
    """Mutations seen red: one of the two hooks left out; the rest of a tuple lost; active in
    evaluation.
    """
    hooked = _Drop(0.5)
    ones, module = torch.ones(400), torch.nn.Identity()
    for training in (True, False):
        module.train(training)
        plain, (first, second) = hooked(module, (), ones), hooked(module, (), (ones, "rest"))
        assert second == "rest"
        for found in (plain, first):
            assert set(found.tolist()) == ({0.0, 2.0} if training else {1.0})
    before = [len(m._forward_hooks) for m in tiny_llama.modules()]
    set_residual_dropout(tiny_llama, 0.0)
    assert [len(m._forward_hooks) for m in tiny_llama.modules()] == before
    set_residual_dropout(tiny_llama, 0.25)
    for layer in tiny_llama.model.layers:
        for block in (layer.self_attn, layer.mlp):
            (hook,) = block._forward_hooks.values()
            assert hook.probability == 0.25
    set_residual_dropout(tiny_opt, 0.125)
    assert {layer.dropout for layer in tiny_opt.model.decoder.layers} == {0.125}
    set_residual_dropout(torch.nn.Linear(2, 2), 0.0)
    with pytest.raises(RecipeError, match=r"residual_dropout 0.1: Linear has no blocks"):
        set_residual_dropout(torch.nn.Linear(2, 2), 0.1)
