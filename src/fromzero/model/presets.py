"""Published shapes by name."""

from fromzero.model.config import ModelConfig


def _gpt2(layers: int, width: int, heads: int) -> ModelConfig:
    """GPT-2 (Radford et al. 2019, table 2)."""
    return ModelConfig(
        vocab_size=50257,
        context=1024,
        layers=layers,
        width=width,
        heads=heads,
        positions="learned",
        norm="layer",
        activation="gelu_tanh",
        bias=True,
    )


PRESETS = {
    "gpt2-124m": _gpt2(12, 768, 12),
    "gpt2-355m": _gpt2(24, 1024, 16),
    "gpt2-774m": _gpt2(36, 1280, 20),
    "gpt2-1558m": _gpt2(48, 1600, 25),
}
