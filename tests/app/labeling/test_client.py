"""The Python client, against the real application and, for a whole campaign, a real server."""

import hashlib
import json
import time
from pathlib import Path

import httpx
import pytest
from fastapi.testclient import TestClient

from app.labeling import delivery
from app.labeling.application import create_site
from app.labeling.client import LabelingClient, LabelingError
from app.labeling.demo import train_reward
from app.labeling.importing import Candidates
from app.labeling.signing import verify_webhook
from app.labeling.simulate import simulate
from app.labeling.site import Settings, open_site
from app.labeling.webhooks import add_webhook, webhook_wish
from app.serving import serving
from data.jsonl import read_jsonl
from data.records import Comparison, Demonstration, Ranking
from data.worlds import load_world
from evals.evaluate import Config
from podium.errors import PodiumError
from podium.run.recipe import DataConfig, Recipe, dump_recipe
from tests.app.labeling.making import ADDRESS, Browser, add_person, answer_to, candidates, token_for
from tests.app.labeling.test_loop import village_candidates
from tests.app.labeling.test_webhooks import Receiver
from tests.evals.miniature import WORLD, make_run

ROOT = Path(__file__).parents[3]


class Passed(httpx.BaseTransport):
    """The client's requests, answered by the application without a socket."""

    def __init__(self, site) -> None:
        self.inner = TestClient(create_site(site), base_url=ADDRESS, follow_redirects=False)

    def handle_request(self, request: httpx.Request) -> httpx.Response:
        reply = self.inner.request(
            request.method, str(request.url), headers=dict(request.headers), content=request.read()
        )
        return httpx.Response(reply.status_code, headers=reply.headers, content=reply.content)


def client_of(site, *scopes: str) -> LabelingClient:
    return LabelingClient(ADDRESS, token_for(site, *scopes), transport=Passed(site))


def test_a_campaign_of_texts(site, tmp_path):
    """From prompts to demonstrations and comparisons that are read back, by the client alone."""
    client = client_of(site)
    question = {"role": "user", "content": "Why?"}
    made = client.make_writing("texts", "edit", [{"prompt": [question], "responses": ["No."]}])
    assert (made.tasks, made.batch.kind, made.batch.wanted) == (1, "edit", 1)
    add_person(site, "lea")
    lea = Browser(site, "lea")
    number = lea.next()["assignment"]
    turns = [{"role": "assistant", "content": "So."}]
    key = {"Idempotency-Key": "12345678"}
    assert lea.post(f"/api/writing/{number}/submit", {"turns": turns}, key).status_code == 200
    assert [row.done for row in client.batches()] == [1] and list(client.records()) == []
    export = client.make_export("demonstrations", batches=["texts"])
    [record] = read_jsonl(client.download(export.id, tmp_path / "made.jsonl"), Demonstration)
    assert record.messages[-1].content == "So." and record.meta["edit_distance"] == 1
    pairs = client.make_export("comparisons")
    [pair] = read_jsonl(client.download(pairs.id, tmp_path / "pairs.jsonl"), Comparison)
    assert (pair.chosen, pair.rejected) == ("So.", "No.")


def test_an_endpoint_wants_another_scope(site):
    """The site itself calls it. Mutation seen red: the look at the scope left out."""
    endpoint = {"url": "https://example.org/v1", "models": ["m"]}
    seeds = [{"brief": "Talk."}]
    with pytest.raises(LabelingError, match="needs the scope manage"):
        client_of(site, "import").make_writing("t", "dialogue", seeds, endpoint=endpoint)
    both = client_of(site, "import", "manage")
    assert both.make_writing("t", "dialogue", seeds, endpoint=endpoint).tasks == 1
    with pytest.raises(LabelingError, match=r"must begin with https"):
        inside = endpoint | {"url": "http://10.0.0.1/v1"}
        both.make_writing("u", "dialogue", seeds, endpoint=inside)


