"""What each family learns from plain text, and which family learns what.

What is drawn at random for a row follows from the seed, the step and the row's place in the batch of all ranks, so it
is the same on any number of ranks, and when a run goes on.
"""

import re
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from fromzero.dataset import TokenShards
from fromzero.dataset.objectives import masked, prefix, span_corruption, span_count, span_source_length
from fromzero.dataset.pairs import pair_batch
from fromzero.errors import UserError
from fromzero.model import EncoderDecoder, ModelConfig, Transformer
from fromzero.model.heads import HeadConfig, HeadedTransformer
from fromzero.model.linear_loss import IGNORE
from fromzero.parallel.fleet import Batch
from fromzero.tokenizer import Tokenizer
from fromzero.training.objective import NextToken, Objective, counted
from fromzero.training.settings import TrainConfig

Kind = Literal["causal", "prefix", "masked", "spans"]
MASKS = ("[MASK]", "<|mask|>")
_SENTINEL = re.compile(r"<extra_id_(\d{1,6})>")
_OWN: dict[str, tuple[Kind, ...]] = {  # what a kind of model can learn, the default first
    "decoder": ("causal", "prefix"),
    "encoder": ("masked",),
    "encoder_decoder": ("spans",),
}


class Drawn(Objective):
    """An objective that draws at random."""

    def __init__(self, model: Any, begins: int | None, seed: int) -> None:
        super().__init__(model, begins)
        self.seed = seed

    def random(self, step: int, row: int) -> np.random.Generator:
        """The generator of one row of this rank."""
        return np.random.default_rng([self.seed, step, self.rank + row * self.ranks])


class Prefix(Drawn):
    """The rest of a row from a beginning of random length that sees itself in both directions."""

    def prepare(self, ids_BT: Tensor, targets_BT: Tensor, step: int) -> Batch:
        lengths = [prefix(np.append(ids, 0), self.random(step, row))[2] for row, ids in enumerate(ids_BT.numpy())]
        prefix_B = torch.tensor(lengths)
        hidden_BT = torch.arange(ids_BT.shape[1]) < prefix_B[:, None] - 1
        batch = super().prepare(ids_BT, targets_BT, step)
        return {**batch, "targets_BT": targets_BT.masked_fill(hidden_BT, IGNORE), "prefix_B": prefix_B}


class Masked(Drawn):
    """Hidden tokens from what is on both sides of them; special tokens are never chosen."""

    def __init__(self, model: Any, begins: int | None, seed: int, mask_id: int, special: Sequence[int]) -> None:
        super().__init__(model, begins, seed)
        self.mask_id, self.special = mask_id, special

    def prepare(self, ids_BT: Tensor, targets_BT: Tensor, step: int) -> Batch:
        pairs = []
        for row, ids in enumerate(ids_BT.numpy()):
            words = np.where(np.isin(ids, self.special), -1, np.arange(len(ids)))
            pairs.append(masked(ids, self.random(step, row), self.mask_id, self.model.config.vocab_size, words))
        inputs_BT, hidden_BT = (torch.from_numpy(np.stack(some)) for some in zip(*pairs, strict=True))
        batch = super().prepare(ids_BT, targets_BT, step)
        return {**batch, "ids_BT": inputs_BT, "targets_BT": hidden_BT}


class Spans(Drawn):
    """What stood in gaps of a text, which the encoder reads, from the decoder; `end` stands behind both and begins."""

    def __init__(self, model: Any, seed: int, sentinels: Sequence[int], end: int) -> None:
        super().__init__(model, None, seed)
        self.sentinels, self.end = sentinels, end

    def prepare(self, ids_BT: Tensor, targets_BT: Tensor, step: int) -> Batch:
        rows = enumerate(ids_BT.numpy())
        pairs = [span_corruption(ids, self.random(step, row), self.sentinels) for row, ids in rows]
        source_BS, _, inputs_BT, spans_BT = pair_batch(pairs, self.end, self.end, self.end)  # rows are equally long
        arrays = {"source_BS": source_BS, "inputs_BT": inputs_BT, "targets_BT": spans_BT}
        return {name: torch.from_numpy(array) for name, array in arrays.items()}

    def hidden(self, **batch: Tensor) -> Tensor:
        return self.model.hidden(batch["source_BS"], batch["inputs_BT"])


