"""Personal data and keys in texts: found by their form and, where there is one, by their check digits.

No names, places or dates: these would take a model. Phone numbers are judged by Google's libphonenumber
(phonenumberslite), cards, IBANs, social security numbers and Bitcoin addresses by python-stdnum, both of the
extra `privacy`. Neither fetches anything.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from ipaddress import ip_address

INSTALL = "pip install 'align-rlhf[privacy]'"
_SHORT = 12  # characters from which on a value's both ends are shown

KEY = "key"
# The kinds, and what a finding calls them.
KINDS = {
    "email": "an e-mail address",
    "phone": "a phone number",
    "card": "a payment card's number",
    "iban": "an IBAN",
    "ssn": "a US social security number",
    "ip": "a public IP address",
    "wallet": "the address of a crypto wallet",
    KEY: "a key or token of a service",
}
ALWAYS = frozenset(("card", "iban", "ssn", KEY))  # a single one of these is a warning
LOOKED_FOR = "e-mail, phone, card, IBAN, US SSN, IP, wallet, keys"

_EMAIL = re.compile(
    r"(?<![\w.+%/@=-])[A-Za-z0-9_.+%-]{1,64}@"
    r"(?:[A-Za-z0-9](?:[A-Za-z0-9-]{0,61}[A-Za-z0-9])?\.)+[A-Za-z]{2,24}(?![\w@])"
)
# Names that nobody can have (RFC 2606, 6761), and addresses that are no person's.
_RESERVED = re.compile(
    r"(?:^|\.)(?:example\.(?:com|net|org|edu)|(?:example|test|invalid|localhost|local))$|^domain\.com$"
)
_NOBODY = frozenset(("git", "noreply", "no-reply", "donotreply"))

# What is searched first, and fast: most texts hold nothing of it, and need no second look.
_DIGIT = re.compile(r"[0-9]")
_DOTTED = re.compile(r"[0-9]\.[0-9]{1,3}\.[0-9]|[23][0-9a-fA-F]{3}:[0-9a-fA-F:]*:")  # public ones, of IPv6
_LONG = re.compile(r"[13][A-Za-z0-9]{25}")
# Digits that may be a number of somebody's: eight or more, with what stands between them.
_DIGITS = re.compile(r"[0-9](?:[ ().\-/–]{0,3}[0-9]){7}")
_CARD = re.compile(
    r"(?<![\w.+-])(?:\d{13,19}|\d{4}([ -])\d{4}\1\d{4}\1\d{4}|3\d{3}([ -])\d{6}\2\d{5})(?![\w-]|\.\d)"
)
_NETWORKS = re.compile(r"4|5[1-5]|2[2-7]|3[47]|6(?:011|5|4[4-9])|35|30[0-5]|3[689]|62")
_SSN = re.compile(r"(?<![\w.-])\d{3}-\d{2}-\d{4}(?![\w-]|\.\d)")
# Ten digits in the groups of North America, of which the first is no 0 or 1, or a country's code behind a +.
_PHONE = re.compile(
    r"(?<![\w.+/=-])(?:\+\d{1,3}[ .(-]{0,2}\d(?:[ ().-]{0,2}\d){5,13}"
    r"|(?:1[ .-])?(?:\([2-9]\d\d\) ?|[2-9]\d\d[ .-])[2-9]\d\d[ .-]\d{4})(?![\w-]|\.\d)"
)
_FICTION = re.compile(r"555[ .-]01\d\d$")  # kept free for films and examples
_IBAN = re.compile(r"(?<![A-Za-z0-9])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,3})?(?![A-Za-z0-9])")
_IPV4 = re.compile(r"(?<![\w.-])(?:\d{1,3}\.){3}\d{1,3}(?![\w-]|\.\d)")
_IPV6 = re.compile(r"(?<![\w:.])[0-9a-fA-F]{1,4}:[0-9a-fA-F:]{4,35}(?![\w:.])")
_VERSION = re.compile(r"(?:version|release|section|v\.?|§)\s*$", re.IGNORECASE)
_BITCOIN = re.compile(
    r"(?<![A-Za-z0-9])(?:[13][1-9A-HJ-NP-Za-km-z]{25,34}|bc1[02-9ac-hj-np-z]{11,71})(?![A-Za-z0-9])"
)
_ETHEREUM = re.compile(r"(?<![A-Za-z0-9])0x[0-9a-fA-F]{40}(?![A-Za-z0-9])")
# As the services themselves write them.
_KEY = re.compile(
    r"-----BEGIN (?:[A-Z]+ )*PRIVATE KEY-----"
    r"|(?<![A-Za-z0-9])(?:"
    r"(?:AKIA|ASIA)[A-Z2-7]{16}"  # AWS
    r"|gh[pousr]_[A-Za-z0-9]{36}|github_pat_[A-Za-z0-9_]{82}|glpat-[A-Za-z0-9_-]{20}"  # GitHub, GitLab
    r"|xox[abeprs]-[A-Za-z0-9-]{20,}"  # Slack
    r"|[rs]k_live_[A-Za-z0-9]{20,}"  # Stripe
    r"|AIza[A-Za-z0-9_-]{35}"  # Google
    r"|sk-(?:proj-|svcacct-|ant-[a-z0-9]+-)[A-Za-z0-9_-]{40,}|sk-[A-Za-z0-9]{48}"  # OpenAI, Anthropic
    r"|hf_[A-Za-z]{34}"  # Hugging Face
    r"|SG\.[A-Za-z0-9_-]{22}\.[A-Za-z0-9_-]{43}"  # SendGrid
    r"|pypi-AgEIcHlwaS5vcmc[A-Za-z0-9_-]{50,}|npm_[A-Za-z0-9]{36}"
    r")(?![A-Za-z0-9])"
)
_KEY_MARKS = (
    "_",
    "sk-",
    "AKIA",
    "ASIA",
    "AIza",
    "xox",
    "SG.",
    "glpat-",
    "pypi-",
    "-----BEGIN",
)  # one is in each


@dataclass(frozen=True)
class Hit:
    """What was found in a text; `value` as it stands there."""

    kind: str
    value: str

    @property
    def masked(self) -> str:
        """What can be shown: two characters of each end, of a short one the first alone."""
        return f"{self.value[:2]}…{self.value[-2:]}" if len(self.value) >= _SHORT else f"{self.value[:1]}…"


def can_look() -> bool:
    """Whether the extra `privacy` is installed."""
    return find_spec("phonenumbers") is not None and find_spec("stdnum") is not None


def personal_data(text: str) -> list[Hit]:
    """What a text holds of `KINDS`, in their order; each value once. Needs the extra (`can_look`)."""
    found: list[Hit] = []
    if "@" in text:
        found += _emails(text)
    if any(mark in text for mark in _KEY_MARKS):
        found += (Hit(KEY, match[0]) for match in _KEY.finditer(text))
    if _DIGIT.search(text):  # of what follows, nothing is without one
        if _DIGITS.search(text):
            found += _numbers(text)
        if _DOTTED.search(text):
            found += _addresses(text)
        if "0x" in text or "bc1" in text or _LONG.search(text):
            found += _wallets(text)
    if not found:
        return found
    order = list(KINDS)
    return sorted(dict.fromkeys(found), key=lambda hit: order.index(hit.kind))


def masked(text: str, hits: Iterable[Hit]) -> str:
    """A text in which what was found can be shown."""
    for hit in hits:
        text = text.replace(hit.value, hit.masked)
    return text


def _emails(text: str) -> Iterator[Hit]:
    for match in _EMAIL.finditer(text):
        name, _, host = match[0].lower().partition("@")
        if name not in _NOBODY and not _RESERVED.search(host):
            yield Hit("email", match[0])


def _numbers(text: str) -> Iterator[Hit]:
    """Cards, social security numbers, IBANs and phone numbers: what is one of these is no other."""
    rest = "\n".join(line for line in text.splitlines() if _DIGITS.search(line))
    for kind, form, is_one in (("iban", _IBAN, _iban), ("card", _CARD, _card), ("ssn", _SSN, _ssn)):
        for match in form.finditer(rest):
            if value := is_one(match[0]):
                yield Hit(kind, value)
                rest = rest.replace(value, " " * len(value))
    yield from (Hit("phone", match[0]) for match in _PHONE.finditer(rest) if _phone(match[0]))


def _iban(found: str) -> str | None:
    """The IBAN that begins here, without the words in capitals that may follow it."""
    from stdnum import iban

    while len(found) > 14:  # the shortest one, Norway's, has 15
        if iban.is_valid(found, check_country=False):
            return found
        found = found[:-1].rstrip()
    return None


def _card(found: str) -> str | None:
    from stdnum import luhn

    digits = re.sub(r"\D", "", found)
    return found if _NETWORKS.match(digits) and len(set(digits)) > 1 and luhn.is_valid(digits) else None


def _ssn(found: str) -> str | None:
    from stdnum.us import ssn

    return found if ssn.is_valid(found) else None


def _phone(found: str) -> bool:
    from phonenumbers import NumberParseException, is_valid_number, parse

    if _FICTION.search(found):
        return False
    try:
        return is_valid_number(parse(found, None if found.startswith("+") else "US"))
    except NumberParseException:
        return False


def _addresses(text: str) -> Iterator[Hit]:
    """IP addresses that machines of the internet have; a version of four parts is none."""
    for form in (_IPV4, _IPV6):
        for match in form.finditer(text):
            try:
                public = ip_address(match[0]).is_global
            except ValueError:
                continue
            if public and not _VERSION.search(text[max(0, match.start() - 12) : match.start()]):
                yield Hit("ip", match[0])


def _wallets(text: str) -> Iterator[Hit]:
    from stdnum import bitcoin

    yield from (Hit("wallet", match[0]) for match in _BITCOIN.finditer(text) if bitcoin.is_valid(match[0]))
    yield from (Hit("wallet", match[0]) for match in _ETHEREUM.finditer(text))
