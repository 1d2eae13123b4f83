"""The quality rules as one table: what is asked about a text, who proposed it, and the limits of the profile `web`.

A rule is called `min_` or `max_` and the name of a number that `statistics.measure` finds: a text whose number is below
or above the limit breaks it and is dropped, or of a line rule (`min_line_words` ...) the line is taken out. A limit of
None switches a rule off; 0 is a limit like others. Rules are asked in this order, which is FineWeb's.

Chinese has its own limits. There a word is one character (see `statistics`), while FineWeb2 counts what a segmenter
cuts: 1.77 characters, in software manuals as in poems. So a number of words is multiplied by 1.77 (50 become 90, n
tokens in a row 1.77 n, rounded); a number for each token, symbols among them, is divided by 1.5 (.178 newlines become
.12); and a share of words grows (.735 become .83). On 250 pages these decide like the segmenter's words with FineWeb2's
limits: rules of tokens in a row on 98 to 100 %, the other two on 94 and 98 %. The mean length of a word says nothing
there, and is NaN.
"""

import dataclasses

from fromzero.corpus.document import (
    FEW_LETTERS,
    FEW_STOP_WORDS,
    LISTS,
    PLACEHOLDERS,
    REPEATED_LINES,
    REPEATED_TEXT,
    REPLACED,
    SYMBOLS,
    TOO_LONG,
    TOO_SHORT,
    WORD_LENGTH,
)


@dataclasses.dataclass(frozen=True)
class Rule:
    """One row of the table."""

    name: str
    source: str
    reason: str
    """As in `document.REASONS`; empty for rules about lines."""
    web: float | None = None
    """The limit of the profile `web`. What is fromzero's own has its limit in `settings.Filters`, for all profiles."""
    chinese: float | None = None
    """The same for texts in Chinese."""

    @property
    def statistic(self) -> str:
        """What is measured for it."""
        return self.name[4:]

    def broken(self, value: float, limit: float) -> bool:
        """Whether the limit is passed; what is on it is kept."""
        return value < limit if self.name.startswith("min_") else value > limit


