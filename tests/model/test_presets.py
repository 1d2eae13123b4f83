"""Published shapes have the published numbers of parameters."""

from dataclasses import replace

import pytest
import torch

from fromzero.config import from_arguments, from_mapping
from fromzero.errors import UserError
from fromzero.model import PRESETS, ModelConfig, Transformer
from fromzero.model.counts import parameter_count
from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.training.pretrain import PretrainConfig

# Totals that are cited for the published weights.
EXACT = {
    "gpt1-117m": 116_534_784,
    "gpt2-124m": 124_439_808,
    "gpt2-355m": 354_823_168,
    "gpt2-774m": 774_030_080,
    "gpt2-1558m": 1_557_611_200,
    "t5-small": 60_506_624,
    "t5-base": 222_903_552,
    "t5-large": 737_668_096,
    "t5-3b": 2_851_598_336,
    "t5-11b": 11_307_321_344,
    "t5-v1.1-small": 76_961_152,
    "t5-v1.1-base": 247_577_856,
    "t5-v1.1-large": 783_150_080,
    "t5-v1.1-xl": 2_849_757_184,
    "t5-v1.1-xxl": 11_135_332_352,
    "llama2-7b": 6_738_415_616,
    "llama2-13b": 13_015_864_320,
    "llama2-70b": 68_976_648_192,
    "llama3-8b": 8_030_261_248,
    "llama3-70b": 70_553_706_496,
    "llama3.1-405b": 405_853_388_800,
    "llama3.2-1b": 1_235_814_400,
    "llama3.2-3b": 3_212_749_824,
    "smollm2-135m": 134_515_008,
    "smollm2-360m": 361_821_120,
    "smollm2-1.7b": 1_711_376_384,
    "mistral-7b": 7_241_732_096,
    "mixtral-8x7b": 46_702_792_704,
    "mixtral-8x22b": 140_620_634_112,
    "qwen2.5-0.5b": 494_032_768,
    "qwen2.5-1.5b": 1_543_714_304,
    "qwen2.5-3b": 3_085_938_688,
    "qwen2.5-7b": 7_615_616_512,
    "qwen2.5-14b": 14_770_033_664,
    "qwen2.5-32b": 32_763_876_352,
    "qwen2.5-72b": 72_706_203_648,
    "qwen3-0.6b": 596_049_920,
    "qwen3-1.7b": 1_720_574_976,
    "qwen3-4b": 4_022_468_096,
    "qwen3-8b": 8_190_735_360,
    "qwen3-14b": 14_768_307_200,
    "qwen3-32b": 32_762_123_264,
    "qwen3-30b-a3b": 30_532_122_624,
    "qwen3-235b-a22b": 235_093_634_560,
    "gemma2-2b": 2_614_341_888,
    "gemma2-9b": 9_241_705_984,
    "gemma2-27b": 27_227_128_320,
    "gemma3-270m": 268_098_176,
    "gemma3-1b": 999_885_952,
    "olmo2-1b": 1_484_916_736,
    "olmo2-7b": 7_298_617_344,
    "olmo2-13b": 13_716_198_400,
    "olmo2-32b": 32_234_279_936,
    "deepseek-v2-lite": 15_706_484_224,
}
# What papers say, in millions, as they round: Vaswani table 3, Brown table 2.1, Devlin section 3 (with its pooler),
# Gemma 3 table 1 (embeddings and others), DeepSeek-V3 section 4.2 (without the block for the token after the next).
ROUNDED = {
    "transformer-base": (65, 0.035),
    "transformer-big": (213, 0.01),
    "gpt3-125m": (125, 0.01),
    "gpt3-350m": (350, 0.02),
    "gpt3-760m": (760, 0.01),
    "gpt3-1.3b": (1300, 0.02),
    "gpt3-2.7b": (2700, 0.02),
    "gpt3-6.7b": (6700, 0.01),
    "gpt3-13b": (13000, 0.01),
    "gpt3-175b": (175000, 0.003),
    "bert-base": (110, 0.011),
    "bert-large": (340, 0.018),
    "gemma3-4b": (675 + 3209, 0.001),
    "gemma3-12b": (1012 + 10759, 0.001),
    "gemma3-27b": (1416 + 25600, 0.001),
    "deepseek-v3": (671000, 0.0002),
}
ACTIVE = {"mixtral-8x7b": 12.9, "mixtral-8x22b": 39.1, "qwen3-30b-a3b": 3.3, "qwen3-235b-a22b": 22.2, "deepseek-v3": 37}


