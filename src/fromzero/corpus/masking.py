"""Masking of personal data and secrets: text -> the same text with markers in their place, and how many of each kind.

Three kinds of evidence keep what only looks alike: shape (a pattern), arithmetic (the check digits of Chinese identity
numbers and bank cards, dates, public address ranges, the entropy of a key) and neighbours (no letter or digit beside a
number, no word 'version' before it). Neighbours are ASCII: Chinese is written without blanks, so a number may follow an
ideograph at once. Every pattern is bounded and can't begin inside its own run, so any text takes linear time.
"""

import collections
import dataclasses
import datetime
import functools
import ipaddress
import math
import re
from collections.abc import Callable, Mapping
from typing import NamedTuple

from fromzero.errors import UserError


@dataclasses.dataclass(frozen=True)
class Masking:
    """What stands for each kind of personal data; null leaves the kind as it is."""

    secret: str | None = "[secret]"  # noqa: S105 (a marker)
    """Private keys, JSON web tokens, keys of AWS, GitHub, GitLab, Slack, Google, Stripe, OpenAI and Hugging Face, and
    random strings that are assigned to names such as api_key, token and password."""
    email: str | None = "[email]"
    """E-mail addresses."""
    identity: str | None = "[identity]"
    """Chinese identity numbers: 18 characters with a province, a date of birth and a right check digit."""
    card: str | None = "[card]"
    """Bank cards: 13 to 19 digits, in groups or not, with the beginning of an issuer and a right check digit (Luhn)."""
    ip: str | None = "[ip]"
    """Public addresses, IPv4 and IPv6. Short ones (8.4.2.29) are left: most are versions and headings."""
    phone: str | None = "[phone]"
    """Phone numbers: international (+), of mainland China (mobile with a carrier's beginning, landline with its area),
    and of North America where they are written in groups."""

    def __post_init__(self) -> None:
        for kind, marker in vars(self).items():
            if marker is not None and re.search("[0-9@]", marker):
                raise UserError(f"masking.{kind} is {marker!r}; a marker has no digits and no @, as data have")


class _Rule(NamedTuple):
    kind: str
    pattern: re.Pattern[str]
    check: Callable[[re.Match[str]], bool] | None = None
    needles: tuple[str, ...] = ()
    """The pattern is only tried on a text that has one of these."""
    group: int = 0
    """The part of the match that is masked; it stands at the end."""


def mask(text: str, settings: Masking = Masking()) -> tuple[str, dict[str, int]]:
    """The text with a marker for each find, and kind -> number of finds (kinds without finds are left out)."""
    counts: collections.Counter[str] = collections.Counter()
    markers = {kind: marker for kind, marker in vars(settings).items() if marker is not None}
    for rule in RULES:
        if rule.kind in markers and any(needle in text for needle in rule.needles):
            text = rule.pattern.sub(functools.partial(_replaced, rule, markers[rule.kind], counts), text)
    return _WINDOW.sub(functools.partial(_numbers_replaced, markers, counts), text), dict(counts)


def _replaced(rule: _Rule, marker: str, counts: dict[str, int], match: re.Match[str]) -> str:
    if rule.check and not rule.check(match):
        return match[0]
    counts[rule.kind] += 1
    return match[0][: match.start(rule.group) - match.start()] + marker


def _numbers_replaced(markers: Mapping[str, str], counts: dict[str, int], window: re.Match[str]) -> str:
    """A run of digits and what may stand between them, its numbers replaced; of two that overlap, the first rule's."""
    text, taken, found = window.string, set[int](), list[tuple[int, int, str]]()
    for rule in NUMBERS if markers else ():
        for match in rule.pattern.finditer(text, window.start(), window.end() + 1):
            place = range(*match.span())
            if rule.kind in markers and taken.isdisjoint(place) and (rule.check is None or rule.check(match)):
                taken.update(place)
                found.append((*match.span(), rule.kind))
    pieces, done = [], window.start()
    for start, end, kind in sorted(found):
        pieces += [text[done:start], markers[kind]]
        counts[kind] += 1
        done = end
    return "".join(pieces) + text[done : window.end()]


