"""What a document is, and the words in which the stage says why one was dropped."""

import dataclasses
import hashlib


@dataclasses.dataclass(frozen=True)
class Document:
    """One clean text of a corpus."""

    id: str
    """128 bits of the SHA-256 of the text, in hexadecimal: equal texts have equal ids, whatever file they are from."""
    text: str
    source: str
    """The file it was read from, relative to the folder above the input, with forward slashes."""
    url: str
    """Where the file says that it comes from; empty when it doesn't say."""
    language: str
    """Two letters (ISO 639-1), or 'und' when there is too little text to tell."""
    meta: dict[str, str]
    """What else is known: `title`, the `id` a JSON line gave, the number of the `part` of a document that was cut."""


# Reasons in the order in which the pipeline can give them. What follows ': ' in a stored reason is the detail.
UNOPENED = "file could not be opened"
TOO_LARGE = "file too large"
BINARY = "binary file, not text"
DAMAGED = "damaged file"
ENCRYPTED = "encrypted file"
UNKNOWN_FORMAT = "format that is not read"
NESTED = "archives in archives"
UNPACKED_TOO_LARGE = "unpacks to too much"
CRASHED = "parser crashed"
TIMED_OUT = "parser took too long"
OUT_OF_MEMORY = "parser needed too much memory"
BAD_RECORD = "record could not be read"
DOCUMENT_TOO_LARGE = "document too large"
EMPTY = "no text"
TOO_SHORT = "too short"
REPLACED = "undecodable characters"
FEW_LETTERS = "too few letters"
WORD_LENGTH = "words too short or too long"
REPEATED_LINES = "repeated lines"
REPEATED_TEXT = "repeated text"
TOO_LONG = "too long"
SYMBOLS = "too many symbols"
LISTS = "lists and scraps rather than sentences"
FEW_STOP_WORDS = "too few stop words"
PLACEHOLDERS = "placeholders or code"
OTHER_LANGUAGE = "other language"
LISTED_DOMAIN = "domain on a list"
LISTED_ADDRESS = "address on a list"
LISTED_WORDS = "words on a list"
LOW_SCORE = "low score of the classifier"
HIGH_PERPLEXITY = "high perplexity"
CONTAMINATED = "holds an evaluation item"
DUPLICATE = "duplicate"
NEAR_DUPLICATE = "near duplicate"
REPEATS = "repeated passages"

# Reason -> the setting that decides it, for messages that tell what to change.
REASONS: dict[str, str] = {
    UNOPENED: "",
    TOO_LARGE: "limits.file_bytes",
    BINARY: "",
    DAMAGED: "",
    ENCRYPTED: "",
    UNKNOWN_FORMAT: "",
    NESTED: "limits.nesting",
    UNPACKED_TOO_LARGE: "limits.unpacked_ratio",
    CRASHED: "",
    TIMED_OUT: "limits.parse_seconds",
    OUT_OF_MEMORY: "limits.parse_memory_bytes",
    BAD_RECORD: "text_key",
    DOCUMENT_TOO_LARGE: "limits.document_bytes",
    EMPTY: "",
    TOO_SHORT: "filters.min_length",
    REPLACED: "filters.max_undecodable",
    FEW_LETTERS: "filters.min_letters",
    WORD_LENGTH: "filters.min_word_length and filters.max_word_length",
    REPEATED_LINES: "filters.max_repeated_lines",
    REPEATED_TEXT: "filters.min_compressed",
    **dict.fromkeys((TOO_LONG, SYMBOLS, LISTS, FEW_STOP_WORDS, PLACEHOLDERS), "filters.profile and filters.limits"),
    OTHER_LANGUAGE: "keep_languages",
    **dict.fromkeys((LISTED_DOMAIN, LISTED_ADDRESS, LISTED_WORDS), "lists"),
    LOW_SCORE: "classifiers",
    HIGH_PERPLEXITY: "ngrams",
    CONTAMINATED: "decontaminate.share",
    DUPLICATE: "",
    NEAR_DUPLICATE: "near_duplicates",
    REPEATS: "repeats",
}


def category(reason: str) -> str:
    """A stored reason without its detail: 'damaged file: no trailer' -> 'damaged file'."""
    return reason.partition(": ")[0]


def text_digest(text: str) -> str:
    """128 bits of SHA-256 of the text without the blanks around it, in hexadecimal."""
    return hashlib.sha256(text.strip().encode("utf-8", "surrogatepass")).hexdigest()[:32]
