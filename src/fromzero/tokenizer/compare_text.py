"""The text that tokenizers are compared on: files, folders, a corpus or a built-in sample, sorted into groups.

A group is a language (of a corpus document, or by the script of a plain file), 'code', or 'numbers'. Code is what files
with a suffix of CODE hold and what stands between fences; numbers are the runs of digits of all texts once more.
"""

import codecs
import itertools
import os
import unicodedata
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

import regex

from fromzero.artifact import here, is_artifact, open_artifact
from fromzero.corpus import read_corpus
from fromzero.errors import UserError

GROUP_BYTES = 1_000_000  # of text read for each group; what is left is not read
MOST_TEXTS = 5_000  # files of a folder, or documents of a corpus
CODE_GROUP, NUMBERS = "code", "numbers"
PROSE = regex.compile(r"\.(?:txt|text|md|markdown|rst)", regex.I)
CODE = regex.compile(
    r"\.(?:pyi?|[ch]|cc|[ch]pp|cs|cu|java|kt|[jt]sx?|go|rs|rb|php|swift|scala|lua|r|jl|sh|sql|html|css|xml|json|ya?ml|toml"
    r"|ini|cfg|tex)",
    regex.I,
)
_NUMBER = regex.compile(r"\d+(?:[.,:]\d+)*")

SAMPLE = {
    "en": (
        "A tokenizer cuts a text into pieces that a language model can count. Common words stay whole; uncommon ones, "
        "like antidisestablishmentarianism, fall apart.\nIt's 7:45, the train leaves in 12 minutes, and we've walked "
        "3.5 km since 1999 😀. “Don't run,” she said — “the naïve café at the corner opens at 8.”",
        "In the year 2024 about 8,118,000,000 people lived on Earth; pi is roughly 3.14159265, and 127 is a prime.",
    ),
    "zh": (
        "分词器把一段文字切成小块，语言模型只认识这些小块的编号。常用的词会合成一块，生僻的字则可能被拆成几个字节。\n"
        "今天是2024年5月17日，气温26.5摄氏度，我们从零开始训练一个模型，走了12345步。",
        "春眠不觉晓，处处闻啼鸟。他说：“明天早上八点，我们在图书馆门口见！”",
    ),
    CODE_GROUP: (
        'def mean(values: list[float]) -> float:\n    """The average; 0.0 for nothing."""\n    if not values:\n'
        "        return 0.0\n    return sum(values) / len(values)\n",
        "for (int i = 0; i < 256; ++i) {\n\ttable[i] = (i * 0x9E37u) >> 7;  // spread the bits\n}\n",
    ),
}


def read_groups(paths: Sequence[Path]) -> dict[str, list[str]]:
    """Group -> texts, the group with the most text first and the numbers last; without paths, the built-in sample.

    At most GROUP_BYTES of UTF-8 are kept for each group, of the first MOST_TEXTS files or documents.
    Raises UserError for a path that does not exist, a file that is not UTF-8, and when there is no text at all.
    """
    groups: dict[str, list[str]] = {}
    sizes: Counter[str] = Counter()
    sample = ((group, text) for group, texts in SAMPLE.items() for text in texts)
    for group, text in _split_code(_read(paths) if paths else sample):
        kept = clip(text, GROUP_BYTES - sizes[group])
        if kept.strip():
            sizes[group] += len(kept.encode())
            groups.setdefault(group, []).append(kept)
    if not groups:
        raise UserError(f"{', '.join(map(str, paths))}: no text there; name files with text, a folder or a corpus")
    groups = {group: groups[group] for group, _ in sizes.most_common()}
    if numbers := [" ".join(found) for texts in groups.values() for t in texts if (found := _NUMBER.findall(t))]:
        groups[NUMBERS] = numbers
    return groups


def clip(text: str, size: int) -> str:
    """The beginning of a text that has at most so many bytes of UTF-8, in whole characters."""
    return text if len(text) * 4 <= size else text.encode()[: max(0, size)].decode(errors="ignore")


def script_group(text: str) -> str:
    """The group of a plain text: 'zh', 'ja' or 'ko' by their script, else the name of the most frequent script."""
    # The first word of a letter's Unicode name is its script.
    scripts = Counter(unicodedata.name(c, "UND").split(" ")[0].split("-")[0] for c in text[:10_000] if c.isalpha())
    if not scripts:
        return "und"
    han, kana = scripts["CJK"], scripts["HIRAGANA"] + scripts["KATAKANA"]
    if han + kana > scripts.total() / 4:  # an ideograph says as much as several letters
        return "ja" if kana > han / 10 else "zh"
    best = scripts.most_common(1)[0][0]
    return "ko" if best == "HANGUL" else best.capitalize()


def _read(paths: Iterable[Path]) -> Iterator[tuple[str, str]]:
    for path in map(here, paths):
        if is_artifact(path):
            yield from _read_corpus(path)
        elif path.is_dir():
            for file in itertools.islice(_files(path), MOST_TEXTS):
                yield _read_file(file)
        elif path.exists():
            yield _read_file(path)
        else:
            raise UserError(f"{path}: no such file or folder; --text takes text files, folders and corpora")


def _read_corpus(path: Path) -> Iterator[tuple[str, str]]:
    """Held-out documents, which no tokenizer trained on this corpus has seen; without any, the others."""
    open_artifact(path, "corpus")
    held_out = next(path.glob("validation-*.parquet"), None) is not None
    for document in itertools.islice(read_corpus(path, "validation" if held_out else "train"), MOST_TEXTS):
        yield document.language, document.text


def _files(folder: Path) -> Iterator[Path]:
    """Files of text and code below a folder, sorted; hidden ones are passed over."""
    for place, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            suffix = Path(name).suffix
            if not name.startswith(".") and (PROSE.fullmatch(suffix) or CODE.fullmatch(suffix)):
                yield Path(place, name)


def _read_file(path: Path) -> tuple[str, str]:
    with path.open("rb") as file:
        data = file.read(GROUP_BYTES + 1)
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data, len(data) <= GROUP_BYTES)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 at byte {error.start}; convert it, or leave it out") from None
    return (CODE_GROUP if CODE.fullmatch(path.suffix) else script_group(text)), text


def _split_code(texts: Iterable[tuple[str, str]]) -> Iterator[tuple[str, str]]:
    """Take fenced code out of texts that are not code."""
    for group, text in texts:
        if group == CODE_GROUP:
            yield group, text
            continue
        parts: dict[str, list[str]] = {group: [], CODE_GROUP: []}
        fence = ""
        for line in text.splitlines(keepends=True):
            if line[:3] == fence or (not fence and line.startswith(("```", "~~~"))):
                fence = "" if fence else line[:3]
            else:
                parts[CODE_GROUP if fence else group].append(line)
        yield from ((name, "".join(lines)) for name, lines in parts.items())
