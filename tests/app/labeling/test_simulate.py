"""The loop without people: the world's labelers through the HTTP API, agreement, export, and the
reward model on it.
"""

import random
import time

import pytest

from app.labeling import demo
from app.labeling.collecting import ExportFilter, collect_rankings
from app.labeling.exporting import make_export
from app.labeling.importing import Candidates, add_batch, rules_of, stored_candidates
from app.labeling.simulate import judge, message_key, prompts_of
from app.labeling.site import Settings, open_site
from data.agreement import pairwise_agreement
from data.jsonl import read_jsonl
from data.records import Ranking
from data.worlds import load_world
from podium.errors import PodiumError


@pytest.fixture(scope="module")
def world():
    return load_world("willowbrook", seed=0)


def village_candidates(world, count: int, k: int = 4) -> list[Candidates]:
    """Prompts of the village answered well and badly: an oracle, three demonstrations of mixed
    quality.
    """
    rng = random.Random(1)
    prompts = world.prompts(rng)
    found = []
    while len(found) < count:
        prompt = next(prompts)
        texts = [
            world.oracle(prompt),
            *(world.demonstration(prompt, rng).messages[-1].content for _ in range(k - 1)),
        ]
        if len(set(texts)) == k:
            found.append(
                Candidates(
                    prompt=prompt.messages,
                    responses=texts,
                    user=prompt.user,
                    use_case=prompt.use_case,
                    source=prompt.source,
                    id=prompt.id,
                    meta=prompt.meta,
                )
            )
    return found


def test_ten_labelers_rank_through_the_site_and_agree_as_people_do(site, world):
    """Every wanted ranking is there, by several labelers of both cohorts, with flags and
    ratings.
    """
    candidates = village_candidates(world, 12)
    with site.database.write() as session:
        add_batch(session, rules_of({"name": "village", "overlap": 4}), candidates, time.time())
    demo.run_labelers(site, world.labelers(0), seed=0)
    with site.database.read() as session:
        rankings = collect_rankings(session, ExportFilter())
    assert len(rankings) == 48 and {r.cohort for r in rankings} == {"train", "heldout"}
    assert len({r.labeler for r in rankings}) == 10
    assert all(r.likert and r.flags and r.meta["flags_asked"] for r in rankings)
    assert any(flag for r in rankings for flags in r.flags for flag in flags)
    agreement = pairwise_agreement(rankings)
    assert 0.5 < agreement.value < 1
    made = make_export(site.database, site.exports, "rankings", ExportFilter(), None, time.time())
    assert len(read_jsonl(site.exports / made.file, Ranking)) == 48


def test_labelers_judge_the_prompt_with_its_constraints(site, world):
    """What the site stores of a prompt is enough for the village to read its features."""
    candidates = village_candidates(world, 3)
    with site.database.write() as session:
        add_batch(session, rules_of({"name": "village"}), candidates, time.time())
        stored = stored_candidates(session)
    assert [(c.prompt, c.meta, c.user) for c in stored] == [
        (c.prompt, c.meta, c.user) for c in candidates
    ]
    prompt = prompts_of(stored)[message_key([m.model_dump() for m in candidates[0].prompt])]
    assert world.gold(prompt, world.oracle(prompt)) > world.gold(prompt, "no")


def test_a_judgement_becomes_tiers_in_the_labelers_own_order(world):
    labeler, candidates = world.labelers(0)[0], village_candidates(world, 1)[0]
    order = [2, 0, 3, 1]
    task = {
        "responses": [{"position": p, "text": candidates.responses[p]} for p in order],
        "form": {"likert": True, "response_flags": [{"name": "hallucination"}]},
    }
    prompt = next(iter(prompts_of([candidates]).values()))
    answer = judge(labeler, prompt, task, random.Random(5))
    said = labeler.rank(prompt, [candidates.responses[p] for p in order], random.Random(5))
    assert isinstance(answer, dict)
    ranks = {p: tier for tier, positions in enumerate(answer["tiers"], start=1) for p in positions}
    assert [ranks[p] for p in order] == said.ranks
    assert {flag for r in answer["responses"] for flag in r["flags"]} <= {"hallucination"}


def test_the_demo_refuses_a_folder_with_a_site(tmp_path):
    open_site(Settings(folder=tmp_path / "run-labeled" / "labeling"))
    with pytest.raises(PodiumError, match="already has a site"):
        demo.demonstrate(tmp_path / "run", 2, 1, False, 0, None)
