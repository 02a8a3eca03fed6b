"""Cleaning: each rule takes what it names and nothing else, from the kinds it is for, and the
report says what went.
"""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.cleaning import RULES, Rules, clean, common_prefixes, over_cap, split, texts, with_texts
from data.records import Comparison, Demonstration, Document, Message, Prompt, Ranking

OFF = Rules(near_duplicate=None, personal_data="keep", overlap="keep")
TRAIN = {"train": 1.0}
QUOTE = "The quick brown fox jumps over the lazy dog near the old stone mill"


def prompt(text, user=None, system=None):
    before = [Message(role="system", content=system)] if system else []
    return Prompt(messages=[*before, Message(role="user", content=text)], user=user)


def ranking(text, labeler, ranks=(1, 2), user=None):
    asked = [Message(role="user", content=text)]
    return Ranking(
        prompt=asked, responses=["Plum.", "No."], ranks=list(ranks), labeler=labeler, user=user
    )


def book(seed, words=400):
    rng = random.Random(seed)
    return " ".join(f"word{rng.randrange(5000)}" for _ in range(words))


def cleaned(records, rules=None, **more):
    return clean(records, TRAIN, rules, **more)[0]["train"]


# What was destroyed before rules went by the kind of record
# -----------------------------------------------------------------------------------------------


def test_three_labelers_rankings_of_one_prompt_stay_three():
    """Seen red with the common prefix rule for every kind, and with near duplicates by text."""
    rankings = [ranking("Name a fruit.", labeler) for labeler in ("ana", "bram", "cleo")]
    assert cleaned(rankings) == rankings


def test_five_books_with_one_licence_header_stay_five():
    """Seen red with the common prefix rule for every kind."""
    header = "You may copy this book, give it away or print it under the terms below. " * 4
    books = [Document(text=header + book(seed)) for seed in range(5)]
    assert cleaned(books) == books


def test_a_page_with_one_mail_address_stays_without_it():
    """Seen red with every kind's personal data dropped."""
    page = Document(text=f"{book(0)} Write to ana@mill.org.", id="page")
    assert cleaned([page]) == [Document(text=f"{book(0)} Write to [EMAIL ADDRESS].", id="page")]


def test_a_book_that_quotes_a_test_question_stays_without_the_passage():
    """Seen red with a document dropped for thirteen words."""
    whole = Document(text=f"{book(0)} {QUOTE}. {book(1)}", source="shelf")
    splits, report = clean([whole], TRAIN, held_out=[QUOTE])
    before, after = splits["train"]
    assert book(0).startswith(before.text) and book(1).endswith(after.text)
    assert before.source == after.source == "shelf" and not report.dropped
    assert "1 changed: 13 words in common with a held-out text, cut out" in str(report)


def test_prompts_under_one_long_system_message_stay():
    """Seen red with the system message counted as the prompt's beginning."""
    system = "You are the village's helpful, honest and harmless assistant. " * 6
    prompts = [prompt(text, system=system) for text in ("Who bakes?", "Where is the well?")]
    assert cleaned(prompts) == prompts


def test_several_answers_to_one_long_question_stay():
    """Seen red with the common prefix rule for every kind."""
    asked = Message(role="user", content=book(0))
    shown = [
        Demonstration(messages=[asked, Message(role="assistant", content=answer)])
        for answer in ("It was a quiet year.", "A flood came and went.")
    ]
    assert cleaned(shown) == shown


# The rules one by one
# -----------------------------------------------------------------------------------------------


def test_prompts_with_a_long_common_prefix_are_one():
    long = "Summarise the following letter for me in one short and friendly sentence: "
    asked = (long + "Dear Ana", "Hi", long + "Dear Bram", "Hi ", "Hi there")
    prompts = [prompt(text) for text in asked]
    assert common_prefixes(prompts, 60) == [None, None, 0, 1, None]


def test_a_user_keeps_at_most_the_cap():
    prompts = (
        [prompt(f"a{i}", "ana") for i in range(5)]
        + [prompt(f"n{i}") for i in range(5)]
        + [prompt("b", "bram")]
    )
    whys = over_cap(prompts, 3)
    assert [bool(why) for why in whys] == [False] * 3 + [True] * 2 + [False] * 6
    assert whys[4] == "number 5 of user 'ana'"


@given(users=st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=60))
def test_no_user_is_in_two_splits_and_nobody_is_lost(users):
    """Seen red with the place hashed from the text rather than the user."""
    prompts = [prompt(f"question {i}", user) for i, user in enumerate(users)]
    splits, _ = clean(prompts, {"train": 0.5, "validation": 0.25, "test": 0.25}, OFF)
    owners = [{p.user for p in part} for part in splits.values()]
    assert sum(map(len, splits.values())) == len(prompts)
    assert len(set.union(*owners)) == sum(map(len, owners))


