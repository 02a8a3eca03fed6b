"""Passwords, throttling, sessions and invitations, with the clock in the test's hand."""

from itertools import pairwise

import pytest
from sqlalchemy import select

from app.labeling import accounts, resets, throttle
from app.labeling.passwords import check_password
from app.labeling.problems import Problem
from app.labeling.tables import Invite, LoginSession, Person
from tests.app.labeling.making import PASSWORD, add_person

NOW = 1_000_000.0
DAY = 86400.0


def try_login(
    site,
    handle: str,
    password: str,
    now: float = NOW,
    address: str = "10.0.0.1",
    token: str = "",
) -> int | None:
    """What the login route does, without HTTP; `token` is the device's."""
    with site.database.write() as session:
        device = throttle.known_device(session, site.secret, handle, token, now)
        throttle.note_attempt(session, handle, address, now, device)
    with site.database.read() as session:
        found = accounts.verify_login(session, handle, password)
    if found:
        with site.database.write() as session:
            throttle.forgive_attempts(session, handle, address, now, device)
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


def guess_on(site, handle: str, until: float, address: str = "10.0.0.1") -> list[float]:
    """When wrong passwords were looked at, by somebody who tries as soon as they are let."""
    tried, now = [], NOW
    while now < until:
        try:
            assert try_login(site, handle, "wrong", now, address) is None
            tried.append(now)
            now += 0.1
        except Problem as refused:
            assert refused.status == 429 and refused.retry_after
            now += refused.retry_after
    return tried


def test_each_further_slip_doubles_the_wait_also_after_a_restart(site):
    """Seen red with a fixed wait."""
    add_person(site, "lea")
    tried = guess_on(site, "lea", NOW + 1800)
    waits = [round(b - a) for a, b in pairwise(tried)]
    assert waits[: throttle.FREE_FAILURES - 1] == [0] * (throttle.FREE_FAILURES - 1)
    growing = waits[throttle.FREE_FAILURES - 1 :]
    assert len(growing) > 8 and all(b >= 1.6 * a for a, b in pairwise(growing[1:9]))
    assert len(tried) < 20
    site.database.close()  # the count is in the database, not in the process
    with pytest.raises(Problem) as refused:
        try_login(site, "lea", PASSWORD, tried[-1] + 1)
    assert 0 < refused.value.retry_after <= throttle.LONGEST_WAIT + 1


def test_guessing_from_one_address_locks_nobody_out(site):
    """The person comes in from another address, and from a known device also when the whole world
    guesses their handle. Seen red with the count by handle alone, as it was.
    """
    person = add_person(site, "lea")
    guess_on(site, "lea", NOW + 600)
    assert try_login(site, "lea", PASSWORD, NOW + 600, "10.0.0.2") == person
    known = throttle.device_token(site.secret, person)
    for n in range(throttle.FAILURES_BY_HANDLE):
        try_login(site, "lea", "wrong", NOW + 2000, f"10.1.0.{n}")
    with pytest.raises(Problem):
        try_login(site, "lea", PASSWORD, NOW + 2001, "10.0.0.2")
    for address in ("10.0.0.1", "10.0.0.2"):
        assert try_login(site, "lea", PASSWORD, NOW + 2001, address, known) == person


def test_a_device_is_known_for_its_own_person_only_and_not_for_guessing(site):
    lea, _ben = add_person(site, "lea"), add_person(site, "ben")
    token = throttle.device_token(site.secret, lea)
    with site.database.write() as session:

        def known(handle: str, token: str) -> str | None:
            return throttle.known_device(session, site.secret, handle, token, NOW)

        assert known("lea", token)
        for handle, other in (("ben", token), ("nobody", token), ("lea", ""), ("lea", token + "0")):
            assert known(handle, other) is None
        assert throttle.known_device(session, "another secret", "lea", token, NOW) is None
    for n in range(throttle.FAILURES_BY_DEVICE):
        assert try_login(site, "lea", "wrong", NOW + n, token=token) is None
    with site.database.read() as session:
        assert throttle.known_device(session, site.secret, "lea", token, NOW + 100) is None


def test_a_right_password_forgives_earlier_slips(site):
    add_person(site, "lea")
    for _ in range(3):
        for _ in range(throttle.FREE_FAILURES - 1):
            try_login(site, "lea", "wrong")
        assert try_login(site, "lea", PASSWORD)


def test_one_address_cannot_try_many_handles(site, monkeypatch):
    monkeypatch.setattr(throttle, "FAILURES_BY_ADDRESS", 20)
    for n in range(20):
        try_login(site, f"guess-{n}", "wrong", NOW + n)
    with pytest.raises(Problem):
        try_login(site, "guess-20", "wrong", NOW + 21)
    assert try_login(site, "guess-20", "wrong", NOW + 21, address="10.0.0.2") is None


