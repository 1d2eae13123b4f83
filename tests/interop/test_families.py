"""Every published family against transformers: what we write it opens with our logits, and what it writes we open."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
import transformers
from safetensors.torch import load_file
from torch import Tensor

from fromzero.inference import KVCache
from fromzero.interop import load_any, save_model
from fromzero.model import ModelConfig, Transformer
from fromzero.model.config import Experts, Latent, RopeScaling
from fromzero.model.encoder_decoder import EncoderDecoder
from fromzero.model.heads import HeadConfig, HeadedTransformer
from tests.conftest import Chain

LLAMA = ModelConfig(
    vocab_size=320, context=64, layers=3, width=32, heads=4, kv_heads=2, ffn_width=48, tied=False, rope_base=500.0
)
GPT2 = ModelConfig(
    vocab_size=320, context=64, layers=3, width=32, heads=4, positions="learned", norm="layer", bias=True,
    activation="gelu_tanh",
)  # fmt: skip
GEMMA2 = replace(
    LLAMA, head_width=16, tied=True, window=6, full_every=2, norm_placement="sandwich", activation="geglu_tanh",
    attention_softcap=2.0, logit_softcap=3.0, attention_scale=24**-0.5, embedding_scale=32**0.5,
)  # fmt: skip
GEMMA3 = replace(
    GEMMA2, full_every=3, layers=4, attention_softcap=None, logit_softcap=None, qk_norm="head", local_rope_base=50.0
)
MIXTURE = Experts(count=6, active=2, width=20)
DEEPSEEK2 = replace(
    LLAMA, norm_eps=1e-6, kv_heads=None, latent=Latent(kv_rank=12, nope_width=10, rope_width=6, value_width=7),
    experts=replace(MIXTURE, shared=40, dense_layers=1, normalize=False, scale=3.0),
)  # fmt: skip
DEEPSEEK3 = replace(
    DEEPSEEK2, latent=Latent(kv_rank=12, query_rank=14, nope_width=10, rope_width=6, value_width=7),
    experts=Experts(
        count=6, active=2, width=20, shared=20, router="sigmoid", balance="bias", scale=2.5, groups=3, active_groups=2,
        group_score="top2", dense_layers=2,
    ),
)  # fmt: skip
BERT = replace(
    GPT2, kind="encoder", activation="gelu", norm_placement="post", embedding_norm=True, token_types=2, norm_eps=1e-12
)
T5 = ModelConfig(
    vocab_size=320, context=64, layers=2, encoder_layers=3, width=32, heads=4, head_width=6, kind="encoder_decoder",
    positions="relative", activation="relu", relative_buckets=8, relative_distance=12, attention_scale=1.0,
    logit_scale=32**-0.5,
)  # fmt: skip
YARN = RopeScaling("yarn", 4.0, 16, beta_fast=4.0, beta_slow=0.5)
# DeepSeek scales its scores by the square of YaRN's growth, with a weight of 0.7 here.
MSCALE = (16**-0.5) * (0.1 * 0.7 * 1.3862943611198906 + 1) ** 2
DECODERS = {
    "llama": ("llama", LLAMA),
    "llama tied": ("llama", replace(LLAMA, tied=True, kv_heads=1, head_width=16)),
    "llama biases": ("llama", replace(LLAMA, bias=True)),
    "llama 3": ("llama", replace(LLAMA, rope_scaling=RopeScaling("llama3", 8.0, 16, 1.0, 4.0))),
    "llama linear": ("llama", replace(LLAMA, rope_scaling=RopeScaling("linear", 4.0))),
    "llama yarn": ("llama", replace(LLAMA, rope_scaling=YARN)),
    "llama yarn 2": ("llama", replace(LLAMA, rope_scaling=replace(YARN, attention_factor=0.8))),
    "gpt2": ("gpt2", GPT2),
    "gpt2 untied": ("gpt2", replace(GPT2, tied=False, ffn_width=40, activation="gelu")),
    "gpt": ("openai-gpt", replace(GPT2, norm_placement="post")),
    "mistral": ("mistral", replace(LLAMA, window=6)),
    "mixtral": ("mixtral", replace(LLAMA, experts=replace(MIXTURE, width=None))),
    "mixtral window": ("mixtral", replace(LLAMA, experts=replace(MIXTURE, width=None), window=6)),
    "qwen2": ("qwen2", replace(LLAMA, qkv_bias=True, tied=True)),
    "qwen3": ("qwen3", replace(LLAMA, qk_norm="head", head_width=16)),
    "qwen2 moe": (
        "qwen2_moe",
        replace(LLAMA, qkv_bias=True, experts=replace(MIXTURE, shared=24, shared_gate=True, normalize=False)),
    ),
    "qwen3 moe": ("qwen3_moe", replace(LLAMA, qk_norm="head", experts=MIXTURE)),
    "qwen3 moe plain": ("qwen3_moe", replace(LLAMA, qk_norm="head", experts=replace(MIXTURE, normalize=False))),
    "gemma2": ("gemma2", GEMMA2),
    "gemma3": ("gemma3_text", GEMMA3),
    "gemma3 far": ("gemma3_text", replace(GEMMA3, rope_scaling=RopeScaling("linear", 8.0), logit_softcap=2.0)),
    "olmo2": ("olmo2", replace(LLAMA, norm_placement="output", qk_norm="full")),
    "deepseek2": ("deepseek_v2", DEEPSEEK2),
    "deepseek2 groups": (
        "deepseek_v2",
        replace(
            DEEPSEEK2, latent=DEEPSEEK3.latent, experts=replace(DEEPSEEK2.experts, groups=3, active_groups=2),  # type: ignore[type-var]
            rope_scaling=replace(YARN, attention_factor=1.0), attention_scale=MSCALE,
        ),
    ),
    "deepseek3": ("deepseek_v3", DEEPSEEK3),
    "deepseek3 far": (
        "deepseek_v3", replace(DEEPSEEK3, rope_scaling=replace(YARN, attention_factor=1.0), attention_scale=MSCALE)
    ),
}  # fmt: skip
BERTS = {
    "BertModel": HeadConfig(pooler=True),
    "BertForMaskedLM": HeadConfig(masked=True),
    "BertForPreTraining": HeadConfig(masked=True, pooler=True, classes=2),
    "BertForSequenceClassification": HeadConfig(pooler=True, classes=3),
    "BertForTokenClassification": HeadConfig(classes=5, per_token=True),
}
T5S = {"t5": T5, "t5 1.1": replace(T5, activation="geglu_tanh", tied=False, logit_scale=1.0)}
SPECIAL = {"bos": 317, "eos": 319}
ids = torch.randint(0, 317, (2, 20), generator=torch.Generator().manual_seed(0))


def random(model: Any) -> Any:
    """Random values everywhere, norms, biases and buffers too, so that no tensor can be mistaken for another."""
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for tensor in model.state_dict().values():
            tensor.copy_(torch.randn(tensor.shape, generator=generator) * 0.2 + 0.1)
    return model.eval()


def assert_near(found: Tensor, wanted: Tensor) -> None:
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=2e-5)


def round_trip(model: Any, kind: str, folder: Path, chain: Chain) -> tuple[Any, Any]:
    """Ours -> theirs -> ours -> theirs, exact all the way; returns transformers' model and ours that it wrote."""
    first, second, third = folder / "1", folder / "2", folder / "3"
    for place in (first, second, third):
        place.mkdir()
    assert save_model(model, first, chain.tokenizer_folder, SPECIAL) == kind
    auto = transformers.AutoConfig.from_pretrained(first).architectures[0]
    theirs, report = getattr(transformers, auto).from_pretrained(
        first, dtype=torch.float32, attn_implementation="eager", output_loading_info=True
    )
    assert not any(report.values()), report
    theirs.eval().save_pretrained(second)
    ours = load_any(second).eval()
    save_model(ours, third, chain.tokenizer_folder, SPECIAL)
    wrote, again = load_file(second / "model.safetensors"), load_file(third / "model.safetensors")
    assert wrote.keys() == again.keys()
    for name, tensor in wrote.items():
        # Gemma's norms are theirs plus 1, which takes the last bits of fp32 (and none of bf16, as they are published).
        shifted = kind.startswith("gemma") and name.endswith("norm.weight")
        assert torch.equal(tensor, again[name]) or (shifted and (tensor - again[name]).abs().max() < 1e-7), name
    for name, tensor in model.state_dict().items():
        torch.testing.assert_close(ours.state_dict()[name], tensor, rtol=0, atol=0 if kind[:3] != "gem" else 1e-7)
    return theirs, ours


