"""Recipes: defaults < file < --set, and errors that name the right key."""

import json
import re
from dataclasses import replace

import pytest
import yaml
from transformers import GraniteConfig, LlamaConfig

from podium.errors import DataError, ParentError, RecipeError
from podium.run import chain, recipe
from podium.run.lineage import STAGE_FILE
from podium.run.parents import find_parent
from podium.run.recipe import Recipe, dump_recipe, load_recipe, recipe_model, validate


@pytest.fixture
def load(demo_stages, write_recipe):
    return lambda sets=(), **sections: load_recipe(
        write_recipe(**(sections or {"pretrain": {}})), sets
    )


def test_precedence_is_defaults_then_recipe_then_set(load):
    assert load(pretrain={}).pretrain.steps == 6
    assert load(pretrain={"steps": 7}).pretrain.steps == 7
    assert load(["pretrain.steps=8"], pretrain={"steps": 7}).pretrain.steps == 8
    assert load(["pretrain.steps=8", "pretrain.steps=9"]).pretrain.steps == 9


@pytest.mark.parametrize(
    ("text", "value"),
    [("1e-5", 1e-5), ("1E3", 1000.0), (".5", 0.5), ("0.25", 0.25), ("-1", None), ("word", None)],
)
def test_numbers_of_a_set_are_numbers(load, text, value):
    """YAML 1.1 reads 1e-5 as a word. A wrong value names its key."""
    if value is None:
        with pytest.raises(RecipeError, match=r"'pretrain\.learning_rate'"):
            load([f"pretrain.learning_rate={text}"])
    else:
        assert load([f"pretrain.learning_rate={text}"]).pretrain.learning_rate == value


def test_set_adds_and_removes_stages(load):
    assert load(["sft.model=pretrain"]).chain() == ["pretrain", "sft"]
    assert load(["pretrain=null"], pretrain={}, sft={}).chain() == ["sft"]


@pytest.mark.parametrize(
    ("sets", "words"),
    [
        (["pretrain.step=1"], ["'pretrain.step': unknown key", "did you mean 'pretrain.steps'?"]),
        (["pretrian.steps=1"], ["'pretrian': unknown key", "did you mean 'pretrain'?"]),
        (
            ["data.documnets.train=x"],
            ["'data.documnets': unknown key", "did you mean 'data.documents'?"],
        ),
        (
            ["data.documents.trian=x"],
            ["'data.documents.trian': unknown key", "did you mean 'data.documents.train'?"],
        ),
        (["pretrain.zzzz=1"], ["'pretrain.zzzz': unknown key", "pretrain knows: model, steps,"]),
        (["pretrain.steps=0"], ["'pretrain.steps'", "greater than 0"]),
        (["pretrain.steps.more=1"], ["'pretrain.steps' is a value, not a section"]),
        (["pretrain.steps"], ["expected key=value"]),
        (
            ["data.documents.train={path: x, limt: 3}"],
            ["limt", "did you mean 'data.documents.train.limit'?"],
        ),
        (["trackers=[wand]"], ["trackers", "wandb"]),
        (["name=../up"], ["cannot be a folder"]),
    ],
)
def test_a_mistake_names_its_key_and_the_fix(load, sets, words):
    with pytest.raises(RecipeError) as caught:
        load(sets, pretrain={"steps": 3})
    assert all(word in str(caught.value) for word in words), caught.value
    assert caught.value.exit_code == 2


def test_all_mistakes_are_told_at_once(load):
    with pytest.raises(RecipeError) as caught:
        load(["pretrain.learning_rat=1", "pretrain.steps=-1"])
    assert "'pretrain.learning_rat'" in str(caught.value) and "'pretrain.steps'" in str(
        caught.value
    )


@pytest.mark.parametrize("text", ["a: [", "- 1", "", "seed: 1\nseed: 2\n", "\x00"])
def test_broken_yaml_is_a_recipe_error(text, tmp_path):
    path = tmp_path / "broken.yaml"
    path.write_text(text)
    with pytest.raises(RecipeError, match=r"broken\.yaml"):
        load_recipe(path)