def identity_number(match: re.Match[str]) -> bool:
    """Whether date and check digit are right (GB 11643-1999: weights 2**(17 - i) modulo 11)."""
    number = match[0].upper()
    try:
        datetime.date(int(number[6:10]), int(number[10:12]), int(number[12:14]))
    except ValueError:
        return False
    total = sum(int(digit) * 2 ** (17 - i) for i, digit in enumerate(number[:17]))
    return number[17] == "10X98765432"[total % 11]


def bank_card(match: re.Match[str]) -> bool:
    """Whether an issuer gives out such numbers, and the check digit is right (ISO/IEC 7812-1, annex B)."""
    digits = re.sub("[ -]", "", match[0])
    doubled = [int(digit) * (2 - i % 2) for i, digit in enumerate(digits[-2::-1])]
    total = int(digits[-1]) + sum(value - 9 * (value > 9) for value in doubled)
    return total % 10 == 0 and _ISSUERS.fullmatch(digits) is not None


def public_address(match: re.Match[str]) -> bool:
    """Whether a public IP address stands there, and no version."""
    try:
        public = ipaddress.ip_address(match[0]).is_global
    except ValueError:
        return False
    before = match.string[max(0, match.start() - 12) : match.start()]
    heading = "." in match[0] and len(match[0]) < _SHORTEST_ADDRESS
    return public and not heading and not _VERSION.search(before)


def random_value(match: re.Match[str]) -> bool:
    """Whether a value is random enough for a key, and the name before it says that it is one."""
    value, before = match[1], match.string[max(0, match.start() - 40) : match.start()]
    if not (_KEY_NAME.search(before) and re.search("[0-9]", value) and re.search("[A-Za-z]", value)):
        return False
    shares = [count / len(value) for count in collections.Counter(value).values()]
    return -sum(share * math.log2(share) for share in shares) >= _MIN_ENTROPY


_MIN_ENTROPY = 3.25  # bits a character: 20 random hexadecimal digits have 3.4, more have more; dates and names have 3
_SHORTEST_ADDRESS = 10  # characters; of a thousand addresses one is shorter, but most headings (2.4.12.1) are
_WINDOW = re.compile("[0-9+(][0-9 .()+-]{8,}[Xx]?")  # no kind of number is shorter
_VERSION = re.compile(
    r"(?:\b(?:v|ver|version|release|firmware|build)\.?|版本号?|固件)[ :：=\"']{0,3}\Z|[a-z][/-]\Z", re.I
)
_KEY_NAME = re.compile(
    r"(?:(?:api|access|secret|private|auth|signing)[_-]?key|secret|token|passw(?:or)?d)[\"']?\s{0,3}\Z", re.I
)
_ISSUERS = re.compile(  # Visa, Mastercard, American Express, Diners Club, JCB, Discover, UnionPay, ICBC
    "4(?:.{12}|.{15}|.{18})|5[1-5].{14}|2(?:22[1-9]|2[3-9].|[3-6]..|7[01].|720).{12}|3[47].{13}|3(?:0[0-5]|[68].).{11}"
    "|35(?:2[89]|[3-8].).{12,15}|6(?:011|4[4-9].|5..).{12,15}|62.{14,17}|9558.{15}"
)
_IDENTITY = (
    "(?:1[1-5]|2[1-3]|3[1-7]|4[1-6]|5[0-4]|6[1-5]|71|8[1-3])[0-9]{4}(?:19|20)[0-9]{2}[01][0-9][0-3][0-9]{4}[0-9Xx]"
)
_CARD = (
    r"(?:[0-9]{13,19}|(?<![0-9]{4}[ -])[0-9]{4}([ -])[0-9]{4}\1[0-9]{4}\1[0-9]{1,4}(?:\1[0-9]{1,3})?(?!\1[0-9]{4})"
    r"|[0-9]{4}([ -])[0-9]{6}\2[0-9]{4,5})"
)
_PHONE = (
    r"(?:(?:(?:\+|00)?86[ -]?)?1(?:3[0-9]|4[5-9]|5[0-35-9]|6[2567]|7[0-8]|8[0-9]|9[0-35-9])([ -]?)[0-9]{4}\1[0-9]{4}"
    r"|(?:\(0(?:10|2[0-9]|[3-9][0-9]{2})\) ?|0(?:10|2[0-9]|[3-9][0-9]{2})-)[2-9][0-9]{6,7}"  # China, landline
    r"|(?:\+?1[ .-])?(?:\([2-9][0-9]{2}\) ?|[2-9][0-9]{2}[.-])[0-9]{3}[.-][0-9]{4}"
    r"|1[ .-][2-9][0-9]{2} [0-9]{3} [0-9]{4}"  # North America
    r"|\+[1-9](?:[ .()-]{0,2}[0-9]){7,14})"  # anywhere: 8 to 15 digits (ITU-T E.164)
)
_BLOCK = (
    r"-----BEGIN [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----(?:[^-]|-(?!----)){1,20000}"
    r"-----END [A-Z ]{0,30}PRIVATE KEY(?: BLOCK)?-----"
)
_ASSIGNED = r"[:=]\s{0,3}[\"']?([A-Za-z0-9+/_.-]{16,255}+={0,2})(?![A-Za-z0-9+/_.(-])"
_IPV6 = r"[23](?<![A-Za-z0-9:.].)[0-9A-Fa-f]{3}(?::[0-9A-Fa-f]{0,4}){2,7}(?![A-Za-z0-9:]|/[0-9])"  # 2000::/3
_EMAIL = (
    r"(?<![A-Za-z0-9._%+-])[A-Za-z0-9._%+-]{1,64}@(?:[A-Za-z0-9-]{1,63}\.){1,8}"
    r"(?!(?:png|jpe?g|gif|webp|svg)(?![A-Za-z]))[A-Za-z]{2,24}(?![A-Za-z0-9])"  # icon@2x.png is a picture
)


