"""The model's own heads for further tokens: head m guesses from the hidden states of the head before.

A head is a block of its own (DeepSeek-V3 2024, section 2.2). At place t it sees what the head before made of place t,
and the token m places further. So its keys and values are final where that token is no guess, and the last few places
are computed anew each time.
"""

from collections.abc import Mapping
from collections.abc import Sequence as Ids
from dataclasses import replace

import torch
from torch import Tensor

from fromzero.inference.cache import KVCache
from fromzero.inference.paged import PageStore, hidden_spans, wanted_logits
from fromzero.inference.request import Sequence, Span
from fromzero.inference.speculate.speculation import Proposer, guess
from fromzero.model import Transformer


class AheadHeads(Proposer):
    """Runs the model, and drafts from the hidden states that it had."""

    why = "heads for further tokens need the hidden states, which torch gives"

    def __init__(self, model: Transformer, store: PageStore) -> None:
        self.model, self.store = model, store
        self._x_TD = torch.empty(0)
        self._trails: dict[Sequence, _Trail] = {}

    def run(self, spans: Ids[Span]) -> Tensor:
        """See Runner."""
        self._x_TD = hidden_spans(self.model, self.store, spans)
        return wanted_logits(self.model, self._x_TD, spans).cpu()

    def forget(self, key: str) -> None:
        """Nothing is kept by the names of requests."""

    def refresh(self) -> None:
        """Trails end."""
        self._trails.clear()

    def propose(self, asked: Mapping[Sequence, int]) -> dict[Sequence, list[int]]:
        """See Proposer."""
        self._trails = {sequence: trail for sequence, trail in self._trails.items() if sequence in asked}
        return {s: self._trails[s].draft(s, most) for s, most in asked.items() if most and s in self._trails}

    def watch(self, planned: Ids[tuple[Sequence, Span]]) -> None:
        """Keep the hidden states of tokens that stay."""
        end = 0
        for sequence, span in planned:
            x_TD, end = self._x_TD[end : end + sequence.computed - span.start], end + len(span.ids)
            trail = self._trails.get(sequence)
            if trail is None or trail.end < span.start:
                trail = self._trails[sequence] = _Trail(self.model, span.start)
            trail.unseen[0] = torch.cat([trail.unseen[0], x_TD[trail.end - span.start :]])
            trail.end = max(trail.end, sequence.computed)


class _Trail:
    """Of one sequence, from some place on: hidden states that heads have still to see, and the heads' caches."""

    def __init__(self, model: Transformer, start: int) -> None:
        config, device = replace(model.config, layers=1, predict_ahead=0), model.device
        nothing_TD = torch.empty(0, model.config.width, dtype=model.compute_dtype, device=device)
        self.model, self.end, self.unseen = model, start, [nothing_TD for _ in model.ahead]
        self._caches = [KVCache(config, dtype=model.compute_dtype, device=device) for _ in model.ahead]

    @torch.inference_mode()
    def draft(self, sequence: Sequence, most: int) -> list[int]:
        """Tokens behind the sequence, whose hidden states but that of the last token are all here."""
        sampler, drafted, guessed_TD = sequence.sampler.copy(), list[int](), self.unseen[0][:0]
        for head, cache in enumerate(self._caches[:most]):
            x_TD = torch.cat([self.unseen[head], guessed_TD])
            ids = [*sequence.tokens[-len(x_TD) :], *drafted][-len(x_TD) :]
            final = max(0, len(x_TD) - head)  # places behind see drafted tokens
            stays = cache.position + final
            made_TD = self.model.run_ahead(head, torch.tensor([ids], device=x_TD.device), x_TD[None], cache)[0]
            cache.reset(stays)
            self.unseen[head] = x_TD[final : max(0, len(x_TD) - head + 1)]
            if head + 1 < len(self._caches):
                self.unseen[head + 1] = torch.cat([self.unseen[head + 1], made_TD[:final]])
            guessed_TD = made_TD[final:]
            if not guess(sampler, self.model.head(made_TD[-1], self.model.head_weight).float().cpu(), drafted):
                break
        return drafted
