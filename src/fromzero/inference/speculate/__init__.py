"""Speculative decoding: guess the next tokens cheaply, and have the model look at all of them in one step.

A model that reads several tokens at once costs little more than one that reads one. So a `Proposer` drafts tokens, they
go through the model behind the newest one, and at each place the sequence's own sampler chooses a token as it always
does; the drafted ones count as long as they are what it chose. The answer is token for token the plain one, sampled
answers too. What remains to be clever about is `Speculation`: how many tokens to draft.

Reading order: `speculation`, `cost`, then who drafts: `lookup` (the text repeats
itself), `draft` (a smaller model), `ahead` (own heads).
"""

from fromzero.inference.speculate.ahead import AheadHeads
from fromzero.inference.speculate.choose import Kind, make_proposer
from fromzero.inference.speculate.cost import Costs
from fromzero.inference.speculate.speculation import Proposer, Speculation

__all__ = ["AheadHeads", "Costs", "Kind", "Proposer", "Speculation", "make_proposer"]
