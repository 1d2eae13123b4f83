"""For each kind of personal data what is masked, and beside it what only looks alike."""

import random
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.corpus.masking import Masking, mask
from fromzero.errors import UserError

# Put together here, so that no scanner of repositories takes them for real ones.
LETTERS = "aB3dE5gH7jK9mN1pQ2sT4vW6yZ8bC0fG2iJ4lM6oP8rS0u"
JWT = "eyJ" + LETTERS[:20] + ".eyJ" + LETTERS[5:30] + "." + LETTERS[:43]
BLOCK = "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nab+/c==\n-----END RSA " + "PRIVATE KEY-----"

MASKED = {
    "email": [
        ("write to jane.doe+news@mail.example.co.uk.", "write to [email]."),
        ("邮箱zhang_san@163.com，谢谢", "邮箱[email]，谢谢"),
        ("<a@b.io>", "<[email]>"),
    ],
    "phone": [
        ("手机13812345678。", "手机[phone]。"),
        ("+86 138-1234-5678", "[phone]"),
        ("0086 19912345678", "[phone]"),
        ("电话：010-62345678 或 (0755) 8234567", "电话：[phone] 或 [phone]"),
        ("(212) 555-0147, 212-555-0147, 1 212 555 0147", "[phone], [phone], [phone]"),
        ("+44 20 7946 0958 and +49 (30) 901820", "[phone] and [phone]"),
    ],
    "ip": [
        ("from 81.2.69.142:8080", "from [ip]:8080"),
        ("在203.119.25.1上", "在[ip]上"),
        ("http://81.2.69.142/x, 81.2.69.142-81.2.69.150", "http://[ip]/x, [ip]-[ip]"),
        ("2a00:1450:4001:82b::200e", "[ip]"),
        ("[2400:3200:0:0:0:0:0:1]", "[[ip]]"),
    ],
    "identity": [("身份证号11010519491231002X，", "身份证号[identity]，")],
    "card": [
        ("4111 1111 1111 1111", "[card]"),
        ("5555-5555-5555-4444", "[card]"),
        ("卡号6222021234567890128。", "卡号[card]。"),
        ("3782 822463 10005 or 378282246310005", "[card] or [card]"),
        ("2223003122003222", "[card]"),
    ],
    "secret": [
        ("id AKIA" + "IOSFODNN7EXAMPLE,", "id [secret],"),
        ("ghp_" + LETTERS[:36], "[secret]"),
        ("github_pat_" + LETTERS[:30], "[secret]"),
        ("xoxb-" + "123456789012-" + LETTERS[:24], "[secret]"),
        ("AIza" + LETTERS[:35], "[secret]"),
        ("sk_live_" + LETTERS[:24], "[secret]"),
        ("sk-proj-" + LETTERS[:40], "[secret]"),
        ("Bearer " + JWT, "Bearer [secret]"),
        ("key:\n" + BLOCK + "\nend", "key:\n[secret]\nend"),
        ('"api_key": "' + LETTERS[:32] + '=="', '"api_key": "[secret]"'),
        ("export DB_PASSWORD=" + LETTERS[:16], "export DB_PASSWORD=[secret]"),
    ],
}  # fmt: skip
LEFT = {
    "email": ["@user", "a@b", "icon@2x.png", "x @ y.z", "user@", "@media screen.and", "a@b.c1"],
    "phone": ["12812345678", "138123456789", "x13812345678", "1234567890", "2023-10-05", "ISBN 978-7-302-51156-9",
              "5+12345678", "212-555-01478", "+1234567", "0306406152", "3.13812345678", "1600000000000"],
    "ip": ["version 81.2.69.142", "v81.2.69.142", "1.2.3.4", "192.168.1.1", "10.0.0.1", "127.0.0.1", "256.1.2.31",
           "1.2.3", "8.4.12.29", "1.22.3.4.5", "Chrome/120.0.6099.109", "版本 12.10.3.44", "12:34:56", "std::cout",
           "00:1a:2b:3c:4d:5e", "fe80::1", "2001:db8::1", "2a00:1450::/32", "2023:12:31", "a::b"],
    "identity": ["110105194912310021", "11010519491331002X", "91010519491231002X", "110105194912310021X"],
    "card": ["4111 1111 1111 1112", "1234567812345670", "9780306406157", "41111111111111111111", "0.4111111111111111",
             "4111-1111 1111-1111", "4111 1111 1111 1111 4111 1111", "1700000000000000000", "a4111111111111111"],
    "secret": ["AKIA123", "the sk-learn-compatible-estimators", "sha256: " + "9f86d081884c7d65" * 4,
               "eyJhbGciOiJIUzI1NiJ9", "token = tokenizer_from_settings",
               "password = base64.b16encode(key)", "password: correct-horse-battery",
               "-----BEGIN PRIVATE KEY-----",
               "-----BEGIN PUBLIC KEY-----\nMII\n-----END PUBLIC KEY-----", "key = " + LETTERS[:20]],
}  # fmt: skip


