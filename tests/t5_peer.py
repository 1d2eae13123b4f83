"""A small random T5 of transformers with the same shape as ours, and its weights in our names."""

import re
from dataclasses import replace
from typing import Any

import torch
import transformers
from torch import Tensor

from fromzero.model import EncoderDecoder, ModelConfig

T5 = ModelConfig(
    vocab_size=60, context=32, layers=2, encoder_layers=3, width=32, heads=4, head_width=6, ffn_width=48,
    kind="encoder_decoder", positions="relative", activation="relu", norm_eps=1e-6, attention_scale=1.0,
    relative_buckets=8, relative_distance=12, logit_scale=32**-0.5,
)  # fmt: skip
_PARTS = {"q": "query", "k": "key", "v": "value", "o": "output"}
_NAMES = (
    (r"^shared", "token_embedding"),
    (r"^lm_head", "head"),
    (r"block\.(\d+)", r"blocks.\1"),
    (r"^(encoder|decoder).*relative_attention_bias", r"\1.relative_bias"),
    (r"SelfAttention\.(.)\.", lambda found: f"attention.{_PARTS[found[1]]}."),
    (r"EncDecAttention\.(.)\.", lambda found: f"cross.{_PARTS[found[1]]}."),
    (r"DenseReluDense\.wi_0", "feed_forward.gate"),
    (r"DenseReluDense\.wi(_1)?", "feed_forward.up"),
    (r"DenseReluDense\.wo", "feed_forward.down"),
    (r"layer\.0\.layer_norm", "attention_norm"),
    (r"(decoder.*)layer\.1\.layer_norm", r"\1cross_norm"),
    (r"layer\.[12]\.layer_norm", "feed_forward_norm"),
    (r"layer\.\d\.", ""),
    (r"final_layer_norm", "final_norm"),
)


def t5(version: str) -> tuple[Any, EncoderDecoder]:
    """The peer of T5 v1.0 or v1.1, and our model with its weights, both in evaluation mode."""
    first = version == "1.0"
    config: Any = transformers.T5Config(  # type: ignore[call-arg]
        vocab_size=60, d_model=32, d_kv=6, d_ff=48, num_layers=3, num_decoder_layers=2, num_heads=4,
        relative_attention_num_buckets=8, relative_attention_max_distance=12, dropout_rate=0.0,
        feed_forward_proj="relu" if first else "gated-gelu", tie_word_embeddings=first,
        decoder_start_token_id=0, pad_token_id=0,
    )  # fmt: skip
    peer = transformers.T5ForConditionalGeneration(config).eval()
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in peer.parameters():  # norms are not left at 1
            parameter.copy_(torch.empty(parameter.shape).normal_(0.05, 0.4, generator=generator))
    shape = T5 if first else replace(T5, activation="geglu_tanh", tied=False, logit_scale=1.0)
    model = EncoderDecoder(shape).eval()
    model.load_state_dict(_ours(peer, first))
    return peer, model


def _ours(peer: torch.nn.Module, tied: bool) -> dict[str, Tensor]:
    found = {}
    for name, tensor in peer.state_dict().items():
        if not name.endswith("embed_tokens.weight") and not (tied and name == "lm_head.weight"):
            for pattern, replacement in _NAMES:
                name = re.sub(pattern, replacement, name)
            found[name] = tensor
    return found
