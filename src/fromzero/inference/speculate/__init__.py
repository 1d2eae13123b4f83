"""Speculative decoding: guess the next tokens cheaply, and have the model look at all of them in one step.

A step of several tokens costs little more than one of one. So a `Proposer` drafts tokens, they go through the model
behind the newest, and at each place the sequence's own sampler chooses as it always does; drafted tokens count as long
as they are what it chose. The answer is token for token the plain one, sampled answers too.

Reading order: `speculation`, `cost`, then who drafts: `lookup` (the text repeats itself), `draft` (a smaller model),
`ahead` (own heads).
"""

from typing import Literal

from fromzero.errors import UserError
from fromzero.inference.paged import PageStore
from fromzero.inference.speculate.ahead import AheadHeads
from fromzero.inference.speculate.draft import DraftModel
from fromzero.inference.speculate.lookup import PromptLookup
from fromzero.inference.speculate.speculation import Proposer, Speculation
from fromzero.model import Transformer

__all__ = ["AheadHeads", "Kind", "Proposer", "Speculation", "make_proposer"]
Kind = Literal["none", "lookup", "draft", "ahead"]


def make_proposer(kind: Kind, model: Transformer, store: PageStore, draft: Transformer | None) -> Proposer | None:
    """Who drafts for the model; None: nobody. Raises UserError where the kind does not go with the models."""
    if kind == "draft":
        if draft is None or draft.config.kind != "decoder" or draft.config.vocab_size != model.config.vocab_size:
            raise UserError("speculate draft needs a draft model: a smaller decoder with the same tokenizer")
        return DraftModel(draft, store.tensors[0].shape[1] // store.size, store.size)
    if kind == "ahead" and not model.config.predict_ahead:
        raise UserError("speculate ahead needs a model with heads for further tokens (model.predict_ahead)")
    return AheadHeads(model, store) if kind == "ahead" else PromptLookup() if kind == "lookup" else None
