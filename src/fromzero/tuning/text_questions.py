"""Questions about any documents, English or Chinese, from the order that every text has: what comes after what.

For folders of which nothing else is known: how does the passage begin that has this heading, how does the text go on
after this sentence. Made by code, so they teach the form of a conversation and the documents' words, not skills.
"""

import re
from collections.abc import Iterator

from fromzero.corpus import Document
from fromzero.tuning.function_questions import Question

MAX_ANSWER_CHARACTERS = 240
MIN_SENTENCE_CHARACTERS = {"zh": 6, "en": 25}
MAX_SENTENCE_CHARACTERS = 200
PER_DOCUMENT = 8

_HEADING = re.compile(r"^#{1,6}[ \t]+(\S.{0,78}?\S)[ \t]*#*\n+([^#\n].{20,})", re.MULTILINE)
_SENTENCE = re.compile(r"[^。！？!?\n]{1,400}?(?:[。！？]+|[.!?]+(?=\s|$))")
_WORDINGS = {
    "en": {
        "heading": ("What is said about {0}?", "Tell me about {0}."),
        "next": ("How does the text go on: {0}", "What comes after this: {0}"),
    },
    "zh": {
        "heading": ("关于“{0}”，文中说了什么？", "请介绍一下{0}。"),
        "next": ("接下来怎么说：{0}", "请接着往下说：{0}"),
    },
}


def text_questions(document: Document) -> Iterator[Question]:
    """Questions of one document: its headings with what follows them, and sentences with the ones after them."""
    language = "zh" if document.language == "zh" else "en"
    number = 0
    for heading, passage in _HEADING.findall(document.text)[: PER_DOCUMENT // 2]:
        if answer := _beginning(passage):
            yield Question(_wording(language, "heading", number, heading.strip()), answer, "heading", document.id)
            number += 1
    for first, second in _pairs(document.text, language, PER_DOCUMENT - number):
        yield Question(_wording(language, "next", number, first), second, "next", document.id)
        number += 1


def _wording(language: str, kind: str, number: int, text: str) -> str:
    wordings = _WORDINGS[language][kind]
    return wordings[number % len(wordings)].format(text)


def _beginning(passage: str) -> str:
    """The first whole sentences of a passage, within the limit."""
    answer = ""
    for sentence in _SENTENCE.findall(passage):
        if len(answer) + len(sentence) > MAX_ANSWER_CHARACTERS:
            break
        answer += sentence
    return answer.strip()


def _pairs(text: str, language: str, count: int) -> Iterator[tuple[str, str]]:
    """Up to `count` pairs of neighbouring sentences of one paragraph, spread over the document."""
    shortest = MIN_SENTENCE_CHARACTERS[language]
    found = []
    for paragraph in text.split("\n\n"):
        sentences = [" ".join(s.split()) for s in _SENTENCE.findall(paragraph.replace("\n", " "))]
        fitting = [shortest <= len(s) <= MAX_SENTENCE_CHARACTERS for s in sentences]
        found += [(sentences[i], sentences[i + 1]) for i in range(0, len(sentences) - 1, 2) if all(fitting[i : i + 2])]
    step = max(1, len(found) // max(1, count))
    yield from found[::step][: max(0, count)]
