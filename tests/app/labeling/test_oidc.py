"""Logging in with an identity provider: a real one (oidc-provider-mock, on Authlib's server) for the
way there and back, and one of our own that breaks each promise of the standard in turn.
"""

import re
import time
from dataclasses import replace

import httpx
import pytest
from sqlalchemy import select

from app.labeling import accounts, resets
from app.labeling.oidc import COOKIE, SECRET_VARIABLE
from app.labeling.site import Oidc, Settings, Site, open_site
from app.labeling.tables import EventLog, KnownIdentity, Person
from podium.errors import PodiumError
from tests.app.labeling.making import Browser, add_person
from tests.app.labeling.providers import (
    CLIENT,
    SECRET,
    other_key,
    shared_secret,
    strict_provider,
)


@pytest.fixture
def provider(monkeypatch):
    monkeypatch.setenv(SECRET_VARIABLE, SECRET)
    with strict_provider() as running:
        yield running


@pytest.fixture
def any_oidc_site(any_site, provider) -> Site:
    return with_oidc(any_site, provider.issuer)


def with_oidc(site: Site, issuer: str, **more) -> Site:
    oidc = Oidc(issuer, CLIENT, name="Acme", **more)
    return replace(site, settings=replace(site.settings, oidc=oidc))


def invite(site: Site, role: str = "labeler") -> str:
    with site.database.write() as session:
        return accounts.make_invite(session, site.secret, role, "train", time.time())


def link_for(site: Site, handle: str) -> str:
    with site.database.write() as session:
        person = accounts.person_named(session, handle)
        return resets.make_reset(session, site.secret, person.id, None, time.time())


def go(browser: Browser, provider, subject: str, **query):
    """There and back; the site's answer to what the provider sends."""
    there = browser.get("/oidc/start", params=query)
    assert there.status_code == 303, there.text
    back = provider.code_for(there.headers["location"], subject)
    return browser.get("/oidc/callback", params=back)


def who(browser: Browser) -> str | None:
    reply = browser.get("/api/me")
    return reply.json()["handle"] if reply.status_code == 200 else None


def test_an_invitation_ties_an_identity_and_then_it_logs_in(any_oidc_site, provider):
    site = any_oidc_site
    token = invite(site, "researcher")
    lea = Browser(site)
    page = lea.get(f"/invite/{token}").text
    assert "Log in with Acme" in page and token in page
    wrong = lea.get("/oidc/join", params={"invite": token, "handle": "a b"})
    assert wrong.status_code == 422 and "A handle has" in wrong.text
    joined = lea.get("/oidc/join", params={"invite": token, "handle": "lea"}).text
    assert re.search(rf'href="/oidc/start\?invite={token}&amp;handle=lea"', joined)
    assert go(lea, provider, "s-1", invite=token, handle="lea").headers["location"] == "/"
    assert who(lea) == "lea"
    again = Browser(site)
    assert "/oidc/start?next=/mine" in again.get("/login?next=/mine").text
    assert go(again, provider, "s-1", next="/mine").headers["location"] == "/mine"
    assert who(again) == "lea"
    with site.database.read() as session:
        assert session.scalars(select(Person.role)).all() == ["researcher"]
        [row] = session.scalars(select(KnownIdentity))
        assert (row.issuer, row.subject) == (provider.issuer, "s-1")
        kinds = session.scalars(select(EventLog.kind)).all()
    assert "identity tied" in kinds and kinds.count("login") == 2


def test_an_equal_name_or_address_takes_nothing_over(any_oidc_site, provider):
    """Seen red with a mutation that looked a person up by the token's e-mail."""
    site = any_oidc_site
    add_person(site, "ada@acme.org", role="admin")
    eve = Browser(site)
    provider.claims = {"email": "ada@acme.org", "email_verified": True, "roles": ["admin"]}
    provider.claims |= {"preferred_username": "ada@acme.org", "name": "ada@acme.org"}
    refused = go(eve, provider, "eve")
    assert refused.status_code == 403 and "Ask the researcher for an invitation" in refused.text
    assert who(eve) is None
    assert go(eve, provider, "eve", invite=invite(site), handle="ada@acme.org").status_code == 422
    with site.database.read() as session:
        assert session.scalars(select(KnownIdentity)).all() == []
        assert "login failed" in session.scalars(select(EventLog.kind)).all()
    assert go(eve, provider, "eve", invite=invite(site), handle="eve").status_code == 303
    assert eve.get("/api/me").json()["role"] == "labeler"  # nothing is mapped


