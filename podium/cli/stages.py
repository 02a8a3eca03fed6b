"""One command a stage, made from the registry: `podium sft RECIPE`, `podium ppo RECIPE --arm X`.

A stage that has further commands (`podium reward score`) gets a group, in which the stage itself
is what runs when no other command is named.
"""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from podium.cli.options import DEFAULT_RUNS, Force, RecipeArg, RunsDir, SetOption, errors_shown
from podium.run.registry import STAGES, StageSpec

ArmOption = Annotated[
    str, typer.Option("--arm", help="One of the recipe's arms of this stage instead of itself.")
]


class TrainByDefault(TyperGroup):
    """`podium reward RECIPE` means `podium reward train RECIPE`."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        if args and args[0] not in (*self.commands, "--help"):
            args = ["train", *args]
        return super().parse_args(ctx, args)


def add_stage_commands(app: typer.Typer, groups: Mapping[str, typer.Typer]) -> None:
    """A command for every stage of the registry but the world, which a run writes by itself.

    Args:
        groups: stage -> its group of further commands; the stage becomes the group's `train`.
    """
    for stage, spec in STAGES.items():
        if stage == "world":
            continue
        if stage in groups:
            groups[stage].command("train")(_command(stage, spec))
        else:
            app.command(stage.replace("_", "-"))(_command(stage, spec))


def _command(stage: str, spec: StageSpec) -> Callable[..., None]:
    def one(
        recipe: RecipeArg,
        sets: SetOption = [],
        runs_dir: RunsDir = DEFAULT_RUNS,
        force: Force = False,
    ) -> None:
        _run(stage, recipe, sets, runs_dir, force)

    def one_of_several(
        recipe: RecipeArg,
        sets: SetOption = [],
        arm: ArmOption = "",
        runs_dir: RunsDir = DEFAULT_RUNS,
        force: Force = False,
    ) -> None:
        _run(f"{stage}_{arm}" if arm else stage, recipe, sets, runs_dir, force)

    command = one_of_several if spec.arms else one
    command.__doc__ = f"Stage: {spec.reason}."
    return command


def _run(stage: str, recipe: str, sets: list[str], runs_dir: Path, force: bool) -> None:
    with errors_shown():
        from podium.run.launch import run_one
        from podium.run.recipe import load_recipe

        run_one(load_recipe(recipe, sets), stage, runs_dir, force)
