"""One reading of the reward model, whatever the padding, the path or the file it came from."""

import json

import pytest
import torch
from transformers import (
    AutoModelForSequenceClassification,
    MistralConfig,
    MistralForSequenceClassification,
    MptConfig,
    MptForSequenceClassification,
)

from data.records import Message, Prompt
from podium.batching import pad_right
from podium.errors import DivergenceError, ParentError, PodiumError
from podium.rewards.foreign import load_foreign
from podium.rewards.model import (
    RewardEnsemble,
    load_reward_model,
    new_reward_model,
    save_reward_model,
)
from podium.rewards.score import (
    check_shared_prefix,
    score,
    score_shared_prefix,
    score_texts,
    token_values,
)
from podium.rewards.specs import ModelSpec
from reward.score_file import score_file
from tests.podium.rewards.served import serving
from tests.podium.rewards.strangers import save_stranger

SEQUENCES = [[0, 4, 9, 30, 31, 2], [0, 4, 9, 30, 2], [0, 4, 40, 41, 42, 43, 44, 45, 2], [0, 2]]


def padded(sequences, side, extra, pad=1):
    """(ids, mask) with `extra` columns of padding more than needed, on either side."""
    longest = max(map(len, sequences)) + extra
    empty = [longest - len(ids) for ids in sequences]
    if side == "right":
        rows = [[*ids, *[pad] * n] for ids, n in zip(sequences, empty, strict=True)]
        mask = [[1] * (longest - n) + [0] * n for n in empty]
    else:
        rows = [[*[pad] * n, *ids] for ids, n in zip(sequences, empty, strict=True)]
        mask = [[0] * n + [1] * (longest - n) for n in empty]
    return torch.tensor(rows), torch.tensor(mask)


@pytest.mark.parametrize(("side", "extra"), [("right", 0), ("right", 7), ("left", 0), ("left", 7)])
def test_score_does_not_depend_on_padding(reward_model, side, extra):
    """Red when `_last` takes the last column, and when `positions` ignore the mask (left
    padding).
    """
    alone = torch.cat([score(reward_model, *padded([ids], "right", 0)) for ids in SEQUENCES])
    torch.testing.assert_close(
        score(reward_model, *padded(SEQUENCES, side, extra)), alone, atol=1e-5, rtol=0
    )


def test_the_saved_model_is_plain_hugging_face(reward_model, tokenizer, tmp_path):
    """AutoModelForSequenceClassification's logit less reward_bias is our score. Red when the bias
    is added.
    """
    save_reward_model(reward_model, tokenizer, tmp_path / "final")
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "final").eval()
    ids, mask = padded(SEQUENCES, "right", 3, tokenizer.pad_token_id)
    logits = theirs(input_ids=ids, attention_mask=mask).logits
    assert logits.shape == (4, 1)
    ours, _ = load_reward_model(tmp_path / "final")
    torch.testing.assert_close(
        score(ours, ids, mask), logits[:, 0] - theirs.config.reward_bias, atol=1e-5, rtol=0
    )


def test_token_values_end_in_the_score(reward_model):
    """The value function starts as the reward model: same head, same bias. Red when token_values
    drops the bias.
    """
    ids, mask = padded(SEQUENCES, "right", 2)
    values = token_values(reward_model, ids, mask)
    assert values.shape == ids.shape
    ends = values.gather(1, mask.sum(dim=1, keepdim=True) - 1)[:, 0]
    torch.testing.assert_close(ends, score(reward_model, ids, mask))