def test_an_admins_link_ties_an_account_once(any_oidc_site, provider):
    """And what was logged in by the password before is logged out."""
    site = any_oidc_site
    add_person(site, "ada", role="admin")
    old, new = Browser(site, "ada"), Browser(site)
    token = link_for(site, "ada")
    assert "Log in with Acme" in new.get(f"/reset/{token}").text
    assert go(new, provider, "s-ada", reset=token).status_code == 303
    assert (who(new), who(old)) == ("ada", None)
    assert Browser(site).get("/oidc/start", params={"reset": token}).status_code == 410
    other = link_for(site, "ada")
    taken = go(Browser(site), provider, "s-ada", reset=other)
    assert taken.status_code == 409 and "already has an account" in taken.text
    assert go(Browser(site), provider, "s-new", reset=other).status_code == 303
    assert go(Browser(site), provider, "s-ada").status_code == 403  # replaced
    with site.database.write() as session:
        add = accounts.add_person(session, "eva", "right horse battery", "admin", "train", 1.0)
        accounts.set_disabled(session, accounts.person_named(session, "ada").id, True, 2.0)
        assert add.id
    assert go(Browser(site), provider, "s-new").status_code == 403


@pytest.mark.parametrize(
    "broken",
    [
        {"claims": {"iss": "https://evil.example"}},
        {"claims": {"aud": "another-client"}},
        {"claims": {"aud": [CLIENT, "another"], "azp": "another"}},
        {"claims": {"nonce": "another"}},
        {"claims": {"nonce": None}},
        {"claims": {"exp": 1}},
        {"claims": {"exp": None}},
        {"claims": {"sub": ""}},
        {"claims": {"sub": None}},
        {"signed_by": "other key"},
        {"signed_by": "shared secret", "header": {"alg": "HS256"}},
        {"id_token": "eyJhbGciOiJub25lIn0.eyJzdWIiOiJzIn0."},
        {"id_token": "nonsense"},
    ],
    ids=str,
)
def test_a_token_that_does_not_hold_logs_nobody_in(site, provider, broken):
    """Each of the standard's checks (OpenID Connect Core, 3.1.3.7) alone."""
    site = with_oidc(site, provider.issuer)
    lea = Browser(site)
    assert go(lea, provider, "s", invite=invite(site), handle="lea").status_code == 303
    keys = {"other key": other_key, "shared secret": shared_secret}
    for name, value in broken.items():
        setattr(provider, name, keys[value]() if name == "signed_by" else value)
    eve = Browser(site)
    refused = go(eve, provider, "s")
    assert refused.status_code == 403 and "is not taken" in refused.text
    assert who(eve) is None


def test_a_login_is_bound_to_the_browser_that_began_it(site, provider, monkeypatch):
    """State, cookie, code and time: an attacker's code in a victim's browser logs nobody in.

    Mutation seen red: the look at the state left out.
    """
    site = with_oidc(site, provider.issuer)
    lea = Browser(site)
    assert go(lea, provider, "s", invite=invite(site), handle="lea").status_code == 303

    mallory, victim = Browser(site), Browser(site)
    back = provider.code_for(mallory.get("/oidc/start").headers["location"], "s")
    assert victim.get("/oidc/callback", params=back).status_code == 400  # no cookie
    victim.get("/oidc/start")
    assert victim.get("/oidc/callback", params=back).status_code == 400  # another state
    for change in ({"state": "x"}, {"state": ""}, {"iss": "https://evil.example"}, {"code": "x"}):
        assert mallory.get("/oidc/callback", params=back | change).status_code in (400, 403)
    assert (
        mallory.get("/oidc/callback", params={"error": "x", "state": back["state"]}).status_code
        == 403
    )
    sealed = mallory.http.cookies.get(COOKIE)
    for forged in (sealed[:-1] + "x", "a.b", "", sealed.partition(".")[0]):
        mallory.http.cookies.set(COOKIE, forged, domain="127.0.0.1", path="/oidc")
        assert mallory.get("/oidc/callback", params=back).status_code == 400, forged
    assert who(mallory) is None and who(victim) is None

    late = Browser(site)
    back = provider.code_for(late.get("/oidc/start").headers["location"], "s")
    real = time.time
    monkeypatch.setattr("app.labeling.oidc_routes.time.time", lambda: real() + 660)
    assert late.get("/oidc/callback", params=back).status_code == 400


def test_a_code_wants_its_verifier(site, provider):
    """PKCE: a stolen code is worth nothing in another login. The provider checks it; the site sends
    each login's own. Mutation seen red: one verifier for all.
    """
    site = with_oidc(site, provider.issuer)
    lea = Browser(site)
    assert go(lea, provider, "s", invite=invite(site), handle="lea").status_code == 303
    first, second = Browser(site), Browser(site)
    stolen = provider.code_for(first.get("/oidc/start").headers["location"], "s")
    own = provider.code_for(second.get("/oidc/start").headers["location"], "s")
    mixed = {"code": stolen["code"], "state": own["state"]}
    assert second.get("/oidc/callback", params=mixed).status_code == 403
    verifiers = [form["code_verifier"] for form in provider.asked]
    assert len(set(verifiers)) == len(verifiers) and all(len(v) >= 43 for v in verifiers)


