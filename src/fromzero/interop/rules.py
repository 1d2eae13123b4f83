"""The settings that published configs keep in ways of their own: rotary bases and scaling, windows, scales, heads."""

import math
from collections.abc import Mapping
from typing import Any

from fromzero.errors import UserError
from fromzero.interop.translate import Rule, Theirs
from fromzero.model.config import ModelConfig, RopeScaling

Settings = dict[str, Any]
Ours = Mapping[str, Any]


def _rope(default_base: float) -> Rule:
    """Read and written as published (`rope_theta`, `rope_scaling`) and as in transformers 5 (`rope_parameters`)."""

    def read(theirs: Theirs, _: Ours) -> Settings:
        rope = theirs.inner("rope_parameters", "rope_scaling")
        base = rope.get("rope_theta", float, theirs.get("rope_theta", float, default_base))
        return {"rope_base": base, "rope_scaling": _scaling(rope, theirs)}

    return Rule(read, lambda config: _both(config, _parameters(config.rope_scaling)))


def _both(config: ModelConfig, parameters: Settings) -> Settings:
    base = {"rope_theta": config.rope_base}
    return {**base, "rope_parameters": parameters | base} | (
        {"rope_scaling": parameters} if config.rope_scaling else {}
    )


def _scaling(rope: Theirs, theirs: Theirs) -> RopeScaling | None:
    rope.only("partial_rotary_factor", 1.0)
    rope.only("truncate", True)
    kind = rope.only("rope_type" if "rope_type" in rope.raw else "type", "default", "linear", "llama3", "yarn")
    if kind == "default":
        return None
    if (factor := rope.get("factor", float)) <= 0:
        raise UserError(f"{rope.where}: factor is {factor}; it should be above 0")
    if kind == "linear":
        return RopeScaling("linear", factor)
    original = rope.get("original_max_position_embeddings", int, theirs.get("max_position_embeddings", int))
    if kind == "llama3":
        low, high = rope.get("low_freq_factor", float), rope.get("high_freq_factor", float)
        return RopeScaling("llama3", factor, original, low_frequency=low, high_frequency=high)
    attention, mscale, every = (rope.get(k, float, None) for k in ("attention_factor", "mscale", "mscale_all_dim"))
    if attention is None and mscale and every:
        attention = _magnitude(factor, mscale) / _magnitude(factor, every)
    fast, slow = rope.get("beta_fast", float, 32.0), rope.get("beta_slow", float, 1.0)
    return RopeScaling("yarn", factor, original, beta_fast=fast, beta_slow=slow, attention_factor=attention)


def _parameters(scaling: RopeScaling | None) -> Settings:
    if scaling is None:
        return {"rope_type": "default"}
    theirs: Settings = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind != "linear":
        theirs["original_max_position_embeddings"] = scaling.original_context
    if scaling.kind == "llama3":
        theirs |= {"low_freq_factor": scaling.low_frequency, "high_freq_factor": scaling.high_frequency}
    if scaling.kind == "yarn":
        theirs |= {"beta_fast": scaling.beta_fast, "beta_slow": scaling.beta_slow}
        theirs |= {} if scaling.attention_factor is None else {"attention_factor": scaling.attention_factor}
    return theirs


def _magnitude(factor: float, weight: float) -> float:
    """YaRN's growth of the logits with the length (Peng 2023, eq. 22), weighted as in DeepSeek's code."""
    return 0.1 * weight * math.log(factor) + 1.0 if factor > 1 else 1.0


def _gemma3_rope_read(theirs: Theirs, _: Ours) -> Settings:
    rope = theirs.inner("rope_parameters", "rope_scaling")
    full, sliding = rope.inner("full_attention"), rope.inner("sliding_attention")
    sliding.only("rope_type", "default")
    return {
        "rope_base": full.get("rope_theta", float, theirs.get("rope_theta", float, 1e6)),
        "local_rope_base": sliding.get("rope_theta", float, theirs.get("rope_local_base_freq", float, 1e4)),
        "rope_scaling": _scaling(full if full.raw else rope, theirs),
    }


def _gemma3_rope_write(config: ModelConfig) -> Settings:
    local = config.local_rope_base or config.rope_base
    theirs = _both(config, _parameters(config.rope_scaling)) | {"rope_local_base_freq": local}
    sliding = {"rope_type": "default", "rope_theta": local}
    return theirs | {"rope_parameters": {"full_attention": theirs["rope_parameters"], "sliding_attention": sliding}}


