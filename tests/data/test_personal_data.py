"""Personal data is found, ordinary numbers are not, and the rest of the text stays as it was."""

import pytest

from data.personal_data import redact

FOUND = {
    "Write to ana.b+c@mill.example.org please": ["email address"],
    "my number is (555) 123-4567": ["phone number"],
    "call 555-123-4567 now": ["phone number"],
    "Tel. +44 (0)20 7946 0958": ["phone number"],
    "SSN 078-05-1120": ["social security number"],
    "from 8.8.4.4 again": ["IP address"],
    "card 4111 1111 1111 1111": ["card number"],
    "card 4111 1111 1111 1112": [],  # wrong check digit
    "ping 127.0.0.1, then open 192.168.0.1 for the router": [],  # these belong to nobody
    "from 1999-2004, on 10.5.2020, pi is 3.14159265358979, version 1.2.3.4.5": [],
    "Isaiah 55:1-13, 2 x 400 = 800, 12:30:45": [],
    "mention @ana in a tweet": [],
}


@pytest.mark.parametrize("text", FOUND)
def test_personal_data_is_found_and_ordinary_numbers_are_not(text):
    """Seen red for the addresses of every router with any IP address taken for a person's."""
    covered, kinds = redact(text)
    assert kinds == FOUND[text]
    assert (covered == text) == (not kinds)


def test_a_placeholder_names_the_kind_and_nothing_else_changes():
    text = "Ask ana@mill.org or bram@mill.org, 555-123-4567; 127.0.0.1 is not 8.8.4.4."
    assert redact(text) == (
        "Ask [EMAIL ADDRESS] or [EMAIL ADDRESS], [PHONE NUMBER]; 127.0.0.1 is not [IP ADDRESS].",
        ["email address", "IP address", "phone number"],
    )