def test_keys_that_change_are_fetched_again(site, provider):
    site = with_oidc(site, provider.issuer)
    lea = Browser(site)
    assert go(lea, provider, "s", invite=invite(site), handle="lea").status_code == 303
    provider.key = other_key()
    provider.published = [provider.key]
    assert go(lea, provider, "s").status_code == 303


def test_roles_come_from_the_token_where_they_are_mapped(site, provider):
    """Whoever has none of the mapped values is a labeler; the last admin stays one."""
    site = with_oidc(site, provider.issuer, roles=(("groups", "label-admins", "admin"),))
    ada, lea = Browser(site), Browser(site)
    provider.claims = {"groups": ["staff", "label-admins"]}
    assert go(ada, provider, "ada", invite=invite(site), handle="ada").status_code == 303
    assert ada.get("/admin/people").status_code == 200
    provider.claims = {"groups": "label-admins"}
    assert go(lea, provider, "lea", invite=invite(site), handle="lea").status_code == 303
    provider.claims = {"groups": ["label-admins-x"]}
    assert go(lea, provider, "lea").status_code == 303
    assert lea.get("/admin/people").status_code == 403
    assert go(ada, provider, "ada").status_code == 303
    assert ada.get("/admin/people").status_code == 200


@pytest.mark.parametrize(
    "about",
    [
        {"issuer": "https://evil.example"},
        {"token_endpoint": "http://10.0.0.1/token"},
        {"jwks_uri": None},
    ],
    ids=str,
)
def test_a_provider_that_is_not_what_it_should_be(site, provider, about):
    provider.about = about
    failed = Browser(with_oidc(site, provider.issuer)).get("/oidc/start")
    assert failed.status_code == 502 and "not set up as it should" in failed.text


def test_a_provider_that_is_not_there(site):
    failed = Browser(with_oidc(site, "http://127.0.0.1:9")).get("/oidc/start")
    assert failed.status_code == 502 and "cannot be reached" in failed.text
    with pytest.raises(PodiumError, match="oidc-issuer"):
        Browser(with_oidc(site, "http://login.example.org"))


def test_without_a_provider_there_are_no_such_pages(site, browser):
    assert browser("lea").get("/oidc/start").status_code == 404
    assert "oidc" not in Browser(site).get("/login").text


def test_a_public_site_wants_a_name(tmp_path, provider):
    """The address that the provider sends people back to is not taken from the Host header."""
    first = open_site(Settings(folder=tmp_path))
    add_person(first, "ada", role="admin")
    first.database.close()
    public = {"folder": tmp_path, "host": "0.0.0.0", "secret": "s" * 40}
    site = with_oidc(open_site(Settings(**public)), provider.issuer)
    assert "start it with --name" in Browser(site).get("/oidc/start").text
    site.database.close()
    named = open_site(Settings(**public, names=("127.0.0.1",), https=True))
    there = Browser(with_oidc(named, provider.issuer)).get("/oidc/start")
    assert "redirect_uri=https%3A%2F%2F127.0.0.1%2Foidc%2Fcallback" in there.headers["location"]
    assert "Secure" in there.headers["set-cookie"] and "HttpOnly" in there.headers["set-cookie"]
    named.database.close()


def test_a_real_identity_server(site, monkeypatch):
    """There and back with oidc-provider-mock: discovery, its login form, code, keys, ID token."""
    server = pytest.importorskip("oidc_provider_mock")
    monkeypatch.setenv(SECRET_VARIABLE, "whatever")
    with server.run_server_in_thread(require_nonce=True) as running:
        site = with_oidc(site, f"http://localhost:{running.server_port}")
        lea = Browser(site)

        def log_in(subject: str, **query):
            there = lea.get("/oidc/start", params=query).headers["location"]
            with httpx.Client(follow_redirects=False) as http:
                assert http.get(there).status_code == 200
                back = http.post(there, data={"sub": subject}).headers["location"]
            return lea.get(back.partition("8000")[2])

        assert log_in("lea@acme.org").status_code == 403
        assert log_in("lea@acme.org", invite=invite(site), handle="lea").status_code == 303
        assert who(lea) == "lea"
        lea.form("/logout")
        assert log_in("lea@acme.org").status_code == 303 and who(lea) == "lea"
