"""What is collected, without any model: who answers a prompt, which text comes from where, who
ranks it, and what is counted. The sampler says which row it was asked, so that each text is known.
"""

import random
from collections import Counter
from types import SimpleNamespace

import pytest

from data.jsonl import read_jsonl
from data.records import Message, Prompt
from podium.errors import DataError
from podium.sampling.protocol import Sample, SamplingParams
from reward.candidates import OFF_TOPIC, Candidates, Writer, block, fits, plan
from reward.collect import Config, card, describe, judge, nobody_ranks, rank
from tests.reward.conftest import ranking


def prompt(number: int) -> Prompt:
    return Prompt(
        messages=[Message(role="user", content=f"Tale {number}?")],
        user=f"u{number}",
        use_case="story",
        source="village",
        id=f"p{number}",
        meta={"number": number},
    )


class Echo:
    """Says its name, and the number of the row among all it was ever asked; every third is cut
    off.
    """

    def __init__(self, name: str, tokenizer) -> None:
        self.name, self.tokenizer, self.params, self.rows = name, tokenizer, [], 0

    def generate(self, rows, params):
        self.params.append(params)
        found = []
        for row in rows:
            asked = self.tokenizer.decode(row).partition("Tale ")[2].partition("?")[0]
            text = f"{self.name} {asked} {self.rows}"
            found.append(Sample(self.tokenizer.encode(text), [], finished=self.rows % 3 != 2))
            self.rows += 1
        return found


@pytest.fixture
def writers(tokenizer) -> dict[str, Writer]:
    return {
        name: Writer(tokenizer, Echo(name, tokenizer), context, (3, place), (4, place))
        for place, (name, context) in enumerate({"sft": 60, "base": 80}.items())
    }


STAGE = SimpleNamespace(seed=7, world_size=1, rank=0)
PLANS = [["sft", "base", "sft", OFF_TOPIC], ["sft", OFF_TOPIC], ["sft", "base", "base"]]


def test_every_answer_is_its_writers_to_its_prompt_and_off_topic_ones_are_to_another(writers):
    """Mutations seen red: an off-topic answer to the same prompt, or another than the main model's
    first; a generator's name beside another's text; what is known of the prompt lost.
    """
    asked = [("train", prompt(0)), ("train", prompt(1)), ("validation", prompt(2))]
    found, ended = block(STAGE, writers, asked, PLANS, SamplingParams(9), "block-0")
    assert [one.split for one in found] == ["train", "train", "validation"]
    first = {0: "sft 0 0", 1: "sft 1 2", 2: "sft 2 3"}
    for number, (one, names) in enumerate(zip(found, PLANS, strict=True)):
        assert sorted(one.generators) == sorted(names)
        said = dict.fromkeys(names, ())
        for name, text in zip(one.generators, one.responses, strict=True):
            said[name] += (text,)
            if name == OFF_TOPIC:
                assert text in set(first.values()) - {first[number]}
            else:
                assert text.startswith(f"{name} {number} ")
        assert all(len(texts) == len(set(texts)) == names.count(n) for n, texts in said.items())
        known = prompt(number)
        assert (one.prompt, one.user, one.use_case) == (known.messages, known.user, "story")
        assert (one.source, one.id, one.meta) == ("village", known.id, {"number": number})
    assert ended == Counter({"finished": 5, "cut off": 2})  # four of sft's rows, three of base's
    sft, base = (writers[name].sampler.params[0] for name in ("sft", "base"))
    assert sft.seed != base.seed and sft.max_new_tokens == 9 and sft.first_row == 0
    assert (sft.stop_token_ids, base.absent_token_ids) == ((3, 0), (4, 1))
    for salt in "abcdefgh":  # whichever other prompt is drawn, its first answer
        found, _ = block(STAGE, writers, asked, PLANS, SamplingParams(9), salt)
        texts = {
            t for c in found for n, t in zip(c.generators, c.responses, strict=True) if n == "sft"
        }
        firsts = {
            min((t for t in texts if t.startswith(f"sft {n} ")), key=lambda t: int(t.split()[2]))
            for n in range(3)
        }
        away = {
            t
            for c in found
            for n, t in zip(c.generators, c.responses, strict=True)
            if n == OFF_TOPIC
        }
        assert away <= firsts
    alone, _ = block(STAGE, writers, asked[:1], [["sft", OFF_TOPIC]], SamplingParams(9), "b")
    assert all(text.startswith("sft 0 ") for text in alone[0].responses), "there is no other"
    cut, _ = block(STAGE, writers, asked[:1], [["sft", "sft"]], SamplingParams(9), "b", [" "])
    assert cut[0].responses == ["sft", "sft"], "before the stop text"


