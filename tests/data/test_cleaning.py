"""Cleaning: each step drops what it names and nothing else, and the report counts it."""

import random
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from data.clean import main
from data.cleaning import (
    NEAR_DUPLICATE,
    cap_per_user,
    clean,
    drop_common_prefix,
    drop_near_duplicates,
    drop_overlap,
    jaccard,
    minhash,
    personal_data,
    split_by_user,
    word_hashes,
)
from data.jsonl import read_jsonl, write_jsonl
from data.records import Document, Message, Prompt

WORDS = [f"word{i}" for i in range(5000)]


def prompt(text, user=None):
    return Prompt(messages=[Message(role="user", content=text)], user=user)


def document_pair(changed, words=400, seed=0):
    """Two documents of `words` words that differ in every (words // changed)-th word."""
    rng = random.Random(seed)
    first = rng.choices(WORDS, k=words)
    second = list(first)
    for place in range(changed):
        second[place * words // changed] = f"other{seed}_{place}"
    return Document(text=" ".join(first)), Document(text=" ".join(second))


def test_prompts_with_a_long_common_prefix_are_one():
    long = "Summarise the following letter for me in one short and friendly sentence: "
    prompts = [
        prompt(long + "Dear Ana"),
        prompt("Hi"),
        prompt(long + "Dear Bram"),
        prompt("Hi "),
        prompt("Hi there"),
    ]
    kept = [p.messages[0].content for p in drop_common_prefix(prompts, 60)]
    assert kept == [long + "Dear Ana", "Hi", "Hi there"]


@pytest.mark.parametrize(("changed", "similar"), [(1, 0.975), (3, 0.93), (40, 0.33)])
def test_near_duplicates_are_those_over_the_threshold(changed, similar):
    """Pairs planted at known similarity. Seen red with `>=` turned to `<` and with candidates left
    unverified.
    """
    for seed in range(5):
        first, second = document_pair(changed, seed=seed)
        exact = jaccard(word_hashes(first.text, 5), word_hashes(second.text, 5))
        assert exact == pytest.approx(similar, abs=0.02)
        kept = drop_near_duplicates([first, second])
        assert kept == ([first] if exact >= NEAR_DUPLICATE else [first, second])


def test_near_duplicates_agree_with_comparing_every_pair():
    rng = random.Random(3)
    documents = []
    for seed in range(60):
        documents += document_pair(
            rng.choice([1, 2, 4, 8]), words=rng.choice([80, 200, 400]), seed=seed
        )
    rng.shuffle(documents)
    brute = []
    for document in documents:
        grams = word_hashes(document.text, 5)
        if all(jaccard(grams, word_hashes(other.text, 5)) < 0.9 for other in brute):
            brute.append(document)
    assert drop_near_duplicates(documents, 0.9) == brute and len(brute) < len(documents)


def test_minhash_estimates_the_jaccard_similarity():
    """Mean over pairs within 0.02 of the truth. Seen red with all MULTIPLIERS equal."""
    for changed in (4, 20):
        gaps = []
        for seed in range(40):
            a, b = (word_hashes(d.text, 5) for d in document_pair(changed, seed=seed))
            gaps.append((minhash(a) == minhash(b)).mean() - jaccard(a, b))
        assert abs(sum(gaps) / len(gaps)) < 0.02


def test_a_user_keeps_at_most_the_cap():
    prompts = (
        [prompt(f"a{i}", "ana") for i in range(5)]
        + [prompt(f"n{i}") for i in range(5)]
        + [prompt("b", "bram")]
    )
    assert Counter(p.user for p in cap_per_user(prompts, 3)) == {"ana": 3, None: 5, "bram": 1}


@given(users=st.lists(st.text(min_size=1, max_size=3), min_size=1, max_size=60))
def test_no_user_is_in_two_splits_and_nobody_is_lost(users):
    """Seen red with the place hashed from the text rather than the user."""
    prompts = [prompt(f"question {i}", user) for i, user in enumerate(users)]
    splits = split_by_user(prompts, {"train": 0.5, "validation": 0.25, "test": 0.25})
    owners = [{p.user for p in part} for part in splits.values()]
    assert sum(map(len, splits.values())) == len(prompts)
    assert len(set.union(*owners)) == sum(map(len, owners))


def test_shares_are_kept_over_many_users_and_do_not_move_when_users_join():
    many = [prompt("x", f"user{i}") for i in range(4000)]
    splits = split_by_user(many, {"train": 8, "test": 2})
    assert len(splits["test"]) / 4000 == pytest.approx(0.2, abs=0.02)
    few = split_by_user(many[:100], {"train": 8, "test": 2})
    assert [p for p in splits["test"] if p in many[:100]] == few["test"]


PERSONAL = {
    "Write to ana.b+c@mill.example.org please": ["email"],
    "my number is (555) 123-4567": ["phone number"],
    "call 555-123-4567 now": ["phone number"],
    "Tel. +44 (0)20 7946 0958": ["international phone number"],
    "SSN 078-05-1120": ["social security number"],
    "at 192.168.10.7 again": ["IP address"],
    "card 4111 1111 1111 1111": ["card number"],
    "card 4111 1111 1111 1112": [],  # wrong check digit
    "from 1999-2004, on 10.5.2020, pi is 3.14159265358979, version 1.2.3.4.5": [],
    "Isaiah 55:1-13, 2 x 400 = 800, 12:30:45": [],
    "mention @ana in a tweet": [],
}


@pytest.mark.parametrize("text", PERSONAL)
def test_personal_data_is_found_and_ordinary_numbers_are_not(text):
    assert personal_data(text) == PERSONAL[text]


def test_training_texts_that_hold_a_held_out_run_of_words_are_dropped():
    held_out = "The quick brown fox jumps over the lazy dog near the old stone mill today."
    inside = Document(
        text="He wrote: the QUICK brown fox, jumps over the lazy dog near the old stone mill; fine."
    )
    short = Document(text="the lazy dog near the old stone mill today")
    assert drop_overlap([inside, short], [held_out, "too short"]) == [short]


def test_the_whole_cleaning_counts_what_each_step_drops():
    secret = prompt("My mail is a@b.org, is that fine?", "train-user")
    prompts = [prompt("Same question", "u"), prompt("Same question", "v"), secret]
    prompts += [prompt(f"{i} unlike any other {i * 7}", "busy") for i in range(6)]
    splits, report = clean(prompts, {"train": 1.0}, user_cap=4)
    assert len(splits["train"]) == 5 and secret not in splits["train"]
    assert list(report.dropped.values()) == [1, 0, 2, 1, 0]
    assert "1 dropped: personal data in train" in str(report)


def test_the_command_writes_the_splits_and_refuses_bad_input(tmp_path, capsys):
    write_jsonl(tmp_path / "in.jsonl", [prompt(f"question number {i}", f"u{i}") for i in range(50)])
    assert (
        main([str(tmp_path / "in.jsonl"), str(tmp_path / "out"), "--shares", "train=0.5,test=0.5"])
        == 0
    )
    kept = [
        read_jsonl(tmp_path / "out" / f"prompts.{split}.jsonl", Prompt)
        for split in ("train", "test")
    ]
    assert sum(map(len, kept)) == 50
    assert "50 records read" in capsys.readouterr().out
    assert main([str(tmp_path / "none.jsonl"), str(tmp_path / "out2")]) == 2
    assert "no such file" in capsys.readouterr().err and not (tmp_path / "out2").exists()
