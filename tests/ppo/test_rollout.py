"""The RolloutBatch: masks by length, values before their tokens, scores at the end of the
response.
"""

from dataclasses import fields, replace

import pytest
import torch
import torch.nn.functional as F

from podium.batching import passes_by_length
from podium.rewards.sampled import read_scores
from podium.sampling.protocol import Sample
from ppo.models import Frozen
from ppo.rollout import RolloutBatch, episodes, gather, read_tokens

PROMPTS = [
    [5, 6, 7],
    [8, 9],
    [10, 11, 12, 13, 14, 15],
    [16],
    [17, 18, 19],
    [21, 22],
    [23, 24, 25],
    [26, 27, 28, 29],
]


@pytest.fixture
def parts():
    """Three episodes; the first ends with stop token 3, which here is the pad id too."""
    samples = [
        Sample([30, 31, 3], [-1.0, -2.0, -3.0], finished=True),
        Sample([32], [-4.0], finished=False),
        Sample([33, 34, 35, 36], [-5.0, -6.0, -7.0, -8.0], finished=False),
    ]
    return episodes([[5, 6], [7, 8, 9], [10]], samples, pad_token_id=3, device=torch.device("cpu"))


def test_the_stop_token_is_an_action_even_where_pad_is_the_same_id(parts):
    """Pitfall 1. Mutation seen red: an action mask without the ids that equal `pad_token_id`."""
    assert parts["input_ids"].tolist() == [
        [5, 6, 30, 31, 3],
        [7, 8, 9, 32, 3],
        [10, 33, 34, 35, 36],
    ]
    assert parts["action_mask"].int().tolist() == [
        [0, 0, 1, 1, 1],
        [0, 0, 0, 1, 0],
        [0, 1, 1, 1, 1],
    ]
    assert parts["attention_mask"].int().tolist() == [
        [1, 1, 1, 1, 1],
        [1, 1, 1, 1, 0],
        [1, 1, 1, 1, 1],
    ]


def test_logprobs_stand_at_their_tokens(parts):
    """Mutation seen red: the action mask one column early, as models give log-probabilities."""
    assert parts["logprobs"].tolist() == [[0, 0, -1, -2, -3], [0, 0, 0, -4, 0], [0, -5, -6, -7, -8]]


def test_a_rollout_has_the_documented_shapes(make_learner):
    """Pitfall 12: every field against the table of RolloutBatch."""
    batch = make_learner().rollout(PROMPTS, 1)
    rows, columns = batch.input_ids.shape
    assert rows == len(PROMPTS)
    for field in fields(batch):
        expected = (rows,) if field.name in ("scores", "finished") else (rows, columns)
        assert getattr(batch, field.name).shape == expected, field.name
    assert batch.input_ids.dtype == torch.long and batch.action_mask.dtype == torch.bool
    for name in ("logprobs", "ref_logprobs", "values", "scores"):
        assert getattr(batch, name).dtype == torch.float32


def test_rows_are_trimmed_to_the_longest_of_them(make_learner):
    """Mutation seen red: no trimming."""
    batch = make_learner().rollout(PROMPTS, 1)
    lengths = batch.attention_mask.sum(1)
    shortest = lengths.argmin()[None]
    part = batch.rows(shortest)
    assert part.input_ids.shape == (1, int(lengths.min())) and part.scores.shape == (1,)
    assert part.responses() == [batch.responses()[int(shortest)]]


def test_the_value_is_that_of_the_state_before_the_token(make_learner):
    """Pitfall 8: V(s_t) is read at token t - 1. Mutation seen red: `[:, 1:]` for `[:, :-1]` in
    ValueFunction.
    """
    learner = make_learner()
    batch = learner.rollout(PROMPTS, 1)
    from podium.rewards.score import score

    model = learner.value.module.model
    for row in range(3):
        for column in batch.action_mask[row].nonzero().squeeze(-1).tolist():
            state = batch.input_ids[row : row + 1, :column]
            with torch.no_grad():
                expected = score(model, state, torch.ones_like(state))
            assert batch.values[row, column].item() == pytest.approx(expected.item(), abs=1e-5)
    assert not batch.values[~batch.action_mask].any()


