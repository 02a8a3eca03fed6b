"""What an evaluation takes from a recipe and says in its record, without any model."""

from types import SimpleNamespace

import numpy as np
import pytest

from data.jsonl import write_jsonl
from data.records import Document, Message, Prompt, Question
from data.template import encode_prompt
from evals import compare
from evals.contestants import Contestant
from evals.evaluate import (
    Config,
    answer_length,
    card,
    describe_setup,
    familiar_prompts,
    headline,
    labels_of,
    ordered,
    read_held_out,
    read_tasks,
    sampling,
)
from evals.measure import HeldOut
from podium.errors import DataError
from podium.run.context import StageContext
from podium.run.recipe import DataConfig, SplitSources
from tests.evals.miniature import Section, make_recipe


def test_an_answer_is_as_long_as_ppo_trains_for_unless_it_is_said():
    """Mutations seen red: 64 whatever PPO trains for; PPO's length although another is asked."""
    with_ppo = make_recipe(Config(), ppo=Section(response_length=24))
    without = make_recipe(Config(), ppo=None, ppo_arms={})
    assert answer_length(Config(), with_ppo) == 24 and answer_length(Config(), without) == 64
    assert answer_length(Config(max_new_tokens=7), with_ppo) == 7


def test_compared_models_answer_as_long_as_the_longest_of_them_was_trained_for():
    """Mutations seen red: the shortest; the first's."""

    def one(length: int | None) -> Contestant:
        ppo = {"ppo": Section(response_length=length)} if length else {"ppo": None, "ppo_arms": {}}
        return SimpleNamespace(recipe=make_recipe(Config(), **ppo))

    asked = compare.Settings(("a", "b"))
    assert compare.answer_length(asked, [one(8), one(24), one(None)]) == 24
    assert compare.answer_length(asked, [one(None)]) == 64
    assert compare.answer_length(compare.Settings(("a", "b"), max_new_tokens=5), [one(8)]) == 5


def test_rows_are_named_and_ordered_as_people_know_them():
    """A base from elsewhere is the base all the same. Mutation seen red: by the alphabet."""
    names = ["ppo_kl10", "ppo", "best_of_n", "sft", "ppo_ptx", "base"]
    assert ordered(names) == ["base", "sft", "best_of_n", "ppo_ptx", "ppo", "ppo_kl10"]
    assert ordered(["dpo", "sft"]) == ["sft", "dpo"]
    rows = {"base": "some/folder", "sft": "other/folder", "ppo_ptx": "ppo", "ppo": "ppo_plain"}
    assert labels_of(rows, make_recipe(Config())) == {
        "base": "base", "sft": "SFT", "ppo_ptx": "PPO-ptx", "ppo": "PPO"
    }  # fmt: skip


def test_sampling_is_what_the_recipe_says():
    """Mutations seen red: another temperature; the seed or the end tokens left out."""
    params = sampling(Config(temperature=0.7, top_p=0.9), 12, (3, 4), (9,), seed=11)
    assert (params.max_new_tokens, params.temperature, params.top_p) == (12, 0.7, 0.9)
    assert (params.stop_token_ids, params.absent_token_ids, params.seed) == ((3, 4), (9,), 11)


def test_the_record_says_what_the_numbers_rest_on():
    """Mutations seen red: the samples for the prompts; best-of-n without a name."""
    config = Config(samples=3, best_of=5, temperature=0.7, top_p=0.9)
    recipe = make_recipe(config, ppo=Section(model="rl_init", response_length=24))
    held_out = HeldOut([None] * 2, [None] * 4, [None] * 6)
    rows, judge = {"sft": "sft", "ppo_ptx": "ppo"}, SimpleNamespace(name="a judge")
    setup = describe_setup(config, SimpleNamespace(recipe=recipe), rows, judge, held_out)
    labels = {"base": "base", "sft": "SFT", "ppo_ptx": "PPO-ptx", "best_of_n": "best of 5"}
    assert setup == {
        "models": rows, "labels": labels, "judge": "a judge", "reference": "rl_init", "best_of": 5,
        "prompts": 2, "samples": 3, "documents": 4, "questions": 6, "temperature": 0.7,
        "top_p": 0.9, "max_new_tokens": 24,
    }  # fmt: skip
    text = card({"setup": setup})
    for words in ("2 held-out prompts, 3 answers each at temperature 0.7", "wins are decided by a "
                  "judge", "measured from `rl_init`"):  # fmt: skip
        assert words in text


def test_the_headline_is_of_the_tuned_policies_or_of_sft_where_there_is_none():
    """Mutations seen red: SFT's numbers beside a policy's; what was not measured told as null."""
    row = dict(zip(("win_rate", "win_rate_low", "gold", "kl", "pretrain_loss"), range(5),
                   strict=True))  # fmt: skip
    table = {"base": row, "sft": row, "best_of_n": row, "ppo": row | {"kl": None}}
    world, reward = SimpleNamespace(world="willowbrook"), SimpleNamespace(world=None)
    assert headline(table, world) == {
        "ppo/win_rate": 0, "ppo/win_rate_low": 1, "ppo/gold": 2, "ppo/pretrain_loss": 4
    }  # fmt: skip
    assert headline({"base": row, "sft": row}, world) == {f"sft/{name}": row[name] for name in row}
    scored = headline(table, reward)
    assert scored["ppo/score"] == 2 and "ppo/gold" not in scored, "gold is a world's alone"


