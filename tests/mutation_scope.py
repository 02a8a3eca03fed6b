"""What `tests.mutation` measures: the files of each score and the tests that belong to them, the
changes that are made, and the mutants that no test must kill.
"""

import re
from collections.abc import Iterator
from itertools import islice
from typing import Any

import libcst as cst
from mutmut.mutation import file_mutation, mutators

# A folder: its files, and the tests of them, by file or all of a folder.
FOLDERS: dict[str, tuple[str, str]] = {
    "ppo": ("ppo/*.py", "ppo"),
    "reward": ("reward/*.py", "reward"),
    "evals": ("evals/*.py", "evals"),
    "sft": ("sft/*.py", "sft"),
    "pretrain": ("pretrain/*.py", "pretrain"),
    "dpo": ("dpo/*.py", "dpo"),
    "data": (
        "data/packing.py data/template.py data/mixture.py data/agreement.py",
        "data/test_packing.py data/test_template.py data/test_tool_turns.py data/test_turn_ends.py "
        "data/test_mixture.py data/test_agreement.py podium/test_attention.py ppo/test_inputs.py "
        "ppo/test_update.py evals/test_perplexity.py app/labeling/test_export_oracle.py",
    ),
    "podium": (
        "podium/statistics.py podium/schedule.py podium/run/lineage.py podium/run/context.py "
        "podium/run/inputs.py podium/sampling/*.py",
        "podium/test_statistics.py podium/test_schedule.py podium/run/test_context.py "
        "podium/run/test_context_pieces.py podium/run/test_inputs.py podium/run/test_lineage.py "
        "podium/test_models.py "
        "podium/run/test_recipe.py podium/run/test_recipe_keys.py podium/sampling "
        "podium/test_keys.py podium/test_output_head.py podium/test_vocabulary.py "
        "ppo/test_rollout.py sft/test_mixtures.py app/labeling/test_results.py "
        "reward/test_calibration.py",
    ),
    "labeling": (
        "app/labeling/collecting.py app/labeling/exporting.py",
        "app/labeling/test_export_oracle.py app/labeling/test_import_export.py "
        "app/labeling/test_simulate.py app/labeling/test_poisoned.py",
    ),
}
# What a figure looks like is seen, not asserted; lm-eval has its own tests and takes long to import.
LEFT_OUT = {"evals/plots.py", "reward/report.py", "pretrain/ladder_plot.py", "evals/harness.py"}
# What is called so speaks to a person: its wording is not mutated, nor is that of errors.
SPEAKS = {"say", "print", "progress", "progress_bar", "warn", "warning", "info", "error"}


class Visitor(file_mutation.MutationVisitor):
    """mutmut's, with decorated functions too, and without errors, assertions and messages."""

    def _skip_node_and_children(self, node: cst.CSTNode) -> bool:
        if isinstance(node, cst.FunctionDef):
            return False
        if isinstance(node, cst.Call) and isinstance(node.func, cst.Name | cst.Attribute):
            name = node.func if isinstance(node.func, cst.Name) else node.func.attr
            if name.value in SPEAKS:
                return True
        return isinstance(node, cst.Raise | cst.Assert) or super()._skip_node_and_children(node)


def first_change(node: cst.BaseString) -> Iterator[cst.BaseString]:
    """mutmut's first change of a string; the others, upper and lower case, ask the same again."""
    yield from islice(mutators.operator_string(node), 1)


OPERATORS: Any = [
    (kind, first_change if operator is mutators.operator_string else operator)
    for kind, operator in mutators.mutation_operators
]


# What begins so can be seen by no test: such mutants are no measure of the tests.
SAME = "the same program: "
WORDS = "words for a person: "
EQUIVALENT = (SAME, WORDS)
# Arguments whose loss is the same program wherever the fast tests run, whoever is called.
HARMLESS = (
    (r"device=[\w.]+(\(\w*\))?", SAME + "on a CPU; a GPU would say that two devices meet"),
    (r"strict=True", SAME + "an assertion about lengths, which agree"),
)


def reason_of(file: str, before: str, after: str) -> str | None:
    """Why no test must see the mutant of `file` by which the lines `before` became `after`; None
    where one must.
    """
    for argument, why in HARMLESS:
        name = argument.partition("=")[0]
        become = [re.sub(argument, into, before) for into in ("", f"{name}=None", f"{name}=False")]
        if re.search(argument, before) and _bare(after) in map(_bare, become):
            return why
    return REASONS.get((file, before, after))