def test_values_start_as_the_reward_model_with_its_bias(make_learner):
    """The value of the state before the stop token and the score of the whole answer share one
    scale. Mutation seen red: `reward_bias` left out of `token_values`.
    """
    learner = make_learner()
    value, reward = learner.value.module.model, learner.reward.module.model
    assert value is not reward and value.config.reward_bias == reward.config.reward_bias == 0.25
    ids = torch.tensor([[5, 6, 7]])
    with torch.no_grad():
        by_value = learner.value(
            ids, torch.ones_like(ids).bool(), torch.tensor([[False, True, True]])
        )
        by_reward = learner.reward.module(None, None, ids[:, :2], torch.ones(1, 2).long())
    assert by_value[-1].item() == pytest.approx(by_reward.item(), abs=1e-6)


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("extra", [0, 1, 7])
def test_values_do_not_depend_on_padding(make_learner, side, extra):
    """Pitfall 8, either side and any amount. Mutation seen red: `_states` leaves the mask out on
    the left as well.
    """
    learner = make_learner()
    ids = torch.tensor([[5, 6, 7, 8, 9]])
    target_mask = torch.tensor([[False, False, True, True, True]])
    pad = (extra, 0) if side == "left" else (0, extra)
    with torch.no_grad():
        expected = learner.value(ids, torch.ones_like(ids).bool(), target_mask)
        found = learner.value(
            F.pad(ids, pad, value=1),
            F.pad(torch.ones_like(ids), pad).bool(),
            F.pad(target_mask, pad),
        )
    assert torch.allclose(found, expected, atol=1e-5)


def test_ppo_scores_as_the_reward_stage_does(make_learner):
    """Pitfalls 9 and 15: one function, whatever the padding. Mutation seen red: the score read at
    column -1.
    """
    learner = make_learner(stop_token_ids=())
    batch = learner.rollout(PROMPTS, 1)
    from podium.rewards.score import score

    for row, width in enumerate(batch.attention_mask.sum(1).tolist()):
        ids = batch.input_ids[row : row + 1, :width]
        with torch.no_grad():
            expected = score(learner.reward.module.model, ids, torch.ones_like(ids))
        assert batch.scores[row].item() == pytest.approx(expected.item(), abs=1e-5)


def test_a_cut_off_answer_is_scored_as_if_it_ended(parts):
    """One that another stop token ended is read as if the first had ended it. Mutations seen red:
    the stop token appended to finished rows as well; the other stop token left where it is.
    """
    seen = {}

    def remember(prompts, responses, ids, mask):
        for row, on in zip(ids, mask, strict=True):
            seen[int(row[0])] = row[on.bool()].tolist()
        return torch.zeros(len(ids))

    read_scores(
        remember,
        parts["input_ids"],
        parts["attention_mask"],
        parts["finished"],
        (3,),
        rows_per_pass=2,
    )
    expected = {5: [5, 6, 30, 31, 3], 7: [7, 8, 9, 32, 3], 10: [10, 33, 34, 35, 36, 3]}
    assert seen == expected
    by_another = parts["input_ids"].masked_fill(parts["input_ids"] == 3, 4)
    read_scores(remember, by_another, parts["attention_mask"], parts["finished"], (3, 4), 2)
    assert seen == expected


@pytest.mark.parametrize("rows_per_pass", [1, 2, 100])
def test_reading_in_passes_changes_nothing(parts, rows_per_pass):
    """Mutation seen red: results written in sorted order instead of back to their rows."""
    ids, mask, actions = parts["input_ids"], parts["attention_mask"], parts["action_mask"]
    read = read_tokens(
        lambda ids, mask, target_mask: ids[target_mask] * 10, ids, mask, actions, rows_per_pass
    )
    assert torch.equal(read, torch.where(actions, ids * 10, 0).float())
    scores = read_scores(
        lambda asked, said, ids, mask: mask.sum(1) + ids[:, 0],
        ids,
        mask,
        parts["finished"],
        (),
        rows_per_pass,
    )
    assert torch.equal(scores, (mask.sum(1) + ids[:, 0]).float())


def test_passes_go_by_length(parts):
    """Mutation seen red: shortest first."""
    lengths = parts["attention_mask"].sum(1)
    order = torch.cat(list(passes_by_length(parts["attention_mask"], 2)))
    assert lengths[order].tolist() == sorted(lengths.tolist(), reverse=True)


def test_a_full_pass_ends_before_rows_that_would_be_padding(monkeypatch):
    """Alone: once a pass holds enough tokens. Of several processes every one makes as many passes
    as the others. Seen red with the padding not looked at, with the tokens not looked at, and with
    the world size not looked at.
    """
    lengths = [30, 29, 28, 27, 26, 12, 11, 3]
    mask = torch.arange(30) < torch.tensor(lengths)[:, None]
    monkeypatch.setattr("podium.batching.CPU_TOKENS", 50)
    widths = [[lengths[i] for i in rows] for rows in passes_by_length(mask, 4)]
    assert widths == [[30, 29, 28, 27], [26, 12], [11, 3]]  # 26 alone is not enough
    mask = mask[torch.tensor([0, 1, 5, 6, 7])]
    assert [len(rows) for rows in passes_by_length(mask, 4)] == [2, 3]
    monkeypatch.setattr("podium.batching.world_size", lambda: 2)
    assert [len(rows) for rows in passes_by_length(mask, 4)] == [4, 1]


