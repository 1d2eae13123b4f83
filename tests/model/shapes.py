"""One small config for each choice that a family makes; together they have all of them."""

from dataclasses import replace

from fromzero.model.config import Experts, Latent, ModelConfig, RopeScaling

TINY = ModelConfig(vocab_size=50, context=32, layers=2, width=24, heads=4, kv_heads=2)
LAYER_NORM = replace(TINY, norm="layer", activation="gelu_tanh", bias=True, kv_heads=None)
MIXTURE = Experts(count=4, active=2, width=16)
LATENT = Latent(kv_rank=12, query_rank=8, nope_width=6, rope_width=4, value_width=5)

DECODERS = {
    "llama": TINY,
    "llama 3": replace(TINY, rope_scaling=RopeScaling("llama3", 4.0, 8), tied=False),
    "linear": replace(TINY, rope_scaling=RopeScaling("linear", 2.0)),
    "ntk": replace(TINY, rope_scaling=RopeScaling("ntk", 2.0), activation="geglu"),
    "yarn": replace(TINY, rope_scaling=RopeScaling("yarn", 4.0, 8, beta_fast=2.0, beta_slow=0.5)),
    "gpt-2": replace(LAYER_NORM, positions="learned"),
    "gpt-1": replace(LAYER_NORM, positions="learned", norm_placement="post", activation="gelu"),
    "mistral": replace(TINY, window=5),
    "gemma 2": replace(
        TINY, window=5, full_every=2, norm_placement="sandwich", attention_softcap=2.0, logit_softcap=1.5,
        activation="geglu_tanh", attention_scale=0.2, embedding_scale=24**0.5, head_width=8,
    ),
    "gemma 3": replace(TINY, window=5, full_every=2, norm_placement="sandwich", qk_norm="head", local_rope_base=100.0),
    "olmo 2": replace(TINY, norm_placement="output", qk_norm="full", tied=False),
    "qwen 2": replace(TINY, qkv_bias=True),
    "gpt-oss": replace(TINY, sinks=True, window=5, full_every=2, experts=MIXTURE),
    "gpt-j": replace(LAYER_NORM, parallel=True, tied=False, head_bias=True),
    "bloom": replace(LAYER_NORM, positions="alibi", embedding_norm=True),
    "t5 decoder": replace(TINY, positions="relative", activation="relu", relative_buckets=8, relative_distance=12,
                          attention_scale=1.0, logit_scale=0.5),
    "alibi in a window": replace(TINY, positions="alibi", window=5, heads=6, kv_heads=1),
    "sinusoidal": replace(LAYER_NORM, positions="sinusoidal", norm_placement="post", activation="relu", width=28),
    "no positions": replace(TINY, positions="none", activation="relu_squared"),
    "mixtral": replace(TINY, experts=MIXTURE),
    "qwen 2 moe": replace(TINY, experts=replace(MIXTURE, shared=20, shared_gate=True, normalize=False, z_weight=0.1)),
    "deepseek v2": replace(
        TINY, kv_heads=None, latent=replace(LATENT, query_rank=None), layers=3,
        experts=replace(MIXTURE, groups=2, shared=16, dense_layers=1, scale=2.0, normalize=False),
    ),
    "deepseek v3": replace(
        TINY, kv_heads=None, latent=LATENT, predict_ahead=2, tied=False,
        experts=replace(MIXTURE, router="sigmoid", groups=2, group_score="top2", balance="bias", shared=16),
    ),
}  # fmt: skip
ENCODERS = {
    "bert": replace(LAYER_NORM, kind="encoder", positions="learned", token_types=2, embedding_norm=True,
                    norm_placement="post", head_bias=True, activation="gelu"),
    "t5 encoder": replace(DECODERS["t5 decoder"], kind="encoder"),
    "encoder in a window": replace(TINY, kind="encoder", window=4, full_every=2, local_rope_base=50.0),
}  # fmt: skip
ALL = DECODERS | ENCODERS
