"""The regular expressions that cut text into pre-tokens, the units inside which byte pairs are merged.

A pattern is applied twice: here by the `regex` module, and by the Oniguruma engine of the `tokenizers` library when the
saved tokenizer is opened there. So the named patterns keep to what both read alike: no possessive quantifiers, no `$`,
no set operations. The two engines know different versions of Unicode, so a
character newer than Unicode 14 (2021) may be cut differently by them; for all others the ids are identical.
"""

from typing import Any

import regex

from fromzero.errors import UserError

# Radford et al. 2019, as published with GPT-2.
GPT2 = r"""'(?:[sdmt]|ll|ve|re)| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"""

# The form of cl100k (GPT-4), with three changes:
# - digits in groups of at most 2, not 3: a thousand three-digit groups would eat a quarter of a 4k vocabulary, and at
#   32k two is still the better choice (nanochat measured 1, 2 and 3);
# - combining marks belong to the letters or symbols they stand on, or every vowel sign of Thai, Hindi or vocalised
#   Arabic would end a pre-token;
# - contractions spell their letter cases out, which both engines match alike.
# A run of Han characters is one pre-token up to the next punctuation mark; where words begin is left to the merges.
FROMZERO = (
    r"'(?:[sSdDmMtT]|[lL][lL]|[vV][eE]|[rR][eE])"  # English contractions: 's 'll 've 're
    r"|[^\r\n\p{L}\p{N}]?\p{L}[\p{L}\p{M}]*"  # a word, with the one blank or symbol before it
    r"|\p{N}{1,2}"  # one or two digits
    r"| ?[^\s\p{L}\p{N}]+[\r\n]*"  # punctuation and symbols, with the line ends after them
    r"|\s*[\r\n]+"  # blank lines
    r"|\s+(?!\S)"  # blanks, but for the last one, which goes with the next word
    r"|\s+"
)

_ENGLISH = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)"
_WORD, _SIGNS = r"[^\r\n\p{L}\p{N}]?\p{L}+", r" ?[^\s\p{L}\p{N}]+[\r\n]*"
_BLANKS = r"\s*[\r\n]+|\s+(?!\S)|\s+"
_UPPER, _LOWER = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"

# tiktoken's cl100k (GPT-4), as of its version 0.14: blanks at the end of a text are one piece whatever they are.
CL100K = rf"'(?i:[sdmt]|ll|ve|re)|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|\s+(?![\s\S])|\s*[\r\n]|\s+(?!\S)|\s"
# tiktoken's o200k (GPT-4o): words end where their case changes.
O200K = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+{_ENGLISH}?|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*{_ENGLISH}?"
    rf"|\p{{N}}{{1,3}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BLANKS}"
)
# Mistral's Tekken: the same without contractions, digit by digit.
TEKKEN = (
    rf"[^\r\n\p{{L}}\p{{N}}]?{_UPPER}*{_LOWER}+|[^\r\n\p{{L}}\p{{N}}]?{_UPPER}+{_LOWER}*"
    rf"|\p{{N}}| ?[^\s\p{{L}}\p{{N}}]+[\r\n/]*|{_BLANKS}"
)
LLAMA3 = rf"{_ENGLISH}|{_WORD}|\p{{N}}{{1,3}}|{_SIGNS}|{_BLANKS}"
QWEN2 = rf"{_ENGLISH}|{_WORD}|\p{{N}}|{_SIGNS}|{_BLANKS}"

PATTERNS = {"fromzero": FROMZERO, "gpt2": GPT2, "cl100k": CL100K, "o200k": O200K, "llama3": LLAMA3, "qwen2": QWEN2}


SECONDS = 10.0  # for one text, and more for a long one


def resolve_pattern(name_or_pattern: str) -> str:
    """The expression behind a name in `PATTERNS`, or the argument itself when it is none."""
    return PATTERNS.get(name_or_pattern, name_or_pattern)


def isolating(pattern: Any) -> dict[str, Any]:
    """The pre-tokenizer of `tokenizer.json` that cuts by a pattern."""
    return {"type": "Split", "pattern": {"Regex": pattern}, "behavior": "Isolated", "invert": False}


def compile_pattern(pattern: str) -> Any:
    """Compile a pre-token pattern. Raises UserError when it is no expression, has groups, or matches the empty text."""
    try:
        compiled = regex.compile(pattern)
    except regex.error as error:
        raise UserError(
            f"the pre-token pattern {pattern!r} is not a regular expression: {error}; "
            f"correct it, or name one of {', '.join(PATTERNS)}"
        ) from error
    if compiled.groups:
        raise UserError(f"the pre-token pattern {pattern!r} has a capturing group; write (?:...) instead of (...)")
    if compiled.match(""):
        raise UserError(f"the pre-token pattern {pattern!r} matches the empty text; use + where it has *")
    return compiled


def split(compiled: Any, text: str) -> list[str]:
    """Cut text into pre-tokens that join to the text again: what the pattern leaves out becomes a piece of its own.

    Raises UserError when the expression backtracks for longer than SECONDS, and SECONDS more for each megabyte.
    """
    limit = SECONDS * (1 + len(text) / 1e6)
    try:
        pieces: list[str] = compiled.findall(text, timeout=limit)
        if sum(map(len, pieces)) == len(text):
            return pieces
        pieces, done = [], 0
        for match in compiled.finditer(text, timeout=limit):
            pieces += (text[done : match.start()], match.group())
            done = match.end()
    except TimeoutError as error:
        raise UserError(
            f"the pre-token pattern {compiled.pattern!r} takes too long: on a text of {len(text)} characters it "
            f"backtracks for more than {limit:.0f} seconds; use possessive repeats, such as a++, or a simpler pattern"
        ) from error
    pieces.append(text[done:])
    return [piece for piece in pieces if piece]