def test_policy_equal_to_reference_has_kl_zero(make_learner):
    """Oracle. Mutation seen red: the reference read at temperature 1 while sampling at 0.7."""
    batch = make_learner(temperature=0.7).rollout(PROMPTS, 1)
    assert torch.allclose(batch.logprobs, batch.ref_logprobs, atol=1e-5)


def test_rollouts_differ_between_iterations_and_prompts_and_are_equal_on_rerun(make_learner):
    """Pitfalls 3 and 7: sampled, never greedy, and never from one fixed seed. Mutation seen red:
    the iteration left out of the sampling seed; `temperature=0`.
    """
    learner = make_learner()
    same = [[5, 6, 7]] * 8
    first, again, other = (learner.rollout(same, iteration) for iteration in (1, 1, 2))
    assert len(set(map(tuple, first.responses()))) > 1
    assert first.responses() == again.responses()
    assert first.responses() != other.responses()


def test_rollouts_carry_minus_the_cross_entropy_at_the_sampling_temperature(make_learner):
    """Oracle, and pitfall 3. Mutations seen red: policy and reference both read at temperature 1
    while sampling at 0.7 (their KL is 0 all the same); `token_logprobs` shifted by one.
    """
    learner = make_learner(temperature=0.7)
    batch = learner.rollout(PROMPTS, 1)
    for row, width in enumerate(batch.attention_mask.sum(1).tolist()):
        ids, on = batch.input_ids[row, :width], batch.action_mask[row, :width]
        with torch.no_grad():
            logits = learner.policy.module.model(ids[None]).logits[0]
        expected = -F.cross_entropy(logits[:-1] / 0.7, ids[1:], reduction="none")[on[1:]]
        assert torch.allclose(batch.logprobs[row, :width][on], expected, atol=1e-5)
        assert torch.allclose(batch.ref_logprobs[row, :width][on], expected, atol=1e-5)


def test_recomputed_old_logprobs_equal_the_sampled_ones_in_fp32(make_learner):
    """The rollout may carry its log-probabilities because they are those of a training pass.
    Mutation seen red: they are recomputed at temperature 1.
    """
    learner = make_learner(temperature=0.7)
    sampled = learner.rollout(PROMPTS, 1)
    recomputed = make_learner(temperature=0.7, old_logprobs="recomputed").rollout(PROMPTS, 1)
    assert torch.equal(sampled.input_ids, recomputed.input_ids)
    assert torch.allclose(sampled.logprobs, recomputed.logprobs, atol=1e-5)


def test_prompts_that_processes_cannot_share_evenly_are_refused(make_learner):
    """Seen red: the prompts of the remainder were dropped without a word."""
    learner = make_learner()
    learner.world_size = 2
    with pytest.raises(ValueError, match="7 prompts, not batch_size 8"):
        learner.rollout(PROMPTS[:7], 1)


def test_one_process_answers_any_number_of_prompts(make_learner):
    """As a script that asks a few by hand does. Mutation seen red: no more and no fewer than a
    batch.
    """
    learner = make_learner(batch_size=8)
    assert len(learner.rollout([[5, 6], [7, 8, 9]], 1).scores) == 2


