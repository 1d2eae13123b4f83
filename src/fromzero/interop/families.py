"""The published families: which of our settings is where in their config.json."""

from collections.abc import Mapping
from typing import Any

from fromzero.interop import rules
from fromzero.interop.translate import Family, Key, Rule, whole
from fromzero.model.config import ModelConfig

Keys = dict[str, Key]
Settings = Mapping[str, Any]

_SIZES = "layers=num_hidden_layers width=hidden_size heads=num_attention_heads ffn_width=intermediate_size"
_LLAMA_KEYS: Keys = {
    **whole(f"vocab_size=vocab_size context=max_position_embeddings {_SIZES}"),
    **whole("kv_heads=num_key_value_heads head_width=head_dim", None),
    "activation": Key("hidden_act", {"silu": "swiglu"}),
    "norm_eps": Key("rms_norm_eps", float, 1e-6),
    "tied": Key("tie_word_embeddings", bool, False),
}
_BIAS = {"bias": Key("attention_bias mlp_bias", bool, False)}
_WINDOW = whole("window=sliding_window", None)
_EXPERTS: Keys = {
    **whole("experts.active=num_experts_per_tok experts.width=moe_intermediate_size"),
    "experts.count": Key("num_experts num_local_experts", int),
    "experts.normalize": Key("norm_topk_prob", bool, False),
}
_MIXTRAL_EXPERTS = whole("experts.count=num_local_experts experts.active=num_experts_per_tok")
_SHARED = whole("experts.shared=shared_expert_intermediate_size")
_SOFTMAX = {"experts.router": "softmax", "experts.balance": "loss"}
_NO_BIAS = {"attention_bias": False}
_ALL_ROUTED = {"decoder_sparse_step": 1, "mlp_only_layers": []}
_NO_WINDOW = {"use_sliding_window": False}

_ACTIVATIONS = {"gelu_new": "gelu_tanh", "gelu_pytorch_tanh": "gelu_tanh", "gelu": "gelu", "relu": "relu"}
_GPT_KEYS: Keys = {
    **whole("vocab_size=vocab_size context=n_positions layers=n_layer width=n_embd heads=n_head"),
    "norm_eps": Key("layer_norm_epsilon", float, 1e-5),
}
_GPT2_KEYS: Keys = _GPT_KEYS | {
    **whole("ffn_width=n_inner", None),
    "activation": Key("activation_function", _ACTIVATIONS),
    "tied": Key("tie_word_embeddings", bool, True),
}
_GPT = {"positions": "learned", "norm": "layer", "bias": True}
_GPT2 = {"scale_attn_weights": True, "scale_attn_by_inverse_layer_idx": False, "add_cross_attention": False}
_BERT_KEYS: Keys = {
    **whole(f"vocab_size=vocab_size context=max_position_embeddings {_SIZES} token_types=type_vocab_size"),
    "activation": Key("hidden_act", _ACTIVATIONS, "gelu"),
    "norm_eps": Key("layer_norm_eps", float, 1e-12),
}
_BERT = _GPT | {"kind": "encoder", "norm_placement": "post", "embedding_norm": True, "tied": True}

_GEMMA_KEYS: Keys = {
    "vocab_size": Key("vocab_size", int, 262208),
    "context": Key("max_position_embeddings", int, 131072),
    "heads": Key("num_attention_heads", int, 8),
    "kv_heads": Key("num_key_value_heads", int, 4),
    "head_width": Key("head_dim", int, 256),
    "activation": Key("hidden_activation", {"gelu_pytorch_tanh": "geglu_tanh"}),
    "tied": Key("tie_word_embeddings", bool, True),
    "attention_softcap": Key("attn_logit_softcapping", float, None),
    "logit_softcap": Key("final_logit_softcapping", float, None),
}
_SANDWICH = {"norm_placement": "sandwich"}
_GEMMA3 = (
    _GEMMA_KEYS,
    _SANDWICH | {"qk_norm": "head"},
    _NO_BIAS,
    (rules.GEMMA3_ROPE, rules.GEMMA, rules.GEMMA3_WINDOWS),
)

_LATENT: Keys = {
    **whole("experts.count=n_routed_experts experts.active=num_experts_per_tok experts.width=moe_intermediate_size"),
    **whole("latent.kv_rank=kv_lora_rank latent.value_width=v_head_dim"),
    **whole("latent.nope_width=qk_nope_head_dim latent.rope_width=qk_rope_head_dim"),
    **whole("latent.query_rank=q_lora_rank", None),
    "experts.scale": Key("routed_scaling_factor", float, 1.0),
    "experts.groups": Key("n_group", int, 1),
    "experts.active_groups": Key("topk_group", int, 1),
    "experts.dense_layers": Key("first_k_dense_replace", int, 0, least=0),
}
_NORMALIZE = {"experts.normalize": Key("norm_topk_prob", bool, True)}
_SIGMOID = {"head_width": None, "experts.router": "sigmoid", "experts.balance": "bias", "experts.group_score": "top2"}
_UNSCALED = {"head_width": None, "experts.normalize": False}
# The norms inside of latent attention have this eps whatever the config says, so it has to say the same.
_DEEPSEEK = _NO_BIAS | {"rms_norm_eps": 1e-6, "moe_layer_freq": 1}
_DEEPSEEK2 = _DEEPSEEK | {"scoring_func": "softmax", "norm_topk_prob": False}
_DEEPSEEK3 = _DEEPSEEK | {"scoring_func": "sigmoid", "topk_method": "noaux_tc", "rope_interleave": True}