def test_a_session_ends_after_its_days_and_its_token_is_not_in_the_database(site):
    person = add_person(site, "lea")
    with site.database.write() as session:
        token = accounts.start_session(session, site.secret, person, NOW)
    for day in range(1, 14):  # used every day
        with site.database.write() as session:
            accounts.touch_session(session, site.secret, token, NOW + day * DAY - 60)
    with site.database.read() as session:
        assert accounts.user_of_token(session, site.secret, token, NOW + 13 * DAY).handle == "lea"
        assert accounts.user_of_token(session, site.secret, token, NOW + 15 * DAY, 1e6) is None
        assert accounts.user_of_token(session, site.secret, token + "x", NOW) is None
        assert accounts.user_of_token(session, "another secret", token, NOW) is None
        assert token not in session.scalars(select(LoginSession.token_hash)).all()


def test_disabling_and_a_new_password_end_sessions_at_once(site):
    person = add_person(site, "lea")
    for end in (
        lambda session: accounts.set_disabled(session, person, True, NOW),
        lambda session: accounts.change_password(
            session, person, PASSWORD, "another long password", NOW
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


def test_a_session_that_nobody_uses_ends(site):
    """Seen red without `idle_since` in the query."""
    person = add_person(site, "lea")
    with site.database.write() as session:
        token = accounts.start_session(session, site.secret, person, NOW)
    for hours, there in ((1.9, True), (2.1, False)):
        with site.database.read() as session:
            user = accounts.user_of_token(session, site.secret, token, NOW + 3600 * hours, 2.0)
        assert (user is not None) is there


def test_a_reset_link_works_once_for_its_person(site):
    person = add_person(site, "lea")
    with site.database.write() as session:
        older = resets.make_reset(session, site.secret, person, None, NOW)
        token = resets.make_reset(session, site.secret, person, None, NOW)
        login = accounts.start_session(session, site.secret, person, NOW)
    for useless, now in ((older, NOW), (token + "x", NOW), (token, NOW + 3 * DAY)):
        with site.database.write() as session, pytest.raises(Problem) as refused:
            resets.use_reset(session, site.secret, useless, "four unrelated words here", now)
        assert refused.value.status == 410
    with site.database.write() as session:
        assert (
            resets.use_reset(session, site.secret, token, "four unrelated words here", NOW)
            == person
        )
    with site.database.read() as session:
        assert accounts.user_of_token(session, site.secret, login, NOW) is None
    assert try_login(site, "lea", PASSWORD) is None
    assert try_login(site, "lea", "four unrelated words here") == person
    with site.database.write() as session, pytest.raises(Problem):
        resets.use_reset(session, site.secret, token, "yet another set of words", NOW)


def test_a_role_can_be_changed_but_the_last_admin_stays(site):
    ada, lea = add_person(site, "ada", role="admin"), add_person(site, "lea")
    with site.database.write() as session, pytest.raises(Problem, match="last admin"):
        accounts.change_person(session, ada, "labeler", "train", None, NOW)
    with site.database.write() as session:
        accounts.change_person(session, lea, "admin", "heldout", ada, NOW)
        accounts.change_person(session, ada, "labeler", "train", lea, NOW)
        assert session.get_one(Person, lea).cohort == "heldout"


def test_a_revoked_invitation_is_no_way_in(site):
    with site.database.write() as session:
        token = accounts.make_invite(session, site.secret, "admin", "train", NOW)
    with site.database.write() as session:
        (invite,) = accounts.open_invites(session, NOW)
        accounts.revoke_invite(session, invite.id, None, NOW)
        assert accounts.open_invites(session, NOW) == []
    with site.database.write() as session, pytest.raises(Problem) as refused:
        accounts.accept_invite(session, site.secret, token, "eve", PASSWORD, NOW)
    assert refused.value.status == 410


@pytest.mark.parametrize(
    "password",
    [
        "1234567890",
        "password123",
        "P@ssw0rd2024",
        "qwertyuiop",
        "qwertz12345",
        "iloveyou123!",
        "aaaaaaaaaaaa",
        "abcabcabcabc",
        "Summer2024!!",
        "1q2w3e4r5t6y",
        "9876543210",
        "podium2026",
        "welcome-1234",
        "katharina-1",
    ],
)
def test_passwords_that_are_guessed_early_are_refused(password):
    with pytest.raises(Problem) as refused:
        check_password(password, "katharina")
    assert refused.value.code == "bad_password"


@pytest.mark.parametrize(
    "password",
    ["right horse battery", "four unrelated words here", "Xk7#pQ2vLm9w", "wo der pfeffer waechst",
     "\u30d1\u30b9\u30ef\u30fc\u30c9\u306f\u79d8\u5bc6\u3067\u3059", "e3b0c44298fc1c149afbf4c8996fb924"],
)  # fmt: skip
def test_other_passwords_are_taken(password):
    check_password(password, "katharina")


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("admin", "\u0430dmin"),
        ("lea", "Lea"),
        ("lea", "1ea"),
        ("bob", "b0b"),
        ("marie", "rnarie"),
        ("jose", "jos\u00e9"),
        ("paula", "pau\u0406a"),
    ],
)
def test_handles_that_look_alike_are_refused(site, first, second):
    """Seen red without `skeleton`: only the very same handle was."""
    add_person(site, first)
    with pytest.raises(Problem) as refused:
        add_person(site, second)
    assert refused.value.code == "handle_taken"
    add_person(site, "somebody-else")
