"""A site in use: batches in every state, people, answers that differ, skips, exports, programs."""

import json
import random
import time
from typing import NamedTuple

from app.labeling import accounts, adjudication, resets, tokens
from app.labeling.collecting import ExportFilter
from app.labeling.exporting import make_export
from app.labeling.importing import Candidates
from app.labeling.site import Site
from data.records import Message
from tests.app.labeling.making import Browser, add_batch, add_person, answer_to
from tests.app.labeling.test_writing import PROMPT, written_batch

LONG = "The owl sits on the barn and waits for the evening. " * 12
RENDERED = """# Why owls see at night

Owls have **large eyes** with many rods. The area grows as $A = \\pi r^2$:

| animal | eye |
|---|---|
| owl | 32 mm |
| mouse | 3 mm |

```python
print("who" * 2)
```

> An old saying, and a list:

- one
- two
"""
HANDLES = ("lea", "hal", "sue")


class Links(NamedTuple):
    invite: str
    reset: str
    imported: str


def live_in(site: Site) -> Links:
    """Lea, hal and sue have worked here; ada is the admin."""
    for handle, cohort in zip(HANDLES, ("train", "heldout", "train"), strict=True):
        add_person(site, handle, cohort=cohort)
    add_person(site, "ada", role="admin")
    texts = [LONG, "Owls have large eyes.", "Magic.", "\u0645\u0631\u062d\u0628\u0627", ""]
    records = [
        Candidates(
            prompt=[
                Message(role="user", content=f"Why do owls see at night? ({n}) {LONG[: 60 * n]}")
            ],
            responses=texts,
            generators=["sft", "ppo-ptx", "base", "ppo", "sft-small"],
            use_case="open QA",
            source="village",
        )
        for n in range(3)
    ]
    add_batch(site, records=records, name="owls", overlap=3)
    gold = [r.model_copy(update={"gold_ranks": [1, 2, 3, 4, 5]}) for r in records[:1]]
    add_batch(site, records=gold, name="gold")
    _work(site)
    ada = Browser(site, "ada")
    for n, state in ((2, "paused"), (2, "withdrawn")):
        ada.form(f"/admin/batches/{n}/{state}")
    with site.database.write() as session:
        ranks = {0: 2, 1: 1, 2: 3, 3: 3, 4: 4}
        adjudication.adjudicate(session, 1, 4, ranks, "see the guide, part 2", time.time())
        tokens.make_token(session, tokens.wish_of("nightly", ["read"], 30), 4, time.time())
        invite = accounts.make_invite(session, site.secret, "labeler", "train", time.time())
        reset = resets.make_reset(session, site.secret, 1, 4, time.time())
    ada.form("/admin/programs/webhooks", url="https://example.org/hook", events="export.ready")
    ada.form("/admin/people/3/disable")
    make_export(site.database, site.exports, "rankings", ExportFilter(), 4, time.time())
    rows = [r.model_dump(exclude_none=True) for r in records[:1] * 2] + [{"prompt": []}]
    content = "\n".join(json.dumps(row) for row in rows)
    fields = {"csrf_token": ada.token, "name": "again", "cohorts": "screening", "partly": "true"}
    sent = ada.http.post("/admin/batches", data=fields, files={"file": ("b.jsonl", content)})
    rendered = records[0].model_copy(
        update={"responses": [RENDERED, "Plain.", LONG], "generators": None}
    )
    add_batch(
        site, records=[rendered] * 2, name="rendered", view="rendered", start_from_ratings=True
    )
    written_batch(site, "edit", {"prompt": PROMPT, "responses": ["It is green."]}, name="edits")
    return Links(f"/invite/{invite}", f"/reset/{reset}", sent.headers["location"])


def _work(site: Site) -> None:
    """Every one of them answers two tasks, each in an order of their own, and skips one."""
    for handle in HANDLES:
        rng = random.Random(handle)
        person = Browser(site, handle)
        for n in range(3):
            task = person.next()
            if n == 2:
                skipped = {"reason": "unclear", "note": "What is asked?"}
                person.post(f"/api/assignments/{task['assignment']}/skip", json=skipped)
                continue
            answer = answer_to(task, rng.sample(range(5), 5)) | {"comment": f"{handle} says hm"}
            answer["responses"][0]["flags"] = ["hallucination", "opinion"]
            reply = person.submit(task["assignment"], answer)
            assert reply.status_code == 200, reply.text