def test_every_method_gives_what_the_site_has(site, tmp_path, monkeypatch):
    """Mutation seen red: the second page left out."""
    monkeypatch.setattr("app.labeling.client.PAGE", 2)
    client = client_of(site)
    assert client.token().scopes == ["read", "import", "export", "manage", "people"]
    made = client.make_batch("first", candidates(5), overlap=1, cohorts=["train"])
    assert (made.tasks, made.copies, made.left_out) == (5, 0, 0) and made.batch.wanted == 5
    add_person(site, "lea")
    lea = Browser(site, "lea")
    while (task := lea.next())["kind"] == "task":
        lea.submit(task["assignment"], answer_to(task))
    assert [row.done for row in client.batches()] == [5]
    assert client.batch("first") == client.batch(made.batch.id) == client.batches()[0]
    assert [task.position for task in client.tasks()] == [0, 1, 2, 3, 4]
    assert list(client.tasks(batch_id=7)) == []
    records = list(client.records())
    assert len(records) == 5 and isinstance(records[0], Ranking) and records[0].likert
    assert list(client.records(batches=["other"])) == []
    assert [row.answers for row in client.labelers()] == [5]
    assert client.agreement().rows[0].rankings == 5 and client.agreement(cohorts=["heldout"])
    assert set(client.results(batches=["first"]).models) == {f"model-{i}" for i in range(4)}
    export = client.make_export(batches=["first"])
    assert client.exports() == [export] and export.rows == 5
    path = client.download(export.id, tmp_path / "made.jsonl")
    assert read_jsonl(path, Ranking) == records
    assert export.sha256 in client.card(export.id)
    again = client.make_batch("again", records)  # an export comes back in
    assert again.tasks == 5
    assert client.set_state("again", "deleted") == "deleted"
    assert client.set_state(again.batch.id, "restored") == "paused"
    link = client.invite("researcher", "heldout")
    assert client.invitations()[0].id == link.id and "/invite/" in link.link
    client.revoke_invitation(link.id)
    assert client.invitations() == [] and [p.handle for p in client.people()] == ["lea"]


def test_refusals_are_errors_with_field_and_fix(site, tmp_path):
    client = client_of(site, "read", "import")
    with pytest.raises(LabelingError) as wrong:
        client.make_batch("b", [{"prompt": [], "responses": ["a", "b"]}])
    assert wrong.value.status == 422 and wrong.value.field == "records.0.prompt"
    assert wrong.value.code == "bad_request" and "fix: correct the value" in str(wrong.value)
    with pytest.raises(LabelingError, match="lacks the scope 'export'") as wrong:
        list(client.records())
    assert wrong.value.status == 403 and wrong.value.exit_code == 2
    with pytest.raises(LabelingError, match="lacks the scope 'export'"):
        client.card(1)
    with pytest.raises(LabelingError, match="there are: \\[\\]"):
        client.batch("none")
    with pytest.raises(PodiumError, match="no token"):
        LabelingClient(ADDRESS)
    with (
        LabelingClient("http://127.0.0.1:9", "podium_x", timeout=5) as nobody,
        pytest.raises(LabelingError, match="does not answer") as wrong,
    ):
        nobody.batches()
    assert wrong.value.status == 0 and "podium label serve" in str(wrong.value)
    other = httpx.MockTransport(lambda request: httpx.Response(200, html="<p>A shop</p>"))
    with pytest.raises(LabelingError, match="no Podium"):
        LabelingClient("http://shop.example", "podium_x", transport=other).batches()
    other = httpx.MockTransport(lambda request: httpx.Response(302, headers={"Location": "/x"}))
    with pytest.raises(LabelingError, match="answered 302"):
        LabelingClient("http://shop.example", "podium_x", transport=other).batches()


