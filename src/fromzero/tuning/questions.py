"""`fromzero finetune questions`: documents -> conversations to tune on, with some held out for checking.

What a question is about (a function, a document) is held out as a whole, so no held-out question has a twin among the
ones that are learned.
"""

import hashlib
import itertools
import json
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from fromzero import artifact
from fromzero.artifact import Artifact
from fromzero.corpus import read_corpus
from fromzero.errors import UserError
from fromzero.files import write_text
from fromzero.tuning.function_questions import Question, function_questions
from fromzero.tuning.text_questions import text_questions

VERSION = 1

_ABOUT_ITSELF = (
    (
        "Who are you?",
        "I am a small language model. I was trained from zero with fromzero, on the documents given to me.",
    ),
    ("What can you do?", "I answer questions about the documents that I was trained on. I am small, so please check."),
    ("Hello!", "Hello! Ask me something about my documents."),
    ("你是谁？", "我是一个很小的语言模型，由 fromzero 用给我的文档从零训练而成。"),
    ("你好！", "你好！请问我一些关于这些文档的问题。"),
)


@dataclass(frozen=True)
class QuestionsConfig:
    """Where questions come from."""

    corpus: Path
    """Folder of a corpus: questions about what its documents say."""
    output: Path
    """Folder for the conversations, train.jsonl and validation.jsonl."""
    documents: Path | None = None
    """Folder made by the `documentation` stage: questions about its functions instead."""
    held_out: float = 0.1
    """Share of the functions or documents whose questions are kept for checking."""
    max_questions: int = 20_000
    """Most questions that are made, taken evenly over everything."""
    introductions: int = 10
    """How often each question about the model itself is repeated among the others; 0 leaves them out."""


def make_questions(config: QuestionsConfig) -> Artifact:
    """Write the conversations: one `{"messages": [...], "kind", "about", "expected"}` a line."""
    corpus = artifact.open_artifact(config.corpus, "corpus")
    inputs, here = {"corpus": corpus.digest}, replace(config, corpus=corpus.path)
    if config.documents is not None:
        documents = artifact.open_artifact(config.documents, "documents")
        inputs["documents"], here = documents.digest, replace(here, documents=documents.path)
    ignore = ("corpus", "documents", "output")
    return artifact.build(
        config.output, "conversations", config, inputs, lambda f: _make(here, f), version=VERSION, ignore=ignore
    )


def _make(config: QuestionsConfig, folder: Path) -> Mapping[str, Any]:
    questions = _evenly(list(_questions(config)), config.max_questions)
    train = [q for q in questions if not _held_out(q.about, config.held_out)]
    validation = [q for q in questions if _held_out(q.about, config.held_out)]
    if not train or not validation:
        raise UserError(
            f"only {len(questions)} questions could be made of {config.documents or config.corpus}, too few to tune on "
            "and to check; add documents of running text, or give your own conversations to `fromzero finetune chat`"
        )
    about_itself = [Question(q, a, "itself", "itself") for q, a in _ABOUT_ITSELF] * config.introductions
    write_text(folder / "train.jsonl", "".join(map(_line, train + about_itself)))
    write_text(folder / "validation.jsonl", "".join(map(_line, validation)))
    return {"train": len(train), "validation": len(validation), "kinds": dict(Counter(q.kind for q in questions))}


def _questions(config: QuestionsConfig) -> Iterator[Question]:
    if config.documents is not None:
        functions = json.loads((config.documents / "functions.json").read_text(encoding="utf-8"))
        yield from function_questions(functions)
        return
    for document in itertools.chain(read_corpus(config.corpus, "train"), read_corpus(config.corpus, "validation")):
        yield from text_questions(document)


def _evenly(questions: Sequence[Question], most: int) -> Sequence[Question]:
    if len(questions) <= most:
        return questions
    return [questions[i * len(questions) // most] for i in range(most)]


def _held_out(about: str, share: float) -> bool:
    """By a hash of what it is about: the same choice in every run, whatever else is asked."""
    return int.from_bytes(hashlib.sha256(about.encode()).digest()[:8], "big") < share * 2**64


def _line(question: Question) -> str:
    messages = [{"role": "user", "content": question.question}, {"role": "assistant", "content": question.answer}]
    record = {"messages": messages, "kind": question.kind, "about": question.about, "expected": question.expected}
    return json.dumps(record, ensure_ascii=False) + "\n"
