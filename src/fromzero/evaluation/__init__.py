"""How good is a model: perplexity and bits per byte with standard errors, beside simple baselines.

In: a model, its tokenizer, held-out documents. Out: numbers with their uncertainty. Reading order: `perplexity`
(the definitions and the scoring of documents), `shards` (the quicker figure that training watches), `baselines`,
`evaluate` (the stage); `speed` (how fast a model or a server answers). Answers: `tasks` (what is asked), `answers`,
`verifiers` (what they score), `instructions`, `sandbox`, `judge` (for some of these), `compare` (two models).
"""

from fromzero.evaluation.evaluate import EvaluationConfig, evaluate
from fromzero.evaluation.perplexity import Perplexity, score_documents
from fromzero.evaluation.shards import shards_perplexity

__all__ = ["EvaluationConfig", "Perplexity", "evaluate", "score_documents", "shards_perplexity"]
