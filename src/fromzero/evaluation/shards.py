"""The figure that training watches: loss over held-out token shards, cheap because nothing is tokenised again."""

import math

import numpy as np
import torch

from fromzero.dataset import TokenShards
from fromzero.errors import UserError
from fromzero.evaluation.perplexity import token_nats
from fromzero.model import Transformer
from fromzero.tokenizer import Tokenizer


def byte_lengths(tokenizer: Tokenizer) -> torch.Tensor:
    """UTF-8 bytes that each id stands for, (V,) int64; 0 for special tokens."""
    lengths = torch.tensor([len(tokenizer.token_bytes(i)) for i in range(tokenizer.vocab_size)])
    lengths[list(tokenizer.special_tokens.values())] = 0
    return lengths


def shards_perplexity(
    model: Transformer, shards: TokenShards, lengths: torch.Tensor, max_tokens: int, batch_tokens: int = 8192
) -> dict[str, float]:
    """Bits per byte and nats per token over up to `max_tokens` of the shards, in windows spread evenly over them.

    Special tokens (0 bytes) are not counted. The same windows each time, so figures of one run compare.
    """
    context = min(model.config.context, len(shards) - 1)
    if context < 1:
        raise UserError(f"the held-out split has {len(shards)} tokens; build the corpus with a larger validation share")
    windows = min((len(shards) - 1) // context, max(1, max_tokens // context))
    starts = np.linspace(0, len(shards) - 1 - context, windows).astype(np.int64)
    rows = max(1, batch_tokens // context)
    device = model.token_embedding.weight.device
    nats = size = count = 0.0
    for first in range(0, windows, rows):
        batch = np.stack([shards[int(s) : int(s) + context + 1] for s in starts[first : first + rows]])
        ids = torch.from_numpy(batch.astype(np.int64))
        lengths_BT = lengths[ids[:, 1:]]
        counted = lengths_BT > 0
        nats_BT = token_nats(model, ids[:, :-1].to(device), ids[:, 1:].to(device)).cpu()
        nats += float(nats_BT[counted].double().sum())
        size += float(lengths_BT.sum())
        count += float(counted.sum())
    return {"bits_per_byte": nats / (math.log(2) * size), "loss": nats / count}
