"""What PPO reads, what it says of it, and that a mixture of prompts is read on and not read again."""

from types import SimpleNamespace

import pytest
import torch

from data.jsonl import write_jsonl
from data.packing import rows_at
from data.records import Message, Prompt
from podium.rewards.model import head, load_reward_model
from podium.run.context import StageContext
from podium.run.recipe import load_recipe
from ppo.inputs import (
    fixed_prompts,
    load_models,
    load_prompts,
    load_value_model,
    load_windows,
    prompt_limit,
    value_start,
)


def test_a_mixture_of_prompts_is_read_on_and_not_read_again(make_recipe, tokenizer, tmp_path):
    """A draw of 100 holds 50 of the 80 prompts of `rare`; 200 episodes ask all of them. Seen red
    when the second hundred repeated the first draw: 50 of 80.
    """
    for name, count in (("rare", 80), ("most", 20)):
        turns = [[Message(role="user", content=f"{name} {i}?")] for i in range(count)]
        write_jsonl(tmp_path / f"{name}.jsonl", [Prompt(messages=turn) for turn in turns])
    parts = ", ".join(f"{{path: {tmp_path}/{name}.jsonl, weight: 1}}" for name in ("rare", "most"))
    recipe = load_recipe(make_recipe(), [f"data.prompts.train=[{parts}]"])
    stage = StageContext("ppo", recipe, tmp_path / "runs" / "run")

    def asked(wanted: int) -> list[str]:
        prompts, ids = load_prompts(stage, tokenizer, None, 12, wanted)
        assert len(prompts) == len(ids)
        order = rows_at(0, wanted, len(prompts), stage.seed)
        return [text for i in order if (text := prompts[i].messages[0].content)[:4] == "rare"]

    assert len(set(asked(100))) == 50
    assert len(set(asked(200))) == 80
    stage.close()


def test_a_value_model_from_a_strangers_reward_model_keeps_its_head(make_recipe, tmp_path):
    """A folder as TRL saves it, without Podium's mark. Seen red: its head was drawn anew in
    silence.
    """
    model, tokenizer = load_reward_model(tmp_path / "reward")
    del model.config.reward_bias
    model.save_pretrained(tmp_path / "trl")
    tokenizer.save_pretrained(tmp_path / "trl")
    recipe = load_recipe(make_recipe("theirs", value_model=str(tmp_path / "trl")))
    stage = StageContext("ppo", recipe, tmp_path / "runs" / "theirs")
    kept = load_value_model(stage.config, stage)
    stage.close()
    assert torch.equal(head(kept).weight, head(model).weight)


def test_it_says_where_the_value_model_starts_where_that_is_no_reward_model(make_recipe, tmp_path):
    """With a function as the reward the value model is the policy with a new head; with a reward
    model, or without a critic, there is nothing to say. Mutation seen red: said of reward models.
    """
    (tmp_path / "rewards.py").write_text("def one(prompts, responses):\n    return [1.0]\n")
    function = f"{tmp_path / 'rewards.py'}:one"
    for name, keys, said in (
        ("model", {}, False),
        ("function", {"reward": function}, True),
        ("group", {"reward": function, "advantage": "rloo", "num_generations": 2}, False),
    ):
        recipe = load_recipe(make_recipe(name, **keys))
        stage = StageContext("ppo", recipe, tmp_path / "runs" / name)
        _, models = load_models(stage.config, stage)
        stage.close()
        assert (models.value is None) == (name == "group")
        logbook = stage.dir / "logbook.md"
        text = logbook.read_text() if logbook.is_file() else ""
        assert ("with a new head: no reward model" in text) == said, name
        if models.value is not None:
            start = str(tmp_path / ("policy" if said else "reward"))
            assert value_start(stage.config, stage) == start


@pytest.mark.parametrize(
    ("policy", "reward", "most", "limit"),
    [
        (64, 100, None, 51),  # 12 of the response, and its end
        (100, 64, None, 51),
        (None, 64, None, 51),
        (64, None, 20, 20),
        (64, 100, 60, 51),
        (None, None, 20, 20),
        (None, None, None, None),
    ],
)
def test_a_prompt_leaves_room_for_a_response_and_its_end(policy, reward, most, limit):
    """Mutations seen red: no room for the end; the wider context; the key alone."""
    config = SimpleNamespace(max_position_embeddings=policy)
    config.get_text_config = lambda: config
    models = SimpleNamespace(
        policy=SimpleNamespace(config=config), reward=SimpleNamespace(context=reward)
    )
    assert prompt_limit(models, most, 12) == limit


def test_samples_are_of_the_shortest_of_the_first_prompts(make_recipe, tokenizer, tmp_path):
    """Of the first eight for two, of the validation set where there is one. Mutations seen red: the
    longest; all prompts looked at.
    """
    lengths = [9, 7, 8, 3, 9, 9, 2, 9, 1, 1]  # the last two are beyond the first eight
    turns = [[Message(role="user", content=f"{i} " + "ow " * n)] for i, n in enumerate(lengths)]
    write_jsonl(tmp_path / "some.jsonl", [Prompt(messages=turn) for turn in turns])
    for split in ("validation", "train"):
        recipe = load_recipe(make_recipe(), [f"data.prompts.{split}={tmp_path}/some.jsonl"])
        stage = StageContext("ppo", recipe, tmp_path / "runs" / split)
        found = fixed_prompts(2, stage, tokenizer)
        stage.close()
        assert [prompt.messages for prompt, _ in found] == [turns[6], turns[3]]
        assert len(found[0][1]) < len(found[1][1])


def test_windows_are_cut_from_the_training_documents_where_ptx_asks_for_them(
    make_recipe, tokenizer, tmp_path
):
    """All tokens of the documents, each behind a mark; a mixture that one draw is enough of is drawn
    once. Mutations seen red: windows for plain PPO; two draws.
    """
    recipe = load_recipe(make_recipe(ptx_context=24))
    stage = StageContext("ppo", recipe, tmp_path / "runs" / "run")
    windows = load_windows(stage.config, stage, tokenizer)
    texts = [document.text for document in stage.records("documents")]
    tokens = sum(1 + len(tokenizer(text).input_ids) for text in texts)
    assert len(windows) == tokens // 24 and windows[[0]].shape == (1, 24)
    plain = stage.config.model_copy(update={"ptx_coef": 0.0})
    assert load_windows(plain, stage, tokenizer) is None
    stage.close()
    mixed = f"data.documents.train=[{{path: {tmp_path}/documents.jsonl, weight: 1}}]"
    stage = StageContext("ppo", load_recipe(make_recipe(ptx_context=24), [mixed]), tmp_path / "mix")
    assert len(load_windows(stage.config, stage, tokenizer)) == tokens // 24, "drawn once"
    stage.close()
