"""Training a byte-level BPE: from texts to a tokenizer."""

from collections.abc import Iterable

from fromzero.console import progress
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary
from fromzero.tokenizer.learn import learn_merges
from fromzero.tokenizer.patterns import compile_pattern, split
from fromzero.tokenizer.settings import TokenizerConfig, Trained, count


def train_bpe(config: TokenizerConfig, texts: Iterable[str]) -> Trained:
    """Ids: the bytes, then the merges in order, then the special tokens."""
    compiled = compile_pattern(config.expression)
    counts = {word.encode(): n for word, n in count(texts, lambda text: split(compiled, text)).items()}
    with progress("Learning merges", config.room, "merges") as report:
        learned = learn_merges(counts, config.room, config.tie_break or "greatest", report)
    if len(learned.merges) < config.room:
        raise config.too_small(len(learned.merges))
    vocabulary = byte_vocabulary(learned.merges)
    special_tokens = config.special_ids(len(vocabulary))
    tokenizer = BPETokenizer(
        vocabulary, learned.merges, config.expression, special_tokens, config.roles, config.chat_template
    )
    return Trained(tokenizer, len(counts), learned.tokens)
