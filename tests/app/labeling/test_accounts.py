"""Passwords, throttling, sessions and invitations, with the clock in the test's hand."""

import pytest
from sqlalchemy import select

from app.labeling import accounts
from app.labeling.problems import Problem
from app.labeling.tables import Invite, LoginSession, Person
from tests.app.labeling.making import PASSWORD, add_person

NOW = 1_000_000.0
DAY = 86400.0


def try_login(
    site, handle: str, password: str, now: float = NOW, address: str = "10.0.0.1"
) -> int | None:
    """What the login route does, without HTTP."""
    with site.database.write() as session:
        accounts.note_attempt(session, handle, address, now)
    with site.database.read() as session:
        found = accounts.verify_login(session, handle, password)
    if found:
        with site.database.write() as session:
            accounts.forgive_attempts(session, handle, address, now)
    return found


def test_passwords_are_argon2id_and_never_stored(site):
    add_person(site, "lea")
    with site.database.read() as session:
        stored = session.scalars(select(Person.password_hash)).one()
    assert stored.startswith("$argon2id$") and PASSWORD not in stored


def test_login_needs_the_right_password_and_an_active_account(site):
    person = add_person(site, "lea")
    assert try_login(site, "lea", PASSWORD) == person
    assert try_login(site, "lea", "wrong") is None and try_login(site, "nobody", PASSWORD) is None
    with site.database.write() as session:
        accounts.set_disabled(session, person, True, NOW)
    assert try_login(site, "lea", PASSWORD) is None


def test_ten_failures_close_a_handle_for_ten_minutes_also_after_a_restart(site):
    add_person(site, "lea")
    for second in range(accounts.FAILURES_BY_HANDLE):
        assert try_login(site, "lea", "wrong", NOW + second) is None
    site.database.close()  # the count is in the database, not in the process
    with pytest.raises(Problem) as refused:
        try_login(site, "lea", PASSWORD, NOW + 20)
    assert (
        refused.value.status == 429 and 0 < refused.value.retry_after <= accounts.THROTTLE_SECONDS
    )
    assert try_login(site, "lea", PASSWORD, NOW + 20 + accounts.THROTTLE_SECONDS) is not None


def test_a_right_password_forgives_earlier_slips(site):
    add_person(site, "lea")
    for _ in range(3):
        for _ in range(accounts.FAILURES_BY_HANDLE - 1):
            try_login(site, "lea", "wrong")
        assert try_login(site, "lea", PASSWORD)


def test_one_address_cannot_try_many_handles(site, monkeypatch):
    monkeypatch.setattr(accounts, "FAILURES_BY_ADDRESS", 20)
    for n in range(20):
        try_login(site, f"guess-{n}", "wrong", NOW + n)
    with pytest.raises(Problem):
        try_login(site, "guess-20", "wrong", NOW + 21)
    assert try_login(site, "guess-20", "wrong", NOW + 21, address="10.0.0.2") is None


def test_a_session_ends_after_its_days_and_its_token_is_not_in_the_database(site):
    person = add_person(site, "lea")
    with site.database.write() as session:
        token = accounts.start_session(session, site.secret, person, NOW)
    with site.database.read() as session:
        assert accounts.user_of_token(session, site.secret, token, NOW + 13 * DAY).handle == "lea"
        assert accounts.user_of_token(session, site.secret, token, NOW + 15 * DAY) is None
        assert accounts.user_of_token(session, site.secret, token + "x", NOW) is None
        assert accounts.user_of_token(session, "another secret", token, NOW) is None
        assert token not in session.scalars(select(LoginSession.token_hash)).all()


def test_disabling_and_a_new_password_end_sessions_at_once(site):
    person = add_person(site, "lea")
    for end in (
        lambda session: accounts.set_disabled(session, person, True, NOW),
        lambda session: accounts.change_password(
            session, person, PASSWORD, "another long password"
        ),
    ):
        with site.database.write() as session:
            session.get_one(Person, person).disabled_at = None
            token = accounts.start_session(session, site.secret, person, NOW)
        with site.database.write() as session:
            end(session)
        with site.database.read() as session:
            assert accounts.user_of_token(session, site.secret, token, NOW + 1) is None


def test_the_last_admin_cannot_be_disabled(site):
    first = add_person(site, "ada", role="admin")
    with site.database.write() as session, pytest.raises(Problem, match="last admin"):
        accounts.set_disabled(session, first, True, NOW)
    add_person(site, "bob", role="admin")
    with site.database.write() as session:
        accounts.set_disabled(session, first, True, NOW)


def test_an_invitation_works_once_within_its_days(site):
    with site.database.write() as session:
        token = accounts.make_invite(session, site.secret, "labeler", "heldout", NOW)
        assert token not in session.scalars(select(Invite.token_hash)).all()
    with site.database.write() as session:
        person = accounts.accept_invite(session, site.secret, token, "lea", PASSWORD, NOW)
        assert (person.role, person.cohort) == ("labeler", "heldout")
    with site.database.write() as session, pytest.raises(Problem) as refused:
        accounts.accept_invite(session, site.secret, token, "ben", PASSWORD, NOW)
    assert refused.value.status == 410
    with site.database.write() as session:
        late = accounts.make_invite(session, site.secret, "labeler", "train", NOW)
    with site.database.write() as session, pytest.raises(Problem):
        accounts.accept_invite(session, site.secret, late, "ben", PASSWORD, NOW + 8 * DAY)


@pytest.mark.parametrize(
    ("handle", "password", "role"),
    [
        ("", PASSWORD, "labeler"),
        ("a b", PASSWORD, "labeler"),
        ("a\x00b", PASSWORD, "labeler"),
        ("x" * 65, PASSWORD, "labeler"),
        ("lea", "short", "labeler"),
        ("lea", PASSWORD, "king"),
    ],
)
def test_what_will_not_do_for_an_account(site, handle, password, role):
    with site.database.write() as session, pytest.raises(Problem) as refused:
        accounts.add_person(session, handle, password, role, "train", NOW)
    assert refused.value.status == 422


def test_pseudonyms_are_stable_and_differ_between_sites(site):
    with site.database.read() as session:
        first = accounts.pseudonym(session, "lea")
        assert first == accounts.pseudonym(session, "lea") != accounts.pseudonym(session, "ben")
        assert "lea" not in first and len(first) == 16