def test_a_missing_recipe_lists_those_there_are(tmp_path, monkeypatch):
    (tmp_path / "tiny.yaml").write_text("seed: 3")
    monkeypatch.setattr(recipe, "RECIPES", tmp_path)
    assert load_recipe("tiny").seed == 3
    with pytest.raises(RecipeError, match="tiny"):
        load_recipe("tinny")


def test_the_resolved_recipe_loads_to_itself(load, tmp_path):
    first = load(
        ["seed=5", "data.documents.train={path: a.jsonl, limit: 3}"], sft={"model": "pretrain"}
    )
    path = tmp_path / "resolved.yaml"
    path.write_text(dump_recipe(first))
    assert load_recipe(path).model_dump() == first.model_dump()


def test_arms_are_ppo_with_differences(demo_stages, load):
    from podium.run.registry import STAGES

    # The fixture puts the whole table back.
    STAGES["ppo"] = replace(demo_stages["sft"], arms=True)
    made = load(ppo={"model": "sft", "steps": 9}, ppo_arms={"plain": {"learning_rate": 0.5}})
    assert made.chain() == ["ppo", "ppo_plain"]
    arm = made.stage_config("ppo_plain")
    assert (arm.model, arm.steps, arm.learning_rate) == ("sft", 9, 0.5)
    with pytest.raises(RecipeError, match=r"did you mean 'ppo_arms\.plain\.learning_rate'"):
        load(ppo={}, ppo_arms={"plain": {"learning_rat": 0.5}})
    with pytest.raises(RecipeError, match="ppo_arms without ppo"):
        load(["ppo_arms.plain.learning_rate=0"])


def test_the_schema_holds_every_key_with_its_meaning(demo_stages):
    schema = json.loads(json.dumps(recipe_model(["pretrain"], world=False).model_json_schema()))
    assert schema["$defs"]["Config"]["properties"]["steps"]["description"] == "how many updates"
    assert {"name", "seed", "data", "pretrain"} <= schema["properties"].keys()


def test_a_parent_that_runs_later_or_nowhere_is_found_before_training(load, tmp_path):
    with pytest.raises(ParentError, match=r"sft\.model names 'evals', which runs after it"):
        chain.check_parents(load(pretrain={}, sft={"model": "evals"}, evals={}), tmp_path)
    with pytest.raises(
        ParentError, match=r"sft\.model: the parent 'pretrain' is no stage of the recipe"
    ):
        chain.check_parents(load(sft={"model": "pretrain"}), tmp_path)
    with pytest.raises(
        ParentError, match=r"sft\.model: 'no/where' is no folder here and could not be fetched"
    ):
        chain.check_parents(load(sft={"model": "no/where"}), tmp_path)
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    chain.check_parents(load(sft={"model": str(tmp_path)}), tmp_path)


def test_a_folder_that_holds_no_model_is_found_before_training(load, tmp_path):
    """Seen red: the stage found it when it began, after those before it had trained."""
    (tmp_path / "empty").mkdir()
    with pytest.raises(ParentError, match=r"sft\.model: .*empty is neither a finished stage"):
        chain.check_parents(load(pretrain={}, sft={"model": str(tmp_path / "empty")}), tmp_path)
    (tmp_path / "empty" / "config.json").write_text("{}")
    with pytest.raises(ParentError, match=r"sft\.model: .* holds no model whose config"):
        chain.check_parents(load(pretrain={}, sft={"model": str(tmp_path / "empty")}), tmp_path)


def test_a_data_file_that_is_not_there_is_found_before_training(load, tmp_path, monkeypatch):
    """In whichever stage reads it. Once a stage is finished its data may go. Mutation seen red:
    only the split `train` looked at.
    """
    there = tmp_path / "documents.jsonl"
    there.write_text('{"text": "Ana likes honey."}')
    wrong = tmp_path / "document.jsonl"
    data = {"documents": {"train": str(there), "validation": [{"path": str(wrong)}]}}
    recipe = load(pretrain={}, data=data)
    with pytest.raises(DataError, match="no such file") as caught:
        chain.check_data(recipe, tmp_path / "run")
    assert f"did you mean {there}?" in str(caught.value)
    with pytest.raises(DataError, match="no such file"):
        chain.run_chain(recipe, tmp_path / "runs")
    (tmp_path / "run" / "pretrain" / "final").mkdir(parents=True)
    (tmp_path / "run" / "pretrain" / "final" / STAGE_FILE).write_text("{}")
    chain.check_data(recipe, tmp_path / "run")