def test_shared_prefix_gives_the_same_scores_and_gradients(reward_model):
    """Prompts of different length, two and three answers. Red when position_ids start at the padded
    prompt's end, when the cache is detached, and when the prompts' padding is attended to.
    """
    prompts = [[0, 4, 9, 30, 31, 5], [0, 4, 40]]
    answers = [([10, 11, 2], 0), ([12, 2], 0), ([2], 1), ([13, 14, 15, 16, 2], 1), ([17, 2], 1)]
    plain = score(reward_model, *pad_right([prompts[p] + answer for answer, p in answers], 1))
    shared = score_shared_prefix(
        reward_model,
        *pad_right(prompts, 1),
        *pad_right([answer for answer, _ in answers], 1),
        torch.tensor([p for _, p in answers]),
    )
    torch.testing.assert_close(shared, plain, atol=1e-5, rtol=0)

    weights = torch.randn(5, generator=torch.Generator().manual_seed(1))
    expected = torch.autograd.grad(
        (plain * weights).sum(), list(reward_model.parameters()), allow_unused=True
    )
    got = torch.autograd.grad(
        (shared * weights).sum(), list(reward_model.parameters()), allow_unused=True
    )
    for a, b in zip(got, expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)


def test_a_family_that_reads_a_shared_prompt_otherwise_is_refused(reward_model):
    """MPT counts the distance of a token by columns, the padding of a shorter prompt among them;
    Mistral's cache keeps a window of columns. Seen red: both trained on other scores (by 0.19, and
    by 0.11 with a window of 4) and nothing was said. Mutation seen red besides: the window unasked.
    """
    check_shared_prefix(reward_model, 40)
    torch.manual_seed(0)
    ids = {"vocab_size": 64, "num_labels": 1, "pad_token_id": 0, "reward_bias": 0.0}
    mpt = MptConfig(d_model=32, n_heads=4, n_layers=2, expansion_ratio=2, max_seq_len=64, **ids)
    small = {"hidden_size": 32, "intermediate_size": 64, "num_hidden_layers": 1}
    heads = {"num_attention_heads": 4, "num_key_value_heads": 2}
    mistral = MistralForSequenceClassification(
        MistralConfig(sliding_window=24, **small, **heads, **ids)
    )
    check_shared_prefix(mistral, 24)
    with pytest.raises(ParentError, match=r"window of 24 tokens in .* family mistral"):
        check_shared_prefix(mistral, 25)
    with pytest.raises(ParentError, match=r"moves scores by 0\.\d+ in .* family mpt") as caught:
        check_shared_prefix(MptForSequenceClassification(mpt), 40)
    assert "shared_prefix: false" in caught.value.fix


def test_the_head_starts_at_one_over_sqrt_d_plus_one(base_folder, tokenizer):
    """Stiennon et al. 2020. The same seed gives the same head, another seed another."""
    heads = torch.cat(
        [new_reward_model(base_folder, tokenizer, seed).score.weight for seed in range(40)]
    )
    assert heads.std().item() == pytest.approx((32 + 1) ** -0.5, rel=0.05)
    again = new_reward_model(base_folder, tokenizer, 3).score.weight
    torch.testing.assert_close(again[0], heads[3])


def test_dropout_is_off_even_in_training_mode(base_folder, tokenizer):
    """SFT's config may carry its dropout of 0.2. Red when new_reward_model leaves the layers'
    dropout alone.
    """
    config = json.loads((base_folder / "config.json").read_text())
    (base_folder / "config.json").write_text(
        json.dumps(config | {"dropout": 0.2, "attention_dropout": 0.2})
    )
    model = new_reward_model(base_folder, tokenizer, 0).train()
    ids, mask = padded(SEQUENCES, "right", 0)
    assert torch.equal(score(model, ids, mask), score(model, ids, mask))


@pytest.mark.parametrize(
    ("rule", "expected"),
    [("mean", [2.0, 5.0]), ("min", [1.0, 4.0]), ("mean_minus_variance", [1.0, 4.0])],
)
def test_an_ensemble_combines_its_members(rule, expected):
    """Scores 1 and 3, variance 1. Red when `correction=0` is left out and when the bias is not
    subtracted.
    """
    ensemble = RewardEnsemble([], rule, bias=0.5)
    combined = ensemble.combine(torch.tensor([[1.0, 4.0], [3.0, 6.0]]))
    torch.testing.assert_close(combined, torch.tensor(expected) - 0.5)


