"""Published shapes by name, each family from its paper and the configuration files that its authors published.

A family is what its models share, and a table of where they differ: name, layers, width, heads, and where they are not
the defaults kv_heads, head_width, ffn_width, then single settings as key=value in JSON.
"""

import json
import math
from typing import Any

from fromzero.model.config import Experts, Latent, ModelConfig, RopeScaling

PRESETS: dict[str, ModelConfig] = {}
"""Name -> shape, with the size of the published vocabulary."""
_COLUMNS = ("layers", "width", "heads", "kv_heads", "head_width", "ffn_width")


def _family(prefix: str, shared: dict[str, Any], rows: str) -> None:
    for name, *cells in (row.split() for row in rows.split(";")):
        settings = shared | dict(zip(_COLUMNS, (int(cell) for cell in cells if "=" not in cell), strict=False))
        settings |= {key: json.loads(value) for key, _, value in (cell.partition("=") for cell in cells if "=" in cell)}
        for key, power in (("embedding_scale", 0.5), ("logit_scale", -0.5)):  # of those whose scale is of the width
            if settings.get(key) == "width":
                settings[key] = math.pow(settings["width"], power)
        PRESETS[f"{prefix}-{name}"] = ModelConfig(**settings)


# Vaswani et al. 2017, table 3, with the 37,000 pieces of English and German that both sides share.
_OLD: dict[str, Any] = {"norm": "layer", "bias": True, "positions": "learned", "dropout": 0.1}
_VASWANI = _OLD | {"kind": "encoder_decoder", "positions": "sinusoidal", "activation": "relu", "vocab_size": 37000}
_VASWANI |= {"norm_placement": "post", "context": 512, "embedding_scale": "width"}
_family("transformer", _VASWANI, "base 6 512 8; big 6 1024 16 dropout=0.3")

# Radford et al. 2018; Radford et al. 2019, table 2; Brown et al. 2020, table 2.1, whose attention alternates between
# dense and banded (as dense here), and whose 24 heads of 128 for 1.3b do not make the 1.3b: 16 do.
_GPT = _OLD | {"vocab_size": 40478, "context": 512, "norm_placement": "post", "activation": "gelu_tanh"}
_GPT2 = _GPT | {"vocab_size": 50257, "context": 1024, "norm_placement": "pre", "dropout": 0.0}
_family("gpt1", _GPT, "117m 12 768 12")
_family("gpt2", _GPT2, "124m 12 768 12; 355m 24 1024 16; 774m 36 1280 20; 1558m 48 1600 25")
_family("gpt3", _GPT2 | {"context": 2048}, """
    125m 12 768 12; 350m 24 1024 16; 760m 24 1536 16; 1.3b 24 2048 16; 2.7b 32 2560 32; 6.7b 32 4096 32;
    13b 40 5140 40 40 128; 175b 96 12288 96
""")  # fmt: skip

# Devlin et al. 2019, section 3.
_BERT = _OLD | {"kind": "encoder", "norm_placement": "post", "embedding_norm": True, "token_types": 2}
_BERT |= {"norm_eps": 1e-12, "vocab_size": 30522, "context": 512, "activation": "gelu"}
_family("bert", _BERT, "base 12 768 12; large 24 1024 16")

# Raffel et al. 2020, section 3.7; v1.1: Shazeer 2020, and the released configurations.
_T5 = {"kind": "encoder_decoder", "positions": "relative", "activation": "relu", "attention_scale": 1.0}
_T5 |= {"vocab_size": 32128, "context": 512, "norm_eps": 1e-6, "dropout": 0.1, "logit_scale": "width"}
_family("t5", _T5, """
    small 6 512 8 8 64 2048; base 12 768 12 12 64 3072; large 24 1024 16 16 64 4096; 3b 24 1024 32 32 128 16384;
    11b 24 1024 128 128 128 65536
""")  # fmt: skip
_family("t5-v1.1", _T5 | {"activation": "geglu_tanh", "tied": False, "dropout": 0.0, "logit_scale": 1.0}, """
    small 8 512 6 6 64 1024; base 12 768 12 12 64 2048; large 24 1024 16 16 64 2816; xl 24 2048 32 32 64 5120;
    xxl 24 4096 64 64 64 10240
""")  # fmt: skip

# Touvron et al. 2023, table 1; Llama team 2024, table 3; the models' cards for what came later.
_LLAMA2 = {"vocab_size": 32000, "context": 4096, "tied": False}
_LLAMA3 = _LLAMA2 | {"vocab_size": 128256, "context": 8192, "rope_base": 500000.0}
_family("llama2", _LLAMA2, """
    7b 32 4096 32 32 128 11008; 13b 40 5120 40 40 128 13824; 70b 80 8192 64 8 128 28672
""")  # fmt: skip
_family("llama3", _LLAMA3, "8b 32 4096 32 8 128 14336; 70b 80 8192 64 8 128 28672")
_LONG = _LLAMA3 | {"context": 131072, "rope_scaling": RopeScaling("llama3", 8.0)}
_family("llama3.1", _LONG, "405b 126 16384 128 8 128 53248")
_LONG |= {"rope_scaling": RopeScaling("llama3", 32.0), "tied": True}
_family("llama3.2", _LONG, "1b 16 2048 32 8 64 8192; 3b 28 3072 24 8 128 8192")

# Ben Allal et al. 2025: Llama's architecture.
_family("smollm2", {"vocab_size": 49152, "context": 8192, "rope_base": 100000.0}, """
    135m 30 576 9 3 64 1536; 360m 32 960 15 5 64 2560; 1.7b 24 2048 32 32 64 8192 rope_base=130000
""")  # fmt: skip