@pytest.fixture
def stage(tmp_path):
    """`stage(**config, data=...)`: a context of the evaluation whose files are prompts of rising
    length, documents and questions.
    """
    asked = [Prompt(messages=[Message(role="user", content="ow " * n)]) for n in range(1, 21)]
    write_jsonl(tmp_path / "prompts.jsonl", asked)
    write_jsonl(tmp_path / "documents.jsonl", [Document(text="An owl.")] * 3)
    questions = [Question(question=f"{n}?", choices=["a", "b"], answer=0) for n in range(9)]
    write_jsonl(tmp_path / "questions.jsonl", questions)
    opened = []

    def make(kinds: dict[str, str], **config) -> StageContext:
        sources = {
            kind: SplitSources(**{split: str(tmp_path / f"{kind}.jsonl")})
            for kind, split in kinds.items()
        }
        recipe = make_recipe(Config(**config), world=False)
        recipe = recipe.model_copy(update={"data": DataConfig(**sources)})
        opened.append(StageContext("evals", recipe, tmp_path / "runs" / "mini"))
        return opened[-1]

    yield make
    for context in opened:
        context.close()


def test_prompts_that_leave_no_room_are_left_out_and_told_and_some_of_the_rest_are_asked(
    stage, tokenizer
):
    """In their order, the same for a seed; documents and questions where there are any. Mutations
    seen red: no room for the end token; documents of another split.
    """
    context = stage({"prompts": "test", "documents": "validation", "questions": "test"},
                    prompts=4, questions=5)  # fmt: skip
    lengths = [
        len(encode_prompt(tokenizer, p.messages)) for p in context.records("prompts", "test")
    ]
    room = lengths[11] + 8 + 1  # twelve fit, with an answer of 8 and an end token
    found = read_held_out(context.config, context, tokenizer, room)
    words = [len(p.messages[0].content.split()) for p in found.prompts]
    assert len(words) == 4 and words == sorted(words) and max(words) <= 12
    assert len(found.documents) == 3 and len(found.questions) == 5
    assert "8 of 20 test prompts are too long" in (context.dir / "logbook.md").read_text()
    assert read_held_out(context.config, context, tokenizer, room) == found
    every_one = context.config.model_copy(update={"prompts": 99})
    assert len(read_held_out(every_one, context, tokenizer, room - 1).prompts) == 11
    every = read_held_out(every_one, context, tokenizer, room)
    assert [len(p.messages[0].content.split()) for p in every.prompts] == list(range(1, 13))
    bare = stage({"prompts": "test", "documents": "train", "questions": "test"}, questions=0)
    found = read_held_out(bare.config, bare, tokenizer, 999)
    assert (found.documents, found.questions, len(found.prompts)) == ([], [], 20)
    trained = stage({"prompts": "test", "questions": "train"}, questions=99)
    assert len(read_held_out(trained.config, trained, tokenizer, 999).questions) == 9


def test_familiar_prompts_are_training_prompts_in_a_random_order_that_the_seed_fixes(stage):
    """Mutation seen red: test prompts."""
    context = stage({"prompts": "train"}, familiar_prompts=6)
    found = familiar_prompts(context.config, context)
    words = [len(p.messages[0].content.split()) for p in found]
    order = np.random.default_rng(context.seed).permutation(20)[:6] + 1
    assert words == order.tolist()
    none = stage({"prompts": "train"}, familiar_prompts=0)
    assert familiar_prompts(none.config, none) == []
    other = stage({"prompts": "test"}, familiar_prompts=6)
    assert familiar_prompts(other.config, other) == []


def test_one_s_own_tasks_belong_to_what_the_evaluation_was_made_from(stage, tmp_path):
    """Every file of their folder, whatever its kind, in order: another one makes the evaluation
    anew. Mutation seen red: the files of the first folder alone.
    """
    folder = tmp_path / "tasks"
    (folder / "deeper").mkdir(parents=True)
    for name in ("b.yaml", "a.jsonl", "deeper/c.py"):
        (folder / name).write_text(name)
    context = stage({"prompts": "test"}, task_files=str(folder), task_limit=7)
    noted = []
    context.code = noted.append
    found = read_tasks(context.config, context)
    assert noted == [folder / name for name in ("a.jsonl", "b.yaml", "deeper/c.py")]
    assert (found.asked, found.files, found.limit) == ({}, folder, 7)
    missing = stage({"prompts": "test"}, task_files=str(folder / "b.yaml"))
    with pytest.raises(DataError, match="is no folder"):
        read_tasks(missing.config, missing)
    bare = stage({"prompts": "test"})
    assert read_tasks(bare.config, bare).files is None
