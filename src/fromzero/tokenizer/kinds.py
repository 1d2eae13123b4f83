"""Training each kind of tokenizer: from texts to a tokenizer."""

from collections.abc import Callable, Iterable, Mapping

from fromzero.console import progress, say
from fromzero.errors import UserError
from fromzero.tokenizer.base import Tokenizer
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary
from fromzero.tokenizer.characters import ByteTokenizer
from fromzero.tokenizer.learn import learn_merges
from fromzero.tokenizer.normalize import bert, prepend
from fromzero.tokenizer.pretokens import count_pretokens
from fromzero.tokenizer.settings import TokenizerConfig, Trained
from fromzero.tokenizer.splitter import Splitter
from fromzero.tokenizer.unigram import BYTES, SPACE, Metaspace, UnigramTokenizer
from fromzero.tokenizer.unigram_learn import UNITS, learn_pieces
from fromzero.tokenizer.word import EACH_CHARACTER, UNKNOWN, CharacterTokenizer, WordTokenizer, most_frequent
from fromzero.tokenizer.wordpiece import WORDS, WordPieceTokenizer, around, cut_words
from fromzero.tokenizer.wordpiece_learn import learn_wordpieces

MAX_BYTES = 30_000_000  # of different words, which take a hundred times that as Python's objects


def train_bpe(config: TokenizerConfig, texts: Iterable[str]) -> Trained:
    """Ids: the bytes, then the merges in order, then the special tokens."""
    pretokens = count_pretokens(texts, Splitter([config.expression]))
    _tell_dropped(pretokens.dropped)
    with progress("Learning merges", config.room, "merges") as report:
        learned = learn_merges(pretokens, config.room, config.tie_break or "greatest", report)
    config.check_learned(len(learned.merges))
    vocabulary = byte_vocabulary(learned.merges)
    specials = config.special_ids(len(vocabulary))
    tokenizer = BPETokenizer(
        vocabulary, learned.merges, config.expression, specials, config.roles, config.chat_template
    )
    return Trained(tokenizer, len(pretokens), learned.tokens)


def train_bytes(config: TokenizerConfig, texts: Iterable[str]) -> Trained:
    """Nothing is learned. Ids: the bytes, then the special tokens."""
    size = sum(len(text.encode()) for text in texts)
    tokenizer = ByteTokenizer(config.special_ids(256), **config.common)
    return Trained(tokenizer, 256, size)


def train_words(config: TokenizerConfig, texts: Iterable[str]) -> Trained:
    """Ids: the most frequent words (or characters), the most frequent first, then the special tokens."""
    words = _Words(config, texts, EACH_CHARACTER if config.kind == "char" else config.expression)
    vocabulary = {word: i for i, word in enumerate(most_frequent(words.counts, config.room))}
    specials = config.special_ids(len(vocabulary))
    unknown = UNKNOWN if UNKNOWN in specials else None
    if unknown is None and len(vocabulary) < len(words.all):
        raise UserError(
            f"vocab_size {config.vocab_size} has no room for all {len(words.all)} different units of the corpus, and "
            f"special_tokens lacks {UNKNOWN} for the rest; add it, or set vocab_size to "
            f"{config.vocab_size - config.room + len(words.all)} or more"
        )
    if config.kind == "char":
        return words.trained(CharacterTokenizer(vocabulary, unknown, specials, **config.common))
    return words.trained(WordTokenizer(vocabulary, config.expression, unknown, specials, **config.common))


def train_wordpiece(config: TokenizerConfig, texts: Iterable[str]) -> Trained:
    """Ids: the special tokens, [UNK] and so on, then characters in order, then merges in order."""
    normalizer = bert(lowercase=config.lowercase is not False)
    words = _Words(config, map(normalizer, texts), WORDS)
    words.counts = {word: n for word, n in words.counts.items() if cut_words(word)}  # not the blanks between words
    with progress("Learning word pieces", config.room, "tokens") as report:
        pieces = learn_wordpieces(words.counts, config.room, report=report)
    config.check_learned(len(pieces))
    specials = config.special_ids(0)
    vocabulary = {piece: len(specials) + i for i, piece in enumerate(pieces)}
    common = config.common | around(specials) | {"normalizer": normalizer}
    return words.trained(WordPieceTokenizer(vocabulary, "[UNK]", specials, **common))


def train_unigram(config: TokenizerConfig, texts: Iterable[str]) -> Trained:
    """Ids: the bytes (with byte_fallback), the pieces, the most likely first, then the special tokens."""
    words = _Words(config, (SPACE + text.replace(" ", SPACE) for text in texts if text), UNITS, times=4)
    falls_back = config.byte_fallback is not False
    with progress("Learning pieces", 100, "percent") as report:
        learned = learn_pieces(words.counts, config.room, report=report)
    config.check_learned(len(learned))
    pieces = [*(BYTES if falls_back else []), *learned]
    marks = Metaspace("never")  # the normalizer puts the first one
    common = config.common | {"normalizer": prepend(SPACE)}
    specials = config.special_ids(len(pieces))
    return words.trained(
        UnigramTokenizer(pieces, UNKNOWN, specials, metaspace=marks, byte_fallback=falls_back, **common)
    )


def _tell_dropped(dropped: int) -> None:
    if dropped:
        say(f"{dropped} rare units were dropped to bound memory; they decide hardly any token")


class _Words:
    """How often each unit occurs in the texts."""

    def __init__(self, config: TokenizerConfig, texts: Iterable[str], pattern: str, times: int = 1) -> None:
        pretokens = count_pretokens(texts, Splitter([pattern]), max_bytes=times * MAX_BYTES)
        _tell_dropped(pretokens.dropped)
        self.bytes = pretokens.total_bytes
        self.all = {unit.decode(): n for unit, n in pretokens.items()}
        self.counts = {unit: n for unit, n in self.all.items() if unit not in config.all_special_tokens}
        """Without those that are spelled like a special token."""

    def trained(self, tokenizer: Tokenizer) -> Trained:
        """What training gives. Texts fall into the tokens of their units; dropped ones count by their bytes."""
        tokens = sum(n * len(tokenizer._encode(unit)) for unit, n in self.all.items())
        counted = sum(n * len(unit.encode()) for unit, n in self.all.items())
        return Trained(tokenizer, len(self.all), round(tokens * self.bytes / counted))


TRAINERS: Mapping[str, Callable[[TokenizerConfig, Iterable[str]], Trained]] = {
    "bpe": train_bpe,
    "byte": train_bytes,
    "char": train_words,
    "word": train_words,
    "wordpiece": train_wordpiece,
    "unigram": train_unigram,
}