@pytest.mark.parametrize(("kind", "text", "expected"), [(k, *pair) for k, pairs in MASKED.items() for pair in pairs])
def test_what_is_masked(kind: str, text: str, expected: str) -> None:
    masked, counts = mask(text)
    assert masked == expected
    assert counts == ({kind: masked.count(f"[{kind}]")} if masked != text else {})


@pytest.mark.parametrize("text", [text for texts in LEFT.values() for text in texts])
def test_what_only_looks_alike(text: str) -> None:
    assert mask(text) == (text, {})


def test_every_kind_has_both() -> None:
    assert set(MASKED) == set(LEFT) == set(vars(Masking()))


def test_markers_can_be_chosen_and_kinds_switched_off() -> None:
    text = "a@b.io 13812345678"
    assert mask(text, Masking(email="<邮箱>", phone=None)) == ("<邮箱> 13812345678", {"email": 1})
    with pytest.raises(UserError, match=r"masking.phone is '555'"):
        Masking(phone="555")


def test_a_wrong_digit_anywhere_is_found() -> None:
    """Both check digits catch every single wrong digit."""
    for number in ("11010519491231002X", "4111111111111111"):
        for place in range(len(number) - 1):
            for digit in set("0123456789") - {number[place]}:
                assert "identity" not in mask(number[:place] + digit + number[place + 1 :])[1] or number[0] == "4"
                assert "card" not in mask(number[:place] + digit + number[place + 1 :])[1] or number[0] == "1"


@settings(max_examples=300, deadline=None)
@given(st.text(st.one_of(st.sampled_from("0123456789abfxX@.:-+()/= '\"eyJAKI字\n"), st.characters()), max_size=200))
def test_any_text_keeps_what_is_not_masked(text: str) -> None:
    masked, counts = mask(text)
    assert sum(masked.count(f"[{k}]") - text.count(f"[{k}]") for k in MASKED) == sum(counts.values())
    assert mask(text, Masking(*[None] * 6)) == (text, {})


HOSTILE = ["1", "@", ".", ":", "a", "1.", "1 ", "a@", "a@b.", "+1", "(2", "-", "eyJ", "eyJaaaaaaaa.", "ghp_", "4111 ",
           "token=", "=", "-----BEGIN PRIVATE KEY-----", "2001:", "::", "13", "13812345678 ", "api_key:" + LETTERS,
           "x" * 64 + "@",
           "a-1."]  # fmt: skip


@pytest.mark.parametrize("unit", HOSTILE)
def test_linear_time(unit: str) -> None:
    text = (unit * (400_000 // len(unit) + 1))[:400_000]
    started = time.perf_counter()
    mask(text)
    assert time.perf_counter() - started < 2  # quadratic time would be hours


def test_linear_time_on_noise() -> None:
    text = "".join(random.Random(0).choices("0123456789abcdef@.:-+() =", k=400_000))
    started = time.perf_counter()
    mask(text)
    assert time.perf_counter() - started < 4
