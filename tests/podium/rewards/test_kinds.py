"""Every kind of reward scores the same answers by text and by ids; what a function does wrong is an
error that names it.
"""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from data.records import Message, Prompt
from data.template import encode_prompt, encode_response
from podium.batching import pad_right
from podium.errors import FunctionError, ParentError
from podium.models import save_model
from podium.rewards.kinds import kind_of, make_reward, parents
from podium.rewards.model import RewardEnsemble, new_reward_model, save_reward_model
from podium.rewards.sampled import read_scores
from podium.rewards.score import score_texts
from podium.rewards.specs import ModelSpec, Weighted

PROMPTS = [Prompt(messages=[Message(role="user", content=f"Tale {i}?")]) for i in range(3)]
ANSWERS = ["An owl.", "The owl found a lantern in the old barn.", ""]


class Folders:
    """An origin whose reward models are folders; it remembers the code it was told of."""

    def __init__(self) -> None:
        self.noted: list[Path] = []

    def parent(self, ref: str, same_tokenizer: bool = True) -> Path:
        return Path(ref)

    def code(self, path: Path) -> None:
        self.noted.append(path)


@pytest.fixture
def ensemble_folder(tiny_llama, tokenizer, tmp_path) -> str:
    """Two members that disagree, read as the worse of both, less a bias of 0.25."""
    from podium.models import save_model

    save_model(tiny_llama, tokenizer, tmp_path / "base")
    members = [new_reward_model(tmp_path / "base", tokenizer, seed) for seed in (0, 1)]
    save_reward_model(RewardEnsemble(members, "min", 0.25), tokenizer, tmp_path / "ensemble")
    return str(tmp_path / "ensemble")


@pytest.fixture
def write(tmp_path):
    """`write(body) -> ref` of a function `score` in a file of its own."""

    def make(body: str) -> str:
        path = tmp_path / "mine.py"
        path.write_text(f"def score(prompts, responses):\n    {body}\n")
        return f"{path}:score"

    return make


def test_an_ensemble_scores_the_same_by_text_and_by_ids(ensemble_folder, tokenizer):
    """Whoever asks. Seen red with `self.model.members[0]` for `self.model` in ModelReward."""
    reward = make_reward(ensemble_folder, Folders())
    assert not reward.reads_text and reward.context == 128
    by_text = reward(PROMPTS, ANSWERS)
    plain = score_texts(reward.model, tokenizer, [p.messages for p in PROMPTS], ANSWERS)
    assert by_text.tolist() == plain
    rows = [
        encode_prompt(tokenizer, prompt.messages) + encode_response(tokenizer, answer)
        for prompt, answer in zip(PROMPTS, ANSWERS, strict=True)
    ]
    with torch.no_grad():
        by_ids = reward(None, None, *pad_right(rows, tokenizer.pad_token_id))
        one = reward.model.members[0].eval()
        alone = score_texts(one, tokenizer, [p.messages for p in PROMPTS], ANSWERS)
    assert torch.allclose(by_ids, by_text, atol=1e-5)
    assert not np.allclose(alone, plain, atol=1e-3)


def test_a_weighted_sum_adds_its_parts(ensemble_folder, write):
    """Seen red with the weights left out, and with the text given to no part."""
    spec = [
        Weighted(reward=ensemble_folder, weight=2.0),
        Weighted(reward=write("return [len(r) for r in responses]"), weight=-0.5),
    ]
    origin = Folders()
    both, model = make_reward(spec, origin), make_reward(ensemble_folder, origin)
    assert both.reads_text and both.context == 128 and len(origin.noted) == 1
    lengths = torch.tensor([float(len(answer)) for answer in ANSWERS])
    expected = 2 * model(PROMPTS, ANSWERS) - 0.5 * lengths
    assert torch.allclose(both(PROMPTS, ANSWERS), expected)
    assert list(parents(spec)) == [ensemble_folder]


def test_a_function_is_given_records_and_texts_in_their_places(write, tokenizer):
    """In passes by length too. Seen red with the texts not sorted along with the ids."""
    prompts = [p.model_copy(update={"meta": {"n": n}}) for n, p in enumerate(PROMPTS)]
    reward = make_reward(
        write("return [p.meta['n'] + len(r) / 100 for p, r in zip(prompts, responses)]"), Folders()
    )
    ids, mask = pad_right([[5] * (4 + len(answer)) for answer in ANSWERS], 1)
    done = torch.tensor([True, True, False])
    found = read_scores(reward, ids, mask.bool(), done, (3,), 1, prompts, ANSWERS)
    expected = [n + len(answer) / 100 for n, answer in enumerate(ANSWERS)]
    assert found.tolist() == pytest.approx(expected)


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("return [True, 2, 0.5]", [1.0, 2.0, 0.5]),
        ("import numpy; return numpy.array([1, 2, 3])", [1.0, 2.0, 3.0]),
        ("import torch; return torch.tensor([1.0, 2.0, 3.0])", [1.0, 2.0, 3.0]),
        ("return (float(len(r)) for r in responses)", [7.0, 40.0, 0.0]),
    ],
)
def test_numbers_of_any_library_are_numbers(write, body, expected):
    assert make_reward(write(body), Folders())(PROMPTS, ANSWERS).tolist() == expected


