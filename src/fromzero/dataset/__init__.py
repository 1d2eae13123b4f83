"""Dataset: token ids to batches.

In: a corpus or records for tuning, and a tokenizer. Out: token shards on disk, and batches of them.

Read in this order: writing (the files), recovery (what ids don't hold), packing (the stage that writes them), formats,
sources and splits (records for tuning: what they are, where they come from, which are held out), conversations (the
stage for those), shards (reading them), permutation and position, windows and bestfit (batches for pretraining), mixing
and mixture (of several tokens), prefetch, stream (batches straight from a corpus), chats, packed_chats and labelled
(for tuning), objectives and pairs (what is to be predicted, for every kind of model).
"""

from fromzero.dataset.chats import ConversationLoader
from fromzero.dataset.packing import PackConfig, pack
from fromzero.dataset.shards import TokenShards
from fromzero.dataset.windows import WindowLoader

__all__ = ["ConversationLoader", "PackConfig", "TokenShards", "WindowLoader", "pack"]
