"""Logging in with an identity provider in a real browser: oidc-provider-mock, with the site's policy in
force all the way.
"""

import re
import time

import pytest
from sqlalchemy import select

from app.labeling import resets
from app.labeling.application import create_site
from app.labeling.oidc import SECRET_VARIABLE
from app.labeling.tables import KnownIdentity, Person
from app.serving import serving
from tests.app.labeling.acting import press, says, tab_to
from tests.app.labeling.looking import faults
from tests.app.labeling.making import add_person
from tests.app.labeling.test_oidc import invite, with_oidc

pytestmark = pytest.mark.browser


@pytest.fixture
def served(site, monkeypatch):
    """The site's address; Acme logs people in, and ada has a password."""
    provider = pytest.importorskip("oidc_provider_mock")
    monkeypatch.setenv(SECRET_VARIABLE, "whatever")
    add_person(site, "ada", role="admin")
    with provider.run_server_in_thread(require_nonce=True) as running:
        known = with_oidc(site, f"http://localhost:{running.server_port}")
        with serving(create_site(known)) as address:
            yield address


def there_and_back(page, subject: str) -> None:
    """What somebody does at the provider."""
    page.wait_for_selector("input[name=sub]:focus")
    page.keyboard.type(subject)
    press(page, "Enter")


def test_first_login_by_invitation_then_by_the_button_and_refusals(site, page):
    """By keyboard. Who says no there, or is not invited, is told so; an invitation ties the identity;
    from then on the button alone logs in; an admin's link ties an old account. The policy forbids a
    form that ends at another site, so a page with a link stands between the form and the provider.
    """
    page.goto("/login")
    found = faults(page, "oidc-login")
    page.click("a.button")
    page.click("button[value=deny]")
    says(page, "h1", "That did not work")
    page.goto("/login")
    tab_to(page, "a.button")
    press(page, "Enter")
    there_and_back(page, "lea@acme.org")
    says(page, "main", "Acme knows you, this site does not")
    found += faults(page, "oidc-refused")

    page.goto(f"/invite/{invite(site)}")
    found += faults(page, "oidc-invite")
    tab_to(page, "form[action='/oidc/join'] input[name=handle]")
    page.keyboard.type("lea")
    press(page, "Enter")
    page.wait_for_url("**/oidc/join**")
    found += faults(page, "oidc-join")
    tab_to(page, "a.button")
    press(page, "Enter")
    there_and_back(page, "lea@acme.org")
    page.wait_for_url(re.compile(r"/$"))
    says(page, "main", "Hello, lea")
    tab_to(page, "nav form button")
    press(page, "Enter")
    page.wait_for_url("**/login")

    page.goto("/mine")
    page.wait_for_url("**/login?next=**")
    tab_to(page, "a.button")
    press(page, "Enter")
    there_and_back(page, "lea@acme.org")
    says(page, "h1", "My answers")  # where they wanted to go
    page.context.clear_cookies()

    with site.database.write() as session:
        ada = session.scalars(select(Person).where(Person.handle == "ada")).one()
        link = resets.make_reset(session, site.secret, ada.id, None, time.time())
    page.goto(f"/reset/{link}")
    found += faults(page, "oidc-reset")
    tab_to(page, "a.button")
    press(page, "Enter")
    there_and_back(page, "ada@acme.org")
    says(page, "main", "Hello, ada")
    with site.database.read() as session:
        tied = session.execute(
            select(Person.handle, KnownIdentity.subject)
            .join(KnownIdentity, KnownIdentity.person_id == Person.id)
            .order_by(Person.id)
        ).all()
    assert tied == [("ada", "ada@acme.org"), ("lea", "lea@acme.org")]
    assert found == []
