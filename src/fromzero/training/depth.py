"""The one dial: a depth, and everything that goes with a model of that size, by published laws.

- Width 64 a layer: from 100 million to 10 billion parameters loss hardly depends on it (Kaplan et al. 2020, figure 5);
  GPT-2 (12 x 64) and nanochat have it.
- Tokens: 20 for each parameter (Hoffmann et al. 2022, table 3), of experts for each that a token goes to.
- Tokens in a batch 0.292 C^0.3271, highest learning rate of AdamW 0.3118 C^-0.125, for C FLOPs of the whole training
  (DeepSeek LLM 2024, eq. 1). It was fitted from 1e17 to 2e19 FLOPs.
- Weight decay: B / (rate x decay x tokens), the share of training over which weights are an average of updates, stays
  what it is (Wang and Aitchison 2024); 0.1, as in DeepSeek LLM, is for a depth of 12.
- Warm-up 2000 steps (DeepSeek LLM), at most a twentieth of all.
"""

import math
from dataclasses import replace
from typing import Any

import torch

from fromzero.model import EncoderDecoder, ModelConfig, Transformer, counts
from fromzero.training.schedule import in_steps
from fromzero.training.settings import TrainConfig

TOKENS_PER_PARAMETER = 20
REFERENCE_DEPTH, REFERENCE_DECAY = 12, 0.1
MICRO_BATCH_TOKENS = 16384  # computed at once, so that a large batch fits a small device


def dial(model: ModelConfig, train: TrainConfig, vocab_size: int) -> tuple[ModelConfig, TrainConfig]:
    """Both with what a depth means filled in, and without it; settings that are not the defaults stay.

    Learning rate and decay are AdamW's, and Muon's for what AdamW steps there; of other optimizers, and with mup, they
    stay as they are.
    """
    if not model.depth:
        return model, train
    shape = model.with_depth()
    tokens, flops = horizon(shape, vocab_size)
    if train.tokens is not None:
        tokens, flops = train.tokens, flops / tokens * train.tokens
    batch_tokens, rate = 0.292 * flops**0.3271, 0.3118 * flops**-0.125
    rows = 2 ** max(0, round(math.log2(batch_tokens / shape.context)))
    found: dict[str, Any] = {"batch_size": rows}
    if train.steps == TrainConfig.steps:
        found["tokens"] = tokens
    if train.optimizer in ("adamw", "muon") and train.parametrization == "standard":
        found["learning_rate"] = float(f"{rate:.3g}")
        reference = horizon(replace(model, depth=REFERENCE_DEPTH).with_depth(), vocab_size)
        found["weight_decay"] = float(f"{REFERENCE_DECAY * timescale(*reference) / timescale(tokens, flops):.3g}")
    train = _filled(train, found)
    steps = in_steps(train, shape.context).steps
    micro = min(train.batch_size, 2 ** max(0, int(math.log2(MICRO_BATCH_TOKENS / shape.context))))
    found = {"warmup_steps": min(2000, steps // 20)}
    found |= {"micro_batch_size": micro} if train.batch_size % micro == 0 else {}
    return shape, _filled(train, found)


def horizon(shape: ModelConfig, vocab_size: int) -> tuple[int, float]:
    """Tokens that a shape is trained on, and the FLOPs of that."""
    model = _skeleton(shape.with_vocab(vocab_size))
    tokens = TOKENS_PER_PARAMETER * counts.parameter_count(model, model.config, active=True)
    return tokens, counts.flops_per_token(model, model.config) * tokens


def parameters(shape: ModelConfig) -> int:
    """How many a model of the shape has."""
    return counts.parameter_count(_skeleton(shape), shape)


def _skeleton(shape: ModelConfig) -> Any:
    with torch.device("meta"):
        return (EncoderDecoder if shape.kind == "encoder_decoder" else Transformer)(shape)


def timescale(tokens: int, flops: float) -> float:
    """Rate x tokens / batch of the laws, which times the decay is to stay what it is."""
    return 0.3118 * flops**-0.125 * tokens / (0.292 * flops**0.3271)


def _filled(train: TrainConfig, found: dict[str, Any]) -> TrainConfig:
    """The settings with what was found for those that are the defaults."""
    return replace(
        train, **{name: value for name, value in found.items() if getattr(train, name) == getattr(TrainConfig, name)}
    )