# fromzero: they drop what is broken, and keep poems, tables and code. Gopher: Rae et al. 2021, table A1 and A1.1.
# C4: Raffel et al. 2020, section 2.2. FineWeb: Penedo et al. 2024, section 3.6; for Chinese, FineWeb2 (2025).
# ChineseWebText: Chen et al. 2023. NeMo: NVIDIA's NeMo Curator, its filters of English.
WHOLE = (
    Rule("min_length", "fromzero", TOO_SHORT),
    Rule("max_undecodable", "fromzero", REPLACED),
    Rule("min_letters", "fromzero", FEW_LETTERS),
    Rule("min_word_length", "fromzero", WORD_LENGTH),
    Rule("max_word_length", "fromzero", WORD_LENGTH),
    Rule("max_repeated_lines", "fromzero", REPEATED_LINES),
    Rule("min_compressed", "fromzero, after Whisper (Radford et al. 2022, section 4.5)", REPEATED_TEXT),
    Rule("max_duplicate_paragraphs", "Gopher", REPEATED_LINES, 0.3),
    Rule("max_duplicate_paragraph_characters", "Gopher", REPEATED_LINES, 0.2),
    Rule("max_duplicate_lines", "Gopher", REPEATED_LINES, 0.3, 0.287),
    Rule("max_duplicate_line_characters", "Gopher", REPEATED_LINES, 0.2),
    Rule("max_top_2grams", "Gopher", REPEATED_TEXT, 0.2),
    Rule("max_top_3grams", "Gopher", REPEATED_TEXT, 0.18),
    Rule("max_top_4grams", "Gopher", REPEATED_TEXT, 0.16, 0.256),
    Rule("max_top_5grams", "Gopher", REPEATED_TEXT, None, 0.201),
    Rule("max_top_7grams", "Gopher", REPEATED_TEXT, None, 0.171),
    Rule("max_duplicate_5grams", "Gopher", REPEATED_TEXT, 0.15),
    Rule("max_duplicate_6grams", "Gopher", REPEATED_TEXT, 0.14),
    Rule("max_duplicate_7grams", "Gopher", REPEATED_TEXT, 0.13),
    Rule("max_duplicate_8grams", "Gopher", REPEATED_TEXT, 0.12),
    Rule("max_duplicate_9grams", "Gopher", REPEATED_TEXT, 0.11, 0.198),
    Rule("max_duplicate_10grams", "Gopher", REPEATED_TEXT, 0.1),
    Rule("max_duplicate_11grams", "Gopher", REPEATED_TEXT, None, 0.182),
    Rule("max_duplicate_12grams", "Gopher", REPEATED_TEXT, None, 0.167),
    Rule("max_duplicate_13grams", "ChineseWebText", REPEATED_TEXT, None, 0.5),
    Rule("max_duplicate_14grams", "Gopher", REPEATED_TEXT, None, 0.154),
    Rule("max_duplicate_16grams", "Gopher", REPEATED_TEXT, None, 0.14),
    Rule("max_duplicate_18grams", "Gopher", REPEATED_TEXT, None, 0.127),
    Rule("min_words", "Gopher", TOO_SHORT, 50, 90),
    Rule("max_words", "Gopher", TOO_LONG, 100_000, 177_000),
    Rule("min_mean_word_length", "Gopher", WORD_LENGTH, 3),
    Rule("max_mean_word_length", "Gopher", WORD_LENGTH, 10),
    Rule("max_hashes", "Gopher", SYMBOLS, 0.1, 0.07),
    Rule("max_ellipses", "Gopher", SYMBOLS, 0.1, 0.07),
    Rule("max_bullets", "Gopher", LISTS, 0.9, 0.9),
    Rule("max_ellipsis_lines", "Gopher", LISTS, 0.3, 0.3),
    Rule("min_word_share", "Gopher", FEW_LETTERS, 0.8, 0.83),
    Rule("min_stop_words", "Gopher", FEW_STOP_WORDS, 2, 2),
    Rule("min_han", "ChineseWebText", FEW_LETTERS, None, 0.3),
    Rule("min_characters", "ChineseWebText", TOO_SHORT, None, 200),
    Rule("min_line_length", "ChineseWebText", LISTS, None, 10),
    Rule("max_symbols", "NeMo", SYMBOLS),
    Rule("max_digits", "NeMo", SYMBOLS),
    Rule("max_white_space", "NeMo", SYMBOLS),
    Rule("max_parentheses", "NeMo", SYMBOLS),
    Rule("max_urls", "NeMo", SYMBOLS),
)
LINES = (
    Rule("max_line_word", "C4", "", 1000),  # characters of its longest word
    Rule("max_line_citations", "C4", "", 0),  # '[1]', '[edit]', '[citation needed]': above it they are removed
    Rule("min_line_end", "C4", ""),  # 1: it ends with . ? ! " or ', and not with '...'. FineWeb leaves this one out
    Rule("min_line_words", "C4", "", 3),  # as blanks divide them
    Rule("max_line_phrases", "C4", "", 0),  # 'javascript', 'privacy policy', 'use cookies' and the like
)
LEFT = (
    Rule("max_lorem_ipsum", "C4", PLACEHOLDERS, 0),
    Rule("max_curly_brackets", "C4", PLACEHOLDERS, 0),
    Rule("min_sentences", "C4", LISTS, 5),
    Rule("min_long_lines", "mC4", LISTS),
    Rule("min_line_ends", "FineWeb", LISTS, 0.12, 0.106),
    Rule("max_short_lines", "FineWeb", LISTS, 0.67),
    Rule("max_duplicate_characters", "FineWeb", REPEATED_LINES, 0.01, 0.1),
    Rule("max_newlines", "FineWeb", LISTS, 0.3, 0.12),
)
RULES = {rule.name: rule for rule in (*WHOLE, *LINES, *LEFT)}

# Words that any text of some length has. A language without a list has no such rule.
STOP_WORDS = {
    "en": ("the", "be", "to", "of", "and", "that", "have", "with"),
    "zh": tuple("的年在月是和日了於·為有被人中为他與後也而由"),
}
