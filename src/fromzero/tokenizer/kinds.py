"""Training the kinds of tokenizers other than BPE: from texts to a tokenizer."""

from collections.abc import Iterable, Mapping
from typing import Any

from fromzero.console import progress
from fromzero.errors import UserError
from fromzero.tokenizer.base import Tokenizer
from fromzero.tokenizer.characters import ByteTokenizer
from fromzero.tokenizer.normalize import bert, prepend
from fromzero.tokenizer.patterns import compile_pattern, split
from fromzero.tokenizer.settings import TokenizerConfig, Trained, count
from fromzero.tokenizer.unigram import BYTES, SPACE, Metaspace, UnigramTokenizer, marked_words
from fromzero.tokenizer.unigram_learn import learn_pieces
from fromzero.tokenizer.word import UNKNOWN, CharacterTokenizer, WordTokenizer, most_frequent
from fromzero.tokenizer.wordpiece import WordPieceTokenizer, cut_words
from fromzero.tokenizer.wordpiece_learn import learn_wordpieces


def train_bytes(config: TokenizerConfig, texts: Iterable[str]) -> Trained:
    """Nothing is learned. Ids: the bytes, then the special tokens."""
    size = sum(len(text.encode()) for text in texts)
    tokenizer = ByteTokenizer(config.special_ids(256), config.roles, config.chat_template)
    return Trained(tokenizer, 256, size)


def train_characters(config: TokenizerConfig, texts: Iterable[str]) -> Trained:
    """Ids: the most frequent characters, the most frequent first, then the special tokens."""
    counts = count(texts, lambda text: text)
    vocabulary, common = _most_frequent(config, counts)
    return Trained(CharacterTokenizer(vocabulary, **common), len(counts), counts.total())


def train_words(config: TokenizerConfig, texts: Iterable[str]) -> Trained:
    """Ids: the most frequent words, the most frequent first, then the special tokens."""
    compiled = compile_pattern(config.expression)
    counts = count(texts, lambda text: split(compiled, text))
    vocabulary, common = _most_frequent(config, counts)
    return Trained(WordTokenizer(vocabulary, config.expression, **common), len(counts), counts.total())


def train_wordpiece(config: TokenizerConfig, texts: Iterable[str]) -> Trained:
    """Ids: the special tokens, [UNK] and so on, then characters in order, then merges in order."""
    normalizer = bert(lowercase=config.lowercase is not False)
    counts = count(texts, lambda text: cut_words(normalizer(text)))
    with progress("Learning word pieces", config.room, "tokens") as report:
        pieces = learn_wordpieces(_without(config, counts), config.room, report=report)
    if len(pieces) < config.room:
        raise config.too_small(len(pieces))
    specials = config.special_ids(0)
    vocabulary = {piece: len(specials) + i for i, piece in enumerate(pieces)}
    around = [[token] if token in specials else [] for token in ("[CLS]", "[SEP]")]
    tokenizer = WordPieceTokenizer(
        vocabulary, "[UNK]", specials, config.roles, config.chat_template, *around, normalizer=normalizer
    )
    return Trained(tokenizer, len(counts), _tokens(tokenizer, counts))


def train_unigram(config: TokenizerConfig, texts: Iterable[str]) -> Trained:
    """Ids: the bytes (with byte_fallback), the pieces, the most likely first, then the special tokens."""
    counts = count(texts, marked_words)
    falls_back = config.byte_fallback is not False
    with progress("Learning pieces", 100, "percent") as report:
        learned = learn_pieces(_without(config, counts), config.room, report=report)
    if len(learned) < config.room:
        raise config.too_small(len(learned))
    pieces = [*(BYTES if falls_back else []), *learned]
    tokenizer = UnigramTokenizer(
        pieces,
        UNKNOWN,
        config.special_ids(len(pieces)),
        config.roles,
        config.chat_template,
        normalizer=prepend(SPACE),
        metaspace=Metaspace("never"),
        byte_fallback=falls_back,
    )
    return Trained(tokenizer, len(counts), _tokens(tokenizer, counts))


def _most_frequent(config: TokenizerConfig, counts: Mapping[str, int]) -> tuple[dict[str, int], dict[str, Any]]:
    """The vocabulary, and what else a tokenizer of whole words or characters takes."""
    vocabulary = {word: i for i, word in enumerate(most_frequent(_without(config, counts), config.room))}
    specials = config.special_ids(len(vocabulary))
    unknown = UNKNOWN if UNKNOWN in specials else None
    if unknown is None and len(vocabulary) < len(counts):
        raise UserError(
            f"vocab_size {config.vocab_size} has no room for all {len(counts)} different units of the corpus, and "
            f"special_tokens lacks {UNKNOWN} for the rest; add it, or raise vocab_size"
        )
    roles = {"special_tokens": specials, "roles": config.roles, "chat_template": config.chat_template}
    return vocabulary, {"unknown": unknown, **roles}


def _without(config: TokenizerConfig, counts: Mapping[str, int]) -> dict[str, int]:
    """The units that are not spelled like a special token."""
    return {unit: n for unit, n in counts.items() if unit not in config.all_special_tokens}


def _tokens(tokenizer: Tokenizer, counts: Mapping[str, int]) -> int:
    """Tokens of texts whose units are encoded each on its own."""
    return sum(n * len(tokenizer._encode(unit)) for unit, n in counts.items())
