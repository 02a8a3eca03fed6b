"""`podium data` with the command that needs a recipe: `prepare`. The others know of no recipe and
lie in `data.cli`.
"""

from pathlib import Path
from typing import TYPE_CHECKING

from data.cli import app as app
from podium.cli.options import DEFAULT_RUNS, RecipeArg, RunsDir, SetOption, errors_shown

if TYPE_CHECKING:
    from podium.run.recipe import Recipe


@app.command()
def prepare(recipe: RecipeArg, sets: SetOption = [], runs_dir: RunsDir = DEFAULT_RUNS) -> None:
    """Make a recipe's documents into tokens on disk, which its first stage would do otherwise. No
    GPU is needed; Ctrl-C keeps what is done, and the same command goes on.
    """
    with errors_shown():
        from podium.run.recipe import load_recipe

        _prepare(load_recipe(recipe, sets), runs_dir)


def _prepare(recipe: "Recipe", runs_dir: Path) -> None:
    from podium.errors import RecipeError
    from podium.progress import quieten_libraries, say
    from podium.run.inputs import StageInputs
    from podium.run.launch import opened_run, run_stage
    from pretrain.train import open_tokenizer

    class _Inputs(StageInputs):
        def logbook(self, text: str) -> None:
            say(f"  {text}")

    config = recipe.stage_config("pretrain")
    if config is None:
        raise RecipeError(
            f"the recipe '{recipe.name}' has no section 'pretrain', whose tokenizer decides",
            "other stages make their documents into tokens when they begin",
        )
    quieten_libraries()
    with opened_run(recipe, runs_dir) as run_dir:
        if recipe.data.world is not None:
            run_stage(recipe, "world", run_dir)
        inputs = _Inputs("pretrain", recipe, run_dir)
        tokenizer = open_tokenizer(config, inputs)
        for split in ("train", "validation"):
            documents = inputs.document_tokens(tokenizer, split)
            say(
                f"{split}: {len(documents):,} documents, {int(documents.ends()[-1]):,} tokens "
                f"of a vocabulary of {len(tokenizer):,}"
            )
        say(f"kept in {inputs.token_folder}")
