"""Training a byte-level BPE: from texts to a tokenizer."""

from collections.abc import Iterable

from fromzero.console import progress, say
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary
from fromzero.tokenizer.learn import learn_merges
from fromzero.tokenizer.pretokens import count_pretokens
from fromzero.tokenizer.settings import TokenizerConfig, Trained
from fromzero.tokenizer.splitter import Splitter


def train_bpe(config: TokenizerConfig, texts: Iterable[str]) -> Trained:
    """Ids: the bytes, then the merges in order, then the special tokens."""
    pretokens = count_pretokens(texts, Splitter([config.expression]))
    if pretokens.dropped:
        say(f"{pretokens.dropped} rare pre-tokens were dropped to bound memory; they decide hardly any merge")
    with progress("Learning merges", config.room, "merges") as report:
        learned = learn_merges(pretokens, config.room, config.tie_break or "greatest", report)
    if len(learned.merges) < config.room:
        raise config.too_small(len(learned.merges))
    vocabulary = byte_vocabulary(learned.merges)
    special_tokens = config.special_ids(len(vocabulary))
    tokenizer = BPETokenizer(
        vocabulary, learned.merges, config.expression, special_tokens, config.roles, config.chat_template
    )
    return Trained(tokenizer, len(pretokens), learned.tokens)
