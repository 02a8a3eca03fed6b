"""Fine-tuning end to end on a tiny base model: same as a plain loop, resumes bit for bit, keeps the
best model.
"""

import json
import math
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from transformers import LlamaConfig, LlamaForSequenceClassification

from data.jsonl import read_jsonl
from data.records import Demonstration
from data.template import encode_conversation, encode_prompt
from podium.errors import DataError, DivergenceError, Interrupted, RecipeError
from podium.models import load_causal_lm, load_tokenizer, save_model
from podium.rewards.model import RewardEnsemble, new_reward_model, save_reward_model
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from podium.sampling.embedded import EmbeddedSampler
from podium.sampling.protocol import SamplingParams
from sft.batches import IGNORED, encode_demonstrations, lay_out_batches
from sft.train import FineTuner
from sft.validation import pad_rows, validation_metrics
from tests.launching import begin, launch, run


def train(recipe: Path, runs: Path) -> Path:
    """Run the stage here; returns its folder."""
    loaded = load_recipe(recipe)
    run_one(loaded, "sft", runs)
    return runs / loaded.name / "sft"


def metrics(folder: Path) -> list[dict]:
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def timeless(folder: Path) -> list[dict]:
    """The log without what depends on the clock."""
    return [
        {key: value for key, value in line.items() if key != "tokens_per_second"}
        for line in metrics(folder)
    ]


def headline(folder: Path) -> dict[str, float]:
    return json.loads((folder / "final" / "stage.json").read_text())["metrics"]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "final" / "model.safetensors")


def assert_same_weights(a: Path, b: Path) -> None:
    left, right = weights(a), weights(b)
    assert left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def read_rows(tokenizer, path: Path) -> list:
    return encode_demonstrations(tokenizer, read_jsonl(path, Demonstration), context=128).rows


def test_the_trainer_sees_the_templates_mask(make_recipe, tmp_path, monkeypatch):
    """Every batch the trainer computes a loss on, against `data.template`. Seen red with labels
    shifted by one.
    """
    seen = []
    original = FineTuner.compute_loss

    def watch(self, model, inputs, **kwargs):
        seen.append(
            (
                inputs["input_ids"].clone(),
                inputs["labels"].clone(),
                inputs["attention_mask"].clone(),
            )
        )
        return original(self, model, inputs, **kwargs)

    monkeypatch.setattr(FineTuner, "compute_loss", watch)
    train(make_recipe(num_train_epochs=1), tmp_path / "runs")
    tokenizer = load_tokenizer(tmp_path / "base")
    known = {}
    for record in read_jsonl(tmp_path / "demonstrations.train.jsonl", Demonstration):
        ids, mask = encode_conversation(tokenizer, record.messages)
        known[tuple(ids)] = mask
    rows = 0
    for ids, labels, attention in seen:
        for row, row_labels, length in zip(ids, labels, attention.sum(-1).tolist(), strict=True):
            mask = torch.tensor(known[tuple(row[:length].tolist())])
            assert torch.equal(row_labels[:length] != IGNORED, mask)
            assert torch.equal(row_labels[:length][mask], row[:length][mask])
            assert (row_labels[length:] == IGNORED).all()
            rows += 1
    assert rows == 40


def test_it_is_the_same_as_a_plain_loop(make_recipe, tmp_path):
    """A second implementation in fifteen lines: AdamW (0.9, 0.95), cosine to 10 %, mean over the
    batch's answer tokens.

    Seen red with beta2 0.999, and with the loss averaged over micro-batches instead of tokens.
    """
    folder = train(
        make_recipe(select_by="last", per_device_train_batch_size=4, learning_rate=1e-3),
        tmp_path / "runs",
    )

    tokenizer, model = load_tokenizer(tmp_path / "base"), load_causal_lm(tmp_path / "base")
    rows = read_rows(tokenizer, tmp_path / "demonstrations.train.jsonl")
    lengths = [len(row.input_ids) for row in rows]
    batches = lay_out_batches(lengths, epochs=3, batch_size=8, aux_share=0.0, seed=3)
    optimizer = torch.optim.AdamW(model.parameters(), betas=(0.9, 0.95), weight_decay=0.0)
    for number, batch in enumerate(batches):
        ids, labels, attention = pad_rows(
            [rows[i] for i in batch], tokenizer.pad_token_id, torch.device("cpu")
        )
        logits = model(input_ids=ids, attention_mask=attention).logits[:, :-1]
        torch.nn.functional.cross_entropy(logits.flatten(0, 1), labels[:, 1:].flatten()).backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        # The trainer's schedule stands at `number` in update number + 1: without warm-up the first
        # is at the peak.
        optimizer.param_groups[0]["lr"] = 1e-3 * (
            0.1 + 0.45 * (1 + math.cos(math.pi * number / len(batches)))
        )
        optimizer.step()
        optimizer.zero_grad()
    trained = load_causal_lm(folder / "final")
    for (name, ours), theirs in zip(trained.named_parameters(), model.parameters(), strict=True):
        assert torch.allclose(ours, theirs, atol=2e-5), name