def test_a_block_is_the_same_again_and_another_is_not(tokenizer):
    """By the seed and the block's place. Mutation seen red: the salt left out."""

    def order(salt: str, seed: int = 7) -> tuple:
        echo = Echo("sft", tokenizer)
        writer = {"sft": Writer(tokenizer, echo, 60, (), ())}
        stage = SimpleNamespace(seed=seed, world_size=1, rank=0)
        found, _ = block(stage, writer, [("train", prompt(0))], [["sft"] * 9], SamplingParams(5),
                         salt)  # fmt: skip
        return tuple(found[0].responses), echo.params[0].seed

    assert order("a") == order("a")
    for other in (order("b"), order("a", seed=8)):
        assert all(one != two for one, two in zip(order("a"), other, strict=True))


def test_the_main_model_answers_first_and_the_others_by_their_share():
    """Of 4,000 draws at shares of 3 to 1 the rarer one has 1,000, give or take 110 (four standard
    deviations). Mutation seen red: every name as likely.
    """
    rng = random.Random(0)
    assert plan("sft", {"base": 1.0}, 4, rng) == ["sft", "base", "base", "base"]
    assert plan("sft", {"base": 1.0}, 1, rng) == ["sft"]
    drawn = Counter(plan("sft", {"base": 3.0, "other": 1.0}, 4001, rng)[1:])
    assert drawn["base"] + drawn["other"] == 4000 and abs(drawn["other"] - 1000) < 110


def test_a_prompt_fits_where_every_model_has_room_to_answer(writers, tokenizer):
    """The shorter context decides, to the token. Mutation seen red: any model's room is enough."""
    from data.template import encode_prompt

    room = 60 - len(encode_prompt(tokenizer, prompt(0).messages))
    assert fits(prompt(0), writers, room) and not fits(prompt(0), writers, room + 1)
    assert fits(prompt(0), {"base": writers["base"]}, room + 1)


class Ranker:
    """Ranks in the order of the list, and skips prompts that it has no taste for."""

    def __init__(self, name: str, cohort: str = "train", skips: tuple[str, ...] = ()) -> None:
        self.name, self.cohort, self.skips, self.asked = name, cohort, skips, []

    def rank(self, prompt, responses, rng):
        self.asked.append(prompt)
        skipped = "no taste" if prompt.id in self.skips else None
        ranks = [] if skipped else list(range(1, len(responses) + 1))
        return SimpleNamespace(
            ranks=ranks, likert=[4] * len(ranks), flags=[[]] * len(ranks), skipped=skipped
        )


def candidates(number: int, split: str) -> Candidates:
    known = prompt(number)
    return Candidates(
        prompt=known.messages, responses=["a", "b"], generators=["sft", "base"], split=split,
        user=known.user, use_case=known.use_case, source=known.source, id=known.id, meta=known.meta,
    )  # fmt: skip


def test_several_rank_what_validates_and_the_held_out_rank_all_of_that_and_nothing_else():
    """Three training labelers and two held out. Mutations seen red: one labeler where two were
    wanted; a held-out labeler who ranks training prompts.
    """
    people = [Ranker(name) for name in ("ana", "bram", "cleo")]
    held_out = [Ranker(name, "heldout") for name in ("eve", "fay")]
    config = Config(labelers_per_prompt=1, labelers_per_validation_prompt=2)
    asked = [candidates(0, "train"), candidates(1, "validation"), candidates(2, "train")]
    found = rank(config, [*people, *held_out], asked, 3, Counter())
    assert [r.task for r in found["train"]] == ["t-000000", "t-000002"]
    assert len({r.labeler for r in found["validation"]}) == 2
    assert {r.labeler for r in found["heldout"]} == {"eve", "fay"}
    assert {r.task for r in found["validation"] + found["heldout"]} == {"t-000001"}
    assert {r.cohort for r in found["heldout"]} == {"heldout"}
    again = rank(config, [*people, *held_out], asked, 3, Counter())
    assert again == found
    many = [candidates(number, "train") for number in range(9)]
    known = {person.name for person in people}
    crowd = rank(config, [*people, *held_out], many, 3, Counter())["train"]
    assert {r.labeler for r in crowd} == known
    by_seed = [
        [r.labeler for r in rank(config, people, many, seed, Counter())["train"]] for seed in (3, 4)
    ]
    assert by_seed[0] != by_seed[1]