# Jiang et al. 2023, table 1; Jiang et al. 2024, table 1.
_MISTRAL = _LLAMA2 | {"context": 32768}
_family("mistral", _MISTRAL | {"window": 4096}, "7b 32 4096 32 8 128 14336")
_MIXTRAL = _MISTRAL | {"rope_base": 1e6, "experts": Experts(8, 2, balance_weight=0.02)}
_family("mixtral", _MIXTRAL, "8x7b 32 4096 32 8 128 14336; 8x22b 56 6144 48 8 128 16384 context=65536")

# Qwen team 2024 and 2025, table 1 of each.
_QWEN = {"vocab_size": 151936, "context": 32768, "rope_base": 1e6, "norm_eps": 1e-6}
_family("qwen2.5", _QWEN | {"qkv_bias": True}, """
    0.5b 24 896 14 2 64 4864; 1.5b 28 1536 12 2 128 8960; 3b 36 2048 16 2 128 11008;
    7b 28 3584 28 4 128 18944 tied=false vocab_size=152064 context=131072;
    14b 48 5120 40 8 128 13824 tied=false vocab_size=152064 context=131072 norm_eps=1e-5;
    32b 64 5120 40 8 128 27648 tied=false vocab_size=152064 context=131072 norm_eps=1e-5;
    72b 80 8192 64 8 128 29568 tied=false vocab_size=152064 context=131072 norm_eps=1e-5
""")  # fmt: skip
_QWEN3 = _QWEN | {"context": 40960, "qk_norm": "head"}
_family("qwen3", _QWEN3, """
    0.6b 28 1024 16 8 128 3072; 1.7b 28 2048 16 8 128 6144; 4b 36 2560 32 8 128 9728;
    8b 36 4096 32 8 128 12288 tied=false; 14b 40 5120 40 8 128 17408 tied=false;
    32b 64 5120 64 8 128 25600 tied=false
""")  # fmt: skip
_QWEN3 |= {"tied": False, "experts": Experts(128, 8, balance_weight=0.001)}
_family("qwen3", _QWEN3, "30b-a3b 48 2048 32 4 128 768; 235b-a22b 94 4096 64 4 128 1536")

# Gemma team 2024, table 1; Gemma team 2025, table 1 (text only). Scores are scaled by width / heads in the 27b.
_GEMMA2 = {"activation": "geglu_tanh", "norm_placement": "sandwich", "embedding_scale": "width", "norm_eps": 1e-6}
_GEMMA3 = _GEMMA2 | {"vocab_size": 262208, "context": 131072, "window": 1024, "full_every": 6, "qk_norm": "head"}
_GEMMA3 |= {"rope_base": 1e6, "local_rope_base": 10000.0, "rope_scaling": RopeScaling("linear", 8.0, 16384)}
_GEMMA2 |= {"vocab_size": 256000, "context": 8192, "window": 4096, "full_every": 2}
_family("gemma2", _GEMMA2 | {"attention_softcap": 50.0, "logit_softcap": 30.0}, f"""
    2b 26 2304 8 4 256 9216; 9b 42 3584 16 8 256 14336; 27b 46 4608 32 16 128 36864 attention_scale={144**-0.5}
""")  # fmt: skip
_family("gemma3", _GEMMA3, f"""
    270m 18 640 4 1 256 2048 window=512 context=32768 vocab_size=262144 rope_scaling=null;
    1b 26 1152 4 1 256 6912 window=512 context=32768 vocab_size=262144 rope_scaling=null; 4b 34 2560 8 4 256 10240;
    12b 48 3840 16 8 256 15360; 27b 62 5376 32 16 128 21504 attention_scale={168**-0.5}
""")  # fmt: skip

# OLMo team 2025, table 1.
_OLMO2 = {"vocab_size": 100352, "context": 4096, "rope_base": 500000.0, "norm_eps": 1e-6, "tied": False}
_family("olmo2", _OLMO2 | {"norm_placement": "output", "qk_norm": "full"}, """
    1b 16 2048 16 16 128 8192; 7b 32 4096 32 32 128 11008; 13b 40 5120 40 40 128 13824; 32b 64 5120 40 8 128 27648
""")  # fmt: skip

# DeepSeek-AI 2024: V2 (appendix B for Lite), V3 (section 4.2, with the block for the token after the next, which is not
# among the 671b). YaRN scales their scores, not their angles: by (0.1 m ln 40 + 1) squared, with m 0.707 and 1.
_DEEPSEEK: dict[str, Any] = {"context": 163840, "norm_eps": 1e-6, "tied": False}
_DEEPSEEK |= {"rope_scaling": RopeScaling("yarn", 40.0, 4096, attention_factor=1.0)}
_LITE = _DEEPSEEK | {"vocab_size": 102400, "latent": Latent(), "ffn_width": 10944}
_LITE |= {"experts": Experts(64, 6, 1408, shared=2816, normalize=False, balance_weight=0.001, dense_layers=1)}
_LITE |= {"attention_scale": 192**-0.5 * (0.0707 * math.log(40) + 1) ** 2}
_family("deepseek-v2", _LITE, "lite 27 2048 16")
_V3 = _DEEPSEEK | {"vocab_size": 129280, "latent": Latent(query_rank=1536), "ffn_width": 18432, "predict_ahead": 1}
_GROUPS: dict[str, Any] = {"groups": 8, "active_groups": 4, "group_score": "top2"}
_CHOICE: dict[str, Any] = {"router": "sigmoid", "scale": 2.5, "balance": "bias", "balance_weight": 0.001}
_V3 |= {"experts": Experts(256, 8, 2048, shared=2048, dense_layers=3, **_GROUPS, **_CHOICE)}
_V3 |= {"attention_scale": 192**-0.5 * (0.1 * math.log(40) + 1) ** 2}
_family("deepseek", _V3, "v3 61 7168 128")