def test_a_stopped_run_goes_on_to_the_same_weights_bit_for_bit(make_recipe, tmp_path, monkeypatch):
    """With dropout, so the generators' state counts too. Seen red with the RNG state not loaded."""
    recipe = make_recipe(residual_dropout=0.2)
    unbroken = train(recipe, tmp_path / "unbroken")
    asked = {"times": 0}

    def stop_at_the_fifth(stage):
        asked["times"] += 1
        return asked["times"] >= 5

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "stop_requested", property(stop_at_the_fifth))
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "broken")
    assert not (tmp_path / "broken/run/sft/final").exists()
    broken = train(recipe, tmp_path / "broken")
    assert_same_weights(unbroken, broken)
    assert timeless(unbroken) == timeless(broken)
    assert sorted(path.name for path in broken.iterdir()) == [
        "config.yaml",
        "final",
        "logbook.md",
        "metrics.jsonl",
    ]


def test_the_best_checkpoint_is_kept_not_the_last(make_recipe, tmp_path, monkeypatch):
    """The metric is told to be best at the second of five evaluations. Seen red with the comparison
    turned round.
    """
    told, true = iter([3.0, 1.0, 2.0, 1.0, 4.0]), []

    def tell(*args, **kwargs):
        true.append(validation_metrics(*args, **kwargs)["validation_loss"])
        return {"validation_loss": next(told), "token_accuracy": 0.0}

    monkeypatch.setattr("sft.train.validation_metrics", tell)
    folder = train(make_recipe(eval_steps=3), tmp_path / "runs")
    assert headline(folder)["step"] == 6
    tokenizer, model = load_tokenizer(folder / "final"), load_causal_lm(folder / "final")
    rows = read_rows(tokenizer, tmp_path / "demonstrations.validation.jsonl")
    ids, labels, attention = pad_rows(rows, tokenizer.pad_token_id, torch.device("cpu"))
    with torch.no_grad():
        loss = model(input_ids=ids, attention_mask=attention, labels=labels).loss.item()
    assert loss == pytest.approx(true[1], rel=1e-5)
    assert loss != pytest.approx(true[-1], rel=1e-3)


def test_a_reward_model_can_choose_the_checkpoint(make_recipe, tmp_path, tokenizer):
    torch.manual_seed(0)
    reward_model = LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=len(tokenizer),
            hidden_size=16,
            intermediate_size=32,
            num_hidden_layers=1,
            num_attention_heads=2,
            num_labels=1,
            pad_token_id=tokenizer.pad_token_id,
            reward_bias=0.0,
        )
    )
    save_model(reward_model, tokenizer, tmp_path / "reward")
    choice = {"select_by": "reward_score", "reward_prompts": 8, "max_response_tokens": 24}
    folder = train(
        make_recipe(reward=str(tmp_path / "reward"), eval_steps=3, **choice),
        tmp_path / "runs",
    )
    scores = {
        line["step"]: line["reward_score"] for line in metrics(folder) if "reward_score" in line
    }
    assert headline(folder)["step"] == max(scores, key=scores.get)
    with pytest.raises(RecipeError, match="needs a reward"):
        train(make_recipe("blind", **choice), tmp_path / "runs")


def test_the_checkpoint_is_chosen_by_what_the_reward_stage_would_say(
    make_recipe, base, tmp_path, tokenizer
):
    """By all members of an ensemble, and of an answer that was cut off as if it had ended there.
    Seen red on the scoring that SFT once had of its own: it read the first member alone, and cut
    answers at their last token.
    """
    members = [new_reward_model(base, tokenizer, seed) for seed in (0, 1)]
    ensemble = RewardEnsemble(members, "min", bias=0.25).eval()
    save_reward_model(ensemble, tokenizer, tmp_path / "reward")
    small = {"num_train_epochs": 1, "eval_steps": 5, "reward_prompts": 8}
    choice = {"select_by": "reward_score", "reward": str(tmp_path / "reward")}
    folder = train(make_recipe(max_response_tokens=8, **choice, **small), tmp_path / "runs")
    validation = read_jsonl(tmp_path / "demonstrations.validation.jsonl", Demonstration)[:8]
    prompts = [encode_prompt(tokenizer, d.messages[:-1]) for d in validation]
    end = tokenizer.eos_token_id
    sampler = EmbeddedSampler(load_causal_lm(folder / "final"), tokenizer.pad_token_id)
    params = SamplingParams(8, stop_token_ids=(end,), seed=3)
    samples = sampler.generate(prompts, params)
    assert not all(sample.finished for sample in samples)
    scores = []
    for prompt, sample in zip(prompts, samples, strict=True):
        ids = torch.tensor([prompt + sample.tokens + ([] if sample.finished else [end])])
        with torch.no_grad():
            each = [model(input_ids=ids).logits.item() for model in ensemble.members]
        scores.append(min(each) - 0.25)
    assert headline(folder)["reward_score"] == pytest.approx(sum(scores) / 8, abs=1e-4)


