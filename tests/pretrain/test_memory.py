"""The plan of memory, against what tensors with numbers take."""

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification

from podium.errors import ParentError
from podium.lora import LoraConfig
from podium.run.recipe import validate
from podium.runtime import autocast
from pretrain.architecture import build_config, build_model
from pretrain.memory import Peak, Step, cache_bytes, loss_of, trained_bytes, training_step
from pretrain.plans import Place, changes_that_fit, in_words, plan_memory


def small(context: int = 64):
    return build_config("llama-tiny", 1000, context)


def test_weights_are_those_of_the_model_and_activations_grow_with_rows():
    """Mutations seen red: the peak without what was let go; a row more for nothing."""
    step, double = (training_step(small(), rows, 64) for rows in (4, 8))
    assert step.weights == 4 * sum(p.numel() for p in build_model(small()).parameters())
    assert step.trained == step.weights
    grown = double.activations - step.activations
    logits = 4 * 4 * 63 * 1000  # four more rows, fp32
    assert logits < grown < 20 * logits


def test_tensors_without_numbers_tell_what_those_with_numbers_take():
    """The same step counted on a model with numbers. Mutations seen red: weights not counted as
    held; storages counted once for each view.
    """
    config = small()
    planned = training_step(config, 2, 32)
    model = build_model(config).train()
    inputs = {"input_ids": torch.zeros(2, 32, dtype=torch.long), "use_cache": False}
    with Peak(model.parameters()) as seen:
        loss_of(model, inputs, "lm").backward()
    assert planned.weights + planned.trained + planned.activations == seen.peak


@pytest.mark.parametrize("head", ["lm", "score"])
def test_both_heads_and_bf16_take_what_the_same_step_with_numbers_takes(head):
    """Of whole masks and positions too, as packed windows have them. Mutations seen red: a score
    of two labels; autocast left out; the positions of packed rows left out.
    """
    config = small(32)
    planned = {
        dtype: training_step(config, 2, 32, head=head, packed=True, dtype=dtype)
        for dtype in ("fp32", "bf16")
    }
    kind = AutoModelForCausalLM if head == "lm" else AutoModelForSequenceClassification
    config = small(32)
    config.num_labels = 1
    for dtype, step in planned.items():
        model = kind.from_config(config, attn_implementation="sdpa", dtype=torch.float32).train()
        inputs = {
            "input_ids": torch.zeros(2, 32, dtype=torch.long),
            "use_cache": False,
            "attention_mask": torch.zeros(2, 1, 32, 32),
            "position_ids": torch.zeros(2, 32, dtype=torch.long),
        }
        with Peak(model.parameters()) as seen, autocast(torch.device("cpu"), dtype):
            loss_of(model, inputs, head).backward()
        assert step.weights == 4 * sum(p.numel() for p in model.parameters()) == step.trained
        assert step.weights + step.trained + step.activations == seen.peak
    assert planned["bf16"].activations != planned["fp32"].activations
    unpacked = training_step(small(32), 2, 32, head=head)
    assert unpacked.activations != planned["fp32"].activations


def test_a_loss_is_over_every_token_or_every_score(tiny_llama):
    """By the model's own logits; of scores the sum. Mutations seen red: the tokens as their own
    targets; a mean; the score of one token.
    """
    ids = torch.tensor([[5, 6, 7, 8], [9, 10, 11, 12]])
    inputs = {"input_ids": ids, "use_cache": False}
    with torch.no_grad():
        logits = tiny_llama(ids).logits[:, :-1].log_softmax(-1)
        assert float(loss_of(tiny_llama, inputs, "lm")) == pytest.approx(
            -float(logits.gather(-1, ids[:, 1:, None]).sum()), rel=1e-5
        )
        config = small()
        config.num_labels, config.pad_token_id = 1, 0
        scored = AutoModelForSequenceClassification.from_config(config)
        states = scored.model(ids).last_hidden_state
        assert float(loss_of(scored, inputs, "score")) == pytest.approx(
            float(scored.score(states).sum()), rel=1e-4
        )


def test_the_peak_is_of_what_lived_at_once():
    """Views are no storage of their own, and what was let go counts no more. Mutations seen red:
    the sum for the peak; nothing let go.
    """
    held = torch.zeros(10)  # 40 bytes
    with Peak([held, held[2:]]) as seen:
        assert (seen.live, seen.peak) == (40, 40)
        first = torch.zeros(100)
        view = first[10:]
        assert (seen.live, seen.peak) == (440, 440)
        del first, view
        second = torch.zeros(50, dtype=torch.float64)
        assert (seen.live, seen.peak) == (440, 440)
        pair = torch.ones(25).sort()
    # What was sorted is gone, the values and their places are there.
    assert (seen.live, seen.peak) == (440 + 100 + 200, 440 + 100 + 100 + 200)
    del second, pair


def test_recomputing_and_adapters_take_less():
    """A score's head learns beside its adapters, 160 weights of fp32. Mutations seen red:
    `checkpointing` not passed on; adapters counted as whole weights; a language model's adapters
    for a score, and those of no task.
    """
    whole = training_step(small(), 16, 64)
    assert training_step(small(), 16, 64, checkpointing=True).activations < whole.activations
    adapted = training_step(small(), 16, 64, lora=LoraConfig(r=4))
    assert adapted.trained < 0.1 * whole.trained and adapted.weights > whole.weights
    scored = training_step(small(), 1, 8, head="score", lora=LoraConfig(r=4))
    assert scored.trained == adapted.trained + 4 * 160


