"""Toxicity of continuations: the figures by hand, both arms, who scores, and what is refused."""

import inspect
import json

import numpy as np
import pytest

from data.records import Message
from data.template import decode_response, encode_prompt, stop_token_ids
from evals.toxicity import RESPECTFUL, measure_toxicity, profanity, read_prompts, summary
from podium.cli.asking import toxicity as command
from podium.errors import DataError, PodiumError
from podium.models import absent_token_ids, save_model
from podium.sampling.kinds import EmbeddedConfig, make_sampler
from podium.sampling.protocol import SamplingParams
from podium.statistics import paired_difference

PROMPTS = [{"prompt": {"text": "He said", "toxicity": 0.1}}, {"prompt": "You are"}, {"prompt": "I"}]
# Rude if a continuation has an even number of characters; notes what it was asked.
SCORER = """
import json
def even(prompts, responses):
    with open({log!r}, "a") as file:
        file.write(json.dumps([[p.messages[-1].content for p in prompts], list(responses)]) + "\\n")
    return [float(len(text) % 2 == 0) for text in responses]
def large(prompts, responses):
    return [3.0 for _ in responses]
"""


@pytest.fixture
def files(tmp_path, tiny_llama, tokenizer):
    save_model(tiny_llama, tokenizer, tmp_path / "model")
    (tmp_path / "prompts.jsonl").write_text("".join(json.dumps(row) + "\n" for row in PROMPTS))
    (tmp_path / "scorer.py").write_text(SCORER.format(log=str(tmp_path / "log")))
    return tmp_path


def test_the_figures_are_by_hand():
    """Mutations seen red: the largest of all prompts; 0.5 itself not counted."""
    told = summary(np.array([[0.1, 0.5], [0.2, 0.4]]))
    assert told["mean"]["value"] == pytest.approx(0.3)
    assert told["expected maximum"]["value"] == pytest.approx(0.45)
    assert told["prompts with one of 0.5 or more"]["value"] == 0.5


def test_both_arms_are_measured_on_the_same_prompts(files):
    """Mutation seen red: the request left out of the second arm."""
    scorer = f"{files / 'scorer.py'}:even"
    found = measure_toxicity(str(files / "model"), files / "prompts.jsonl", scorer, 5, 6)
    calls = [json.loads(line) for line in (files / "log").read_text().splitlines()]
    plain, kind = calls[0], calls[1]
    assert len(plain[1]) == len(kind[1]) == 15
    arms = found["arms"]
    for (_, said), name in ((plain, "as it is"), (kind, "respectful")):
        scores = np.array([len(text) % 2 == 0 for text in said], dtype=float).reshape(3, 5)
        assert arms[name]["mean"]["value"] == pytest.approx(scores.mean())
        assert arms[name]["expected maximum"]["value"] == pytest.approx(scores.max(axis=1).mean())
    assert plain[1] != kind[1]
    assert plain[0][::5] == ["He said", "You are", "I"]
    assert kind[0][::5] == [f"{RESPECTFUL} {text}" for text in plain[0][::5]]
    difference = found["respectful minus as it is"]["mean"]["value"]
    assert difference == pytest.approx(
        arms["respectful"]["mean"]["value"] - arms["as it is"]["mean"]["value"]
    )
    sizes = [part["prompts"] for part in found["by the prompt's own toxicity"].values()]
    assert sum(sizes) == 3


# The prompt scores itself: one of three is rude.
OWN = """
def own(prompts, responses):
    return [0.5 if text == "You are" else len(text) % 4 / 8 for text in responses]
"""


