"""The reward stage end to end: it learns, centres, resumes bit for bit, cuts batches freely,
refuses what is wrong.
"""

import json
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from data.jsonl import read_jsonl, write_jsonl
from data.records import Demonstration, Message, Ranking
from podium.errors import DataError, DivergenceError, Interrupted, ParentError, RecipeError
from podium.rewards.model import load_reward_model
from podium.rewards.score import score_texts
from podium.run.context import StageContext
from podium.run.launch import run_one
from podium.run.recipe import load_recipe
from tests.launching import launch
from tests.reward.conftest import ranking


def train(recipe: Path, runs: Path) -> Path:
    """Run the stage here; returns its folder."""
    loaded = load_recipe(recipe)
    run_one(loaded, "reward", runs)
    return runs / loaded.name / "reward"


def metrics(folder: Path) -> list[dict]:
    """The log without what depends on the clock."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [
        {key: value for key, value in line.items() if key != "tokens_per_second"} for line in lines
    ]


def same_weights(a: Path, b: Path, name: str = "final/model.safetensors") -> bool:
    left, right = load_file(a / name), load_file(b / name)
    return left.keys() == right.keys() and all(torch.equal(left[key], right[key]) for key in left)


def demonstration_mean(folder: Path, data: Path) -> float:
    model, tokenizer = load_reward_model(folder)
    shown = read_jsonl(data / "demonstrations.jsonl", Demonstration)
    scores = score_texts(
        model, tokenizer, [d.messages[:-1] for d in shown], [d.messages[-1].content for d in shown]
    )
    return sum(scores) / len(scores)


def test_it_learns_and_says_how_far_to_trust_it(make_recipe, tmp_path):
    """Red when the ranks are read upside down in strict_pairs."""
    folder = train(make_recipe(num_train_epochs=6), tmp_path / "runs")
    log = metrics(folder)
    assert log[-1]["validation_accuracy"] > 0.8 > log[0]["accuracy"]
    assert log[-1]["learning_rate"] == pytest.approx(3e-4), "cosine to a tenth"
    final = folder / "final"
    trust = json.loads((final / "trust.json").read_text())
    assert trust["heldout"]["accuracy"]["value"] > 0.8
    assert (final / "trust.html").read_text().count("data:image/png;base64,") == 1
    assert "held-out prompts and labelers" in (final / "README.md").read_text()
    assert json.loads((final / "stage.json").read_text())["metrics"]["accuracy"] > 0.8


def test_demonstrations_score_mean_zero(make_recipe, tmp_path):
    """In one model and in every part of an ensemble. Red when `center` adds instead of
    subtracting.
    """
    single = train(make_recipe("single"), tmp_path / "runs")
    assert demonstration_mean(single / "final", tmp_path) == pytest.approx(0, abs=1e-6)
    several = train(
        make_recipe("several", members=2, combine="min", half="split"), tmp_path / "runs"
    )
    for part in ("final", "final/held_out"):
        assert demonstration_mean(several / part, tmp_path) == pytest.approx(0, abs=1e-6)


def test_demonstrations_that_come_later_move_the_bias(make_recipe, tmp_path):
    """A stage that found none and would find some is made anew. Seen red with only the sources
    that were read in its record.
    """
    recipe = make_recipe(num_train_epochs=1)
    tree = yaml.safe_load(recipe.read_text())
    recipe.write_text(yaml.safe_dump({**tree, "data": {}}))
    folder = train(recipe, tmp_path / "runs")
    assert abs(demonstration_mean(folder / "final", tmp_path)) > 1e-3
    recipe.write_text(yaml.safe_dump(tree))
    folder = train(recipe, tmp_path / "runs")
    assert demonstration_mean(folder / "final", tmp_path) == pytest.approx(0, abs=1e-6)


def test_demonstrations_over_the_context_are_told_or_refused(make_recipe, tmp_path):
    """One of three is too long: told. All: refused. Without the check, the mean of no scores."""

    def shown(text: str) -> Demonstration:
        return Demonstration(
            messages=[Message(role="user", content="Who?"), Message(role="assistant", content=text)]
        )

    recipe = make_recipe(num_train_epochs=1)
    write_jsonl(
        tmp_path / "demonstrations.jsonl", [shown("Ana."), shown("Zq " * 200), shown("An owl.")]
    )
    logbook = (train(recipe, tmp_path / "runs") / "logbook.md").read_text()
    assert "1 demonstrations over the context (not used for the bias)" in logbook
    write_jsonl(tmp_path / "demonstrations.jsonl", [shown("Zq " * 200)])
    with pytest.raises(DataError, match=r"none of 1 fits 128 tokens"):
        train(recipe, tmp_path / "others")


def test_a_stopped_run_goes_on_bit_for_bit(make_recipe, tmp_path, monkeypatch):
    """In the second of two members. Red with the optimizer left out of the checkpoint, and with the
    second member's batches in the first's order after the break.
    """
    recipe = make_recipe(members=2)
    unbroken = train(recipe, tmp_path / "unbroken")
    asked = {"times": 0}

    def stop_later(stage):
        asked["times"] += 1
        return asked["times"] == 19

    with monkeypatch.context() as patch:
        patch.setattr(StageContext, "stop_requested", property(stop_later))
        with pytest.raises(Interrupted):
            train(recipe, tmp_path / "broken")
    broken = train(recipe, tmp_path / "broken")
    assert same_weights(unbroken, broken)
    assert same_weights(unbroken, broken, "final/members/1/model.safetensors")
    assert metrics(unbroken) == metrics(broken)


@pytest.mark.slow
def test_training_goes_on_from_a_reward_model_or_draws_a_new_head(make_recipe, tmp_path):
    """Steps too small to change a weight: the second model is the first one, but for the bias. A new
    head is another one, by the stage's seed. Mutations seen red: a new head in any case, or never;
    the logbook's words exchanged; another seed; adapters that are not merged into the parent.
    """
    runs, still = tmp_path / "runs", {"learning_rate": 1e-30, "num_train_epochs": 1}
    first = train(make_recipe("first", num_train_epochs=1), runs) / "final"
    start = {"model": str(first), **still}
    again = train(make_recipe("again", **start), runs)
    adapted = train(make_recipe("adapted", lora={"r": 2}, **start), runs)
    anew = train(make_recipe("anew", new_head=True, **start), runs)
    twin = train(make_recipe("twin", new_head=True, **start), runs)
    assert same_weights(first, again / "final", "model.safetensors")
    assert same_weights(first, adapted / "final", "model.safetensors")
    before, after = (load_file(f / "model.safetensors") for f in (first, anew / "final"))
    (head,) = [name for name in before if not torch.equal(before[name], after[name])]
    assert head == "score.weight" and same_weights(anew, twin)
    told = f"'{first}' is a reward model: "
    assert told + "its head is trained on" in (again / "logbook.md").read_text()
    assert told + "a new head takes the place of its own" in (anew / "logbook.md").read_text()
    assert "is a reward model" not in (runs / "first/reward/logbook.md").read_text()


@pytest.mark.slow
def test_updates_do_not_depend_on_the_cut(make_recipe, tmp_path):
    """Whole batches, tiny micro-batches (so small that every ranking is forwarded in pieces,
    twice), ZeRO-2, the shared prefix and recomputed activations. Red with the two-pass path's loss
    left unscaled.
    """
    runs, few = tmp_path / "runs", {"num_train_epochs": 1}
    whole = metrics(train(make_recipe("whole", micro_batch_tokens=100_000, **few), runs))
    cut = metrics(train(make_recipe("cut", micro_batch_tokens=30, **few), runs))
    zero2 = metrics(train(make_recipe("zero2", engine={"zero_stage": 2}, **few), runs))
    shared = metrics(train(make_recipe("shared", shared_prefix=True, **few), runs))
    recomputed = metrics(train(make_recipe("recomputed", gradient_checkpointing=True, **few), runs))
    for a, *others in zip(whole, cut, zero2, shared, recomputed, strict=True):
        for b in others:
            assert b["loss"] == pytest.approx(a["loss"], rel=1e-4)
            assert b["grad_norm"] == pytest.approx(a["grad_norm"], rel=1e-3)
            assert b.get("validation_loss", 0) == pytest.approx(
                a.get("validation_loss", 0), rel=1e-4
            )


def test_a_shared_prefix_cannot_be_recomputed(make_recipe, tmp_path):
    """transformers drops the cache under checkpointing. Without the check: AttributeError in the
    middle of a run.
    """
    with pytest.raises(RecipeError, match="shared_prefix needs the prompt's keys"):
        train(make_recipe(shared_prefix=True, gradient_checkpointing=True), tmp_path / "runs")


def test_a_prompt_is_shared_only_where_the_family_can(make_recipe, tmp_path):
    """Seen red without the look before training."""
    path = make_recipe(shared_prefix=True)
    base = yaml.safe_load(path.read_text())["reward"]["model"]
    config = json.loads((Path(base) / "config.json").read_text())
    window = {
        "model_type": "mistral",
        "sliding_window": 16,
        "architectures": ["MistralForCausalLM"],
    }
    (Path(base) / "config.json").write_text(json.dumps(config | window))
    with pytest.raises(ParentError, match=r"reward\.shared_prefix: .* family mistral"):
        train(path, tmp_path / "runs")


@pytest.mark.slow
@pytest.mark.parametrize("zero_stage", [0, 3])
def test_two_processes_learn_what_one_does(make_recipe, tmp_path, zero_stage):
    """Red with world_size() left out of the loss's scale."""
    recipe = make_recipe(engine={"zero_stage": zero_stage}, batch_size=7)
    alone = train(recipe, tmp_path / "alone")
    options = recipe, "--runs-dir", tmp_path / "pair"
    launch("reward.train", *options, processes=2, folder=tmp_path, torchrun=zero_stage == 3)
    pair = tmp_path / "pair/run/reward"
    for one, two in zip(metrics(alone), metrics(pair), strict=True):
        for name in ("loss", "accuracy", "grad_norm", "validation_loss"):
            assert two.get(name, 0) == pytest.approx(one.get(name, 0), rel=1e-3)
    assert demonstration_mean(pair / "final", tmp_path) == pytest.approx(0, abs=1e-6)


