"""A draft model: a smaller one with the same tokens says what it would answer."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from itertools import takewhile

from torch import Tensor

from fromzero.inference.paged import PageStore, run_spans
from fromzero.inference.pages import PagePool, PageTable
from fromzero.inference.request import Sequence, Span
from fromzero.inference.speculate.speculation import Proposer, guess
from fromzero.model import Transformer


class DraftModel(Proposer):
    """Drafts with keys and values in pages of its own, for all sequences at once."""

    def __init__(self, model: Transformer, pages: int, page_tokens: int) -> None:
        self.model, self.pool = model, PagePool(pages, page_tokens)
        self.store = PageStore(model, pages, page_tokens, model.compute_dtype, model.device)
        self._drafts: dict[Sequence, _Draft] = {}

    def propose(self, asked: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """See Proposer."""
        for gone in self._drafts.keys() - asked.keys():
            self.pool.release(self._drafts.pop(gone).table)
        begun = [draft for sequence, most in asked.items() if most and (draft := self._begin(sequence, most))]
        going = begun
        while going:
            logits_NV = run_spans(self.model, self.store, [draft.span() for draft in going]).cpu()
            going = [draft for draft, logits_V in zip(going, logits_NV, strict=True) if draft.goes_on(logits_V)]
        for draft in begun:
            self.pool.seal(draft.table, draft.sequence.tokens, draft.known)
        return {draft.sequence: draft.tokens for draft in begun}

    def _begin(self, sequence: Sequence, most: int) -> "_Draft | None":
        """None where a draft does not fit the context or the pages."""
        if (draft := self._drafts.get(sequence)) is None:
            table = PageTable(salt=sequence.request.tenant.encode())
            found = self.pool.reuse(table, sequence.tokens)
            draft = self._drafts[sequence] = _Draft(sequence, table, len(sequence.tokens), found)
        length = len(sequence.tokens) + most
        if length > self.model.config.context or not self.pool.extend(draft.table, length):
            return None
        draft.begin(most)
        return draft


@dataclass(eq=False)
class _Draft:
    """Of one sequence: behind the tokens that it had when the draft began, so many, come those drafted."""

    sequence: Sequence
    table: PageTable
    known: int
    computed: int
    """Of known and drafted tokens, those whose keys and values are in the pages."""
    tokens: list[int] = field(default_factory=list)
    most: int = 0

    def begin(self, most: int) -> None:
        """Keep of the last draft what the sequence went on with; its last token is computed in any case."""
        pairs = zip(self.tokens, self.sequence.tokens[self.known :], strict=False)
        right = len(list(takewhile(lambda pair: pair[0] == pair[1], pairs)))
        self.computed = min(self.computed, self.known + right, len(self.sequence.tokens) - 1)
        self.known, self.tokens, self.most = len(self.sequence.tokens), [], most
        self.sampler = self.sequence.sampler.copy()

    def span(self) -> Span:
        """What is not computed yet."""
        ids = self.sequence.tokens[self.computed :] + self.tokens[max(0, self.computed - self.known) :]
        return Span(ids, self.computed, self.table.pages, 1)

    def goes_on(self, logits_V: Tensor) -> bool:
        """Take what follows; whether more is wanted."""
        self.computed = self.known + len(self.tokens)
        return guess(self.sampler, logits_V, self.tokens) and len(self.tokens) < self.most