def test_shards_by_hand():
    """AdamW has two moments; ZeRO shares out optimizer, then gradients, then weights, and keeps a
    copy of its share of the weights. Mutation seen red: shares of every stage.
    """
    step = Step(weights=400, trained=400, activations=70)
    assert (
        trained_bytes(step)
        == trained_bytes(step, 4, 0)
        == {
            "weights": 400,
            "gradients": 400,
            "optimizer": 800,
            "activations": 70,
        }
    )
    one, two = (trained_bytes(step, 4, stage) for stage in (1, 2))
    assert (one["gradients"], one["optimizer"]) == (400, 200 + 100)
    assert (two["gradients"], two["optimizer"]) == (100, 200 + 100)
    # ZeRO-3 keeps an eighth of the weights whole at hand beside its share, while a pass is under way.
    assert trained_bytes(step, 4, 3, at_rest=True)["weights"] == 100
    assert trained_bytes(step, 4, 3) == {
        "weights": 100 + 4 * (100 // 8), "gradients": 100, "optimizer": 200 + 100, "activations": 70
    }  # fmt: skip
    huge = trained_bytes(Step(64_000_000_000, 400, 70), 2, 3)  # and never more than a billion
    assert huge["weights"] == 32_000_000_000 + 4_000_000_000
    lone = trained_bytes(step, 1, 1, offload=True)
    assert lone == {"weights": 400, "gradients": 400, "activations": 70, "optimizer (host)": 1200}
    away = trained_bytes(step, 1, 0, offload=True)
    assert away["optimizer (host)"] == 800 and "optimizer" not in away


def test_a_cache_by_hand():
    """Keys and values of 3 layers, 5 heads of 32. Mutation seen red: keys alone."""
    assert cache_bytes(small(), 10, 64) == 2 * 3 * 10 * 64 * 5 * 32 * 4
    assert cache_bytes(small(), 10, 64, "bf16") == 2 * 3 * 10 * 64 * 5 * 32 * 2
    shared = build_config("llama3-1b", 1000, 64)  # 16 layers, 8 heads shared by 32 of 64
    assert cache_bytes(shared, 1, 1) == 2 * 16 * 8 * 64 * 4
    shared.head_dim = 16
    assert cache_bytes(shared, 1, 1) == 2 * 16 * 8 * 16 * 4
    plain = build_config("opt-125m", 1000, 64)  # neither key is its family's
    assert cache_bytes(plain, 3, 5) == 2 * 12 * 3 * 5 * 768 * 4


@pytest.fixture
def make_place(tmp_path):
    """`make_place(**pretrain)`: a chain of which nothing has run, on one CPU process."""

    def make(**pretrain) -> Place:
        return chain_of(pretrain, tmp_path)

    return make


def chain_of(pretrain: dict, folder) -> Place:
    sections = {"pretrain": pretrain}
    sections |= {"sft": {}, "rankings": {}, "reward": {}, "ppo": {}}
    tree = {"name": "planned", "data": {"world": {"name": "willowbrook"}}, **sections}
    return Place(validate(tree, "test"), folder / "planned", 1, gpu=False, dtype="fp32")


def test_every_training_stage_of_a_chain_that_has_not_run_is_planned(make_place):
    place = make_place(preset="opt-125m", context=512, batch_size=16)
    found = list(plan_memory(place))
    assert [sizes.stage for sizes in found] == ["pretrain", "sft", "reward", "ppo"]
    parameters = 4 * (512 * 768 + 2 * 768 + 1024 * 768 + 12 * 7_087_872 + 2 * 768)
    assert found[0].parts["weights"] == pytest.approx(parameters, rel=1e-3)
    # Two models learn in PPO, and as many are read.
    assert found[3].parts["optimizer"] == pytest.approx(2 * found[1].parts["optimizer"], rel=0.02)
    assert found[3].parts["frozen models"] == pytest.approx(2 * parameters, rel=0.02)


def test_what_does_not_fit_is_told_what_would(make_place):
    place = make_place(preset="llama-tiny", context=64, batch_size=16)
    (pretrain,) = plan_memory(place, only="pretrain")
    tight = int(pretrain.total - 0.5 * pretrain.parts["activations"])
    assert "one row a pass" in changes_that_fit(place, "pretrain", tight)
    assert "does not fit even with" in changes_that_fit(place, "pretrain", 10**8)
    said = in_words([pretrain], place, tight)
    assert said.startswith("pretrain") and "more than" in said


def test_a_model_that_fills_blanks_has_rows_for_their_tokens(make_place):
    """Mutation seen red: the recipe's vocabulary alone."""
    sizes = [make_place(infilling=how).shape("pretrain").vocab_size for how in (None, {})]
    assert sizes == [1024, 1028]


def test_a_model_that_cannot_be_reached_has_a_stand_in(tmp_path):
    recipe = validate({"name": "far", "sft": {"model": "somebody/unknown"}}, "test")
    with pytest.raises(ParentError, match="--shape") as error:
        list(plan_memory(Place(recipe, tmp_path, 1, True, "bf16")))
    assert "--shape llama3-8b" in error.value.fix
    (sizes,) = plan_memory(Place(recipe, tmp_path, 1, True, "bf16", stand_in="opt-125m"))
    assert sizes.parts["weights"] == pytest.approx(4 * 125_239_296, rel=1e-6)
    assert sizes.total == sum(sizes.parts.values()) - sizes.parts["process (host)"]