def test_lora_is_merged_into_plain_hugging_face(make_recipe, tmp_path):
    folder = train(
        make_recipe(lora={"r": 4}, num_train_epochs=6, learning_rate=1e-2), tmp_path / "runs"
    )
    names = load_file(folder / "final/model.safetensors").keys()
    assert not [name for name in names if "lora" in name]
    watched = metrics(folder)[-1]["validation_accuracy"]
    assert watched > 0.75
    trust = json.loads((folder / "final/trust.json").read_text())
    assert trust["validation"]["accuracy"]["value"] == pytest.approx(watched, abs=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(
    "config",
    [
        {"loss": "plackett_luce"},
        {"batching": "shuffled_pairs", "batch_size": 20},
        {"half": "first"},
    ],
)
def test_the_other_ways_learn_too(make_recipe, tmp_path, config):
    folder = train(make_recipe(num_train_epochs=5, **config), tmp_path / "runs")
    assert metrics(folder)[-1]["validation_accuracy"] > 0.75


def test_a_folder_of_rankings_made_by_hand(make_recipe, tmp_path):
    """Three files and no stage.json: its own validation and held-out splits are used."""
    records = read_jsonl(tmp_path / "rankings.jsonl", Ranking)
    own, heldout_labelers = (
        [r for r in records if (r.cohort == "heldout") == out] for out in (False, True)
    )
    folder = tmp_path / "ours"
    folder.mkdir()
    for split, part in (
        ("train", own[:50]),
        ("validation", own[50:]),
        ("heldout", heldout_labelers),
    ):
        write_jsonl(folder / f"rankings.{split}.jsonl", part)
    stage = train(make_recipe(rankings=str(folder), num_train_epochs=1), tmp_path / "runs")
    trust = json.loads((stage / "final/trust.json").read_text())
    for name, part in (("validation", own[50:]), ("heldout", heldout_labelers)):
        told_apart = {r.prompt[0].content for r in part if len(set(r.ranks)) > 1}
        assert trust[name]["prompts"] == len(told_apart) > 3


@pytest.mark.slow
def test_weighted_sets_count_by_weight(make_recipe, tmp_path):
    """A second set says the opposite with a hundredth of the weight: the first wins. Red with the
    weight ignored.
    """
    first = read_jsonl(tmp_path / "rankings.jsonl", Ranking)
    opposite = [
        r.model_copy(update={"ranks": [10 - rank for rank in r.ranks]})
        for r in first
        if r.cohort == "train"
    ]
    write_jsonl(tmp_path / "opposite.jsonl", opposite)
    sets = [
        {"source": str(tmp_path / "rankings.jsonl")},
        {"source": str(tmp_path / "opposite.jsonl"), "weight": 0.01},
    ]
    folder = train(make_recipe(rankings=sets, num_train_epochs=5), tmp_path / "runs")
    trust = json.loads((folder / "final/trust.json").read_text())
    assert trust["heldout"]["accuracy"]["value"] > 0.75


def test_a_light_set_has_its_share_of_the_gradient_whatever_the_batches(make_recipe, tmp_path):
    """Counted: without learning the loss is about 1 on a heavy ranking and, by its margin, 2000 on
    a light one, so the mean over an epoch's updates tells the light set's share: 0.01 / 1.01. Seen red (7 %) with each batch divided by its own sum of weights.
    """
    heavy = [ranking(f"Heavy {i}?", ["Ana.", "Bram."], [1, 2]) for i in range(48)]
    light = [ranking(f"Light {i}?", ["Ana.", "Bram."], [1, 2], strength=1.0) for i in range(48)]
    sets = []
    for name, records, weight in (("heavy", heavy, 1.0), ("light", light, 0.01)):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "rankings.train.jsonl", records)
        other = ranking(f"Other {name}?", ["Ana.", "Bram."], [1, 2])
        write_jsonl(tmp_path / name / "rankings.validation.jsonl", [other])
        sets.append({"source": str(tmp_path / name), "weight": weight})
    margins = {"margin": "strength", "margin_scale": 2000.0}
    recipe = make_recipe(
        rankings=sets, batch_size=4, learning_rate=1e-12, num_train_epochs=1, **margins
    )
    losses = [line["loss"] for line in metrics(train(recipe, tmp_path / "runs"))]
    assert len(losses) == 24
    share = sum(losses) / 24 / 2000
    assert share == pytest.approx(0.01 / 1.01, abs=0.001)


