"""Schemathesis on the site's own OpenAPI: whatever is sent, on either database, no answer is a 500."""

import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from app.labeling.site import create_site
from tests.app.labeling.making import Browser, add_batch, add_person, answer_to

EXAMPLES = 8  # a route; sixty each were run by hand


def test_the_api_answers_every_request_without_a_500(any_site):
    """Mutation seen red: text with NUL characters let through to PostgreSQL."""
    add_batch(any_site, count=30)
    add_person(any_site, "ada", role="admin")
    client = Browser(any_site, "ada")
    task = client.next()
    client.submit(task["assignment"], answer_to(task))
    client.next()
    schema = schemathesis.openapi.from_dict(create_site(any_site).openapi())
    limits = settings(
        max_examples=EXAMPLES, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
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
        @given(case=strategy)
        def attack(case):
            nonlocal tried
            # 1 and 2 are assignments of this person, so the handlers behind the identifier are reached too
            case.path_parameters = dict.fromkeys(case.path_parameters or {}, 1 + tried % 2)
            sent = case.as_transport_kwargs(base_url=str(client.http.base_url))
            sent["headers"] = {k: v for k, v in sent["headers"].items() if v.isascii()} | {"X-CSRF-Token": client.token}
            sent.pop("cookies", None)
            reply = client.http.request(**sent)
            tried += 1
            assert reply.status_code < 500, f"{case.method} {reply.request.url}: {reply.text}"

        attack()
    assert tried > 5 * EXAMPLES