def _bare(text: str) -> str:
    """Code without what moves when an argument goes: spaces, lines and commas."""
    return re.sub(r"[\s,]", "", text)


# (file, the lines that went, the lines that came): why no test must see it.
MANY = "seen by the slow tests of several processes alone: "
REASONS: dict[tuple[str, str, str], str] = {
    (
        "app/labeling/collecting.py",
        "self.prompts: dict[int, PromptRow] = {}",
        "self.prompts: dict[int, PromptRow] = None",
    ): SAME + "`load` sets it before anybody reads it",
    (
        "app/labeling/collecting.py",
        ".join(Person, Person.id == Assignment.person_id)",
        ".join(Person, )",
    ): SAME + "SQLAlchemy finds the only foreign key",
    (
        "data/agreement.py",
        "total = sum((c.sum(axis=0) for c in counts), np.zeros(2, dtype=np.int64))",
        "total = sum((c.sum(axis=0) for c in counts), np.zeros(2, dtype=None))",
    ): SAME + "counts are exact as floats too",
    (
        "data/agreement.py",
        'return _alpha([_value_counts(_rating_columns(task), 7) for task in tasks], "ordinal")',
        'return _alpha([_value_counts(_rating_columns(task), 8) for task in tasks], "ordinal")',
    ): SAME + "a rating that nobody gives changes no alpha",
    (
        "data/agreement.py",
        "return np.array([row + [0] * (width - len(row)) for row in rows], dtype=np.int64)",
        "return np.array([row + [0] * (width - len(row)) for row in rows], )",
    ): SAME + "whole numbers are int64 by default",
    (
        "data/template.py",
        'words = shorten(messages[0].content, 60, placeholder=" ...")',
        'words = shorten(messages[0].content, 61, placeholder=" ...")',
    ): WORDS + "how much of a conversation an error shows",
    (
        "pretrain/presets.py",
        "near = difflib.get_close_matches(name, PRESETS, n=1)",
        "near = difflib.get_close_matches(name, PRESETS, n=2)",
    ): SAME + "the first one is told",
    (
        "pretrain/updates.py",
        "summed += next_token_nll(engine, ids, separator_id) * (counting > 0)",
        "summed += next_token_nll(engine, ids, separator_id) * (counting >= 0)",
    ): MANY + "in one process every window counts",
    (
        "pretrain/train.py",
        "lambda folder: save_model(model, tokenizer, folder, weights),",
        "lambda folder: save_model(model, tokenizer, folder, None),",
    ): MANY + "in one process the model holds its weights",
    (
        "pretrain/train.py",
        "pad_token_id=tokenizer.pad_token_id,",
        ")",
    ): SAME + "one prompt has no padding",
    (
        "sft/train.py",
        "moved(make_reward(config.reward, stage), stage.device),",
        "moved(make_reward(config.reward, stage), None),",
    ): SAME + "on a CPU; a GPU would say that two devices meet",
    (
        "sft/train.py",
        "steps = len(rows) // config.batch_size",
        "steps = len(rows) / config.batch_size",
    ): SAME + "the rows are laid out in whole batches",
    (
        "data/template.py",
        'names = ", ".join(f"`{name}`" for name in tokenizer.convert_ids_to_tokens(list(stops)))',
        'names = "XX, XX".join(f"`{name}`" for name in tokenizer.convert_ids_to_tokens(list(stops)))',
    ): WORDS + "a line of a model card",
    (
        "app/labeling/collecting.py",
        ".join(Batch, Batch.id == Task.batch_id)",
        ".join(Batch, )",
    ): SAME + "SQLAlchemy finds the only foreign key",
    (
        "ppo/learner.py",
        'self.device.type == "cuda" or count_parameters(policy) > BF16_COPY_FROM',
        'self.device.type == "cuda" or count_parameters(policy) >= BF16_COPY_FROM',
    ): SAME + "but at 32,000,000 parameters to the digit, where either copy will do",
    (
        "ppo/advantages.py",
        '_expect_shape("logprobs", logprobs, action_mask.shape)',
        "_expect_shape(None, logprobs, action_mask.shape)",
    ): WORDS + "the name in an error",
    (
        "ppo/advantages.py",
        '_expect_shape("rewards", rewards, action_mask.shape)',
        "_expect_shape(None, rewards, action_mask.shape)",
    ): WORDS + "the name in an error",
    (
        "evals/compare.py",
        "return context_of(read_config(contestant.folder)) or 10**9",
        "return context_of(read_config(contestant.folder)) or 11**9",
    ): SAME + "no prompt is as long as either",
    (
        "ppo/learner.py",
        "compiled=config.compile,",
        "compiled=None,",
    ): "seen by the slow tests of torch.compile alone: without it the same program",
    (
        "podium/statistics.py",
        'if connected_components(table > 0, directed=True, connection="strong")[0] > 1:',
        'if connected_components(table > 0, connection="strong")[0] > 1:',
    ): SAME + "directed is scipy's default",
    (
        "sft/batches.py",
        "owed = np.floor(np.arange(batches + 1) * (share * batch_size) + 1e-9).astype(int)",
        "owed = np.floor(np.arange(batches + 1) * (share * batch_size) + 1.000000001).astype(int)",
    ): SAME + "one more everywhere, and differences are taken",
    (
        "sft/validation.py",
        "model(input_ids=ids, attention_mask=attention, use_cache=False).logits[:, :-1].float()",
        "model(input_ids=ids, use_cache=False).logits[:, :-1].float()",
    ): SAME + "padding stands on the right, where no token of a causal model looks",
    (
        "podium/statistics.py",
        "found = _locate(np.asarray(outcome, dtype=float), np.asarray(prompt_id), bounds)",
        "found = _locate(np.asarray(outcome, ), np.asarray(prompt_id), bounds)",
    ): SAME + "what counts by them reads them as floats",
    (
        "podium/sampling/decoder.py",
        "self.cache.move(movers, holes, slice(int(self.start.min()), self.end))",
        "self.cache.move(movers, holes, slice(int(self.start.min()), None))",
    ): SAME + "the columns beyond are written before anybody sees them",
    (
        "podium/sampling/joined.py",
        "self.rows += 1",
        "self.rows -= 1",
    ): SAME + "a row's number is its name, and no two are alike downwards either",
    (
        "podium/run/inputs.py",
        "self.logbook(f\"{kind or 'data'} ({split or source}{times}): {report}\")",
        "self.logbook(f\"{kind or 'XXdataXX'} ({split or source}{times}): {report}\")",
    ): WORDS + "a line of the logbook",
    (
        "sft/train.py",
        "scorer = None",
        'scorer = ""',
    ): SAME + "it is asked only whether there is one",
    (
        "reward/sources.py",
        'splits = split_rankings(found, "data.rankings")',
        "splits = split_rankings(found, None)",
    ): WORDS + "the name in an error",
    (
        "reward/sources.py",
        "{s: stage.read(file, Ranking) for s, file in files.items() if stage.has_file(file)}, source",
        "{s: stage.read(file, Ranking) for s, file in files.items() if stage.has_file(file)}, None",
    ): WORDS + "the name in an error",
    (
        "data/agreement.py",
        "score = np.array(_score(kinds, tie_rule), dtype=float)",
        "score = np.array(_score(kinds, tie_rule), )",
    ): SAME + "the agreements are a float, whatever the rule",
    (
        "data/packing.py",
        "model(input_ids=torch.tensor([ids], device=weight.device), use_cache=False).logits[0]",
        "model(input_ids=torch.tensor([ids], device=weight.device), use_cache=True).logits[0]",
    ): SAME + "a cache that nobody reads changes no logit",
    (
        "data/packing.py",
        "model(input_ids=torch.tensor([ids], device=weight.device), use_cache=False).logits[0]",
        "model(input_ids=torch.tensor([ids], device=weight.device), use_cache=None).logits[0]",
    ): SAME + "a cache that nobody reads changes no logit",
    (
        "evals/overoptimisation.py",
        '"RL",',
        "None,",
    ): SAME + "the fit asks for the other form alone",
    (
        "evals/dialogue.py",
        "tokenizer, model = load_tokenizer(folder), load_to_answer(folder, weights, device())",
        "tokenizer, model = load_tokenizer(folder), load_to_answer(folder, weights, None)",
    ): SAME + "on a CPU, where a model is moved nowhere",
    (
        "pretrain/scaling.py",
        "return _fitted(law, named, x, y, [(y.mean(), 0.2, 0.4)], seed, draws)",
        "return _fitted(law, named, x, y, [(y.mean(), 1.2, 0.4)], seed, draws)",
    ): SAME + "Huber's loss of a straight line is convex: every start ends at its one minimum",
    (
        "pretrain/scaling.py",
        "(y.min() + np.log(1 - share), exponent, *([y.min() + np.log(share)] * floor))",
        "(y.min() - np.log(1 - share), exponent, *([y.min() + np.log(share)] * floor))",
    ): SAME + "other starts of a fit; on a hundred made-up ladders its numbers agreed to 5e-6",
}