def test_another_labeler_stands_in_for_who_skips_and_a_ranking_holds_all_that_is_known():
    """Two are wanted; one of three skips. Mutations seen red: the skip not counted; any of the
    ranking's fields lost.
    """
    people, counts = [Ranker("ana", skips=("p4",)), Ranker("bram"), Ranker("cleo")], Counter()
    for seed in range(6):
        found = judge(candidates(4, "train"), 12, people, 2, random.Random(seed), counts)
        assert sorted(r.labeler for r in found) == ["bram", "cleo"]
    assert counts == {"rankings skipped by their labeler": len(people[0].asked)}
    assert people[0].asked, "in six orders the one who skips comes before another"
    one = next(r for r in found if r.labeler == "bram").model_dump()
    assert {name: value for name, value in one.items() if value is not None} == {
        "prompt": [{"role": "user", "content": "Tale 4?"}], "responses": ["a", "b"],
        "ranks": [1, 2], "likert": [4, 4], "flags": [[], []], "labeler": "bram",
        "cohort": "train", "source": "village", "task": "t-000012", "generators": ["sft", "base"],
        "user": "u4", "use_case": "story", "id": "r-000012-bram", "meta": {"number": 4},
    }  # fmt: skip
    told = people[1].asked[0]
    assert told == prompt(4)
    assert judge(candidates(4, "train"), 12, people[:1], 2, random.Random(0), counts) == []


def test_the_numbers_of_a_collection_by_hand():
    """Three rankings: of six pairs, three and one, in all ten, two are tied. Mutations seen red: a
    tie counted as ordered; one split's agreement for the other's.
    """
    same = {"prompt": "v?", "responses": ["a", "b", "c"]}
    rankings = {
        "train": [ranking("t?", ["a", "b", "c", "d"], [1, 2, 2, 4])],
        "validation": [
            ranking(**same, ranks=[1, 2, 3], labeler="ana"),
            ranking(**same, ranks=[1, 3, 2], labeler="bram"),
        ],
        "heldout": [ranking("h?", ["a", "b"], [1, 1], labeler="eve")],
    }
    counts = Counter({"finished": 9, "cut off": 3})
    found = describe(rankings, counts)
    assert found == {
        "train_rankings": 1,
        "validation_rankings": 2,
        "heldout_rankings": 1,
        "responses_per_ranking": 3.0,
        "tie_rate": pytest.approx(2 / 13),
        "finished_rate": 0.75,
        "agreement": pytest.approx(2 / 3),
    }
    assert "finished_rate" not in describe(rankings, Counter())
    text = card(rankings, found)
    assert "1 train, 2 validation, 1 heldout; 3.0 responses each, 15.4 % of pairs tied." in text
    assert "order 66.7 % of untied pairs alike" in text
    without = {name: value for name, value in found.items() if name != "agreement"}
    assert "alike" not in card(rankings | {"heldout": []}, without)
    assert "heldout" not in card(rankings | {"heldout": []}, without)


def test_where_nobody_ranks_the_candidates_are_kept_for_people(tmp_path):
    """Written by the first process alone. Mutation seen red: nothing written."""
    asked = [candidates(0, "train")]
    for name, first in (("one", True), ("two", False)):
        (tmp_path / name).mkdir()
        stage = SimpleNamespace(dir=tmp_path / name, is_main=first, name="rankings")
        error = nobody_ranks(stage, asked)
        path = tmp_path / name / "candidates.jsonl"
        assert isinstance(error, DataError) and str(path) in error.fix
        assert path.is_file() == first
    assert read_jsonl(tmp_path / "one" / "candidates.jsonl", Candidates) == asked