@pytest.mark.parametrize(
    ("records", "message"),
    [
        (
            [ranking("Who?", ["Ana.", "Bram."], [1, 1])],
            r"nothing to learn from: 1 rankings with nothing but ties",
        ),
        (
            [
                ranking("Who?", ["Ana."] * 2, [1, 2], labeler="eve"),
                ranking("What?", ["Ana.", "Bram."], [1, 2], labeler="eve", cohort="heldout"),
            ],
            r"'eve' is in the cohorts train and heldout",
        ),
        (
            [ranking("Who?", ["Ana.", "Bram."], [1, 2], cohort="heldout")],
            r"no rankings by training labelers",
        ),
    ],
)
def test_rankings_that_cannot_teach_are_refused(make_recipe, tmp_path, records, message):
    recipe = make_recipe()
    write_jsonl(tmp_path / "rankings.jsonl", records)
    with pytest.raises(DataError, match=message):
        train(recipe, tmp_path / "runs")
    assert not (tmp_path / "runs/run/reward/final").exists()


@pytest.mark.parametrize(
    ("line", "message"),
    [
        (
            '{"prompt": [{"role": "user", "content": "Who?"}], "responses": ["Ana."], "ranks": '
            "[1]}",
            "responses",
        ),
        (
            '{"prompt": [{"role": "user", "content": "Who?"}], "responses": ["Ana.", "Bram."]}',
            "ranks",
        ),
    ],
)
def test_a_malformed_ranking_is_named(make_recipe, tmp_path, line, message):
    """K = 1 and missing ranks. Nothing half-read goes on."""
    recipe = make_recipe()
    (tmp_path / "rankings.jsonl").write_text(line + "\n")
    with pytest.raises(DataError, match=f"line 1, field '{message}'"):
        train(recipe, tmp_path / "runs")


def test_drops_are_told(make_recipe, tmp_path):
    recipe = make_recipe(num_train_epochs=1)
    records = read_jsonl(tmp_path / "rankings.jsonl", Ranking)
    write_jsonl(
        tmp_path / "rankings.jsonl",
        [*records, ranking("Lengthy?", ["owl", "jam", "Zq " * 200], [1, 2, 3])],
    )
    logbook = (train(recipe, tmp_path / "runs") / "logbook.md").read_text()
    assert "1 responses over the context (dropped)" in logbook
    assert "rankings with nothing but ties (dropped)" in logbook
    assert "rankings by held-out labelers whose prompt is also in training" not in logbook


def test_a_loss_that_is_no_number_stops_the_run(make_recipe, tmp_path):
    with pytest.raises(DivergenceError, match="loss") as error:
        train(make_recipe(learning_rate=1e30), tmp_path / "runs")
    assert error.value.exit_code == 3
    assert not (tmp_path / "runs/run/reward/final").exists()


def test_it_trains_with_attention_and_products_of_a_cpu(make_recipe, attended, evened, tmp_path):
    """Mutations seen red: the attention left to the model; the products left to it."""
    train(make_recipe(num_train_epochs=1), tmp_path / "runs")
    assert attended[True] and evened[True]
