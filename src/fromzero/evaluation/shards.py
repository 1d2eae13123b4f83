"""The figure that training watches: loss over held-out token shards, cheap because nothing is tokenised again."""

import math
from collections.abc import Callable

import numpy as np
import torch

from fromzero.dataset import TokenShards
from fromzero.errors import UserError
from fromzero.evaluation.perplexity import token_nats
from fromzero.model import Transformer
from fromzero.tokenizer import Tokenizer


def byte_lengths(tokenizer: Tokenizer) -> torch.Tensor:
    """UTF-8 bytes that each id stands for, (V,) int64; 0 for special tokens, and for ids without a token."""
    lengths = torch.tensor([len(token or b"") for token in tokenizer.tokens])
    lengths[list(tokenizer.special_tokens.values())] = 0
    return lengths


def shards_perplexity(
    model: Transformer,
    shards: TokenShards,
    tokenizer: Tokenizer,
    max_tokens: int,
    batch_tokens: int = 8192,
    marks: Callable[[torch.Tensor, torch.Tensor], dict[str, torch.Tensor]] | None = None,
) -> dict[str, float]:
    """Bits per byte and nats per token over up to `max_tokens` of the shards, in windows spread evenly over them.

    Special tokens are not counted, but for the unknown one as a token. There are no bits per byte where the tokens lost
    some of the text. The same windows each time, so figures of one run compare. marks: what else the model is told of
    ids and targets, on the CPU.
    """
    context = min(model.config.context, len(shards) - 1)
    if context < 1:
        raise UserError(f"the held-out split has {len(shards)} tokens; build the corpus with a larger validation share")
    windows = min((len(shards) - 1) // context, max(1, max_tokens // context))
    starts = np.linspace(0, len(shards) - 1 - context, windows).astype(np.int64)
    rows = max(1, batch_tokens // context)
    lengths, stands_for_text = byte_lengths(tokenizer), torch.ones(tokenizer.vocab_size, dtype=torch.bool)
    stands_for_text[[i for i in tokenizer.special_tokens.values() if i != tokenizer.unknown_id]] = False
    device = model.device
    nats = size = count = 0.0
    for first in range(0, windows, rows):
        batch = np.stack([shards[int(s) : int(s) + context + 1] for s in starts[first : first + rows]])
        ids = torch.from_numpy(batch.astype(np.int64))
        counted = stands_for_text[ids[:, 1:]]
        inputs, targets = ids[:, :-1], ids[:, 1:]
        given = {name: mark.to(device) for name, mark in (marks(inputs, targets) if marks else {}).items()}
        nats_BT = token_nats(model, inputs.to(device), targets.to(device), **given).cpu()
        nats += float(nats_BT[counted].double().sum())
        size += float(lengths[ids[:, 1:]].sum())
        if tokenizer.leading_space:  # the blank before a document's first word is not of its text
            size -= float((counted & (ids[:, :-1] == shards.end_of_text)).sum())
        count += float(counted.sum())
    bits = {"bits_per_byte": nats / (math.log(2) * size)} if shards.lossless else {}
    return {**bits, "loss": nats / count}