def test_a_function_can_choose_the_checkpoint(make_recipe, tmp_path):
    """The same key takes what PPO's does. Its records hold what the demonstration's do."""
    file = tmp_path / "rewards.py"
    file.write_text("def score(prompts, responses):\n    return [len(p.user) for p in prompts]\n")
    choice = {"select_by": "reward_score", "reward": f"{file}:score", "reward_prompts": 8}
    folder = train(make_recipe(num_train_epochs=1, **choice), tmp_path / "runs")
    assert headline(folder)["reward_score"] == len("user0")


def test_merged_adapters_are_the_adapted_model(make_recipe, tmp_path):
    """Seen red with alpha halved in the merge."""
    from peft import PeftModel

    folder = train(make_recipe(lora={"r": 4, "alpha": 8}, learning_rate=1e-2), tmp_path / "runs")
    ids = torch.randint(6, 300, (2, 20))
    with torch.no_grad():
        base = load_causal_lm(tmp_path / "base")
        before = base(ids).logits
        adapted = (
            PeftModel.from_pretrained(base, str(folder / "final" / "adapter")).eval()(ids).logits
        )
        merged = load_causal_lm(folder / "final")(ids).logits
    assert torch.allclose(adapted, merged, atol=1e-4)
    assert (merged - before).abs().max() > 0.1
    assert headline(folder)["trained_parameters"] < 0.5 * headline(folder)["parameters"]
    assert headline(folder)["parameters"] == sum(
        p.numel() for p in load_causal_lm(folder / "final").parameters()
    )


@pytest.mark.slow
def test_documents_are_mixed_in(make_recipe, tmp_path):
    """The mix of C.3 keeps the loss on documents down. Seen red with the windows' labels
    ignored.
    """
    plain = train(make_recipe("plain", num_train_epochs=8), tmp_path / "runs")
    mixed = train(make_recipe("mixed", num_train_epochs=8, aux_share=0.25), tmp_path / "runs")
    assert headline(plain)["aux_token_share"] == 0.0
    assert headline(mixed)["aux_token_share"] == pytest.approx(0.25, abs=0.08)
    tokenizer = load_tokenizer(tmp_path / "base")
    ids = torch.tensor([tokenizer("Ana eats honey. Ana eats honey. Ana eats honey.")["input_ids"]])
    with torch.no_grad():
        losses = [
            load_causal_lm(folder / "final")(ids, labels=ids).loss.item()
            for folder in (plain, mixed)
        ]
    assert losses[1] < losses[0] - 0.3


def test_a_foreign_base_gets_a_template_and_rows_for_its_tokens(make_recipe, tmp_path, tiny_opt):
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    vocabulary = {"<s>": 0, "</s>": 1} | {chr(97 + i): i + 2 for i in range(26)} | {"<unk>": 28}
    bpe = Tokenizer(models.BPE(vocab=vocabulary, merges=[], unk_token="<unk>"))
    bpe.pre_tokenizer = pre_tokenizers.Whitespace()
    foreign = PreTrainedTokenizerFast(
        tokenizer_object=bpe, bos_token="<s>", eos_token="</s>", unk_token="<unk>"
    )
    tiny_opt.resize_token_embeddings(len(foreign))
    save_model(tiny_opt, foreign, tmp_path / "foreign")
    folder = train(
        make_recipe(model=str(tmp_path / "foreign"), lora={"r": 2, "alpha": 4}), tmp_path / "runs"
    )
    tokenizer, model = load_tokenizer(folder / "final"), load_causal_lm(folder / "final")
    assert tokenizer.chat_template and tokenizer.pad_token_id != tokenizer.eos_token_id
    rows = model.get_input_embeddings().weight
    assert len(rows) == len(tokenizer) > len(foreign)
    user = tokenizer.convert_tokens_to_ids("<|user|>")
    assert not torch.equal(
        rows[user], load_causal_lm(tmp_path / "foreign").get_input_embeddings().weight.mean(0)
    )


