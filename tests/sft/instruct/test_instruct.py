"""Self-instruct: what is asked, what is thrown away, where each record says it comes from, and going
on after a stop.
"""

import json
import random
from collections import Counter

import pytest

from data.jsonl import read_jsonl
from data.records import Demonstration
from podium.errors import DataError, PodiumError
from podium.models import save_model
from podium.sampling.kinds import EmbeddedConfig
from sft.instruct import generate
from sft.instruct.filters import Pool, fault_of, keep_instances
from sft.instruct.generate import Settings, make_tasks
from sft.instruct.prompts import (
    fitting,
    instance_prompt,
    label_prompt,
    list_prompt,
    read_instances,
    read_list,
)
from sft.instruct.tasks import Instance, Task, append, few_shot, read_tasks, whole_rows

SEEDS = [
    Task(
        instruction="Name a fruit.", instances=[Instance(output="plum")], id="a", use_case="ideas"
    ),
    Task(
        instruction="Say the opposite.",
        instances=[Instance(input="warm", output="cold"), Instance(input="big", output="small")],
        id="b",
        use_case="rewrite",
    ),
    Task(
        instruction="Happy or sad?",
        instances=[Instance(input="I smiled.", output="happy")],
        is_classification=True,
        id="c",
    ),
]


def test_rouge_l_is_that_of_a_hand_and_stops_at_seven_tenths():
    """By hand: of 10 and 10 words 7 in order are F = 0.7, no more; 8 are 0.8. Mutation seen red:
    recall in place of F.
    """
    ten = "ana walks to the old mill with her red lantern"
    seven = "ana walks to the old mill with a new friend"
    eight = "ana walks to the old mill with her new friend"
    pool = Pool([ten])
    assert pool.has_like(eight) and not pool.has_like(seven)
    assert not pool.has_like(" ".join(reversed(ten.split())))  # the same words in no order
    assert pool.has_like("Ana walks, to the OLD mill: with her red lantern!")
    longer = ten + " and sings all day of the sun and the moon and the stars"
    assert not pool.has_like(longer)  # every word of it, in order, and F = 20 / 33
    # Four of five words in order, of eight: F = 8 / 13, recall 0.8.
    assert not Pool(["owls sing in the mill"]).has_like("sing owls in the mill all day long")
    assert Pool([longer]).has_like(longer) and not Pool([]).has_like(ten)


def test_the_quick_bound_refuses_nothing_that_rouge_would_not():
    """Against the package alone on 400 random pairs. Mutation seen red: the bound without its 2."""
    from rouge_score.rouge_scorer import RougeScorer

    scorer, rng = RougeScorer(["rougeL"], use_stemmer=False), random.Random(0)
    seen = Counter()
    for _ in range(400):
        first = rng.choices("abcdef", k=rng.randint(1, 8))
        second = list(first)
        for _ in range(rng.randint(0, 4)):
            second.insert(rng.randint(0, len(second)), rng.choice("abcdef"))
        one, two = " ".join(first), " ".join(second)
        alike = scorer.score(one, two)["rougeL"].fmeasure > 0.7
        assert Pool([one]).has_like(two) == alike
        seen[alike] += 1
    assert min(seen.values()) > 50


@pytest.mark.parametrize(
    ("instruction", "fault"),
    [
        ("", "blank"),
        ("Name a fruit", "too short"),
        ("Name a red fruit", None),
        ("word " * 150, None),
        ("word " * 151, "too long"),
        ("Draw a house with a door", "keyword"),
        ("Tell me where to go to eat", "keyword"),
        ("Tell me about a cartographer of roadmaps", None),
        ("Write a program that sorts names", "asks for a program"),
        ("? What is it that you see", "begins with punctuation"),
        ("Ünder the tree sits an owl", "begins with no English character"),
    ],
)
def test_the_papers_rules(instruction, fault):
    """Mutations seen red: a keyword looked for inside words; three words let through."""
    assert fault_of(instruction.strip()) == fault