def test_all_rankings_of_a_prompt_are_in_one_split():
    """Whether or not a record knows its user. Seen red with rankings split by user."""
    rankings = [
        ranking(f"question {i}", labeler, user=user)
        for i in range(40)
        for labeler, user in (("ana", f"user{i}"), ("bram", None), ("cleo", "somebody else"))
    ]
    splits, _ = clean(rankings, {"train": 0.5, "test": 0.5})
    asked = [Counter(r.prompt[0].content for r in part) for part in splits.values()]
    assert len(asked[0]) + len(asked[1]) == 40 and all(asked)
    assert {*asked[0].values(), *asked[1].values()} == {3}


def test_shares_are_kept_over_many_users_and_do_not_move_when_users_join():
    many = list(enumerate([prompt("x", f"user{i}") for i in range(4000)]))
    splits = split(many, {"train": 8, "test": 2})
    assert len(splits["test"]) / 4000 == pytest.approx(0.2, abs=0.02)
    few = split(many[:100], {"train": 8, "test": 2})
    assert [p for p in splits["test"] if p in many[:100]] == few["test"]


def test_training_prompts_that_hold_a_held_out_run_of_words_are_dropped():
    """From train alone: a held-out text may say what it says."""
    quoting = [prompt(f"{QUOTE}, or so user {i} says", f"user{i}") for i in range(20)]
    splits, report = clean(quoting, {"train": 1, "test": 1}, OFF, held_out=[QUOTE])
    assert len(splits["train"]) + len(splits["test"]) == 20 and not report.dropped
    rules = Rules(near_duplicate=None, overlap="drop")
    after, report = clean(quoting, {"train": 1, "test": 1}, rules, held_out=[QUOTE])
    assert after["train"] == [] and after["test"] == splits["test"]
    assert len(report.dropped) == len(splits["train"]) > 0


PERSONAL = [
    Document(text="Write to ana@mill.org."),
    prompt("Is ana@mill.org right?"),
    Demonstration(
        messages=[
            Message(role="user", content="Whom do I ask?"),
            Message(role="assistant", content="Ask ana@mill.org."),
        ]
    ),
    Ranking(
        prompt=[Message(role="user", content="I am ana@mill.org.")],
        responses=["Hello bram@mill.org.", "Hello."],
        ranks=[2, 1],
        labeler="ana",
    ),
    Comparison(
        prompt=[Message(role="user", content="Who?")], chosen="Ana.", rejected="ana@mill.org"
    ),
]


@pytest.mark.parametrize("record", PERSONAL, ids=lambda record: type(record).__name__)
def test_personal_data_is_dropped_redacted_or_kept_as_asked(record):
    for choice, left in (("drop", 0), ("keep", 1), ("redact", 1)):
        found = cleaned([record], Rules(personal_data=choice))
        assert len(found) == left
        if choice == "keep":
            assert found == [record]
        if choice == "redact":
            covered = [t.replace("ana@", "bram@") for t in texts(record)]
            covered = [t.replace("bram@mill.org", "[EMAIL ADDRESS]") for t in covered]
            assert found == [with_texts(record, covered)] != [record]
            type(record).model_validate_json(found[0].model_dump_json())


def test_every_kind_has_its_rules():
    """Prompts are the paper's; no other kind has its prefix rule or its cap."""
    assert set(RULES) == {Document, Prompt, Demonstration, Ranking, Comparison}
    for kind, rules in RULES.items():
        assert (rules.prefix_characters is not None) == (kind is Prompt)
        assert (rules.user_cap is not None) == (kind is Prompt)


# The report
# -----------------------------------------------------------------------------------------------


def test_the_report_counts_each_rule_and_shows_examples():
    prompts = [prompt("Same question", "u"), prompt("Same question", "v")]
    prompts += [prompt("My mail is a@b.org, is that fine?", "w")]
    prompts += [prompt(f"{i} unlike any other {i * 7}", "busy") for i in range(6)]
    rules = Rules(prefix_characters=200, user_cap=4, personal_data="drop")
    splits, report = clean(prompts, TRAIN, rules)
    assert len(splits["train"]) == 5
    assert report.counts() == {
        "common prefix of 200 characters": 1,
        "over 4 of one user": 2,
        "personal data": 1,
    }
    assert [dropped.number for dropped in report.dropped] == [2, 8, 9, 3]
    assert "record 2: as record 1" in str(report)
    assert "record 3: email address" in str(report)