def by_formula(c: ModelConfig, active: bool = False) -> int:
    """The sum of the sizes of all matrices and vectors, worked out without a model."""
    biases, experts = int(c.bias), c.experts
    norm = c.width * (2 if c.norm == "layer" and c.bias else 1)
    heads, keys = c.heads * c.head_size, c.key_value_heads * c.head_size
    attention = c.width * (2 * heads + 2 * keys) + c.attention_biased * (heads + 2 * keys) + biases * c.width
    attention += {None: 0, "head": 2 * c.head_size, "full": heads + keys}[c.qk_norm]
    if a := c.latent:
        queries = a.query_rank * (c.width + heads + 1) if a.query_rank else c.width * heads
        attention = queries + c.width * (a.kv_rank + a.rope_width) + a.kv_rank
        attention += c.heads * (a.kv_rank * (a.nope_width + a.value_width) + a.value_width * c.width)

    def ffn(hidden: int) -> int:
        return c.width * hidden * (3 if c.gated else 2) + biases * (hidden + c.width)

    norms = norm * (4 if c.norm_placement == "sandwich" else 2)
    block = attention + ffn(c.ffn_size) + norms
    total = c.layers * block
    if experts:
        one = 3 * c.width * (experts.width or c.ffn_size)
        routed = one * (experts.active if active else experts.count)
        shared = 3 * c.width * experts.shared + c.width * experts.shared_gate
        mixed = attention + norms + routed + shared + c.width * experts.count
        total = experts.dense_layers * block + (c.layers - experts.dense_layers) * mixed
    last = 0 if c.norm_placement == "post" else norm
    tables = {"learned": c.context * c.width, "relative": c.relative_buckets * c.heads}.get(c.positions, 0)
    total += last + tables
    if c.kind == "encoder_decoder":
        total += (c.encoder_layers or c.layers) * block + last + tables + c.layers * (attention + norm)
    total += c.token_types * c.width + c.embedding_norm * norm
    return total + c.vocab_size * (c.width * (1 if c.tied else 2) + c.head_bias)


@pytest.mark.parametrize("name", PRESETS)
def test_presets_have_the_published_size(name: str) -> None:
    config = replace(PRESETS[name], predict_ahead=0)
    found = by_formula(config)
    if name in EXACT:
        assert found == EXACT[name]
    else:
        millions, tolerance = ROUNDED[name]
        assert found / 1e6 == pytest.approx(millions, rel=tolerance)
    if name in ACTIVE:
        assert by_formula(config, active=True) / 1e9 == pytest.approx(ACTIVE[name], rel=0.02)


@pytest.mark.parametrize("name", ["gpt2-124m", "deepseek-v3", "gemma3-4b"])
def test_a_preset_is_what_settings_begin_with(name: str) -> None:
    shape, paths = replace(PRESETS[name], vocab_size=0), {"tokens": "a", "output": "b"}
    given = ["--tokens", "a", "--output", "b"]
    for arguments in (["--model.preset", name], [f"--model.preset={name}"]):
        assert from_arguments(PretrainConfig, [*given, *arguments], "", "").model == shape
        changed = from_arguments(PretrainConfig, [*given, "--model.context", "256", *arguments], "", "").model
        assert changed == replace(shape, context=256)
    read = from_mapping(PretrainConfig, {**paths, "model": {"preset": name, "context": 256}}, "")
    assert read.model == replace(shape, context=256)
    with pytest.raises(UserError, match=f"there is no preset '{name}x'; did you mean '{name}'"):
        from_arguments(PretrainConfig, [*given, "--model.preset", f"{name}x"], "", "")
    with pytest.raises(UserError, match=r"unknown option '--train\.preset'"):
        from_arguments(PretrainConfig, [*given, "--train.preset", name], "", "")


FEW = ("transformer-base", "gpt1-117m", "gpt2-124m", "bert-base", "t5-small", "t5-v1.1-small", "llama3.2-1b",
       "qwen2.5-0.5b", "qwen3-0.6b", "qwen3-30b-a3b", "gemma2-2b", "gemma3-270m", "olmo2-1b", "mixtral-8x7b",
       "deepseek-v2-lite", "deepseek-v3")  # fmt: skip


@pytest.mark.parametrize("name", FEW)
def test_models_have_the_size_of_the_formula(name: str) -> None:
    config = replace(PRESETS[name], predict_ahead=0)
    with torch.device("meta"):
        model = (EncoderDecoder if config.kind == "encoder_decoder" else Transformer)(config)
    assert parameter_count(model, config) == by_formula(config)
    assert parameter_count(model, config, active=True) == by_formula(config, active=True)