def test_a_list_is_read_as_it_is_asked_for():
    """Mutation seen red: the last task kept though it was cut off."""
    asked = list_prompt(["Name a\nfruit.", "Say the opposite."])
    assert asked == "Come up with a series of tasks:\n1. Name a fruit.\n2. Say the opposite.\n3."
    said = " Sing a song.\n4. Tell what 3. means\n5 . Name four\nanimals:\n6. Go"
    expected = ["Sing a song.", "Tell what 3. means", "Name four animals"]
    assert read_list(said, finished=False) == (expected, 1)
    assert read_list(said, finished=True) == ([*expected, "Go"], 0)


def test_examples_are_read_as_they_are_asked_for():
    """Input first, and label first. Mutation seen red: input and label read the wrong way round."""
    asked = instance_prompt([SEEDS[1]], "Name a food.", False)
    assert asked.endswith(
        "Task: Say the opposite.\nExample 1\nInput: warm\nOutput: cold\nExample 2\nInput: big\n"
        "Output: small\n\nTask: Name a food.\nExample 1\n"
    )
    said = "Output: bread\nExample 2\nInput: sweet\nOutput: honey\nExample 3\nnothing"
    assert read_instances(said, False, True) == [
        Instance(output="bread"),
        Instance(input="sweet", output="honey"),
        None,
    ]
    assert len(read_instances(said, False, False)) == 2  # the last was cut off
    asked = instance_prompt([SEEDS[2]], "Kind or not?", True)
    assert asked.endswith(
        "Task: Happy or sad?\nClass label: happy\nInput: I smiled.\n\nTask: Kind or not?\n"
        "Class label:"
    )
    said = " kind\nInput: I helped.\nClass label: not\nI laughed at him."
    assert read_instances(said, True, True) == [
        Instance(input="I helped.", output="kind"),
        Instance(input="I laughed at him.", output="not"),
    ]
    told = label_prompt([SEEDS[2], SEEDS[0]], "Kind or not?")
    assert told.endswith(
        "Task: Happy or sad?\nIs it classification? Yes\n\nTask: Name a fruit.\n"
        "Is it classification? No\n\nTask: Kind or not?\nIs it classification?"
    )


def test_examples_that_are_no_answers_are_thrown_away():
    """Mutation seen red: the first of two outputs for one input kept."""
    given = [
        Instance(input="warm", output="cold"),
        Instance(input="warm", output="cold"),
        Instance(input="big", output="small"),
        Instance(input="big", output="tiny"),
        Instance(input="red", output="red"),
        Instance(input="", output="Here is the list:"),
        None,
    ]
    kept, why = keep_instances(given)
    assert kept == [Instance(input="warm", output="cold")]
    assert why == {
        "twice": 1,
        "one input, several outputs": 2,
        "output repeats the input": 1,
        "unfinished": 1,
        "unreadable": 1,
    }


def test_few_shot_prompts_ask_each_example_with_the_others_before_it():
    """InstructGPT's appendix A.1. Mutation seen red: the asked example among those shown."""
    first, second = few_shot(SEEDS[1])
    assert first.messages[0].content == (
        "Say the opposite.\n\nInput: big\nOutput: small\n\nInput: warm\nOutput:"
    )
    assert [m.messages[1].content for m in (first, second)] == ["cold", "small"]
    assert first.meta["few_shot"] == {"task": "b", "shown": 1}
    assert few_shot(SEEDS[0]) == []  # one example shows nothing


def test_as_many_examples_as_fit_and_the_longest_leaves_first():
    """Mutation seen red: the first leaving first, after which the last may be the longest."""

    def write(shown):
        return " ".join(task.instruction for task in shown)

    def ids(text):
        return [0] * len(text.split())

    assert fitting(write, SEEDS, ids, 9)[1] == ["a", "b", "c"]
    assert fitting(write, SEEDS, ids, 8)[1] == ["a", "c"]
    assert fitting(write, SEEDS, ids, 3)[1] == ["a"]
    assert fitting(write, SEEDS, ids, 2) is None


