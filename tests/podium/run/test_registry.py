"""One row makes a stage: this file adds one, in two places, and uses it as a stranger would."""

import os
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from app.chat.catalog import Catalog
from evals.evaluate import labels_of, reference_of, rows_of
from podium.run.recipe import load_recipe, recipe_model
from podium.run.registry import (
    STAGES,
    StageSpec,
    chain_of,
    command_of,
    label_of,
    packages,
    spec_of,
    split_arm,
)

ROOT = Path(__file__).parents[3]

# The first place: the stage's own folder. It copies its parent and says how often it polished.
STAGE = """
from pydantic import BaseModel, ConfigDict, Field

from podium.models import load_causal_lm, load_tokenizer, save_model


class Config(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field("sft", description="what to polish")
    strokes: int = Field(3, gt=0, description="how often; paper: 7")


def main(config, stage):
    parent = stage.parent(config.model)
    model, tokenizer = load_causal_lm(parent), load_tokenizer(parent)
    stage.finish(
        lambda folder: save_model(model, tokenizer, folder), {"strokes": config.strokes}, "# Polished"
    )
"""
# The second place: one row of the registry.
ROW = StageSpec(
    "polish.train", "polish the model", ("model",), role="policy", label="polished", arms=True
)


@pytest.mark.parametrize("stage", [name for name, spec in STAGES.items() if spec.amendable])
def test_what_may_change_under_way_is_a_key_of_the_stage(stage):
    """Mutation seen red: a key that was renamed in the config alone."""
    for name in spec_of(stage).amendable:
        config = spec_of(stage).config_class()
        for part in name.split("."):
            assert part in config.model_fields, name
            config = config.model_fields[part].annotation


@pytest.fixture
def polish(tmp_path, monkeypatch, tiny_llama, tokenizer):
    """The folder of the new stage and a model to polish, in tmp_path; the row in the table."""
    (tmp_path / "polish").mkdir()
    (tmp_path / "polish" / "__init__.py").write_text("")
    (tmp_path / "polish" / "train.py").write_text(STAGE)
    tiny_llama.save_pretrained(tmp_path / "base")
    tokenizer.save_pretrained(tmp_path / "base")
    (tmp_path / "shine.yaml").write_text(
        f"polish: {{model: {tmp_path / 'base'}, strokes: 5}}\npolish_arms: {{twice: {{strokes: 2}}}}\n"
    )
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.setitem(STAGES, "polish", ROW)
    return tmp_path


def podium(folder: Path, *arguments: str) -> subprocess.CompletedProcess:
    """The command, in a process whose registry has the row too."""
    code = textwrap.dedent(
        """
        from podium.run.registry import STAGES, StageSpec
        STAGES["polish"] = StageSpec(
            "polish.train", "polish the model", ("model",), role="policy", label="polished", arms=True
        )
        from podium.cli.main import app
        app()
        """
    )
    environment = os.environ | {"PYTHONPATH": f"{ROOT}{os.pathsep}{folder}"}
    return subprocess.run(
        [sys.executable, "-c", code, *arguments],
        cwd=folder,
        env=environment,
        capture_output=True,
        text=True,
    )


@pytest.mark.slow
def test_a_folder_and_a_row_are_all_that_a_stage_needs(polish):
    """Seen red with the recipe's sections, the commands or the chat's labels listed by hand."""
    done = podium(polish, "run", "shine.yaml")
    assert done.returncode == 0, done.stderr
    assert "polish: polish the model" in done.stdout
    assert 'polish_twice: polish the model, with {"strokes": 2}' in done.stdout

    again = podium(polish, "polish", "shine.yaml", "--arm", "twice")
    assert "nothing to do" in again.stdout, again.stderr
    assert "Stage: polish the model." in podium(polish, "polish", "--help").stdout

    reference = podium(polish, "config", "schema", "shine.yaml").stdout
    assert "polish.strokes   int, default 3   here: 5" in reference
    assert "how often   [paper: 7]" in reference

    catalog = Catalog(polish / "runs" / "shine")
    assert [c.label for c in catalog.checkpoints] == [
        "polished (polish)",
        "polished twice (polish_twice)",
    ]
    assert catalog.favourites()[0] == "polish"


def test_evaluation_compares_every_stage_whose_row_says_policy(polish):
    loaded = load_recipe(polish / "shine.yaml")
    config = spec_of("evals").config_class()()
    assert rows_of(config, loaded) == {
        "sft": "sft",
        "polish": "polish",
        "polish_twice": "polish_twice",
    }


