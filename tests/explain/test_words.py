import re
import string
from pathlib import Path

import pytest

import fromzero.explain
from fromzero.corpus.document import REASONS
from fromzero.explain.words import TABLE, Words

SOURCE = "\n".join(p.read_text(encoding="utf-8") for p in Path(fromzero.explain.__file__).parent.glob("about_*.py"))


def names(template: str) -> set[str]:
    return {name for _, name, _, _ in string.Formatter().parse(template) if name is not None}


@pytest.mark.parametrize("key", TABLE)
def test_both_languages_say_it_and_are_given_the_same(key):
    english, chinese = TABLE[key]
    assert english.strip()
    assert chinese.strip()
    assert names(english) == names(chinese)
    assert re.search("[\u4e00-\u9fff\uff00-\uffef]", chinese)


def test_every_reason_of_the_corpus_has_a_name():
    assert all(Words("en").name("reason", reason) == reason for reason in REASONS)
    assert all(Words("zh").name("reason", reason) != reason for reason in REASONS)


def test_every_word_is_used():
    used = set(re.findall(r'"([a-z_]+)"', SOURCE))
    assert {key for key in TABLE if "." not in key} <= used


def test_a_value_without_a_name_is_its_own():
    assert Words("zh").name("language", "eo") == "eo"
