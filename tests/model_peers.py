"""Small random models of transformers, the same shape as ours, and their weights in our names."""

import re
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor

from fromzero.model import ModelConfig

BERT = ModelConfig(
    vocab_size=60, context=24, layers=2, width=32, heads=4, ffn_width=48, kind="encoder", positions="learned",
    norm="layer", activation="gelu", bias=True, norm_eps=1e-12, token_types=2, embedding_norm=True,
    norm_placement="post", head_bias=True,
)  # fmt: skip
T5 = ModelConfig(
    vocab_size=60, context=32, layers=2, encoder_layers=3, width=32, heads=4, head_width=6, ffn_width=48,
    kind="encoder_decoder", positions="relative", activation="relu", norm_eps=1e-6, attention_scale=1.0,
    relative_buckets=8, relative_distance=12, logit_scale=32**-0.5,
)  # fmt: skip

_ATTENTION = {"q": "query", "k": "key", "v": "value", "o": "output"}
_NAMES = {
    "bert": (
        (r"^bert\.", ""),
        (r"embeddings\.(word|position|token_type)_embeddings", lambda m: {"word": "token", "position": "position",
                                                                           "token_type": "type"}[m[1]] + "_embedding"),
        (r"embeddings\.LayerNorm", "embedding_norm"),
        (r"encoder\.layer\.", "blocks."),
        (r"attention\.self\.", "attention."),
        (r"attention\.output\.dense", "attention.output"),
        (r"attention\.output\.LayerNorm", "attention_norm"),
        (r"intermediate\.dense", "feed_forward.up"),
        (r"(blocks\.\d+)\.output\.dense", r"\1.feed_forward.down"),
        (r"(blocks\.\d+)\.output\.LayerNorm", r"\1.feed_forward_norm"),
        (r"^pooler\.dense", "pooler"),
        (r"^cls\.predictions\.transform\.dense", "masked.dense"),
        (r"^cls\.predictions\.transform\.LayerNorm", "masked.norm"),
        (r"^cls\.predictions\.(decoder\.)?bias", "head.bias"),
        (r"^cls\.seq_relationship|^(?:bert\.)?classifier", "classifier"),
    ),
    "t5": (
        (r"^shared", "token_embedding"),
        (r"^lm_head", "head"),
        (r"block\.(\d+)", r"blocks.\1"),
        (r"^(encoder|decoder).*relative_attention_bias", r"\1.relative_bias"),
        (r"(SelfAttention|EncDecAttention)\.(.)\.", lambda m: ("attention" if m[1] == "SelfAttention" else "cross") +
                                                              f".{_ATTENTION[m[2]]}."),
        (r"DenseReluDense\.wi_0", "feed_forward.gate"),
        (r"DenseReluDense\.wi(_1)?", "feed_forward.up"),
        (r"DenseReluDense\.wo", "feed_forward.down"),
        (r"layer\.0\.layer_norm", "attention_norm"),
        (r"(decoder.*)layer\.1\.layer_norm", r"\1cross_norm"),
        (r"layer\.[12]\.layer_norm", "feed_forward_norm"),
        (r"layer\.\d\.", ""),
        (r"final_layer_norm", "final_norm"),
    ),
}  # fmt: skip
_TIED = ("cls.predictions.decoder.weight", "embeddings.position_ids", "embed_tokens.weight")


def weights(peer: torch.nn.Module, kind: str, tied: bool = True) -> dict[str, Tensor]:
    """The peer's weights in our names."""
    ours = {}
    for name, tensor in peer.state_dict().items():
        if name.endswith(_TIED) or (tied and name == "lm_head.weight"):
            continue
        for pattern, replacement in _NAMES[kind]:
            name = re.sub(pattern, replacement, name)
        ours[name] = tensor
    return ours


def disturbed(peer: Any) -> Any:
    """In evaluation mode, with all weights random: norms and biases are not left at 1 and 0."""
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in peer.parameters():
            parameter.add_(torch.empty(parameter.shape).normal_(0, 0.2, generator=generator))
    return peer.eval()


def bert(kind: str, **more: Any) -> Any:
    """The peer of BERT, such as 'BertForPreTraining'."""
    config = transformers.BertConfig(
        vocab_size=60, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=48,
        max_position_embeddings=24, layer_norm_eps=1e-12, **more,
    )  # fmt: skip
    torch.manual_seed(0)
    return disturbed(getattr(transformers, kind)(config))


def t5(version: str) -> tuple[Any, ModelConfig]:
    """The peer of T5 v1.0 or v1.1, and our config."""
    first = version == "1.0"
    config: Any = transformers.T5Config(  # type: ignore[call-arg]
        vocab_size=60, d_model=32, d_kv=6, d_ff=48, num_layers=3, num_decoder_layers=2, num_heads=4,
        relative_attention_num_buckets=8, relative_attention_max_distance=12, dropout_rate=0.0,
        decoder_start_token_id=0, pad_token_id=0,
        feed_forward_proj="relu" if first else "gated-gelu", tie_word_embeddings=first,
    )  # fmt: skip
    torch.manual_seed(0)
    peer = disturbed(transformers.T5ForConditionalGeneration(config))
    return peer, T5 if first else replace(T5, activation="geglu_tanh", tied=False, logit_scale=1.0)
