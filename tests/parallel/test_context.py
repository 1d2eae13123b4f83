"""Ranks that share each sequence, against one process."""

from fromzero.model.config import Latent
from tests.parallel.parity import Case

FAMILIES = {
    "learned positions, untied, odd heads": {"tied": False, "positions": "learned", "norm": "layer", "kv_heads": 1},
    "Gemma 2": {"attention_softcap": 3.0, "window": 5, "full_every": 2, "kv_heads": 2},
    "GPT-OSS's sinks": {"sinks": True, "window": 6},
    "latent": {"latent": Latent(kv_rank=8, nope_width=6, rope_width=4, value_width=6)},
    "BERT": {"kind": "encoder", "positions": "learned"},
    "ALiBi": {"positions": "alibi"},
    "T5's biases": {"positions": "relative"},
}
CASES = [
    Case("CP", 2, {"context": 2}),
    Case("CP x FSDP", 4, {"context": 2, "shard": 2}, {"tied": False, "kv_heads": 2}),
    Case("TP x CP", 4, {"tensor": 2, "context": 2}),
    *(Case(f"CP, {name}", 2, {"context": 2}, shape, steps=3) for name, shape in FAMILIES.items()),
]