def _key(prefix: str, rest: str, *needles: str) -> _Rule:
    pattern = re.compile(f"(?<![A-Za-z0-9]){prefix}{rest}(?![A-Za-z0-9])")
    return _Rule("secret", pattern, needles=needles or (prefix,))


def _number(kind: str, pattern: str, check: Callable[[re.Match[str]], bool] | None = None) -> _Rule:
    """A number with no letter, digit or underscore beside it, that is not a part of a decimal number."""
    return _Rule(kind, re.compile(rf"(?<![A-Za-z0-9_.]){pattern}(?![A-Za-z0-9_]|\.[0-9])"), check)


RULES = (
    _Rule("secret", re.compile(_BLOCK), needles=("PRIVATE KEY",)),
    _key("A[KS]IA", "[0-9A-Z]{16}", "AKIA", "ASIA"),
    _key("gh[pousr]_", "[A-Za-z0-9]{36,255}", "ghp_", "gho_", "ghu_", "ghs_", "ghr_"),
    _key("github_pat_", "[A-Za-z0-9_]{22,255}"),
    _key("glpat-", "[A-Za-z0-9_-]{20,255}"),
    _key("xox[abeoprs]-", "[A-Za-z0-9-]{10,255}", "xox"),
    _key("AIza", "[A-Za-z0-9_-]{35}"),
    _key("[rs]k_live_", "[A-Za-z0-9]{16,255}", "k_live_"),
    _key("sk-", "(?=[A-Za-z_-]{0,40}[0-9])[A-Za-z0-9_-]{20,255}"),
    _key("hf_", "[A-Za-z0-9]{30,255}"),
    _key("eyJ", r"[A-Za-z0-9_-]{8,4000}\.eyJ[A-Za-z0-9_-]{8,4000}\.[A-Za-z0-9_-]{8,2000}"),
    _Rule("secret", re.compile(_ASSIGNED), random_value, ("=", ":"), 1),
    _Rule("email", re.compile(_EMAIL), needles=("@",)),
    _Rule("ip", re.compile(_IPV6), public_address, (":",)),
)
NUMBERS = (
    _number("identity", _IDENTITY, identity_number),
    _number("card", _CARD, bank_card),
    _number("ip", r"[0-9]{1,3}(?:\.[0-9]{1,3}){3}", public_address),
    _number("phone", _PHONE),
)
