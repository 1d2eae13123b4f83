"""Whose tensor is called what: our state dict <-> the published layouts.

A table says for each of our tensors, with N for the number of a layer, which `Part`s of theirs it is. A part is a view
of their tensor and a view of ours that hold the same numbers, so one row serves for reading (ours <- theirs) and for
writing (theirs <- ours).
"""

import re
from collections.abc import Callable, Collection, Mapping
from dataclasses import dataclass, replace
from functools import partial

import torch
from torch import Tensor

from fromzero.model.config import ModelConfig

View = Callable[[Tensor], Tensor]
_NUMBER = re.compile(r"(?<=\.)\d+(?=\.)")


@dataclass(frozen=True)
class Part:
    """Where a tensor of ours, or a part of it, is in their layout."""

    theirs: str
    view: View | None = None
    """The part of their tensor (after turning) ..."""
    own: View | None = None
    """... and the part of ours that hold the same; None is the whole."""
    turned: bool = False
    """Whether theirs is (in, out): GPT-2's layers were written as 1x1 convolutions."""
    expert: int | None = None
    """The expert that it belongs to, the first dimension of ours."""
    shift: float = 0.0
    """Ours is theirs plus this (Gemma)."""

    def base(self, ours: Tensor) -> Tensor:
        """Our tensor, or its expert."""
        return ours if self.expert is None else ours[self.expert]

    def pair(self, ours: Tensor, theirs: Tensor) -> tuple[Tensor, Tensor]:
        """The views of both that hold the same. Raises RuntimeError or IndexError when theirs is misshapen."""
        theirs = theirs.t() if self.turned else theirs
        return self._own(ours), self.view(theirs) if self.view else theirs

    def _own(self, ours: Tensor) -> Tensor:
        return self.own(self.base(ours)) if self.own else self.base(ours)


Table = dict[str, tuple[Part, ...]]
Plan = dict[str, list[tuple[str, Part]]]
"""Name of theirs -> the tensors of ours that are in it."""


def plan(ours: Collection[str], config: ModelConfig, model_type: str, theirs: Collection[str] = ()) -> Plan | None:
    """Where each of our tensors is in the layout of a family, or None when there is one that it has no place for.

    theirs: names that a file has, where layouts vary (experts one by one, or all in one tensor).
    """
    table = _table(config, model_type)
    if fused := next((name for name in theirs if name.endswith(".experts.gate_up_proj")), None):
        table |= _fused(_NUMBER.sub("N", fused).removesuffix("experts.gate_up_proj"))
    if model_type == "bert" and ("masked.dense.weight" in ours or "cls.seq_relationship.weight" in theirs):
        table |= _rows("", "", "classifier=cls.seq_relationship")
    shift = 1.0 if model_type.startswith("gemma") else 0.0
    found: Plan = {}
    for name in ours:
        layer = next(iter(_NUMBER.findall(name)), "")
        layer = str(config.layers + int(layer)) if name.startswith("ahead.") else layer
        parts = table.get(_NUMBER.sub("N", name)) if table else (Part(name),)
        if parts is None:
            return None
        for part in _each_expert(parts, config):
            place = part.theirs.replace(".N.", f".{layer}.")
            moved = replace(part, theirs=place, shift=shift if name.endswith("norm.weight") else 0.0)
            found.setdefault(place, []).append((name, moved))
    return found


def _each_expert(parts: tuple[Part, ...], config: ModelConfig) -> tuple[Part, ...]:
    """A part with a star for the number of an expert, as one for each."""
    if "*" not in parts[0].theirs or config.experts is None:
        return parts
    numbers = range(config.experts.count)
    return tuple(replace(parts[0], theirs=parts[0].theirs.replace("*", str(e)), expert=e) for e in numbers)