def _windows(every: int) -> Rule:
    """Windows in all layers but every so many (Gemma 2 and 3)."""

    def read(theirs: Theirs, ours: Ours) -> Settings:
        pattern = theirs.get("sliding_window_pattern", int, every)
        known = ["full_attention", "sliding_attention"]
        layers = range(min(ours["layers"], 10_000))  # a number beyond that is refused when the tensors are looked at
        kinds = theirs.raw.get("layer_types") or [known[(i + 1) % pattern > 0] for i in layers]
        every_so_many = kinds.index(known[0]) + 1 if isinstance(kinds, list) and known[0] in kinds else 0
        if kinds != [known[not every_so_many or (i + 1) % every_so_many > 0] for i in layers]:
            raise UserError(f"{theirs.where}: layer_types should have full_attention every so many layers, or never")
        if every_so_many == 1:
            return {}
        return {"window": theirs.get("sliding_window", int, 4096), "full_every": every_so_many}

    def write(config: ModelConfig) -> Settings:
        kinds = ["sliding_attention" if config.windowed(i) else "full_attention" for i in range(config.layers)]
        return {"layer_types": kinds} | ({"sliding_window": config.window} if config.window else {})

    return Rule(read, write)


def _gemma_read(theirs: Theirs, ours: Ours) -> Settings:
    scale = theirs.get("query_pre_attn_scalar", int, 256) ** -0.5
    return {"attention_scale": scale, "embedding_scale": ours["width"] ** 0.5}


def _gemma_write(config: ModelConfig) -> Settings:
    assert config.attention_scale
    return {"query_pre_attn_scalar": round(config.attention_scale**-2)}


def _t5_read(theirs: Theirs, ours: Ours) -> Settings:
    """v1.0 scales what goes into the head, which is the embedding; v1.1 has a head of its own, which is in the file."""
    scaled = theirs.get("scale_decoder_outputs", bool, theirs.get("tie_word_embeddings", bool, True))
    tied, scale = scaled or "lm_head.weight" not in theirs.tensors, ours["width"] ** -0.5 if scaled else 1.0
    return {"tied": tied, "logit_scale": scale, "layers": ours["layers"] or ours["encoder_layers"]}


def _t5_write(config: ModelConfig) -> Settings:
    scaled = config.logit_scale != 1.0
    return {"tie_word_embeddings": scaled, "scale_decoder_outputs": scaled, "is_encoder_decoder": True}


def _groups_read(theirs: Theirs, _: Ours) -> Settings:
    greedy = theirs.only("topk_method", "greedy", "group_limited_greedy") == "greedy"
    return {"experts.groups": 1, "experts.active_groups": 1} if greedy else {}


def _groups_write(config: ModelConfig) -> Settings:
    assert config.experts
    return {"topk_method": "greedy" if config.experts.groups == 1 else "group_limited_greedy"}


def _deepseek_read(theirs: Theirs, ours: Ours) -> Settings:
    more: Settings = {"experts.shared": theirs.get("n_shared_experts", int, 0, least=0) * ours["experts.width"]}
    every = theirs.inner("rope_parameters", "rope_scaling").get("mscale_all_dim", float, None)
    if ours["rope_scaling"] and every:
        head = ours["latent.nope_width"] + ours["latent.rope_width"]
        more["attention_scale"] = head**-0.5 * _magnitude(ours["rope_scaling"].factor, every) ** 2
    ahead = theirs.get("num_nextn_predict_layers", int, 0, least=0)
    extra = f"model.layers.{ours['layers']}."
    # Transformers leaves them out; the published ones have a last norm of their own, which ours share with the model.
    there = f"{extra}enorm.weight" in theirs.tensors and f"{extra}shared_head.norm.weight" not in theirs.tensors
    return more | {"predict_ahead": ahead if there else 0}


def _deepseek_write(config: ModelConfig) -> Settings:
    assert config.experts and config.experts.width and config.attention_scale  # noqa: PT018
    shared = config.experts.shared // config.experts.width
    theirs = {"n_shared_experts": shared, "num_nextn_predict_layers": config.predict_ahead}
    scaling = config.rope_scaling
    if not scaling or scaling.attention_factor != 1.0 or scaling.factor <= 1:
        return theirs
    magnitude = (config.attention_scale * config.head_size**0.5) ** 0.5
    every = round((magnitude - 1) / (0.1 * math.log(scaling.factor)), 9)
    parameters = _parameters(scaling) | {"mscale": every, "mscale_all_dim": every}
    del parameters["attention_factor"]  # follows from the two
    return theirs | _both(config, parameters)


ROPE, ROPE_MILLION = _rope(1e4), _rope(1e6)
GEMMA3_ROPE = Rule(_gemma3_rope_read, _gemma3_rope_write)
GEMMA = Rule(_gemma_read, _gemma_write)
GEMMA2_WINDOWS, GEMMA3_WINDOWS = _windows(2), _windows(6)
BERT_HEAD = Rule(lambda theirs, _: {"head_bias": "cls.predictions.bias" in theirs.tensors}, lambda _: {})
T5_HEAD = Rule(_t5_read, _t5_write)
DEEPSEEK2_GROUPS = Rule(_groups_read, _groups_write)
DEEPSEEK = Rule(_deepseek_read, _deepseek_write)
