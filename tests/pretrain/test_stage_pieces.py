"""Each piece of the pretraining stage by itself: where it starts, what it plans, writes and says."""

from types import SimpleNamespace

import pytest
import torch

from podium.errors import DataError, ParentError, RecipeError
from podium.models import save_model
from podium.run.context import StageContext
from podium.run.recipe import load_recipe
from pretrain.config import Config
from pretrain.presets import preset
from pretrain.train import (
    card,
    first_window,
    open_tokenizer,
    plan,
    start_model,
    windows_of,
    write_sample,
)
from pretrain.updates import LanguageModel, evaluate


@pytest.fixture
def stage(make_recipe, tmp_path):
    """`stage(**config) -> StageContext` of pretraining, opened."""
    opened = []

    def make(**config) -> StageContext:
        recipe = load_recipe(make_recipe(**config))
        opened.append(StageContext("pretrain", recipe, tmp_path / "runs" / "run"))
        return opened[-1]

    yield make
    for context in opened:
        context.close()


def test_updates_are_planned_for_all_processes_together():
    """Mutations seen red: the batch of one process; a ramp that does not split evenly."""
    config = Config(tokens=1000, batch_size=12, context=10, batch_ramp={"start": 2, "tokens": 300})
    assert plan(config, 10, 1)[:3] == [2, 2, 3] and sum(plan(config, 10, 1)) * 10 >= 1000
    assert plan(config, 5, 4)[:2] == [4, 4] and all(size % 4 == 0 for size in plan(config, 5, 4))
    with pytest.raises(RecipeError, match="12 cannot be split evenly over 5"):
        plan(config, 10, 5)


def test_a_new_model_has_the_presets_shape_and_rate_and_the_tokenizers_ids(stage):
    """Mutations seen red: the preset's rate over the recipe's; ids of the library's defaults; the
    recipe's spread of weights not handed on.
    """
    context = stage(learning_rate=None, initializer_range=0.3)
    torch.manual_seed(0)
    tokenizer, model, rate = start_model(context.config, context)
    assert rate == preset("llama-260k").learning_rate == 1e-3
    assert len(tokenizer) == 300 == model.config.vocab_size
    ids = model.config.bos_token_id, model.config.eos_token_id, model.config.pad_token_id
    assert ids == (tokenizer.bos_token_id, tokenizer.eos_token_id, tokenizer.pad_token_id)
    assert model.config.max_position_embeddings == 32
    spread = model.get_input_embeddings().weight.std().item()
    assert spread == pytest.approx(0.3, rel=0.02)
    other = stage(learning_rate=0.5)
    assert start_model(other.config, other)[2] == 0.5


def test_an_existing_model_keeps_its_weights_and_gives_its_tokenizer(
    stage, tiny_llama, tokenizer, tmp_path
):
    """Mutations seen red: the tokenizer learned anew; a folder that gives its tokenizer alone not
    noted; a folder that holds a tokenizer alone refused.
    """
    save_model(tiny_llama, tokenizer, tmp_path / "base")
    context = stage(init_from=str(tmp_path / "base"), learning_rate=0.25)
    found, model, rate = start_model(context.config, context)
    assert found.get_vocab() == tokenizer.get_vocab() and rate == 0.25
    for name, weights in tiny_llama.state_dict().items():
        assert torch.equal(model.state_dict()[name], weights)
    assert list(context._parents) == [str(tmp_path / "base")]
    tokenizer.save_pretrained(tmp_path / "alone")
    for folder in (str(tmp_path / "base"), str(tmp_path / "alone")):
        named = stage(tokenizer=folder)
        assert open_tokenizer(named.config, named).get_vocab() == tokenizer.get_vocab()
        assert list(named._parents) == [folder]
        assert len(start_model(named.config, named)[0]) == len(tokenizer)
    with pytest.raises(ParentError, match=r"alone.*config\.json"):
        wanted = stage(init_from=str(tmp_path / "alone"), learning_rate=0.25)
        start_model(wanted.config, wanted)


def test_windows_are_of_the_split_that_is_asked_for(stage, tokenizer):
    """Mutation seen red: the validation documents for the training ones."""
    context = stage()
    train, held_out = (
        windows_of(context, tokenizer, 16, split) for split in ("train", "validation")
    )
    assert len(train) > 4 * len(held_out) > 0 and train[[0]].shape == (1, 16)
    ids = train[[0]][0].tolist()
    assert ids[0] == tokenizer.bos_token_id
    text = context.records("documents")[0].text
    assert tokenizer.decode(ids[1:]).startswith(text[:10])
    with pytest.raises(DataError, match="validation"):
        windows_of(context, tokenizer, 4000, "validation")


