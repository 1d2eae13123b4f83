"""Encoder-decoders: equal to transformers' T5, with and without cache and padding; the first Transformer; prefixes."""

from dataclasses import replace

import pytest
import torch

from fromzero.dataset.pairs import pair_batch
from fromzero.errors import UserError
from fromzero.inference import KVCache
from fromzero.model import EncoderDecoder, ModelConfig, Transformer, functions
from tests.t5_peer import T5, t5

VASWANI = ModelConfig(
    vocab_size=50, context=20, layers=2, width=24, heads=4, kind="encoder_decoder", positions="sinusoidal",
    norm="layer", norm_placement="post", activation="relu", bias=True, qkv_bias=False, embedding_scale=24**0.5,
)  # fmt: skip


def drawn(rows: int, length: int, seed: int) -> torch.Tensor:
    return torch.randint(2, 50, (rows, length), generator=torch.Generator().manual_seed(seed))


source, inputs = drawn(3, 9, 0), drawn(3, 6, 1)
keep = torch.arange(9) < torch.tensor([[9], [4], [1]])


@pytest.mark.parametrize("version", ["1.0", "1.1"])
@pytest.mark.parametrize("padded", [False, True])
def test_t5_is_equal_whole_and_by_cache(version: str, padded: bool) -> None:
    peer, model = t5(version)
    mask = keep if padded else None
    theirs = peer(input_ids=source, attention_mask=mask, decoder_input_ids=inputs)
    torch.testing.assert_close(model(source, inputs, mask), theirs.logits, atol=1e-4, rtol=1e-5)
    memory = model.encode(source, mask)
    real = keep if padded else torch.ones_like(keep)
    torch.testing.assert_close(memory.states_BSD[real], theirs.encoder_last_hidden_state[real], atol=1e-4, rtol=1e-5)
    cache = KVCache(model.config, batch=3)
    steps = [model.decode(part, cache, memory=memory) for part in (inputs[:, :3], inputs[:, 3:4], inputs[:, 4:])]
    torch.testing.assert_close(torch.cat(steps, 1), theirs.logits, atol=1e-4, rtol=1e-5)
    assert cache.position == 6


def test_shifted_targets_are_teacher_forcing_as_t5_does_it() -> None:
    peer, model = t5("1.0")
    pairs = [(source[0].numpy(), inputs[0].numpy()), (source[1, :4].numpy(), inputs[1, :2].numpy())]
    sources, mask, shifted, targets = map(torch.from_numpy, pair_batch(pairs, start_id=0, end_id=1, fill_id=0))
    theirs = peer(input_ids=sources, attention_mask=mask, labels=targets)
    loss = functions.cross_entropy(model(sources, shifted, mask), targets).sum() / (targets != -100).sum()
    torch.testing.assert_close(loss, theirs.loss, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("config", [VASWANI, T5, replace(VASWANI, positions="learned", norm_placement="pre")])
def test_every_weight_learns_and_sources_are_padded_without_a_trace(config: ModelConfig) -> None:
    model = EncoderDecoder(config)
    logits = model(source, inputs, keep)
    torch.testing.assert_close(model(source[1:2, :4], inputs[1:2]), logits[1:2])
    torch.nn.functional.cross_entropy(logits.flatten(0, 1), inputs.flatten()).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert name.endswith("key.bias") or parameter.grad.abs().sum() > 0, name


def test_no_target_sees_what_comes_after_it_but_all_see_the_whole_source() -> None:
    model = EncoderDecoder(VASWANI)
    logits = model(source, inputs)
    later, other = inputs.clone(), source.clone()
    later[:, 4:] += 1
    other[:, -1] += 1
    torch.testing.assert_close(model(source, later)[:, :4], logits[:, :4])
    assert ((model(other, inputs) - logits).abs().amax(-1) > 1e-6).all()


def test_the_original_transformer_by_hand() -> None:
    """One layer each, post-norm, written with torch's own layers (Vaswani et al. 2017, figure 1)."""
    config = replace(VASWANI, layers=1, qkv_bias=True, norm_eps=1e-5)
    model, width = EncoderDecoder(config, seed=5), config.width
    theirs = torch.nn.Transformer(width, 4, 1, 1, config.ffn_size, dropout=0.0, batch_first=True)
    theirs.encoder.norm = theirs.decoder.norm = None  # the paper has none at the end
    state = model.state_dict()
    names = {"attention": "self_attn", "cross": "multihead_attn", "attention_norm": "norm1", "cross_norm": "norm2"}
    for side, last in (("encoder", "norm2"), ("decoder", "norm3")):
        names |= {"feed_forward.up": "linear1", "feed_forward.down": "linear2", "feed_forward_norm": last}
        for ours, name in names.items():
            block, layer = f"{side}.blocks.0.{ours}.", getattr(theirs, side).layers[0]
            if ours.startswith("cross") and side == "encoder":
                continue
            for kind in ("weight", "bias"):
                target = layer.get_submodule(name)
                if ours in ("attention", "cross"):
                    parts = [state[f"{block}{part}.{kind}"] for part in ("query", "key", "value")]
                    getattr(target, f"in_proj_{kind}").data.copy_(torch.cat(parts))
                    getattr(target.out_proj, kind).data.copy_(state[f"{block}output.{kind}"])
                else:
                    getattr(target, kind).data.copy_(state[block + kind])
    place = torch.arange(20.0)[:, None] / 10000 ** (torch.arange(0, width, 2) / width)
    waves = torch.stack([place.sin(), place.cos()], -1).flatten(1)
    table = state["token_embedding.weight"]
    embedded = [table[ids] * width**0.5 + waves[: ids.shape[1]] for ids in (source, inputs)]
    future = torch.nn.Transformer.generate_square_subsequent_mask(6)
    hidden = theirs(*embedded, tgt_mask=future, src_key_padding_mask=~keep, memory_key_padding_mask=~keep)
    torch.testing.assert_close(model(source, inputs, keep), hidden @ table.T, atol=1e-5, rtol=1e-5)


def test_a_prefix_sees_itself_and_generation_goes_on_from_it() -> None:
    model = Transformer(ModelConfig(vocab_size=50, context=20, layers=2, width=24, heads=4))
    ids, prefix = drawn(2, 10, 3), torch.tensor([6, 6])
    whole = model(ids, prefix_B=prefix)
    changed = ids.clone()
    changed[:, 5] += 1
    assert ((model(changed, prefix_B=prefix) - whole).abs().amax(-1) > 1e-6).all()
    changed = ids.clone()
    changed[:, 6] += 1
    torch.testing.assert_close(model(changed, prefix_B=prefix)[:, :6], whole[:, :6])
    cache = KVCache(model.config, batch=2)
    parts = [model(ids[:, :6], cache, prefix_B=prefix), model(ids[:, 6:7], cache), model(ids[:, 7:], cache)]
    torch.testing.assert_close(torch.cat(parts, 1), whole)


def test_dtype_and_wrong_kinds() -> None:
    model = EncoderDecoder(T5, compute_dtype=torch.bfloat16)
    assert model(source, inputs, keep).dtype == torch.bfloat16
    with pytest.raises(UserError, match="kind encoder_decoder"):
        EncoderDecoder(replace(T5, kind="decoder"))
    with pytest.raises(UserError, match="context of 32"):
        model(source, drawn(3, 33, 0))