def test_half_a_line_is_cut_off(tmp_path):
    """What a kill leaves. Mutation seen red: the file read as it is."""
    path = tmp_path / "rows.jsonl"
    append(path, {"n": 1})
    append(path, {"n": "zwölf"})
    with path.open("ab") as file:
        file.write('{"n": "zwö'.encode()[:-1])
    assert whole_rows(path) == [{"n": 1}, {"n": "zwölf"}]
    append(path, {"n": 3})
    assert [row["n"] for row in whole_rows(path)] == [1, "zwölf", 3]


def test_seeds_of_the_papers_file_are_read_and_a_slip_is_named(tmp_path):
    path = tmp_path / "seeds.jsonl"
    row = {
        "id": "seed_task_0",
        "name": "breakfast",
        "instruction": "Is there anything I can eat?",
        "instances": [{"input": "", "output": "Yes, oatmeal."}],
        "is_classification": False,
    }
    path.write_text(json.dumps(row) + "\n" + json.dumps(row | {"id": None}) + "\n")
    assert [task.id for task in read_tasks(path)] == ["seed_task_0", "line-2"]
    path.write_text(json.dumps(row | {"instance": []}) + "\n")
    with pytest.raises(DataError, match=r"line 1.*instance"):
        read_tasks(path)


class Writer:
    """Answers that a model could give, by the number of the request: a model of this size says
    nothing that could be read.
    """

    context, new_tokens = 10_000, 64
    asked: list[str]

    def __init__(self, *_args) -> None:
        self.asked = []

    def encode(self, text: str) -> list[int]:
        return list(text.encode())

    def turns(self, instruction: str) -> None:
        return None

    def go_on(self, prompts, stop, seed, greedy=False):
        rng, said = random.Random(seed), []
        for prompt in prompts:
            self.asked.append(bytes(prompt).decode())
            words = " ".join(
                rng.choices(
                    ["ana", "owl", "mill", "red", "sun", "jam", "old", "sings", "walks"], k=7
                )
            )
            said.append((f" Tell of {words}.\n9. Say it", False))
        return said

    def answer(self, prompt, stop):
        self.asked.append(bytes(prompt).decode())
        text = bytes(prompt).decode()
        return ((" yes\nInput: a mill" if text.endswith("label:") else "Output: done"), True)

    def log_odds(self, prompt) -> float:
        return 1.0 if len(prompt) % 2 else -1.0


@pytest.fixture
def folder(tiny_llama, tokenizer, tmp_path):
    save_model(tiny_llama, tokenizer, tmp_path / "model")
    return tmp_path / "model"


SMALL = Settings(tasks=7, requests=2, seed=5)


def test_every_record_says_where_it_comes_from(folder, tmp_path, monkeypatch):
    """Mutations seen red: the rounds' seeds all the same; `shown` of the next request."""
    monkeypatch.setattr(generate, "Asker", Writer)
    report = make_tasks(folder, EmbeddedConfig(), SEEDS, SMALL, tmp_path / "out")
    tasks = read_jsonl(tmp_path / "out/tasks.jsonl", Task)
    assert report["tasks"] == len(tasks) == 7 == len({t.instruction for t in tasks})
    assert {t.is_classification for t in tasks} == {True, False}
    refused = sum(report["instructions refused"].values())
    kept = sum(len(r["kept"]) for r in whole_rows(tmp_path / "out/rounds.jsonl"))
    assert report["instructions said"] == kept + refused
    assert report["instructions refused"]["cut off"] == 2 * report["rounds"]
    for number, task in enumerate(tasks):
        made = task.meta["made"]
        assert made["model"] == str(folder) and len(made["sha256"]) == 64
        assert set(made["shown"]) <= {"a", "b", "c", *(t.id for t in tasks[:number])}
        assert task.id.startswith(f"made-5-{made['round']:04d}-")
        assert set(made["examples_from"]) <= {"a", "b", "c"}
    demos = read_jsonl(tmp_path / "out/demonstrations.jsonl", Demonstration)
    assert len(demos) == report["examples"] and all(d.source == "self-instruct" for d in demos)
    labelled = next(t for t in tasks if t.is_classification)
    assert labelled.instances == [Instance(input="a mill", output="yes")]