def test_a_model_beside_a_stages_main_one_is_a_parent(tmp_path):
    """`reward/held_out`, the model of the other half of the prompts, may judge. It is found in the
    stage's output, and missed before anything trains where the stage will not make it.
    """
    (tmp_path / "config.json").write_text('{"model_type": "llama"}')
    (tmp_path / "mine.yaml").write_text(
        f"sft: {{model: {tmp_path}}}\nreward: {{rankings: null, half: split}}\n"
        "evals: {judge: reward/held_out}\n"
    )
    split = load_recipe(tmp_path / "mine.yaml")
    chain.check_parents(split, tmp_path)
    with pytest.raises(ParentError, match="the stage 'reward' will not make"):
        chain.check_parents(load_recipe(tmp_path / "mine.yaml", ["reward.half=all"]), tmp_path)
    final = tmp_path / "reward" / "final"
    (final / "held_out").mkdir(parents=True)
    (final / STAGE_FILE).write_text("{}")
    with pytest.raises(ParentError, match=r"no model 'reward/held_out': .* its own model only"):
        find_parent("reward/held_out", split, tmp_path)
    (final / "held_out" / "config.json").write_text("{}")
    assert find_parent("reward/held_out", split, tmp_path) == final / "held_out"


def test_shipped_recipes_are_yaml_with_names_that_fit():
    for path in recipe.RECIPES.glob("*.yaml"):
        tree = yaml.safe_load(path.read_text())
        assert tree.get("name", path.stem) == path.stem and tree.get("description"), path


def test_the_study_of_the_tax_is_the_default_run_with_more_arms():
    """So that one recipe's settings are not tuned without the other's. Red with another learning
    rate in one.
    """
    names = ("willowbrook", "willowbrook-tax")
    default, study = (
        yaml.safe_load((recipe.RECIPES / f"{name}.yaml").read_text()) for name in names
    )
    own = {"name", "description", "ppo_arms", "evals"}  # the study measures on more answers
    assert {k: v for k, v in study.items() if k not in own} == {
        k: v for k, v in default.items() if k not in own
    }


def test_python_code_hands_over_configs_and_a_section_that_is_no_stage_is_named(demo_stages):
    config = demo_stages["sft"].config_class()(model="x")
    made = Recipe(name="mine", sft=config)
    assert made.chain() == ["sft"] and made.stage_config("sft") is config
    with pytest.raises(ValueError, match="'sfft' is no stage; there are evals, pretrain, sft"):
        Recipe(name="mine", sfft=config)


def test_a_base_without_a_reward_head_is_refused_before_anything_trains(tmp_path, tokenizer):
    """Seen red: the SFT stage trained first, and the error then listed 130 classes."""
    config = GraniteConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1)
    config.save_pretrained(tmp_path / "base")
    (tmp_path / "r.yaml").write_text(f"sft: {{model: {tmp_path / 'base'}}}\nreward: {{}}\n")
    loaded = load_recipe(tmp_path / "r.yaml", ["reward.rankings=null"])
    with pytest.raises(ParentError, match=r"reward\.model: transformers has no reward head"):
        chain.check_parents(loaded, tmp_path)


GRANITE = GraniteConfig(
    vocab_size=64, hidden_size=32, num_hidden_layers=1, architectures=["GraniteForCausalLM"]
)