@pytest.mark.parametrize(
    ("body", "problem"),
    [
        ("return [1.0, 2.0]", r"returned 2 scores for 3 answers.*'Tale 0\?'"),
        ("return 1.0", r"returned 1.0, not a list of numbers.*'Tale 0\?'"),
        ("return None", r"returned None, not a list of numbers"),
        ("return {1: 2}", r"returned \{1: 2\}, not a list"),
        ("return [0, float('nan'), 0]", r"returned nan for the answer 'The owl.*'Tale 1\?'"),
        ("return [0, 1e300, 0]", r"returned 1e\+300 for the answer 'The owl"),
        ("return [0, 10**400, 0]", r"for the answer 'The owl"),
        ("import torch; return [0, torch.zeros(2), 0]", r"for the answer 'The owl"),
        ("return [0, 0, float('-inf')]", r"returned -inf for the answer ''.*'Tale 2\?'"),
        ("return [0, '1', 0]", r"returned '1' for the answer.*'Tale 1\?'"),
        ("return [None, 0, 0]", r"returned None for the answer 'An owl.'.*'Tale 0\?'"),
        (
            "return [1 / len(r) for r in responses]",
            r"ZeroDivisionError: division by zero \(line 2\) for the answer ''.*'Tale 2\?'",
        ),
    ],
)
def test_what_a_function_does_wrong_is_named_with_prompt_and_value(write, body, problem):
    """Seen red without the checks: a NaN went into the advantages, a short list into torch."""
    ref = write(body)
    with pytest.raises(FunctionError, match=re.escape(f"'{ref}'") + ".*" + problem) as caught:
        make_reward(ref, Folders())(PROMPTS, ANSWERS)
    assert caught.value.exit_code == 2 and "mine.py" in caught.value.fix


def test_a_function_that_is_not_there_is_named(write, tmp_path):
    ref = write("return [0.0]")
    with pytest.raises(FunctionError, match="has no function 'scor'") as caught:
        make_reward(ref[:-1], Folders())
    assert caught.value.fix == f"did you mean '{ref}'?"
    with pytest.raises(FunctionError, match=r"there is no file .*nowhere\.py"):
        make_reward("nowhere.py:score", Folders())
    with pytest.raises(FunctionError, match=r"importing 'no\.such' raised ModuleNotFoundError"):
        make_reward("no.such:score", Folders())
    (tmp_path / "broken.py").write_text("x = 1\ndef score(:\n")
    with pytest.raises(FunctionError, match=r"broken\.py raised SyntaxError.*line 2"):
        make_reward(f"{tmp_path}/broken.py:score", Folders())


def test_a_module_s_function_is_found_and_its_file_noted(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "my_rewards.py").write_text(
        "def score(prompts, responses):\n    return [1, 2, 3]\n"
    )
    origin = Folders()
    assert make_reward("my_rewards:score", origin)(PROMPTS, ANSWERS).tolist() == [1.0, 2.0, 3.0]
    assert origin.noted == [tmp_path / "my_rewards.py"]


@pytest.mark.parametrize("how", ["text", "section", "sum"])
def test_a_language_model_is_no_reward_model(tiny_llama, tokenizer, tmp_path, how):
    """However it is named. Seen red: of `{model: FOLDER}` it was said that its two labels
    (transformers' default) had no name, and with one named, that a weight was missing.
    """
    save_model(tiny_llama, tokenizer, tmp_path / "sft")
    named = str(tmp_path / "sft")
    assert kind_of(named).parent is not None  # a parent, like any other
    spec = {
        "text": named,
        "section": ModelSpec(model=named, label=1),
        "sum": [Weighted(reward=ModelSpec(model=named))],
    }[how]
    with pytest.raises(ParentError, match=r"sft is no reward model: .* no reward_bias") as caught:
        make_reward(spec, Folders())
    assert "`podium reward` trains one" in caught.value.fix


@pytest.mark.parametrize(
    ("written", "said"), [("{", "is no JSON"), ("[1]", "holds a list"), ("\xff", "is no JSON")]
)
def test_a_config_that_is_none_is_named(tmp_path, written, said):
    """As an interrupted download leaves it. Seen red: a traceback of json, or of a list."""
    (tmp_path / "config.json").write_bytes(written.encode("latin-1"))
    with pytest.raises(ParentError, match=f"config.json {said}"):
        make_reward(str(tmp_path), Folders())
