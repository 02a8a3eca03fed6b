"""Schemathesis on the site's own OpenAPI: whatever is sent, on either database, no answer
is a 500.
"""

import json
import re
import time

import pytest
import schemathesis
from fastapi.routing import APIRoute
from fastapi.testclient import TestClient
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.labeling.application import create_site
from app.labeling.collecting import ExportFilter
from app.labeling.exporting import make_export
from app.middleware import API
from tests.app.labeling.making import (
    ADDRESS,
    Browser,
    add_batch,
    add_person,
    answer_to,
    every_route,
    token_for,
)

EXAMPLES = 12  # a route; sixty each were run by hand


# the field of a route that takes any text
FREE_TEXT = {"draft": "comment", "skip": "note", "login": "handle", "batches": "name"}
PLAUSIBLE = {
    "role": "labeler",
    "cohort": "train",
    "cohorts": "train",
    "kind": "pairs",
    "models": "sft",
}
NASTY = [
    "",
    "\x00",
    "a\x00b",
    "\u202e\U0001f989",
    "-1",
    "1e309",
    "9" * 30,
    "x" * 300_000,
    "[1, {",
    "true",
]


def fields_of(route: APIRoute) -> list[str]:
    """What a form sends: the parameters of its handler, or the fields of the model that stands for
    all of them.
    """
    parameters = route.dependant.body_params
    model = parameters[0].field_info.annotation if parameters else None
    return (
        list(model.model_fields)
        if hasattr(model, "model_fields")
        else [field.alias for field in parameters]
    )


@pytest.mark.slow
def test_forms_answer_every_text_without_a_500(any_site):
    """What the pages send, with one field after the other filled badly; the file of an import is
    one of them.

    Mutation seen red: names of batches to export with NUL characters let through to PostgreSQL. It
    also found that an upload whose first line is no JSON was a 500.
    """
    add_batch(any_site)
    add_person(any_site, "ada", role="admin")
    client = Browser(any_site, "ada")
    forms = [
        route
        for route in every_route(any_site)
        if "POST" in route.methods and not route.path.startswith("/api")
    ]
    assert len(forms) >= 10
    for route in forms:
        if route.path in ("/logout", "/account/password"):
            continue
        fields = fields_of(route)
        path = re.sub(r"{\w+}", "1", route.path)
        usual = {name: PLAUSIBLE.get(name, "1") for name in fields if name != "file"} | {
            "csrf_token": client.token
        }
        for bad, text in [(name, text) for name in fields for text in NASTY]:
            line = (
                text
                if bad == "file"
                else '{"prompt": [{"role": "user", "content": "Q"}], "responses": ["a", "b"]}'
            )
            data = usual | ({} if bad == "file" else {bad: text})
            reply = client.http.post(
                path, data=data, files={"file": ("t.jsonl", line)} if "file" in fields else None
            )
            assert reply.status_code < 500, (
                f"{path}, {bad} = {text[:20]!r}: {reply.status_code} {reply.text[:300]}"
            )


@pytest.mark.slow
def test_the_api_answers_every_request_without_a_500(any_site):
    """Seen red: a NUL in the login's handle went through to PostgreSQL, before handles were checked
    first.
    """
    add_batch(any_site, count=30)
    add_person(any_site, "ada", role="admin")
    client = Browser(any_site, "ada")
    task = client.next()
    client.submit(task["assignment"], answer_to(task))
    client.next()
    described = create_site(any_site).openapi()
    tried = attack_all(described, client.http, "", {"X-CSRF-Token": client.token}, EXAMPLES)
    assert tried > 5 * EXAMPLES


@pytest.mark.slow
def test_the_programs_api_answers_every_request_without_a_500(any_site):
    """The same for /api/v1, with a token that may do everything.

    Mutation seen red: names of batches in a query let through to PostgreSQL with a NUL.
    """
    add_batch(any_site, count=3)
    add_person(any_site, "lea")
    lea = Browser(any_site, "lea")
    for _ in range(2):
        task = lea.next()
        lea.submit(task["assignment"], answer_to(task))
    chosen = ExportFilter()
    make_export(any_site.database, any_site.exports, "rankings", chosen, None, time.time())
    http = TestClient(create_site(any_site), base_url=ADDRESS, follow_redirects=False)
    described = http.get(f"{API}/openapi.json").json()
    headers = {"Authorization": f"Bearer {token_for(any_site)}"}
    tried = attack_all(described, http, API, headers, EXAMPLES)
    assert tried > 15 * EXAMPLES
    assert http.get(f"{API}/batches", headers=headers).json()  # the site is still there


def attack_all(
    described: dict, http: TestClient, prefix: str, headers: dict[str, str], examples: int
) -> int:
    """Send every operation of an OpenAPI what fits it and what does not; how many were sent."""
    schema = schemathesis.openapi.from_dict(described)
    limits = settings(
        max_examples=examples,
        deadline=None,
        database=None,
        derandomize=True,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    tried = 0
    for found in schema.get_all_operations():
        operation = found.ok()
        strategy = st.one_of(
            operation.as_strategy(),
            operation.as_strategy(generation_mode=schemathesis.GenerationMode.NEGATIVE),
        )

        @limits
        @given(case=strategy, nasty=st.sampled_from(["", "\x00", "\ud800", "\u202e\U0001f989"]))
        def attack(case, nasty):
            nonlocal tried
            if nasty and isinstance(case.body, dict):
                place = case.operation.path.rsplit("/", 1)[-1]
                case.body |= {FREE_TEXT.get(place, "comment"): f"text {nasty}"}
            if nasty.isascii() and "batch" in (case.query or {}):
                case.query |= {"batch": [f"text {nasty}"]}
            # 1 and 2 are rows of this site, so the handlers behind the identifier are reached too
            if tried % 4:
                case.path_parameters = dict.fromkeys(case.path_parameters or {}, 1 + tried % 2)
            sent = case.as_transport_kwargs(base_url=f"{ADDRESS}{prefix}")
            sent["headers"] = {k: v for k, v in sent["headers"].items() if v.isascii()} | headers
            sent.pop("cookies", None)
            if "json" in sent:  # as ASCII, so that half a surrogate pair gets through to the server
                sent["content"] = json.dumps(sent.pop("json"))
                sent["headers"] |= {"Content-Type": "application/json"}
            reply = http.request(**sent)
            tried += 1
            assert reply.status_code < 500, f"{case.method} {reply.request.url}: {reply.text}"

        attack()
    return tried