def test_the_card_names_every_token_that_ends_an_answer(make_recipe, tmp_path, base):
    """The template's own and those of the base's generation config. Mutation seen red: the
    tokenizer's alone.
    """
    tokenizer, model = load_tokenizer(base), load_causal_lm(base)
    own, other = tokenizer.eos_token_id, tokenizer.convert_tokens_to_ids("<|user|>")
    model.generation_config.eos_token_id = [own, other]
    save_model(model, tokenizer, base)
    folder = train(make_recipe(num_train_epochs=1), tmp_path / "runs")
    names = ", ".join(f"`{name}`" for name in tokenizer.convert_ids_to_tokens([own, other]))
    assert f"sampling stops at {names}." in (folder / "final" / "README.md").read_text()
    ends = load_causal_lm(folder / "final").generation_config.eos_token_id
    assert ends == [own, other]


def test_a_loss_that_is_no_number_stops_the_run_with_exit_code_3(make_recipe, tmp_path):
    with pytest.raises(DivergenceError) as error:
        train(make_recipe(learning_rate=1e30), tmp_path / "runs")
    assert error.value.exit_code == 3
    assert not (tmp_path / "runs/run/sft/final").exists()


def test_limits_that_leave_nothing_are_a_data_error(make_recipe, tmp_path):
    with pytest.raises(DataError, match="all 40 are longer"):
        train(make_recipe(max_prompt_tokens=3), tmp_path / "runs")


@pytest.mark.slow
def test_kill_9_in_the_middle_then_the_same_command(make_recipe, tmp_path):
    recipe = make_recipe(num_train_epochs=20, residual_dropout=0.2)
    unbroken = train(recipe, tmp_path / "unbroken")
    options = recipe, "--runs-dir", tmp_path / "killed"
    process = begin("sft.train", *options, output=tmp_path / "killed.txt")
    folder = tmp_path / "killed/run/sft"
    deadline = time.monotonic() + 120
    while not (folder / "checkpoints" / "12").exists() and time.monotonic() < deadline:
        time.sleep(0.005)
    process.kill()
    process.join()
    assert not (folder / "final").exists()
    run("sft.train", *options, output=tmp_path / "resumed.txt")
    assert_same_weights(unbroken, folder)
    assert timeless(unbroken) == timeless(folder)


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 2])
def test_two_processes_learn_what_one_does(make_recipe, tmp_path, zero_stage):
    recipe = make_recipe(engine={"zero_stage": zero_stage}, per_device_train_batch_size=4)
    alone = train(make_recipe("alone", per_device_train_batch_size=4), tmp_path / "runs")
    options = recipe, "--runs-dir", tmp_path / "pair"
    launch("sft.train", *options, processes=2, folder=tmp_path, torchrun=zero_stage == 2)
    for one, two in zip(metrics(alone), metrics(tmp_path / "pair/run/sft"), strict=True):
        # DeepSpeed's ZeRO-0 tells the Trainer no gradient norm.
        assert two.keys() - {"grad_norm"} == one.keys() - {"grad_norm"}
        for name in {"loss", "validation_loss"} & one.keys():
            assert two[name] == pytest.approx(one[name], rel=1e-3)


@pytest.mark.slow
def test_two_processes_score_every_prompt_once(make_recipe, tmp_path):
    """Seven prompts are no even share. Seen red: the trainer's wrapper was handed to the sampler,
    which has no config.
    """
    file = tmp_path / "rewards.py"
    file.write_text(
        "def score(prompts, responses):\n    return [len(p.messages[-1].content) for p in prompts]\n"
    )
    small = {"num_train_epochs": 1, "per_device_train_batch_size": 4, "reward_prompts": 7}
    recipe = make_recipe(select_by="reward_score", reward=f"{file}:score", **small)
    launch("sft.train", recipe, "--runs-dir", "pair", processes=2, folder=tmp_path)
    validation = read_jsonl(tmp_path / "demonstrations.validation.jsonl", Demonstration)[:7]
    asked = [len(d.messages[0].content) for d in validation]
    assert headline(tmp_path / "pair/run/sft")["reward_score"] == pytest.approx(sum(asked) / 7)


def test_it_trains_with_attention_and_products_of_a_cpu(make_recipe, attended, evened, tmp_path):
    """Mutations seen red: the attention left to the model; the products left to it."""
    train(make_recipe(num_train_epochs=1), tmp_path / "runs")
    assert attended[True] and evened[True]
