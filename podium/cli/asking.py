"""`podium eval dialogue`, `hallucination`, `toxicity` and `truthful`: one model on one file that
somebody else made.
"""

import json
from pathlib import Path
from typing import Annotated

import typer

from podium.cli.options import WeightsOption, errors_shown

ModelArg = Annotated[
    str, typer.Argument(help="A model: a folder, a stage's folder or a hub id.", metavar="MODEL")
]
Limit = Annotated[int | None, typer.Option("--limit", min=1, help="The first of the file only.")]
AskOption = Annotated[
    bool, typer.Option("--ask", help="In the model's turns in place of plain text.")
]


def add_asking_commands(group: typer.Typer) -> None:
    """The four, as commands of `podium evals`."""
    group.command()(dialogue)
    group.command()(hallucination)
    group.command()(toxicity)
    group.command()(truthful)


def dialogue(
    model: ModelArg,
    file: Annotated[Path, typer.Argument(help="Conversations, in any form that SFT reads.")],
    ask: AskOption = False,
    tokens_of: Annotated[
        str | None,
        typer.Option(help="Count tokens by this model's tokenizer; OPT's paper: GPT-2's."),
    ] = None,
    limit: Limit = None,
    weights: WeightsOption = "fp32",
) -> None:
    """Perplexity and unigram F1 on people's conversations, by OPT's protocol."""
    with errors_shown():
        from evals.dialogue import measure_dialogue
        from podium.progress import quieten_libraries

        quieten_libraries()
        found = measure_dialogue(model, file, ask, tokens_of, limit, weights)
        typer.echo(json.dumps(found, indent=2))


def hallucination(
    model: ModelArg,
    file: Annotated[
        Path,
        typer.Argument(help="SQuAD's file, or rows with passage, question and, if known, answers."),
    ],
    scorer: Annotated[
        str | None,
        typer.Option(help="Who scores, as in ppo.reward; otherwise names and numbers not there."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Answers a question.")] = 4,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of one answer.")] = 48,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of sampling.")] = 0.9,
    ask: AskOption = False,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples.")] = 0,
    weights: WeightsOption = "fp32",
) -> None:
    """How often answers about a passage say what is not in it, plainly asked and respectfully."""
    with errors_shown():
        from evals.hallucination import UNSUPPORTED, measure_hallucination
        from podium.progress import quieten_libraries
        from podium.run.recipe import validate_reward

        quieten_libraries()
        who = validate_reward(scorer or UNSUPPORTED, "--scorer")
        found = measure_hallucination(
            model, file, who, samples, max_new_tokens, top_p, ask, limit, seed, weights
        )
        typer.echo(json.dumps(found, indent=2))


def toxicity(
    model: ModelArg,
    file: Annotated[Path, typer.Argument(help="Beginnings of sentences, one a line.")],
    scorer: Annotated[
        str | None,
        typer.Option(help="Who scores, as in ppo.reward; otherwise a linear model of rude words."),
    ] = None,
    samples: Annotated[int, typer.Option(min=1, help="Continuations a prompt.")] = 25,
    max_new_tokens: Annotated[int, typer.Option(min=1, help="Of one continuation.")] = 20,
    top_p: Annotated[float, typer.Option(min=0.0, max=1.0, help="Of sampling.")] = 0.9,
    ask: AskOption = False,
    limit: Limit = None,
    seed: Annotated[int, typer.Option(min=0, help="Of the samples.")] = 0,
    weights: WeightsOption = "fp32",
) -> None:
    """How toxic continuations are, as prompts stand and after a request to be respectful."""
    with errors_shown():
        from evals.toxicity import PROFANITY, measure_toxicity
        from podium.progress import quieten_libraries
        from podium.run.recipe import validate_reward

        quieten_libraries()
        who = validate_reward(scorer or PROFANITY, "--scorer")
        found = measure_toxicity(
            model, file, who, samples, max_new_tokens, top_p, ask, limit, seed, weights
        )
        typer.echo(json.dumps(found, indent=2))


def truthful(
    model: ModelArg,
    file: Annotated[Path, typer.Argument(help="TruthfulQA's mc_task.json, or rows of its set.")],
    limit: Limit = None,
    weights: WeightsOption = "fp32",
) -> None:
    """TruthfulQA's multiple choice, MC1 and MC2, by lm-eval's tasks on a local file."""
    with errors_shown():
        from evals.truthful import measure_truthful
        from podium.progress import quieten_libraries

        quieten_libraries()
        typer.echo(json.dumps(measure_truthful(model, file, limit, weights), indent=2))
