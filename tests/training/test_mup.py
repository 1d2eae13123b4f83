"""muP: what does not depend on the width, what each optimizer is told, and that exported weights need no factors."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from bench.coordinates import coordinates

from fromzero.errors import UserError
from fromzero.interop import load_model
from fromzero.model import ModelConfig, Transformer
from fromzero.model.config import Experts, Latent
from fromzero.training import PretrainConfig, TrainConfig, pretrain
from fromzero.training.mup import fold, parametrized, scale_weights
from fromzero.training.optimizers import make_optimizer
from tests.conftest import Chain

SHAPE = ModelConfig(vocab_size=64, context=16, layers=2, width=32, heads=2)
MUP = TrainConfig(parametrization="mup", base_width=32, weight_decay=0.0, batch_size=4)
RATES: dict[Any, float] = {"adamw": 0.01, "sgd": 0.3, "lion": 0.003, "muon": 0.01, "adafactor": 0.05}


def growth(train: TrainConfig) -> dict[str, float]:
    """How much larger activations are at eight times the width, after four steps: for each kind of layer."""
    found = coordinates(SHAPE, train, (32, 256), 4)
    return {kind: sizes[256][-1] / sizes[32][-1] for kind, sizes in found.items()}


@pytest.mark.parametrize("optimizer", RATES)
def test_activations_do_not_depend_on_the_width_and_without_mup_they_do(optimizer: Any) -> None:
    train = replace(MUP, optimizer=optimizer, learning_rate=RATES[optimizer])
    with_it = growth(train)
    assert with_it.keys() == {"embedding", "attention", "feed-forward", "logits"}
    limit = 6.0 if optimizer == "sgd" else 2.0  # whose steps are as large as gradients, and vary as they do
    assert all(1 / limit < factor < limit for factor in with_it.values()), with_it
    without = growth(replace(train, parametrization="standard"))
    assert max(without.values()) > 4, without
    assert max(without.values()) > 2 * max(with_it.values())


def test_coordinates_have_a_value_for_each_step() -> None:
    found = coordinates(SHAPE, MUP, (32, 64), 3)
    assert all(len(values) == 4 and min(values) > 0 for sizes in found.values() for values in sizes.values())


def test_each_kind_of_weight_has_its_rate_deviation_and_decay() -> None:
    shape = replace(SHAPE, width=128, tied=False, experts=Experts(count=4, width=32))
    train = replace(MUP, learning_rate=1.0, weight_decay=0.1)
    plain, model = Transformer(shape), Transformer(shape)
    scale_weights(model, 128, train)
    m = 4
    kinds = {
        "blocks.0.attention.query.weight": (m**-0.5, 1 / m, 1.0),
        "blocks.1.feed_forward.experts.down": (m**-0.5, 1 / m, 1.0),
        "blocks.0.feed_forward.router.weight": (1 / m, 1 / m, 1 / m),
        "blocks.0.attention_norm.weight": (1.0, 1.0, m),
        "token_embedding.weight": (1.0, 1.0, m),
        "head.weight": (1.0, 1.0, m),
    }
    groups = {
        kind: make_optimizer(model.named_parameters(), replace(train, optimizer=kind), 128).param_groups
        for kind in ("adamw", "sgd")
    }  # type: ignore[arg-type]
    for name, (deviation, adam, sgd) in kinds.items():
        parameter = model.get_parameter(name)
        torch.testing.assert_close(parameter, plain.get_parameter(name) * deviation)
        own = {
            kind: next(g for g in found if any(p is parameter for p in g["params"])) for kind, found in groups.items()
        }
        assert (own["adamw"]["lr"], own["sgd"]["lr"]) == (adam, sgd)
        assert own["adamw"]["lr"] * own["adamw"]["weight_decay"] == (0.1 if parameter.dim() > 1 else 0)


@pytest.mark.parametrize(
    "changes",
    [
        {"head_width": 16}, {"qk_norm": "head"}, {"qk_norm": "full", "tied": False}, {"bias": True, "norm": "layer"},
        {"attention_scale": 0.3, "logit_scale": 0.5, "attention_softcap": 5.0}, {"head_bias": True},
        {"positions": "alibi"}, {"positions": "relative"},
        {"latent": Latent(8, 8, 8, 4, 8)}, {"latent": Latent(8, None, 8, 4, 8)}, {"predict_ahead": 1}, {"sinks": True},
    ],
)  # fmt: skip
def test_folded_weights_say_the_same_without_factors(changes: dict[str, Any]) -> None:
    shape = replace(SHAPE, width=64, **changes)
    model = Transformer(parametrized(shape, MUP), 3).eval()
    for parameter in model.parameters():  # biases and norms that are no longer what they were
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    ids_BT = torch.randint(64, (2, 16), generator=torch.Generator().manual_seed(0))
    with torch.no_grad():
        before = model(ids_BT)
        fold(model, shape)
        plain = Transformer(shape).eval()
        plain.load_state_dict(model.state_dict())
        torch.testing.assert_close(plain(ids_BT), before, atol=1e-5, rtol=1e-4)
        torch.testing.assert_close(model(ids_BT), before, atol=1e-5, rtol=1e-4)
    assert model.config == shape


def test_shapes_that_cannot_take_up_the_factors_are_refused() -> None:
    for changes in ({"kind": "encoder"}, {"norm_placement": "post"}):
        with pytest.raises(UserError, match="mup"):
            parametrized(replace(SHAPE, **changes), MUP)  # type: ignore[arg-type]
    assert parametrized(SHAPE, TrainConfig()) == SHAPE


def test_a_model_trained_with_mup_opens_in_transformers(chain: Chain, tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers")
    shape = ModelConfig(context=32, layers=2, width=64, heads=2)
    train = replace(MUP, steps=20, warmup_steps=2, learning_rate=0.01, dtype="float32", device="cpu")
    made = pretrain(PretrainConfig(chain.tokens, tmp_path / "out", shape, train, sample_points=0))
    assert made.manifest["summary"]["architecture"] == "llama"
    theirs = transformers.AutoModelForCausalLM.from_pretrained(made.path)
    ids_BT = torch.randint(320, (2, 16), generator=torch.Generator().manual_seed(0))
    ours = load_model(made.path)
    with torch.no_grad():
        torch.testing.assert_close(ours(ids_BT), theirs(ids_BT).logits, atol=1e-4, rtol=1e-4)