def test_a_download_appears_whole_or_not_at_all(site, tmp_path):
    """Mutation seen red: the hash not compared."""
    client = client_of(site)
    client.make_batch("first", candidates(2))
    add_person(site, "lea")
    lea = Browser(site, "lea")
    task = lea.next()
    lea.submit(task["assignment"], answer_to(task))
    export = client.make_export()
    path = tmp_path / "made.jsonl"
    path.write_text("what was there before")
    (site.exports / export.file).write_text("{}\n")
    with pytest.raises(LabelingError, match="another hash"):
        client.download(export.id, path)
    (site.exports / export.file).unlink()
    with pytest.raises(LabelingError, match="was removed"):
        client.download(export.id, path)
    assert path.read_text() == "what was there before"
    assert [p.name for p in tmp_path.iterdir() if "made" in p.name] == ["made.jsonl"]


def test_the_token_comes_from_the_environment(site, monkeypatch):
    monkeypatch.setenv("PODIUM_TOKEN", token_for(site, "read"))
    assert LabelingClient(ADDRESS, transport=Passed(site)).token().scopes == ["read"]


def test_the_page_s_example_runs(site, monkeypatch, capsys):
    """The Python of docs/use/labeling.md, word for word; a real server in place of its address."""
    page = (ROOT / "docs" / "use" / "labeling.md").read_text()
    code = page.partition("```python\n")[2].partition("```")[0]
    monkeypatch.setenv("PODIUM_TOKEN", token_for(site, "read", "import"))
    with serving(create_site(site)) as address:
        exec(code.replace("http://127.0.0.1:8000", address), {})
    assert capsys.readouterr().out == "first 0 of 3\n"


@pytest.mark.slow
def test_a_campaign_from_prompts_to_a_reward_model(tokenizer, tmp_path, monkeypatch):
    """By the client and the API alone: a batch of prompts, labelers at work, a webhook that says
    when they are done, agreement, an export, and a reward model whose stage names its hash.
    """
    monkeypatch.setattr(delivery, "LOOK_SECONDS", 0.1)
    run = make_run(tmp_path, tokenizer, Config())[1]
    recipe = Recipe(
        name="mini", threads=1, dtype="fp32", data=DataConfig(world=WORLD), reward={"model": "sft"}
    )
    (run / "recipe.yaml").write_text(dump_recipe(recipe))
    site, receiver = open_site(Settings(folder=tmp_path / "site")), Receiver()
    with site.database.write() as session:
        wish = webhook_wish(receiver.url, ["batch.finished"])
        secret = add_webhook(session, wish, None, time.time()).secret
    groups = {"train": village_candidates("train", 16), "heldout": village_candidates("test", 4)}
    records: list[Candidates] = [record for group in groups.values() for record in group]
    labelers = load_world("willowbrook", seed=0).labelers(0)
    with serving(create_site(site)) as address, LabelingClient(address, token_for(site)) as client:
        for cohort, group in groups.items():
            assert client.make_batch(cohort, group, overlap=2, cohorts=[cohort]).tasks == len(group)
        simulate(site, address, labelers, records)
        # Whoever skips the last task leaves it to others, who may have found nothing and gone.
        simulate(site, address, labelers, records, seed=1)
        deadline = time.monotonic() + 60
        while len(receiver.got) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
        told = [verify_webhook(secret, *message)["data"]["batch"] for message in receiver.got]
        assert sorted(told) == ["heldout", "train"]
        assert {batch.name: batch.done for batch in client.batches()} == {"train": 32, "heldout": 8}
        assert client.agreement(["train"]).rows[0].pairwise["drop"].value > 0.5
        export = client.make_export(batches=["train", "heldout"])
        path = client.download(export.id, tmp_path / "village.jsonl")
    assert hashlib.sha256(path.read_bytes()).hexdigest() == export.sha256
    train_reward(run, tmp_path / "mini-labeled", path)
    stage = json.loads((tmp_path / "mini-labeled" / "reward" / "final" / "stage.json").read_text())
    used = [file["sha256"] for source in stage["data"] for file in source["files"]]
    assert export.sha256 in used and 0 <= stage["metrics"]["accuracy"] <= 1
