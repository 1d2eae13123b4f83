"""Ranks that share matrices and sequences, against one process; every family there is."""

import pytest

from fromzero.errors import UserError
from fromzero.model import ModelConfig
from fromzero.model.config import Experts, Latent
from tests.parallel.parity import Case, Row, compare

GPT2 = {"tied": True, "norm": "layer", "positions": "learned", "activation": "gelu_tanh", "bias": True}
UNTIED = {"tied": False, "kv_heads": 2}
FAMILIES = {
    "GPT-2": GPT2,
    "grouped heads, untied": UNTIED,
    "one key head": {"kv_heads": 1, "qkv_bias": True, "parallel": True},
    "Gemma 2": {
        "norm_placement": "sandwich",
        "activation": "geglu_tanh",
        "attention_softcap": 3.0,
        "logit_softcap": 5.0,
        "window": 6,
        "full_every": 2,
        "embedding_scale": 5.6,
        "qk_norm": "head",
    },
    "OLMo 2": {"norm_placement": "output", "qk_norm": "full", "tied": False},
    "GPT-OSS": {"sinks": True, "experts": Experts(4, 2, width=32, balance="loss", balance_weight=1.0, z_weight=0.1)},
    "DeepSeek": {
        "latent": Latent(kv_rank=8, query_rank=12, nope_width=6, rope_width=4, value_width=6),
        "experts": Experts(4, 2, width=16, shared=16, shared_gate=True, router="sigmoid", balance="bias", capacity=1.5),
        "predict_ahead": 1,
    },
    "BERT": {
        "kind": "encoder",
        "norm_placement": "post",
        "norm": "layer",
        "positions": "learned",
        "embedding_norm": True,
        "token_types": 2,
        "head_bias": True,
        "bias": True,
        "activation": "gelu",
    },
    "ALiBi": {"positions": "alibi", "logit_scale": 0.5},
    "T5's biases": {"positions": "relative", "attention_scale": 1.0},
}
CASES = [
    Case("TP", 2, {"tensor": 2, "sequence": False}),
    Case("TP and SP", 2, {"tensor": 2}),
    Case("TP x FSDP", 4, {"tensor": 2, "shard": 2}, UNTIED),
    *(Case(f"TP and SP, {name}", 2, {"tensor": 2}, shape, steps=3) for name, shape in FAMILIES.items()),
]
