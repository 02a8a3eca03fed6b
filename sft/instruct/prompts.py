"""What a model is asked when it makes up tasks, and how its answer is read: the templates of
Self-Instruct (Wang et al. 2022, appendix A), as text to be continued.
"""

import random
import re
from collections.abc import Callable, Sequence

from sft.instruct.tasks import Instance, Task

LIST = "Come up with a series of tasks:\n"
USES = "Come up with tasks that people ask for who have this use in mind.\n\n"
LABELS = (
    "Can the following task be regarded as a classification task with finite output labels?\n\n"
)
INPUT_FIRST = (
    "Come up with examples for the following tasks. Try to generate multiple examples when "
    "possible. If the task doesn't require additional input, you can generate the output "
    "directly.\n\n"
)
OUTPUT_FIRST = (
    "Given the classification task definition and the class labels, generate an input that "
    "corresponds to each of the class labels. If the task doesn't require input, just generate the "
    "correct class label.\n\n"
)
VERDICTS = (" Yes", " No")


def one_line(text: str) -> str:
    """Without the line breaks, which mean something in a request."""
    return re.sub(r"\s+", " ", text).strip()


def list_prompt(shown: Sequence[str]) -> str:
    """A numbered list that stops where the next number is due."""
    lines = "".join(f"{n}. {one_line(text)}\n" for n, text in enumerate(shown, start=1))
    return f"{LIST}{lines}{len(shown) + 1}."


def read_list(text: str, finished: bool) -> tuple[list[str], int]:
    """The instructions of a continuation of `list_prompt`, and how many were cut off (the last,
    where the continuation did not end by itself).
    """
    found = [one_line(part).rstrip(":") for part in re.split(r"\n\s*\d+\s?\.", text)]
    if not finished:
        return found[:-1], 1
    return found, 0


def use_prompt(shown: Sequence[Task], use: str) -> str:
    """Examples of other uses, and then this one."""
    told = "".join(f"Use: {t.use_case}\nTask: {one_line(t.instruction)}\n\n" for t in shown)
    return f"{USES}{told}Use: {use}\nTask:"


def label_prompt(shown: Sequence[Task], instruction: str) -> str:
    """Examples of both kinds; the model's own ` Yes` or ` No` is the verdict."""
    told = "".join(
        f"Task: {one_line(t.instruction)}\nIs it classification?{VERDICTS[not t.is_classification]}"
        "\n\n"
        for t in shown
    )
    return f"{LABELS}{told}Task: {one_line(instruction)}\nIs it classification?"


def instance_prompt(shown: Sequence[Task], instruction: str, classification: bool) -> str:
    """Input first, or of a classification the label first, which else would be the same one each
    time.
    """
    head = OUTPUT_FIRST if classification else INPUT_FIRST
    write = _label_first if classification else _input_first
    told = "".join(f"Task: {one_line(t.instruction)}\n{write(t.instances)}\n" for t in shown)
    begun = "Class label:" if classification else "Example 1\n"
    return f"{head}{told}Task: {one_line(instruction)}\n{begun}"


def _input_first(instances: Sequence[Instance]) -> str:
    told = ""
    for number, one in enumerate(instances, start=1):
        told += f"Example {number}\n"
        told += f"Input: {one_line(one.input)}\n" if one.input else ""
        told += f"Output: {one_line(one.output)}\n"
    return told


def _label_first(instances: Sequence[Instance]) -> str:
    return "".join(
        f"Class label: {one_line(one.output)}\nInput: {one_line(one.input)}\n" for one in instances
    )


def read_instances(text: str, classification: bool, finished: bool) -> list[Instance | None]:
    """The examples in a continuation of `instance_prompt`; None for each that is none."""
    parts = re.split(r"Class label:" if classification else r"\n?Example \d+\s*\n?", text)
    if not finished:
        parts = parts[:-1] if len(parts) > 1 else parts
    read = _read_label_first if classification else _read_input_first
    return [read(part) for part in parts]


def _read_input_first(part: str) -> Instance | None:
    given, said, output = part.partition("Output:")
    if not said or not output.strip():
        return None
    return Instance(input=given.strip().removeprefix("Input:").strip(), output=output.strip())


def _read_label_first(part: str) -> Instance | None:
    label, _, rest = part.strip().partition("\n")
    if not label.strip():
        return None
    return Instance(input=rest.strip().removeprefix("Input:").strip(), output=label.strip())


def fitting(
    write: Callable[[Sequence[Task]], str],
    shown: Sequence[Task],
    encode: Callable[[str], list[int]],
    room: int,
) -> tuple[list[int], list[str]] | None:
    """The ids of a prompt with as many of the examples as `room` tokens hold, the longest leaving
    first, and the ids of those that stayed; None where not even one does.
    """
    kept = list(shown)
    while kept:
        ids = encode(write(kept))
        if len(ids) <= room:
            return ids, [str(task.id) for task in kept]
        kept.remove(max(kept, key=_length))
    return None


def _length(task: Task) -> int:
    return len(task.instruction) + sum(len(one.input) + len(one.output) for one in task.instances)


def drawn(rng: random.Random, tasks: Sequence[Task], count: int) -> list[Task]:
    """Up to so many of them, in random order."""
    return rng.sample(list(tasks), min(count, len(tasks)))