def shape_of(parts: list[tuple[str, Part]], state: Mapping[str, Tensor]) -> torch.Size:
    """The shape of a tensor of theirs that is made of these: the first dimension grows with the number of parts."""
    elements = sum(part._own(state[name]).numel() for name, part in parts)
    name, part = parts[0]
    base = part.base(state[name])
    rows = [base.shape[0] * elements // base.numel(), *base.shape[1:]]
    return torch.Size(reversed(rows) if part.turned else rows)


def _rows(ours: str, theirs: str, names: str, leaves: tuple[str, ...] = (".weight", ".bias")) -> Table:
    """Rows for `mine=yours` behind prefixes, for weights and biases."""
    pairs = [name.split("=") for name in names.split()]
    return {f"{ours}{mine}{leaf}": (Part(f"{theirs}{yours}{leaf}"),) for mine, yours in pairs for leaf in leaves}


def _experts(theirs: str, names: str) -> Table:
    rows = _rows("", theirs, names, (".weight",))
    return {f"blocks.N.feed_forward.experts.{ours.removesuffix('.weight')}": parts for ours, parts in rows.items()}


_BLOCK, _MLP, _PROJECTIONS = "blocks.N.", "model.layers.N.mlp.", "up=up_proj gate=gate_proj down=down_proj"
_NORMS = "attention_norm=post_attention_layernorm feed_forward_norm=post_feedforward_layernorm"
_LLAMA = (
    _rows("", "", "token_embedding=model.embed_tokens final_norm=model.norm head=lm_head classifier=score")
    | _rows(_BLOCK, "model.layers.N.", "attention_norm=input_layernorm feed_forward_norm=post_attention_layernorm")
    | _rows(f"{_BLOCK}attention.", "model.layers.N.self_attn.", "query=q_proj key=k_proj value=v_proj output=o_proj")
    | _rows(f"{_BLOCK}attention.", "model.layers.N.self_attn.", "query_norm=q_norm key_norm=k_norm")
    | _rows(f"{_BLOCK}feed_forward.", _MLP, f"{_PROJECTIONS} router=gate shared_gate=shared_expert_gate")
    | _rows(f"{_BLOCK}feed_forward.shared.", f"{_MLP}shared_expert.", _PROJECTIONS)
    | _experts(f"{_MLP}experts.*.", _PROJECTIONS)
)
_OUTPUT = _rows(_BLOCK, "model.layers.N.", _NORMS)
_SANDWICH = _rows(
    _BLOCK,
    "model.layers.N.",
    "attention_output_norm=post_attention_layernorm feed_forward_norm=pre_feedforward_layernorm "
    "feed_forward_output_norm=post_feedforward_layernorm",
)
_MIXTRAL = _rows(f"{_BLOCK}feed_forward.", "model.layers.N.block_sparse_moe.", "router=gate") | _experts(
    "model.layers.N.block_sparse_moe.experts.*.", "gate=w1 down=w2 up=w3"
)
_BERT = (
    _rows("", "bert.embeddings.", "token_embedding=word_embeddings position_embedding=position_embeddings")
    | _rows("", "bert.embeddings.", "type_embedding=token_type_embeddings embedding_norm=LayerNorm")
    | _rows(f"{_BLOCK}attention.", "bert.encoder.layer.N.attention.self.", "query=query key=key value=value")
    | _rows(_BLOCK, "bert.encoder.layer.N.attention.output.", "attention.output=dense attention_norm=LayerNorm")
    | _rows(_BLOCK, "bert.encoder.layer.N.", "feed_forward.up=intermediate.dense feed_forward.down=output.dense")
    | _rows(_BLOCK, "bert.encoder.layer.N.", "feed_forward_norm=output.LayerNorm")
    | _rows("", "cls.predictions.", "masked.dense=transform.dense masked.norm=transform.LayerNorm")
    | _rows("", "", "pooler=bert.pooler.dense classifier=classifier")
    | {"head.bias": (Part("cls.predictions.bias"),)}
)


def _gpt(top: str) -> Table:
    """GPT and GPT-2: matrices are turned; query, key and value are in one tensor."""
    rows = _rows(_BLOCK, "transformer.h.N.", "feed_forward.up=mlp.c_fc feed_forward.down=mlp.c_proj")
    rows |= _rows(_BLOCK, "transformer.h.N.", "attention.output=attn.c_proj")
    rows |= _in_one("transformer.h.N.attn.", "c_attn")
    rows = {name: (replace(part, turned=name.endswith("weight")),) for name, (part,) in rows.items()}
    rows |= _rows(_BLOCK, "transformer.h.N.", "attention_norm=ln_1 feed_forward_norm=ln_2")
    return rows | _rows("", "transformer.", top) | _rows("", "", "head=lm_head classifier=score")


def _in_one(theirs: str, name: str) -> Table:
    """Query, key and value in one tensor."""
    rows: Table = {}
    for slot, ours in enumerate(("query", "key", "value")):
        fused = _rows(f"{_BLOCK}attention.", theirs, f"{ours}={name}")
        rows |= {name: (replace(part, view=partial(_slot, index=slot)),) for name, (part,) in fused.items()}
    return rows


def _t5(config: ModelConfig) -> Table:
    rows = _rows("", "", "token_embedding=shared head=lm_head")
    for stack, last in (("encoder.", 1), ("decoder.", 2)):
        layer, ours, up = f"{stack}block.N.layer.", f"{stack}blocks.N.", "wi_1" if config.gated else "wi"
        for number, kind, theirs in ((0, "attention", "SelfAttention"), (1, "cross", "EncDecAttention")):
            rows |= _rows(ours, f"{layer}{number}.", f"{kind}_norm=layer_norm")
            rows |= _rows(f"{ours}{kind}.", f"{layer}{number}.{theirs}.", "query=q key=k value=v output=o")
        rows |= _rows(ours, f"{layer}{last}.", "feed_forward_norm=layer_norm")
        rows |= _rows(f"{ours}feed_forward.", f"{layer}{last}.DenseReluDense.", f"gate=wi_0 up={up} down=wo")
        first = "block.0.layer.0.SelfAttention.relative_attention_bias"
        rows |= _rows(stack, stack, f"final_norm=final_layer_norm relative_bias={first}")
    return rows


def _deepseek(config: ModelConfig) -> Table:
    assert config.latent
    latent, heads, at = config.latent, config.heads, "model.layers.N.self_attn."
    nope, both = latent.nope_width, f"{at}kv_b_proj.weight"
    keys = Part(both, partial(_heads, heads=heads, start=0, end=nope), partial(_heads, heads=heads))
    values = Part(both, partial(_heads, heads=heads, start=nope), partial(_heads, heads=heads))
    rows: Table = {
        "attention.query.weight": _rotary(f"{at}q_proj.weight", heads, nope),
        "attention.query_up.weight": _rotary(f"{at}q_b_proj.weight", heads, nope),
        "attention.latent_down.weight": _rotary(f"{at}kv_a_proj_with_mqa.weight", 1, latent.kv_rank),
        "attention.key_up.weight": (keys,),
        "attention.value_up.weight": (values,),
        "feed_forward.router.bias": (Part(f"{_MLP}gate.e_score_correction_bias"),),
    }
    rows |= _rows("attention.", at, "query_down=q_a_proj query_norm=q_a_layernorm latent_norm=kv_a_layernorm")
    rows |= _rows("feed_forward.shared.", f"{_MLP}shared_experts.", _PROJECTIONS)
    table = _LLAMA | {f"{_BLOCK}{ours}": parts for ours, parts in rows.items()}
    ahead = _rows("ahead.N.", "model.layers.N.", "norm_hidden=hnorm norm_embedding=enorm project=eh_proj")
    blocks = {f"ahead.N.block.{ours[len(_BLOCK) :]}": row for ours, row in table.items() if ours.startswith(_BLOCK)}
    return table | ahead | blocks


def _gguf(config: ModelConfig, architecture: str) -> Table:
    """llama.cpp's names; in Llama's heads, rotary pairs are neighbours."""
    rows = _rows(
        "", "", "token_embedding=token_embd position_embedding=position_embd final_norm=output_norm head=output"
    )
    rows |= _rows(_BLOCK, "blk.N.", "attention_norm=attn_norm feed_forward_norm=ffn_norm attention.output=attn_output")
    rows |= _rows(
        f"{_BLOCK}attention.", "blk.N.", "query=attn_q query_norm=attn_q_norm key=attn_k key_norm=attn_k_norm"
    )
    rows |= _rows(_BLOCK, "blk.N.", "attention.value=attn_v feed_forward.up=ffn_up feed_forward.gate=ffn_gate")
    rows |= _rows(_BLOCK, "blk.N.", "feed_forward.down=ffn_down")
    if architecture == "llama":
        for ours, theirs, heads in (("query", "q", config.heads), ("key", "k", config.key_value_heads)):
            rows[f"{_BLOCK}attention.{ours}.weight"] = _rotary(f"blk.N.attn_{theirs}.weight", heads, 0)[1:]
    return rows | (_in_one("blk.N.", "attn_qkv") if architecture == "gpt2" else {})


def _fused(theirs: str) -> Table:
    """Experts as transformers 5 holds them: each matrix of all in one tensor, and gate and up in one."""
    gate, up = (Part(f"{theirs}experts.gate_up_proj", partial(_slot, index=i, dim=1, count=2)) for i in (0, 1))
    ours = f"{_BLOCK}feed_forward."
    experts = {"gate": (gate,), "up": (up,), "down": (Part(f"{theirs}experts.down_proj"),)}
    return _rows(ours, theirs, "router=gate") | {f"{ours}experts.{name}": parts for name, parts in experts.items()}


def _rotary(theirs: str, heads: int, nope: int) -> tuple[Part, ...]:
    """Rows of heads whose first `nope` channels have no positions; of the rest, pairs are neighbours in theirs."""
    still = partial(_heads, heads=heads, start=0, end=nope)

    def turning(tensor: Tensor, apart: bool) -> Tensor:
        """Rotary channels as (heads, 2, pairs, in)."""
        rotary = _heads(tensor, heads, nope)
        return rotary.unflatten(1, (2, -1)) if apart else rotary.unflatten(1, (-1, 2)).transpose(1, 2)

    pairs = Part(theirs, partial(turning, apart=False), partial(turning, apart=True))
    return (Part(theirs, still, still), pairs)


def _slot(tensor: Tensor, index: int, dim: int = 0, count: int = 3) -> Tensor:
    """One of `count` equal slots of a dimension."""
    return tensor.unflatten(dim, (count, -1)).select(dim, index)


def _heads(tensor: Tensor, heads: int, start: int = 0, end: int | None = None) -> Tensor:
    """Channels start .. end of each head; (heads, channels, in)."""
    return tensor.unflatten(0, (heads, -1))[:, start:end]


def _table(config: ModelConfig, model_type: str) -> Table:
    """All rows of a family; empty for our own layout, whose names are ours."""
    if model_type.startswith("deepseek"):
        return _deepseek(config)
    if model_type == "t5":
        return _t5(config)
    if model_type.startswith("gguf."):
        return _gguf(config, model_type.removeprefix("gguf."))
    if model_type.startswith("gemma"):
        return _LLAMA | _SANDWICH
    changes = {
        "mixtral": _LLAMA | _MIXTRAL,
        "olmo2": _LLAMA | _OUTPUT,
        "bert": _BERT,
        "gpt2": _gpt("token_embedding=wte position_embedding=wpe final_norm=ln_f"),
        "openai-gpt": _gpt("token_embedding=tokens_embed position_embedding=positions_embed"),
        "fromzero": {},
    }
    return dict(changes.get(model_type, _LLAMA))