def test_an_ensemble_survives_saving(base_folder, tokenizer, tmp_path):
    members = [new_reward_model(base_folder, tokenizer, seed).eval() for seed in range(3)]
    ensemble = RewardEnsemble(members, "mean", bias=0.1)
    save_reward_model(ensemble, tokenizer, tmp_path / "final")
    loaded, _ = load_reward_model(tmp_path / "final")
    ids, mask = padded(SEQUENCES, "right", 0)
    expected = torch.stack([score(member, ids, mask) for member in members]).mean(dim=0) - 0.1
    torch.testing.assert_close(score(loaded, ids, mask), expected)


def test_score_texts_keeps_the_order(reward_model, tokenizer):
    prompts = [[Message(role="user", content="Who lives here?")]] * 3
    texts = ["Ana the baker lives in the mill and likes honey.", "", "Bram."]
    one_by_one = [
        score_texts(reward_model, tokenizer, [p], [t])[0]
        for p, t in zip(prompts, texts, strict=True)
    ]
    together = score_texts(reward_model, tokenizer, prompts, texts, batch_tokens=16)
    assert together == pytest.approx(one_by_one, abs=1e-5)


def test_an_answer_over_the_context_is_an_error(reward_model, tokenizer):
    prompt = [Message(role="user", content="Who?")]
    with pytest.raises(
        PodiumError, match=r"answer 2 has \d+ tokens with its prompt; .* context is 128"
    ):
        score_texts(reward_model, tokenizer, [prompt, prompt], ["Ana.", "Zq " * 200])


def test_a_score_of_nan_is_an_error(reward_model, tokenizer):
    with torch.no_grad():
        reward_model.score.weight.fill_(float("nan"))
    with pytest.raises(DivergenceError, match="answer 1 as nan"):
        score_texts(reward_model, tokenizer, [[Message(role="user", content="Who?")]], ["Ana."])


def test_a_language_model_is_no_reward_model(base_folder):
    with pytest.raises(ParentError, match="no reward_bias"):
        load_reward_model(base_folder)


def test_score_file_takes_answers_and_rankings(reward_model, tokenizer, tmp_path):
    save_reward_model(reward_model, tokenizer, tmp_path / "final")
    lines = [
        {"prompt": "Who lives here?", "response": "Ana.", "id": 7},
        {
            "prompt": [{"role": "user", "content": "Who lives here?"}],
            "responses": ["Ana.", "Bram."],
        },
    ]
    (tmp_path / "in.jsonl").write_text("\n".join(map(json.dumps, lines)))
    assert score_file(str(tmp_path / "final"), tmp_path / "in.jsonl", tmp_path / "out.jsonl") == 2
    first, second = map(json.loads, (tmp_path / "out.jsonl").read_text().splitlines())
    assert first["id"] == 7
    assert second["scores"][0] == pytest.approx(first["score"], abs=1e-6)
    assert not list(tmp_path.glob("*.partial"))


