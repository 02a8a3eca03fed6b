"""Personal data in text, found by patterns: mail addresses, telephone, card and social security
numbers, public IP addresses.

Patterns err both ways, and names are not looked for. That is why the default is to put a
placeholder over what was found and to leave the rest of the text alone.
"""

import ipaddress
import re

__all__ = [
    "redact",
]

OCTET = r"(?:25[0-5]|2[0-4]\d|1?\d?\d)"
# The order matters: what an earlier pattern took is gone when the next one looks.
PATTERNS = (
    ("email address", re.compile(r"[\w.+-]+@[\w-]+(?:\.[\w-]+)+")),
    ("card number", re.compile(r"(?<![\d-])\d(?:[ -]?\d){12,18}(?![\d-])")),
    ("social security number", re.compile(r"(?<!\d)\d{3}-\d{2}-\d{4}(?!\d)")),
    ("IP address", re.compile(rf"(?<![\d.])(?:{OCTET}\.){{3}}{OCTET}(?![\d.]*\d)")),
    ("phone number", re.compile(r"(?<![\w.])(?:\(\d{3}\) ?|\d{3}[.-])\d{3}[.-]\d{4}(?!\d)")),
    (  # international
        "phone number",
        re.compile(
            r"(?<![\w.])\+\d{1,3}[ .-]?(?:\(0?\d{1,4}\)[ .-]?)?\d{2,4}(?:[ .-]?\d{2,4}){2,3}(?!\d)"
        ),
    ),
)


def redact(text: str) -> tuple[str, list[str]]:
    """The text with a placeholder such as [EMAIL ADDRESS] over each piece of personal data, and
    the kinds found.

    A placeholder that names the kind keeps the sentence whole: a model learns that an address
    stands there, and none by heart.
    """
    kinds: dict[str, None] = {}  # a set that keeps the order
    for kind, pattern in PATTERNS:

        def cover(match: re.Match[str], kind: str = kind) -> str:
            if not _is_personal(kind, match[0]):
                return match[0]
            kinds[kind] = None
            return f"[{kind.upper()}]"

        text = pattern.sub(cover, text)
    return text, list(kinds)


def _is_personal(kind: str, found: str) -> bool:
    """Whether a match is what it looks like, where its digits can tell."""
    if kind == "card number":
        return _passes_luhn(re.sub(r"\D", "", found))
    if kind == "IP address":
        # 127.0.0.1 and 192.168.0.1 lie in every manual of a router and belong to nobody.
        return ipaddress.ip_address(found).is_global
    return True


def _passes_luhn(digits: str) -> bool:
    """The check digit of card numbers: an arbitrary long number fails it nine times in ten."""
    weighted = [int(digit) * (1 + i % 2) for i, digit in enumerate(reversed(digits))]
    return sum(value - 9 * (value > 9) for value in weighted) % 10 == 0