@pytest.mark.parametrize(("kind", "config"), DECODERS.values(), ids=DECODERS.keys())
@torch.no_grad()
def test_a_decoder_is_the_same_there_and_here(kind: str, config: ModelConfig, tmp_path: Path, chain: Chain) -> None:
    model = random(Transformer(config))
    theirs, ours = round_trip(model, kind, tmp_path, chain)
    wanted = theirs(ids).logits
    assert_near(model(ids), wanted)
    assert_near(ours(ids), wanted)
    cache = KVCache(config, batch=2)
    assert_near(torch.cat([ours(part, cache) for part in (ids[:, :9], ids[:, 9:10], ids[:, 10:])], 1), wanted)
    for keep_BT in (torch.arange(20) >= torch.tensor([[0], [7]]), torch.arange(20) < torch.tensor([[20], [13]])):
        positions_BT = (keep_BT.long().cumsum(1) - 1).clamp(min=0)
        padded = theirs(ids, attention_mask=keep_BT.long(), position_ids=positions_BT).logits
        assert_near(ours(ids, keep_BT=keep_BT)[keep_BT], padded[keep_BT])


@pytest.mark.parametrize(("name", "heads"), BERTS.items(), ids=BERTS.keys())
@torch.no_grad()
def test_a_bert_is_the_same_there_and_here(name: str, heads: HeadConfig, tmp_path: Path, chain: Chain) -> None:
    model = random(HeadedTransformer(replace(BERT, head_bias=heads.masked), heads))
    theirs, ours = round_trip(model, "bert", tmp_path, chain)
    assert type(theirs).__name__ == name
    types_BT = (torch.arange(20) > 8).long().expand(2, 20)
    for keep_BT in (torch.ones(2, 20, dtype=torch.bool), torch.arange(20) < torch.tensor([[20], [13]])):
        wanted = theirs(ids, attention_mask=keep_BT.long(), token_type_ids=types_BT)
        found = ours.outputs(ids, keep_BT=keep_BT, types_BT=types_BT)
        if heads.masked:
            logits = wanted.prediction_logits if heads.classes else wanted.logits
            assert_near(ours(ids, keep_BT=keep_BT, types_BT=types_BT)[keep_BT], logits[keep_BT])
        if heads.classes:
            classes = wanted.seq_relationship_logits if heads.masked else wanted.logits
            chosen = keep_BT if heads.per_token else slice(None)
            assert_near(found.classes[chosen], classes[chosen])
        if name == "BertModel":
            assert_near(found.hidden_BTD[keep_BT], wanted.last_hidden_state[keep_BT])
            assert_near(found.pooled_BD, wanted.pooler_output)


@pytest.mark.parametrize("config", T5S.values(), ids=T5S.keys())
@torch.no_grad()
def test_a_t5_is_the_same_there_and_here(config: ModelConfig, tmp_path: Path, chain: Chain) -> None:
    theirs, ours = round_trip(random(EncoderDecoder(config)), "t5", tmp_path, chain)
    targets, keep_BS = ids[:, :9], torch.arange(20) < torch.tensor([[20], [13]])
    wanted = theirs(input_ids=ids, decoder_input_ids=targets, attention_mask=keep_BS.long()).logits
    assert_near(ours(ids, targets, keep_BS), wanted)
    cache, memory = KVCache(config, batch=2), ours.encode(ids, keep_BS)
    steps = [ours.decode(targets[:, step : step + 1], cache, memory=memory) for step in range(9)]
    assert_near(torch.cat(steps, 1), wanted)