def test_dpo_is_an_arm_beside_ppo_wherever_models_are_compared(tmp_path):
    """Its row is all that says so. Seen red without the row."""
    (tmp_path / "all.yaml").write_text(
        "sft: {}\nppo: {}\nppo_arms: {rloo: {advantage: rloo, num_generations: 4}}\n"
        "dpo: {}\ndpo_arms: {soft: {beta: 0.5}}\nevals: {}\n"
    )
    loaded = load_recipe(tmp_path / "all.yaml")
    assert loaded.chain() == ["sft", "ppo", "ppo_rloo", "dpo", "dpo_soft", "evals"]
    rows = rows_of(loaded.evals, loaded)
    assert list(rows) == ["base", "sft", "ppo_ptx", "ppo_rloo", "dpo", "dpo_soft"]
    assert {row: labels_of(rows, loaded)[row] for row in list(rows)[2:]} == {
        "ppo_ptx": "PPO-ptx",
        "ppo_rloo": "RLOO-ptx",
        "dpo": "DPO",
        "dpo_soft": "DPO soft",
    }
    alone = load_recipe(tmp_path / "all.yaml", ["ppo=null", "ppo_arms={}", "dpo.model=pretrain"])
    assert reference_of(alone.evals, alone) == "pretrain"  # seen red with PPO's start alone


@pytest.mark.slow
def test_a_mistake_in_a_new_section_is_named_like_any_other(polish):
    failed = podium(polish, "polish", "shine.yaml", "--set", "polish.stroke=4")
    assert failed.returncode == 2
    assert "did you mean 'polish.strokes'?" in failed.stderr
    failed = podium(polish, "polish", "shine.yaml", "--set", "polish_arms.twice.stroke=4")
    assert "polish_arms.twice.stroke" in failed.stderr


@pytest.mark.parametrize(
    ("stage", "row", "arm"),
    [("ppo", "ppo", None), ("ppo_plain", "ppo", "plain"), ("ppo_a_b", "ppo", "a_b"),
     ("sft", "sft", None), ("sft_plain", "sft_plain", None), ("rl_init", "rl_init", None)],
)  # fmt: skip
def test_only_a_stage_with_arms_has_arms(stage, row, arm):
    assert split_arm(stage) == (row, arm)


def test_arms_run_right_after_their_stage():
    assert chain_of({"evals", "ppo", "sft"}, {"ppo": ["plain", "free"]}) == [
        "sft", "ppo", "ppo_plain", "ppo_free", "evals",
    ]  # fmt: skip


def test_models_are_called_one_way():
    assert [label_of(s) for s in ("pretrain", "sft", "rl_init")] == ["base", "SFT", "RL start"]
    assert label_of("ppo", {"ptx_coef": 0.5}) == label_of("ppo") == "PPO-ptx"
    assert label_of("ppo", {"ptx_coef": 0}) == label_of("ppo_plain", {"ptx_coef": 0}) == "PPO"
    assert label_of("ppo_kl10", {"ptx_coef": 0}) == "PPO kl10"
    without_critic = {"advantage": "rloo", "ptx_coef": 0}
    assert label_of("ppo", {"advantage": "reinforce++"}) == "REINFORCE++-ptx"
    assert label_of("ppo_rloo", without_critic) == "RLOO"
    assert label_of("ppo_four", without_critic) == "RLOO four"


def test_the_command_that_makes_a_stage_is_the_one_the_command_line_has():
    assert command_of("rl_init") == "podium rl-init"
    assert command_of("ppo_plain") == "podium ppo --arm plain"
    assert command_of("world") == "podium run"


def test_every_row_names_parents_that_its_config_has():
    model = recipe_model([s for s in STAGES if s != "world"], world=True)
    for stage, spec in STAGES.items():
        assert spec.config_class() is spec.load().Config, stage
        fields = spec.config_class().model_fields
        assert set(spec.parents) <= set(fields), stage
        assert stage == "world" or stage in model.model_fields
    assert set(packages()) == {spec.module.split(".")[0] for spec in STAGES.values()}


def test_a_recipe_is_looked_at_without_importing_what_trains():
    """The command, started as people do: it takes seconds more with these. Mutations seen red: the
    reward stage's `config` left out of its row; `check_scalar_head` imported with the chain.
    """
    command = (
        "import sys\n"
        "from podium.cli.main import app\n"
        "app(['config', 'validate', 'willowbrook'], standalone_mode=False)\n"
        "heavy = ['transformers.modeling_utils', 'trl', 'datasets', 'peft', 'deepspeed', 'scipy']\n"
        "print([name for name in heavy if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", command], capture_output=True, text=True)
    assert done.stdout.splitlines()[-1] == "[]", done.stdout + done.stderr