def test_every_process_holds_the_whole_batch_in_rank_order(monkeypatch):
    """Two processes, whose longest rows differ: each one's own part is played back with the other's,
    padded as that process pads it. Mutations seen red: no padding; the width of this process; a
    mask that comes back as numbers.
    """
    parts = []
    for width, start in ((3, 0.0), (5, 10.0)):
        numbers = start + torch.arange(2.0 * width).reshape(2, width)
        mask = torch.arange(width)[None, :] < torch.tensor([[width], [2]])
        parts.append(
            RolloutBatch(
                (7 + numbers).long(), mask, mask, -numbers, numbers, None,
                torch.tensor([start, start + 1]), torch.tensor([True, False]),
            )
        )  # fmt: skip
    whole: dict[str, torch.Tensor] = {}
    for name in ("input_ids", "attention_mask", "action_mask", "logprobs", "ref_logprobs"):
        both = [getattr(part, name) for part in parts]
        whole[name] = torch.cat([F.pad(both[0], (0, 2)), both[1]])
    for name in ("scores", "finished"):
        whole[name] = torch.cat([getattr(part, name) for part in parts])
    names = iter([*whole] * 2)

    def all_gather(received, sent):
        """As every process does it: one tensor of a shape and a kind, of each rank in turn."""
        rows = whole[next(names)].to(sent.dtype).split(2)
        assert sent.dtype != torch.bool and torch.equal(sent, rows[ranks[-1]])
        for place, row in zip(received, rows, strict=True):
            place.copy_(row)

    monkeypatch.setattr("ppo.rollout.all_reduce_max", lambda width: torch.full_like(width, 5))
    monkeypatch.setattr(torch.distributed, "all_gather", all_gather)
    ranks: list[int] = []
    for rank, part in enumerate(parts):
        ranks.append(rank)
        found = gather(part, 2)
        assert found.values is None
        for name, expected in whole.items():
            assert torch.equal(getattr(found, name), expected)
            assert getattr(found, name).dtype == getattr(part, name).dtype


@pytest.mark.parametrize(("dtype", "read"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_a_frozen_model_is_read_in_the_run_s_type_and_learns_nothing(dtype, read):
    """Mutations seen red: read in fp32 whatever the run's type; gradients kept."""
    model = torch.nn.Linear(2, 2)
    with Frozen(model, "resident", torch.device("cpu"), dtype).ready() as ready:
        found = ready(torch.ones(1, 2, requires_grad=True))
    assert found.dtype == read and not found.requires_grad
    assert not model.training and not any(p.requires_grad for p in model.parameters())


def test_padding_changes_no_statistic(make_learner):
    """Pitfall 11. Mutations seen red: entropy or KL summed without the mask; entropy divided by all
    columns; explained variance over all columns.
    """
    from ppo.watch import rollout_metrics

    learner = make_learner()
    batch = learner.rollout(PROMPTS, 1)
    padded = replace(
        batch,
        **{
            field.name: F.pad(
                getattr(batch, field.name), (0, 9), value=0 if "mask" in field.name else 5 + number
            )
            for number, field in enumerate(fields(batch))
            if getattr(batch, field.name).dim() == 2
        },
    )
    results = []
    for each in (batch, padded):
        targets, _ = learner.targets(each)
        results.append(rollout_metrics(each, each.scores, targets.returns, 0.1))
    assert results[0] == pytest.approx(results[1], abs=1e-5)


@pytest.mark.parametrize("lora", [None, {"r": 4}], ids=["all weights", "lora"])
def test_a_large_policy_is_sampled_from_a_bf16_copy_that_follows_the_updates(
    make_learner, monkeypatch, lora
):
    """On a CPU in bf16. Seen red with `update_weights` left out of the rollout and with buffers
    cast too.
    """
    monkeypatch.setattr("ppo.learner.BF16_COPY_FROM", 0)
    learner = make_learner(dtype="bf16", lora=lora, learning_rate=0.1, temperature=1.0)
    prompts = [[5 + i, 6, 7] for i in range(8)]
    batch = learner.rollout(prompts, 1)
    with torch.no_grad():
        found = learner.policy(batch.input_ids, batch.attention_mask, batch.action_mask, 1.0)
    # as sampled, but for bf16's rounding
    assert (found - batch.logprobs[batch.action_mask]).abs().max() < 0.1
    learner.update(batch, learner.targets(batch)[0], None, 1)
    learner.rollout(prompts, 2)
    policy, copied = learner.policy.module.model.state_dict(), learner.sampler.model.state_dict()
    assert all(torch.equal(copied[name], weight.bfloat16()) for name, weight in policy.items())
    buffers = dict(learner.sampler.model.named_buffers())  # rotary frequencies keep their precision
    assert buffers and all(
        torch.equal(buffers[n], b) for n, b in learner.policy.module.model.named_buffers()
    )


def test_ids_without_a_token_are_never_drawn_and_ratios_stay_1(make_learner):
    """Half of the vocabulary is barred, and the first pass still reads what the sampler drew. Seen
    red without `absent_token_ids` in `Learner.sampling`.
    """
    learner = make_learner(absent_token_ids=tuple(range(100, 320)), old_logprobs="recomputed")
    batch = learner.rollout(PROMPTS, iteration=1)
    assert int(batch.input_ids.max()) < 100
    assert learner.sampler_error < 1e-5
    assert batch.logprobs[batch.action_mask].mean() < -4, "of the whole vocabulary: log 1/320"
    assert (batch.logprobs - batch.ref_logprobs).abs().max() < 1e-5