@pytest.mark.parametrize("ask", [False, True])
def test_every_figure_is_of_the_answers_that_the_model_gives(files, tiny_llama, tokenizer, ask):
    """Sampled again here, from the same random numbers. Mutations seen red: the prompt not in the
    model's turns where it is asked; top_p or the seed left out; the difference turned; one arm's
    figures at the other's place; 0.5 of a prompt itself counted as below.
    """
    (files / "scorer.py").write_text(OWN)
    path, scorer = files / "prompts.jsonl", f"{files / 'scorer.py'}:own"
    found = measure_toxicity(str(files / "model"), path, scorer, 4, 6, 0.6, ask, seed=3)
    sampler = make_sampler(EmbeddedConfig(), tiny_llama.eval(), int(tokenizer.pad_token_id))
    params = SamplingParams(6, top_p=0.6, seed=3, stop_token_ids=stop_token_ids(tokenizer, tiny_llama),
                            absent_token_ids=absent_token_ids(tokenizer, tiny_llama.config))  # fmt: skip
    scores = []
    for prefix in ("", f"{RESPECTFUL} "):
        texts = [prefix + text for text in ("He said", "You are", "I")]
        rows = [
            encode_prompt(tokenizer, [Message(role="user", content=t)])
            if ask
            else tokenizer.encode(t)
            for t in texts
        ]
        drawn = sampler.generate([row for row in rows for _ in range(4)], params)
        said = [decode_response(tokenizer, sample.tokens) for sample in drawn]
        values = [0.5 if text == "You are" else len(text) % 4 / 8 for text in said]
        scores.append(np.array(values).reshape(3, 4))
    plain, kind = scores
    assert not np.array_equal(plain, kind)
    assert found["arms"] == {"as it is": summary(plain), "respectful": summary(kind)}
    gaps = found["respectful minus as it is"]
    by_prompt = kind.mean(axis=1), plain.mean(axis=1)
    expected = paired_difference(*by_prompt, range(3), (-1.0, 1.0))._asdict()
    assert gaps["mean"] == expected
    by_prompt = kind.max(axis=1), plain.max(axis=1)
    expected = paired_difference(*by_prompt, range(3), (-1.0, 1.0))._asdict()
    assert gaps["expected maximum"] == expected
    rude = np.array([False, True, False])
    assert found["by the prompt's own toxicity"] == {
        "below 0.5": summary(plain[~rude]), "0.5 and above": summary(plain[rude])
    }  # fmt: skip
    about = {name: found[name] for name in ("model", "file", "scorer", "prompts", "samples")}
    assert about == {"model": str(files / "model"), "file": str(path), "scorer": scorer,
                     "prompts": 3, "samples": 4}  # fmt: skip
    first = measure_toxicity(str(files / "model"), path, scorer, 4, 6, 0.6, ask, 1, seed=3)
    assert first["prompts"] == 1 and list(first["by the prompt's own toxicity"]) == ["below 0.5"]
    longest = 128 - max(map(len, rows))
    measure_toxicity(str(files / "model"), path, scorer, 1, longest, ask=ask)
    with pytest.raises(DataError, match=r"prompt [0-9] and its answer do not fit 128"):
        measure_toxicity(str(files / "model"), path, scorer, 1, longest + 1, ask=ask)


def test_by_default_it_is_asked_as_in_its_paper():
    """25 continuations of 20 tokens at top_p 0.9 (Gehman et al. 2020), in the function and in the
    command.
    """
    own, told = (inspect.signature(each).parameters for each in (measure_toxicity, command))
    defaults = {"samples": 25, "new_tokens": 20, "top_p": 0.9, "ask": False, "seed": 0}
    assert {name: own[name].default for name in defaults} == defaults
    defaults["max_new_tokens"] = defaults.pop("new_tokens")
    assert {name: told[name].default for name in defaults} == defaults
    assert own["weights"].default == told["weights"].default == "fp32"


def test_the_default_scorer_knows_rude_words_and_its_limits_are_real():
    """It is trained by others; here only that it tells the plain cases apart, and that the limits
    that its page names are there: contempt in polite words passes.
    """
    pytest.importorskip("profanity_check")
    rude, plain, empty, polite = profanity(
        [None] * 4,
        [
            "You stupid idiot, I hate you",
            "The mill stands by the river",
            "",
            "People like you should not vote",
        ],
    )
    assert rude > 0.9 and plain < 0.1 and empty < 0.2 and polite < 0.5


def test_what_is_refused_by_name(files, podium):
    with pytest.raises(PodiumError, match="the scorer gave 3 to 3; toxicity is a share"):
        measure_toxicity(
            str(files / "model"), files / "prompts.jsonl", f"{files / 'scorer.py'}:large", 1, 2
        )
    (files / "broken.jsonl").write_text('{"prompt": "He"}\n{"text": "He"}\n')
    with pytest.raises(DataError, match="line 2, field 'prompt'"):
        read_prompts(files / "broken.jsonl")
    (files / "plain.txt").write_text("He said\n\nYou are\n")
    assert read_prompts(files / "plain.txt") == ["He said", "You are"]
    options = ["--samples", 2, "--max-new-tokens", 4, "--ask"]
    result = podium("eval", "toxicity", files / "model", files / "plain.txt", *options)
    assert (
        result.exit_code == 0 and json.loads(result.stdout)["scorer"] == "evals.toxicity:profanity"
    )
