"""Heads: what they make, pooling with padding, what learns; tests/interop compares them to transformers' BERT."""

from dataclasses import replace

import torch

from fromzero.model import ModelConfig, Transformer, functions
from fromzero.model.adapters import AdapterConfig, adapters, add_adapters
from fromzero.model.heads import HeadConfig, HeadedTransformer, MaskedHead, pool
from fromzero.model.linear_loss import linear_cross_entropy

DECODER = ModelConfig(vocab_size=50, context=16, layers=2, width=24, heads=4)
BERT = replace(
    DECODER, kind="encoder", positions="learned", norm="layer", activation="gelu", bias=True, norm_eps=1e-12,
    token_types=2, embedding_norm=True, norm_placement="post", head_bias=True,
)  # fmt: skip
ids = torch.randint(5, 50, (3, 11), generator=torch.Generator().manual_seed(0))
types = (torch.arange(11) > 5).long().expand(3, -1)
keep = torch.arange(11) < torch.tensor([[11], [7], [2]])


def test_pooling_passes_padding_over_on_either_side() -> None:
    x = torch.randn(2, 5, 4, generator=torch.Generator().manual_seed(0))
    for real in (slice(0, 3), slice(2, 5)):
        mask = torch.zeros(2, 5, dtype=torch.bool)
        mask[:, real] = True
        torch.testing.assert_close(pool(x, mask, "first"), x[:, real][:, 0])
        torch.testing.assert_close(pool(x, mask, "last"), x[:, real][:, -1])
        torch.testing.assert_close(pool(x, mask, "mean"), x[:, real].mean(1))
    torch.testing.assert_close(pool(x, None, "mean"), x.mean(1))
    torch.testing.assert_close(pool(x, None, "last"), x[:, -1])


def test_classes_of_a_decoder_are_those_of_its_last_real_token() -> None:
    model = HeadedTransformer(DECODER, HeadConfig(pooling="last", classes=3)).eval()
    short = model.outputs(ids[:1, :7]).classes
    right = model.outputs(ids[:1], keep_BT=torch.arange(11)[None] < 7).classes
    left = model.outputs(torch.cat([ids[:1, 7:], ids[:1, :7]], 1), keep_BT=torch.arange(11)[None] > 3).classes
    torch.testing.assert_close(right, short)
    torch.testing.assert_close(left, short)


def test_every_weight_learns_from_both_losses_of_bert() -> None:
    model = HeadedTransformer(BERT, HeadConfig(masked=True, pooler=True, classes=2))
    outputs = model.outputs(ids, types_BT=types, keep_BT=keep)
    assert outputs.classes is not None
    targets = torch.where(torch.rand(ids.shape, generator=torch.Generator().manual_seed(0)) < 0.3, ids, -100)
    logits = model.head(outputs.hidden_BTD, model.head_weight)
    loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), targets.flatten())
    (loss + torch.nn.functional.cross_entropy(outputs.classes, torch.tensor([0, 1, 0]))).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert name.endswith("key.bias") or parameter.grad.abs().sum() > 0, name


def test_new_heads_share_the_body_and_its_losses() -> None:
    body = Transformer(DECODER, seed=3)
    model = HeadedTransformer.on(body, HeadConfig(pooling="last", classes=4), seed=1)
    assert model.token_embedding.weight is body.token_embedding.weight
    torch.testing.assert_close(model(ids), body(ids))
    loss = linear_cross_entropy(model.hidden(ids).flatten(0, 1), model.head_weight, ids.flatten())
    assert loss.isfinite()
    assert model.classifier is not None
    assert model.classifier.weight.device.type == "cpu"
    again = HeadedTransformer.on(body, HeadConfig(pooling="last", classes=4), seed=1).classifier
    assert again is not None
    assert torch.equal(again.weight, model.classifier.weight)
    assert 0.01 < model.classifier.weight.std() < 0.03


def test_heads_go_on_a_model_with_adapters() -> None:
    body = Transformer(DECODER, seed=3)
    names = add_adapters(body, AdapterConfig(rank=2))
    for _, module in adapters(body):
        torch.nn.init.normal_(module.up.weight)
    model = HeadedTransformer.on(body, HeadConfig(classes=2))
    assert [name for name, _ in adapters(model)] == names
    torch.testing.assert_close(model(ids), body(ids))
    learned = {name for name, parameter in model.named_parameters() if parameter.requires_grad}
    assert {"classifier.weight", "classifier.bias"} < learned
    assert "token_embedding.weight" not in learned


def test_the_masked_head_is_norm_of_activation_of_dense() -> None:
    head = MaskedHead(BERT)
    for parameter in head.parameters():
        torch.nn.init.normal_(parameter, generator=torch.Generator().manual_seed(0))
    state = head.state_dict()
    x = torch.randn(2, 3, 24, generator=torch.Generator().manual_seed(1))
    y = functions.gelu(x @ state["dense.weight"].T + state["dense.bias"])
    plain = functions.layer_norm(y, state["norm.weight"], state["norm.bias"], 1e-12)
    torch.testing.assert_close(head(x), plain, atol=1e-4, rtol=1e-4)