@pytest.mark.parametrize(
    ("sections", "said"),
    [
        (
            "sft: {model: BASE}\nppo: {reward: 'SCORE'}",
            r"ppo\.model: transformers has no reward head for granite",
        ),
        (
            "sft: {model: LLAMA}\nppo: {reward: 'SCORE', value_model: BASE}",
            r"ppo\.value_model: transformers has no reward head for granite",
        ),
        (
            "pretrain: {init_from: BASE}\nsft: {}\nreward: {rankings: null}",
            r"reward\.model: transformers has no reward head for granite",
        ),
        ("sft: {model: BASE}\nppo: {reward: BASE}", r"ppo\.reward: .*base is no reward model"),
        ("sft: {model: BASE}\nppo: {reward: sft}", r"ppo\.reward names 'sft', which is no reward"),
        ("sft: {model: LLAMA, reward: LLAMA}", r"sft\.reward: .*llama is no reward model"),
        (
            "sft: {model: LLAMA}\nevals: {judge: {model: LLAMA}}",
            r"evals\.judge: .*llama is no reward model",
        ),
        ("sft: {model: LLAMA}\nevals: {judge: RUNS}", r"evals\.judge: .*neither a finished stage"),
        ("sft: {model: LLAMA}\nevals: {judge: TORN}", r"evals\.judge: .*config\.json is no JSON"),
        (
            "sft: {model: LLAMA}\nreward: {rankings: null, half: split}\nevals: {judge: reward/held}",
            "evals.judge names 'reward/held', which the stage 'reward' will not make",
        ),
        ("sft: {model: LLAMA}\nevals: {judge: sft/it}", "'sft/it', which the stage 'sft' will not"),
        (
            "reward: {model: LLAMA, rankings: null}\ndpo: {model: reward, rankings: null}",
            r"dpo\.model names 'reward', a reward model",
        ),
    ],
)
def test_what_lacks_a_head_or_has_the_wrong_one_is_refused_before_anything_trains(
    tmp_path, sections, said
):
    """Seen red: each was found when its stage began, after the stages before it had trained; a folder
    that is no model was told without the field, and a torn config.json was a traceback.
    """
    GRANITE.save_pretrained(tmp_path / "base")
    LlamaConfig(vocab_size=64, hidden_size=32, num_hidden_layers=1).save_pretrained(
        tmp_path / "llama"
    )
    (tmp_path / "rewards.py").write_text("def score(prompts, responses): return []\n")
    (tmp_path / "runs").mkdir()
    (tmp_path / "torn").mkdir()
    (tmp_path / "torn" / "config.json").write_text('{"architectures":')
    for name in ("base", "llama", "runs", "torn"):
        sections = sections.replace(name.upper(), str(tmp_path / name))
    sections = sections.replace("SCORE", f"{tmp_path}/rewards.py:score")
    (tmp_path / "r.yaml").write_text(sections)
    with pytest.raises(ParentError, match=said):
        chain.check_parents(load_recipe(tmp_path / "r.yaml"), tmp_path)


def test_without_a_critic_or_with_a_reward_model_of_our_own_no_head_is_put_on_the_policy(tmp_path):
    """Seen red with the policy's family asked in each case."""
    GRANITE.save_pretrained(tmp_path / "base")
    LlamaConfig(reward_bias=0.0).save_pretrained(tmp_path / "rm")
    (tmp_path / "rewards.py").write_text("def score(prompts, responses): return []\n")
    base, score = tmp_path / "base", f"{tmp_path}/rewards.py:score"
    for ppo in (
        f"{{reward: '{score}', advantage: rloo, num_generations: 2}}",
        f"{{reward: {tmp_path / 'rm'}}}",
    ):
        (tmp_path / "r.yaml").write_text(f"sft: {{model: {base}}}\nppo: {ppo}\n")
        chain.check_parents(load_recipe(tmp_path / "r.yaml"), tmp_path)


@pytest.mark.parametrize(
    ("reward", "said"),
    [
        ({"model": "x", "lable": 1}, "'ppo.reward.lable'.*did you mean 'ppo.reward.label'"),
        ([{"reward": "x", "wieght": 1}], "reward.0.wieght'.*did you mean 'ppo.reward.0.weight'"),
        (5, "'ppo.reward': Input should be a valid string"),
    ],
)
def test_a_mistake_in_a_reward_is_told_as_that_of_the_kind_that_was_meant(reward, said):
    """Seen red: each of the union's members complained, a text first."""
    with pytest.raises(RecipeError) as caught:
        validate({"name": "a", "ppo": {"reward": reward}}, "r.yaml")
    assert re.search(said, str(caught.value).replace("\n", " "))
    assert str(caught.value).count("r.yaml") == 1