@pytest.mark.parametrize("lines", [1, 3])
def test_stopped_anywhere_it_ends_in_the_same_files(folder, tmp_path, monkeypatch, lines):
    """As after a kill -9 in the middle of a line. Mutation seen red: random numbers that go on from
    the last round's in place of the round's own.
    """
    monkeypatch.setattr(generate, "Asker", Writer)
    make_tasks(folder, EmbeddedConfig(), SEEDS, SMALL, tmp_path / "whole")
    out = tmp_path / "stopped"
    out.mkdir()
    for name in ("settings.json", "rounds.jsonl", "answers.jsonl"):
        content = (tmp_path / "whole" / name).read_bytes()
        if name == "rounds.jsonl":
            content = b"".join(content.splitlines(keepends=True)[:lines]) + b'{"round": 7, "ke'
        if name != "answers.jsonl" or lines == 3:
            (out / name).write_bytes(content if name != "answers.jsonl" else content[:-30])
    make_tasks(folder, EmbeddedConfig(), SEEDS, SMALL, out)
    for name in ("tasks.jsonl", "demonstrations.jsonl", "report.json", "rounds.jsonl"):
        assert (out / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    with pytest.raises(PodiumError, match="tasks of other settings"):
        make_tasks(folder, EmbeddedConfig(), SEEDS[:2], SMALL, out)


def test_a_model_that_has_nothing_new_to_say_ends(folder, tmp_path, monkeypatch):
    """Mutation seen red: no patience, and no end."""

    class Parrot(Writer):
        def go_on(self, prompts, stop, seed, greedy=False):
            return [(" Say the opposite of it now.", True) for _ in prompts]

    monkeypatch.setattr(generate, "Asker", Parrot)
    settings = Settings(tasks=50, requests=3, patience=4)
    report = make_tasks(folder, EmbeddedConfig(), SEEDS, settings, tmp_path / "out")
    assert report["tasks"] == 1 and report["rounds"] == 5
    assert report["instructions refused"] == {"like another task": 14}


def test_user_based_tasks_are_written_for_a_use_each(folder, tmp_path, monkeypatch):
    monkeypatch.setattr(generate, "Asker", Writer)
    settings = Settings(tasks=4, requests=2, uses=("songs", "letters"))
    make_tasks(folder, EmbeddedConfig(), SEEDS, settings, tmp_path / "out")
    tasks = read_jsonl(tmp_path / "out/tasks.jsonl", Task)
    assert {t.use_case for t in tasks} == {"songs", "letters"}
    assert all(t.meta["source"] == "self-instruct, user-based" for t in tasks)


def test_a_real_model_is_asked(folder, tmp_path, podium):
    """The command, the sampler and a model that says nothing of worth: every word is accounted
    for.
    """
    seeds = tmp_path / "seeds.jsonl"
    seeds.write_text("".join(task.model_dump_json() + "\n" for task in SEEDS))
    options = ["--seeds", seeds, "--tasks", 3, "--patience", 1, "--max-new-tokens", 24]
    result = podium("instruct", "self", folder, "--out", tmp_path / "out", *options)
    assert result.exit_code == 0, result.output
    report = json.loads(result.stdout[result.stdout.index("{") :])
    assert report["rounds"] >= 1 and report["instructions said"] > 0