_T5_KEYS: Keys = {
    **whole("vocab_size=vocab_size width=d_model heads=num_heads head_width=d_kv ffn_width=d_ff"),
    **whole("encoder_layers=num_layers"),
    **whole("layers=num_decoder_layers", None),
    "context": Key("n_positions", int, 512),
    "activation": Key("feed_forward_proj", {"relu": "relu", "gated-gelu": "geglu_tanh", "gated-silu": "swiglu"}),
    "norm_eps": Key("layer_norm_epsilon", float, 1e-6),
    "relative_buckets": Key("relative_attention_num_buckets", int, 32),
    "relative_distance": Key("relative_attention_max_distance", int, 128),
}
_T5 = {"kind": "encoder_decoder", "positions": "relative", "norm": "rms", "attention_scale": 1.0}


def _llama(
    model_type: str, name: str, keys: Keys, fixed: Settings, same: Settings, more: tuple[Rule, ...] = (rules.ROPE,)
) -> Family:
    """A family that differs from Llama in this."""
    fixed = {"positions": "rotary", "norm": "rms", **fixed}
    return Family(model_type, f"{name}ForCausalLM", _LLAMA_KEYS | keys, fixed, same, more)


FAMILIES = (
    _llama("llama", "Llama", _BIAS, {}, {}),
    Family("gpt2", "GPT2LMHeadModel", _GPT2_KEYS, _GPT, _GPT2),
    Family(
        "openai-gpt",
        "OpenAIGPTLMHeadModel",
        _GPT_KEYS | {"activation": Key("afn", {"gelu": "gelu_tanh", "relu": "relu"})},
        _GPT | {"norm_placement": "post", "tied": True},
        {},
    ),
    _llama("mistral", "Mistral", _WINDOW, {}, {}),
    _llama("mixtral", "Mixtral", _WINDOW | _MIXTRAL_EXPERTS, _SOFTMAX, {}, (rules.ROPE_MILLION,)),
    _llama("qwen2", "Qwen2", {}, {"qkv_bias": True}, _NO_WINDOW),
    _llama("qwen3", "Qwen3", {"head_width": Key("head_dim", int, 128)}, {"qk_norm": "head"}, _NO_BIAS | _NO_WINDOW),
    _llama(
        "qwen2_moe",
        "Qwen2Moe",
        _EXPERTS | _SHARED,
        _SOFTMAX | {"qkv_bias": True, "experts.shared_gate": True},
        _ALL_ROUTED | _NO_WINDOW,
    ),
    _llama("qwen3_moe", "Qwen3Moe", _EXPERTS, _SOFTMAX | {"qk_norm": "head"}, _NO_BIAS | _ALL_ROUTED | _NO_WINDOW),
    _llama("gemma2", "Gemma2", _GEMMA_KEYS, _SANDWICH, _NO_BIAS, (rules.ROPE, rules.GEMMA, rules.GEMMA2_WINDOWS)),
    _llama("gemma3_text", "Gemma3", *_GEMMA3),
    _llama("gemma3", "Gemma3", *_GEMMA3),
    _llama("olmo2", "Olmo2", {}, {"norm_placement": "output", "qk_norm": "full"}, _NO_BIAS),
    _llama("deepseek_v2", "DeepseekV2", _LATENT, _SOFTMAX | _UNSCALED, _DEEPSEEK2,
           (rules.ROPE, rules.DEEPSEEK, rules.DEEPSEEK2_GROUPS)),
    _llama("deepseek_v3", "DeepseekV3", _LATENT | _NORMALIZE, _SIGMOID, _DEEPSEEK3, (rules.ROPE, rules.DEEPSEEK)),
    Family("bert", "BertModel", _BERT_KEYS, _BERT, {"position_embedding_type": "absolute", "is_decoder": False},
           (rules.BERT_HEAD,)),
    Family("t5", "T5ForConditionalGeneration", _T5_KEYS, _T5, {}, (rules.T5_HEAD,)),
)  # fmt: skip
SUPPORTED = {family.model_type: family for family in FAMILIES}


def expressed(config: ModelConfig) -> tuple[Family, dict[str, Any]] | None:
    """The first family whose layout holds the config exactly, and its config.json; None where none does."""
    for family in FAMILIES:
        if (theirs := family.write(config)) is not None:
            return family, theirs
    return None