def objective_kind(train: TrainConfig, config: ModelConfig) -> Kind:
    """What a model is to learn. Raises UserError when it can't, or what is set beside it does not go with it."""
    own = _OWN[config.kind]
    kind = own[0] if train.objective == "auto" else train.objective
    if kind not in own:
        fitting = next(name for name, kinds in _OWN.items() if kind in kinds)
        raise UserError(
            f"train.objective {kind} is for model.kind {fitting}, not {config.kind}, which learns {' or '.join(own)}"
        )
    if kind == "spans" and (train.mask_documents or train.packing == "best_fit"):
        raise UserError("train.objective spans goes with packing concatenate and without mask_documents")
    if kind != "causal" and config.predict_ahead:
        raise UserError(f"model.predict_ahead goes with train.objective causal, not {kind}; set it to 0")
    return kind


def _lacks(tokens: Sequence[str]) -> str:
    more = f" to {tokens[-1]}" if len(tokens) > 1 else ""
    return (
        f"{tokens[0]}{more}, which this tokenizer lacks; train one with special_tokens that also names "
        f"{'them' if more else 'it'}, and pack with that"
    )


def build_model(config: ModelConfig, seed: int, dtype: torch.dtype) -> Any:
    """A new model: an encoder whose output layer has a bias has BERT's layer for hidden tokens before it."""
    if config.kind == "encoder_decoder":
        return EncoderDecoder(config, seed, dtype)
    if config.kind == "encoder" and config.head_bias:
        return HeadedTransformer(config, HeadConfig(masked=True), seed, dtype)
    return Transformer(config, seed, dtype)


def row_length(kind: Kind, config: ModelConfig) -> int:
    """Ids of a row of the loader: as many as fill the model's context."""
    return span_source_length(config.context) if kind == "spans" else config.context


def make_objective(kind: Kind, model: Any, tokenizer: Tokenizer, train: TrainConfig) -> Objective:
    """The objective for a model. Raises UserError when the tokenizer lacks a special token that it needs."""
    begins = tokenizer.end_of_text if train.mask_documents else None
    special = tokenizer.special_tokens
    if kind == "causal":
        return NextToken(model, begins, train.ahead_weight)
    if kind == "prefix":
        return Prefix(model, begins, train.seed)
    if kind == "masked":
        mask = next((special[token] for token in MASKS if token in special), None)
        if mask is None:
            raise UserError(f"hidden tokens need a special token {_lacks([MASKS[1]])}")
        return Masked(model, begins, train.seed, mask, list(special.values()))
    numbered = {int(found[1]): i for token, i in special.items() if (found := _SENTINEL.fullmatch(token))}
    gaps = span_count(row_length(kind, model.config))
    if missing := [f"<extra_id_{n}>" for n in range(gaps) if n not in numbered]:
        raise UserError(f"the gaps in {model.config.context} tokens need {gaps} special tokens {_lacks(missing)}")
    return Spans(model, train.seed, [numbered[n] for n in range(gaps)], tokenizer.end_of_text)


@torch.no_grad()
def held_out_loss(objective: Objective, shards: TokenShards, length: int, tokens: int) -> dict[str, float]:
    """Mean loss in nats over the targets of up to so many tokens, spread evenly; the same draws each time."""
    if len(shards) <= length:
        raise UserError(f"the held-out split has {len(shards)} tokens, too few for one row of {length}")
    objective.eval()
    device = next(objective.parameters()).device
    starts = np.linspace(0, len(shards) - 1 - length, max(1, min(tokens, len(shards) - 1) // length)).astype(int)
    nats, count, rows = 0.0, 0, max(1, 8192 // length)
    for step in range(0, len(starts), rows):
        some = np.stack([shards[start : start + length + 1] for start in starts[step : step + rows].tolist()])
        ids_BT = torch.from_numpy(some.astype(np.int64))
        batch = objective.prepare(ids_BT[:, :-1].contiguous(), ids_BT[:, 1:].contiguous(), step)
        nats += float(objective(**{name: tensor.to(device) for name, tensor in batch.items()}))
        count += counted(batch["targets_BT"])
    return {"loss": nats / count}
