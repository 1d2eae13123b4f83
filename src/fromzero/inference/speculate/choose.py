"""From the engine's settings to a proposer."""

from typing import Literal

from fromzero.errors import UserError
from fromzero.inference.paged import PageStore
from fromzero.inference.speculate.ahead import AheadHeads
from fromzero.inference.speculate.draft import DraftModel
from fromzero.inference.speculate.lookup import PromptLookup
from fromzero.inference.speculate.speculation import Proposer
from fromzero.model import Transformer

Kind = Literal["none", "lookup", "draft", "ahead"]


def make_proposer(kind: Kind, model: Transformer, store: PageStore, draft: Transformer | None) -> Proposer | None:
    """Who drafts for the model; None: nobody. Raises UserError where the kind does not go with the models."""
    if kind == "draft":
        if draft is None or draft.config.kind != "decoder":
            raise UserError("speculate draft needs a draft model: a smaller decoder with the same tokenizer")
        if draft.config.vocab_size != model.config.vocab_size:
            raise UserError(
                f"the draft model knows {draft.config.vocab_size} tokens and the model {model.config.vocab_size}; "
                "it must be one with the same tokenizer"
            )
        return DraftModel(draft, store.tensors[0].shape[1] // store.size, store.size)
    if kind == "ahead":
        if not model.config.predict_ahead:
            raise UserError("speculate ahead needs a model with heads for further tokens (model.predict_ahead)")
        return AheadHeads(model, store)
    return PromptLookup() if kind == "lookup" else None