def test_the_window_after_those_before_or_of_a_batch_left_out_beyond_the_plan():
    """By hand: updates read 2, 4 and 6 windows, 12 in all, the largest batch 6. Mutations seen red:
    the first breach of the same update counts; the plan's windows read again.
    """
    read_before = [0, 2, 6, 12]
    assert [first_window(number, read_before, []) for number in (1, 2, 3)] == [0, 2, 6]
    assert first_window(2, read_before, [3]) == 2
    assert first_window(2, read_before, [2]) == 12
    assert first_window(3, read_before, [2, 3]) == 12 + 6
    assert first_window(2, read_before, [2, 3, 2]) == 12 + 2 * 6


@pytest.mark.parametrize("words", [1, 120])
def test_a_sample_is_drawn_by_the_seed_and_touches_no_other_randomness(
    stage, tiny_llama, tokenizer, words
):
    """A second call of `generate` by hand: 60 tokens at most, and no more than the model reads. Seen
    red with another seed, with greedy words, with the prompt's own end cut, with 60 tokens whatever
    the room, and drawn from the generator that training draws from.
    """
    context = stage()
    engine = SimpleNamespace(module=LanguageModel(tiny_llama))
    prompt = "Ana likes" + " plum" * (words - 1)
    ids = [tokenizer.bos_token_id, *tokenizer(prompt, add_special_tokens=False)["input_ids"]]
    assert (len(ids) + 60 > 128) == (words == 120)
    torch.manual_seed(context.seed)
    written = tiny_llama.generate(
        torch.tensor([ids]),
        attention_mask=torch.ones(1, len(ids), dtype=torch.long),
        do_sample=True,
        max_new_tokens=min(60, 128 - len(ids)),
        eos_token_id=tokenizer.bos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )
    torch.manual_seed(99)  # not where drawing the sample by hand left it
    assert (written.shape[1] == 128) == (words == 120), "as far as the model reads"
    state = torch.get_rng_state()
    write_sample(engine, tokenizer, prompt, context, 7)
    assert torch.equal(torch.get_rng_state(), state)
    line = (context.dir / "logbook.md").read_text()
    text = tokenizer.decode(written[0, 1:], skip_special_tokens=True)
    assert line.endswith(f" update 7 writes: {text!r}\n") and len(text) > len(prompt)
    context.is_main = False
    write_sample(engine, tokenizer, prompt, context, 8)
    assert (context.dir / "logbook.md").read_text() == line


@pytest.mark.parametrize("rows", [1, 2, 7, 20])
def test_the_validation_loss_is_the_mean_over_tokens_however_it_is_cut(stage, tiny_llama, rows):
    """Seven windows of twelve tokens, in one document each. Mutations seen red: the mean of means;
    the last group left out.
    """
    context = stage()
    held_out = torch.randint(5, 200, (7, 12), generator=torch.Generator().manual_seed(1))
    held_out[:, 0] = 1

    class Engine(LanguageModel):
        module = property(lambda self: self)

    engine = Engine(tiny_llama).train()
    found = evaluate(engine, held_out, 1, rows, context)
    with torch.no_grad():
        logits = tiny_llama(held_out).logits[:, :-1].log_softmax(-1)
    expected = -logits.gather(-1, held_out[:, 1:, None]).mean().item()
    assert found == {"validation_loss": pytest.approx(expected, rel=1e-5)}
    assert not engine.training


def test_the_card_says_where_it_comes_from_and_how_good_it_is():
    """Mutation seen red: the loss in the perplexity's place."""
    headline = {"parameters": 1234567.0, "epochs": 1.256, "validation_loss": 2.0}
    text = card(Config(preset="opt-125m", tokens=10, context=64), headline, 5000)
    assert text == (
        "A base language model: preset `opt-125m`, 1,234,567 parameters, 5,000 tokens (1.26 "
        "epochs) in windows of 64.\n\nValidation loss 2.0000 nats a token (perplexity 7.39). It "
        "continues text; it does not follow instructions.\n"
    )
    text = card(Config(init_from="a/b", learning_rate=1.0, tokens=10), headline, 5000)
    assert text.startswith("A base language model: continued from `a/b`, ")
