"""`podium label results`: what was planted is found, within its intervals."""

import json

import numpy as np
import pytest
from typer.testing import CliRunner

from app.labeling.cli import app
from app.labeling.results import games_of, results
from app.labeling.votes import record_vote
from data.jsonl import write_jsonl
from data.records import Message, Ranking
from podium.statistics import ELO_PER_NAT, bradley_terry, elo_over_prompts
from tests.app.labeling.making import Browser, add_batch, add_person, answer_to

STRENGTH = {"base": -1.0, "sft": 0.0, "ppo": 0.4, "ppo_ptx": 0.6}  # nats of preference


def ranking(prompt, answers, ranks, generators, **fields):
    messages = [Message(role="user", content=prompt)]
    return Ranking(prompt=messages, responses=answers, ranks=ranks, generators=generators, **fields)


def planted(prompts: int, seed: int) -> list[Ranking]:
    """People who order four answers by Plackett and Luce's law: the better of two by Bradley and
    Terry's.
    """
    rng = np.random.default_rng(seed)
    names = list(STRENGTH)
    values = np.array(list(STRENGTH.values())) + rng.gumbel(size=(prompts, len(names)))
    order = (-values).argsort(axis=1).argsort(axis=1) + 1
    return [
        ranking(f"Question {n}?", [f"{name} says {n}" for name in names], row.tolist(), names)
        for n, row in enumerate(order)
    ]


def test_planted_elo_and_win_rates_lie_within_their_intervals():
    """100 sites of 40 prompts, four ratings and four win rates each: 95 % intervals miss at most
    1 in 10 of them (expected 1 in 20, and 800 chances). Seen red with the pairs of a ranking
    taken for independent games, and with the sign of an outcome turned.
    """
    names = sorted(STRENGTH)
    truth = np.array([STRENGTH[name] for name in names])
    truth_elo = (truth - truth.mean()) * ELO_PER_NAT
    chance = 1 / (1 + np.exp(truth[None] - truth[:, None]))
    rates = (chance.sum(axis=1) - 0.5) / (len(names) - 1)
    missed = {"elo": 0, "win rate": 0}
    for seed in range(100):
        found = results(planted(40, seed)).models
        for name, elo, rate in zip(names, truth_elo, rates, strict=True):
            missed["elo"] += not found[name].elo.low <= elo <= found[name].elo.high
            missed["win rate"] += not found[name].win_rate.low <= rate <= found[name].win_rate.high
    assert all(0 < count < 40 for count in missed.values()), missed


def test_elo_is_the_likelihoods_maximum_and_its_mean_is_zero():
    """Against the table of wins of `bradley_terry`, also with every game the other way round."""
    games = games_of(planted(60, 1))
    names = sorted(STRENGTH)
    a, b = ([names.index(name) for name in column] for column in list(zip(*games, strict=True))[:2])
    outcome = [game.outcome for game in games]
    prompts = [game.prompt for game in games]
    found = elo_over_prompts(a, b, outcome, prompts, 4)
    wins = np.zeros((4, 4))
    for i, j, y in zip(a, b, outcome, strict=True):
        wins[i, j] += y
        wins[j, i] += 1 - y
    ratings = bradley_terry(wins)[0]
    assert [e.value for e in found] == pytest.approx(ratings - ratings.mean(), abs=1e-6)
    assert sum(e.value for e in found) == pytest.approx(0, abs=1e-6)
    turned = elo_over_prompts(b, a, [1 - y for y in outcome], prompts, 4)
    assert np.array(turned) == pytest.approx(np.array(found), abs=1e-3)


def test_two_people_on_ten_prompts_by_hand():
    """Ties are half; the longer answer's win does not count among equal lengths; each cohort has
    its own rate. Seen red with lengths not looked at, and with an outcome not turned.
    """
    long = "x" * 50
    rows = []
    for n in range(10):
        rows.append(
            ranking(
                f"q{n}",
                ["a" * 10, "b" * 10],
                [1, 2 if n < 6 else 1],
                ["A", "B"],
                likert=[7, 3],
                flags=[[], ["rude"]],
            )
        )
        rows.append(ranking(f"q{n}", [long, "b" * 10], [2, 1], ["A", "B"], cohort="heldout"))
    found = results(rows)
    a, b = found.models["A"], found.models["B"]
    assert a.win_rate.value == pytest.approx((6 + 4 * 0.5 + 0) / 20) and a.games == 20
    assert b.win_rate.value == pytest.approx(1 - a.win_rate.value) and a.ties == 0.2
    assert a.win_rate_length_matched.value == pytest.approx(0.8)
    assert found.cohorts["train"]["A"].value == pytest.approx(0.8)
    assert found.cohorts["heldout"]["A"].value == 0.0
    pair = found.pairs[("B", "A")]
    assert pair.win_rate.value == pytest.approx(0.6) and pair[:3] == (10, 4, 6)
    assert a.likert.value == 7.0 and b.flags == {"rude": 0.5} and a.prompts == 10


def test_models_that_never_lost_have_a_win_rate_and_no_elo():
    found = results([ranking(f"q{n}", ["x", "y"], [1, 2], ["A", "B"]) for n in range(8)])
    assert found.models["A"].elo is None and "never lost" in found.note
    assert found.models["A"].win_rate.value == 1.0 and found.models["A"].win_rate.low < 0.9


def test_the_command_and_the_page_read_the_sites_newest_answers_and_the_blind_votes(
    site, browser, tmp_path
):
    """A labeler's answers and three votes, as they came in through the site. Seen red with votes
    counted whose voter saw the names.
    """
    add_batch(site, count=2, k=2)
    lea = browser("lea")
    for _ in range(2):
        task = lea.next()
        lea.submit(task["assignment"], answer_to(task))
    with site.database.write() as session:
        asked = [Message(role="user", content="Chat?")]
        for choice, blind in (("both bad", True), ("left", True), ("left", False)):
            record_vote(session, asked, "l", "r", choice, ("model-0", "model-1"), "lea", blind)

    def told(*more: str) -> dict:
        done = CliRunner().invoke(app, ["results", "--folder", str(tmp_path), "--json", *more])
        assert done.exit_code == 0, done.output
        return json.loads(done.output)

    found = told()
    assert (found["rankings"], found["votes"], found["sighted"]) == (2, 2, 1)
    assert found["models"]["model-0"]["games"] == 4
    (pair,) = found["pairs"]
    assert pair["won"] + pair["lost"] == 3 and pair["tied"] == 1
    assert told("--sighted")["votes"] == 3 and told("--no-votes")["votes"] == 0
    assert told("--cohort", "heldout")["models"] == {}
    add_person(site, "ada", role="admin")
    page = Browser(site, "ada").get("/admin/results").text
    assert "Rankings: 2 (" in page and "of the chat: 2." in page and "left out: 1." in page
    assert "model-1" in page and f"<td>{pair['tied']}</td>" in page


def test_a_file_is_read_drawn_and_shown(tmp_path):
    write_jsonl(tmp_path / "r.jsonl", planted(30, 0))
    picture = tmp_path / "wins.png"
    done = CliRunner().invoke(app, ["results", str(tmp_path / "r.jsonl"), "--plot", str(picture)])
    assert done.exit_code == 0, done.output
    assert "ppo_ptx" in done.output and "Elo" in done.output and "30 rankings" in done.output
    assert picture.read_bytes().startswith(b"\x89PNG")
    add = CliRunner().invoke(app, ["results", str(tmp_path / "none.jsonl")])
    assert add.exit_code == 2