def test_a_file_is_scored_by_a_stranger_a_function_a_sum_and_a_served_model(podium, tmp_path):
    """Whatever `ppo.reward` takes. Seen red: a stranger's model was refused for want of
    reward_bias, and a function and a section were no folder.
    """
    stranger = save_stranger(tmp_path / "stranger", labels=2)
    lines = [
        {"prompt": "Who lives here?", "responses": ["Ana.", "Bram and Ana."]},
        {"prompt": "Who?", "response": "An owl.", "meta": {"reference": "An owl."}},
    ]
    file, out = tmp_path / "in.jsonl", tmp_path / "out.jsonl"
    file.write_text("\n".join(map(json.dumps, lines)))
    asked = [Prompt(messages=[Message(role="user", content="Who lives here?")])] * 2
    (tmp_path / "mine.py").write_text(
        "def score(prompts, responses):\n"
        "    return [float(p.meta.get('reference') == r) for p, r in zip(prompts, responses)]\n"
    )
    function = f"{tmp_path}/mine.py:score"

    def scored(reward: str) -> list[float]:
        assert podium("reward", "score", reward, str(file), "--out", str(out)).exit_code == 0
        first, second = map(json.loads, out.read_text().splitlines())
        assert second["meta"] == {"reference": "An owl."}
        return [*first["scores"], second["score"]]

    assert scored(function) == [0.0, 0.0, 1.0]
    by_stranger = scored(f"{{model: {stranger}, label: 1}}")
    model = load_foreign(stranger, ModelSpec(model=stranger, label=1))
    assert by_stranger[:2] == pytest.approx(model(asked, lines[0]["responses"]).tolist(), abs=1e-5)
    both = f"[{{reward: {{model: {stranger}, label: 1}}}}, {{reward: {function}, weight: 100}}]"
    assert scored(both) == pytest.approx([*by_stranger[:2], by_stranger[2] + 100], abs=1e-4)
    with serving(lambda question: f"Score: {len(question)}") as server:
        endpoint = f'{{endpoint: "{server.url}", model: grader}}'
        first = scored(endpoint)
        assert first[1] - first[0] == len("Bram and Ana.") - len("Ana.")
        assert scored(endpoint) == first and len(server.questions) == 3, "what was asked is kept"


def test_a_file_is_scored_by_no_stage_of_a_recipe(tmp_path):
    """There is no recipe, which is told. Mutation seen red: a place without even an empty one."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "Who?", "response": "Ana."}\n')
    for reward, said in (("nowhere", "no parent 'nowhere'"), ("reward", "is no stage of")):
        with pytest.raises(ParentError, match=said):
            score_file(reward, tmp_path / "in.jsonl", tmp_path / "out.jsonl")


def test_a_slip_in_a_reward_is_told_with_the_right_key(podium, tmp_path):
    """Red with the option's text handed on unread."""
    (tmp_path / "in.jsonl").write_text('{"prompt": "Who?", "response": "Ana."}')
    slipped = podium("reward", "score", "{model: x, lable: 1}", str(tmp_path / "in.jsonl"))
    assert slipped.exit_code == 2
    assert "'reward.lable': unknown key" in slipped.stderr
    assert "did you mean 'reward.label'?" in slipped.stderr
    broken = podium("reward", "score", "{model: x", str(tmp_path / "in.jsonl"))
    assert broken.exit_code == 2 and "REWARD is not valid YAML" in broken.stderr


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ('{"prompt": "Who?"}', "line 2, field 'response': a line needs either"),
        (
            '{"prompt": "Who?", "response": "Ana.", "responses": ["Bram."]}',
            "line 2, field 'response': a line needs",
        ),
        (
            '{"prompt": "Who?", "responses": "Ana."}',
            "line 2, field 'responses': input should be a valid array",
        ),
        (
            '{"prompt": "Who?", "responses": ["Ana.", 3]}',
            "line 2, field 'responses.1': input should be a valid string",
        ),
        ('{"response": "Ana."}', "line 2, field 'prompt': the key is missing"),
        (
            '{"prompt": [{"role": "assistant", "content": "Ana."}], "response": "Ana."}',
            "line 2, field 'prompt': the last message is assistant's but must be user's",
        ),
        ('["Who?", "Ana."]', "line 2: input should be an object"),
        ("{", "line 2: not valid JSON"),
        (
            json.dumps({"prompt": "Who?", "responses": ["Ana.", "Zq " * 200]}),
            "line 2, response 2 has .* context is",
        ),
    ],
)
def test_score_file_names_the_line_it_cannot_read(reward_model, tokenizer, tmp_path, line, message):
    """A string under `responses` was once scored letter by letter."""
    save_reward_model(reward_model, tokenizer, tmp_path / "final")
    (tmp_path / "in.jsonl").write_text('{"prompt": "Who?", "response": "Ana."}\n' + line + "\n")
    with pytest.raises(PodiumError, match=message):
        score_file(str(tmp_path / "final"), tmp_path / "in.jsonl", tmp_path / "out.jsonl")
    assert not (tmp_path / "out.jsonl").exists()
