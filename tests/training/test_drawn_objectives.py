"""What each objective makes of a batch, and that documents in one row know nothing of each other."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from fromzero.errors import UserError
from fromzero.model import EncoderDecoder, ModelConfig, Transformer, documents, functions
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary
from fromzero.training import TrainConfig
from fromzero.training.objective import NextToken, ahead_loss, counted, document_marks
from fromzero.training.objectives import Masked, Prefix, Spans, make_objective, objective_kind, row_length

EOT, T, NONE = 1, 24, -100
SMALL: dict[str, Any] = {"vocab_size": 64, "context": T, "layers": 2, "width": 32, "heads": 4}
SHAPES: dict[str, dict[str, Any]] = {
    "llama": {"kv_heads": 2},
    "gpt2": {"positions": "learned", "norm": "layer", "bias": True, "activation": "gelu"},
    "sinusoidal": {"positions": "sinusoidal"},
    "alibi": {"positions": "alibi"},
    "relative": {"positions": "relative"},
    "window": {"window": 5, "full_every": 2},
    "capped": {"attention_softcap": 5.0},
    "sinks": {"sinks": True},
    "encoder": {"kind": "encoder"},
}


def batch() -> tuple[Tensor, Tensor]:
    """Two rows of documents of 7, 9, 8 and of 10, 3, 11 ids; the ids of no document are those of another's."""
    ids = torch.randint(2, 64, (2, T + 1), generator=torch.Generator().manual_seed(0))
    for row, starts in enumerate([(0, 7, 16, 24), (0, 10, 13, 24)]):
        ids[row, list(starts)] = EOT
    return ids[:, :-1].contiguous(), ids[:, 1:].contiguous()


def logits(model: Transformer, ids: Tensor, targets: Tensor) -> Tensor:
    given = NextToken(model, EOT).prepare(ids, targets, 0)
    inputs: dict[str, Any] = {name: tensor for name, tensor in given.items() if name != "targets_BT"}
    found: Tensor = model.eval()(**inputs)
    return found


@pytest.mark.parametrize("alone_from", [1, 64])  # each document by a call of its own, or with a mask
@pytest.mark.parametrize("name", SHAPES)
def test_documents_know_nothing_of_each_other(name: str, alone_from: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(documents, "SHORTEST", alone_from)
    model = Transformer(ModelConfig(**SMALL | SHAPES[name]))
    ids, targets = batch()
    found = logits(model, ids, targets)
    changed = ids.clone()
    changed[0, 8:16] = 5 + (changed[0, 8:16] + 1) % 50  # the second document of the first row
    shifted = torch.cat([changed[:, 1:], targets[:, -1:]], 1)
    other = logits(model, changed, shifted)
    torch.testing.assert_close(other[0, :7], found[0, :7], rtol=0, atol=0)
    torch.testing.assert_close(other[0, 16:], found[0, 16:], rtol=0, atol=0)
    torch.testing.assert_close(other[1], found[1], rtol=0, atol=0)
    assert (other[0, 9:16] - found[0, 9:16]).abs().max() > 1e-3
    for row, start, stop in [(0, 0, 7), (0, 7, 16), (0, 16, 24), (1, 10, 13), (1, 13, 24)]:
        torch.testing.assert_close(found[row, start:stop], model(ids[row : row + 1, start:stop])[0])


def test_gradients_of_documents_alone_are_those_with_a_mask(monkeypatch: pytest.MonkeyPatch) -> None:
    ids, targets = batch()
    found = []
    for alone_from in (1, 64):
        monkeypatch.setattr(documents, "SHORTEST", alone_from)
        objective = NextToken(Transformer(ModelConfig(**SMALL, kv_heads=2)), EOT)
        loss = objective(**objective.prepare(ids, targets, 0))
        loss.backward()
        found.append([loss.detach(), *(p.grad for p in objective.parameters())])
    torch.testing.assert_close(found[0], found[1])


@pytest.mark.gpu
@pytest.mark.parametrize("kind", ["decoder", "encoder"])
def test_documents_on_a_gpu_are_as_on_a_cpu(kind: Any) -> None:
    shape = ModelConfig(**SMALL | {"width": 128, "kv_heads": 2, "kind": kind})
    ids, targets = batch()
    marks = document_marks(ids, targets, EOT)
    wanted = Transformer(shape)(ids, **marks)
    model = Transformer(shape, compute_dtype=torch.bfloat16).cuda()
    found = model(ids.cuda(), **{name: mark.cuda() for name, mark in marks.items()})
    torch.testing.assert_close(found.float().cpu(), wanted, rtol=0.1, atol=0.05)
    found.float().square().sum().backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_marks_begin_anew_with_documents_with_cut_pieces_and_once_in_padding() -> None:
    ids = torch.tensor([[9, 8, EOT, 5, 6, 7, 7, EOT, EOT, EOT]])
    targets = torch.tensor([[8, EOT, 5, EOT, 7, 3, EOT, NONE, NONE, NONE]])
    marks = document_marks(ids, targets, EOT)
    # the rest of a document, a whole one of two, a piece that ends before a 3, one of a single id, padding
    assert marks["documents_BT"].tolist() == [[1, 1, 2, 2, 3, 3, 4, 5, 5, 5]]
    assert marks["positions_BT"].tolist() == [[0, 1, 0, 1, 0, 1, 0, 0, 1, 2]]


def test_further_tokens_are_weighed_as_the_paper_says() -> None:
    model = Transformer(ModelConfig(**SMALL, predict_ahead=2))
    ids, targets = batch()
    objective = NextToken(model, None, 0.3)
    plain = NextToken(model, None, 0.0)(ids_BT=ids, targets_BT=targets)
    hidden = model.hidden(ids)
    each = [
        functions.cross_entropy(model.head(x, model.head_weight).flatten(0, 1), targets[:, k:].flatten()).sum()
        for k, x in enumerate(model.hidden_ahead(ids, hidden), 1)
    ]
    torch.testing.assert_close(objective(ids_BT=ids, targets_BT=targets), plain + 0.3 / 2 * (each[0] + each[1]))
    torch.testing.assert_close(objective.eval()(ids_BT=ids, targets_BT=targets), plain)


def test_no_further_token_is_predicted_from_another_document() -> None:
    model = Transformer(ModelConfig(**SMALL, predict_ahead=1))
    ids, targets = batch()
    marks: dict[str, Any] = document_marks(ids, targets, EOT)
    found = ahead_loss(model, model.hidden(ids, **marks), ids, targets, **marks)
    alone = torch.zeros(())
    for row, start, stop in [(0, 0, 7), (0, 7, 16), (0, 16, 24), (1, 0, 10), (1, 10, 13), (1, 13, 24)]:
        piece, wanted = ids[row : row + 1, start:stop], targets[row : row + 1, start:stop]
        alone = alone + ahead_loss(model, model.hidden(piece), piece, wanted)
    torch.testing.assert_close(found, alone)


def drawn(name: str) -> Prefix | Masked | Spans:
    model: Any = Transformer(ModelConfig(**SMALL | {"kind": "encoder" if name == "masked" else "decoder"}))
    if name == "spans":
        model = EncoderDecoder(ModelConfig(**SMALL | {"kind": "encoder_decoder", "context": 40}))
        return Spans(model, 7, range(50, 64), EOT)
    return Prefix(model, EOT, 7) if name == "prefix" else Masked(model, EOT, 7, 2, [EOT, 2])


@pytest.mark.parametrize("name", ["prefix", "masked", "spans"])
def test_draws_follow_from_seed_and_step_on_any_number_of_ranks(name: str) -> None:
    length = 40 if name == "spans" else T  # of 24 ids the one gap is always at the end
    ids = torch.randint(3, 50, (6, length + 1), generator=torch.Generator().manual_seed(1))
    ids, targets = ids[:, :-1].contiguous(), ids[:, 1:].contiguous()
    objective = drawn(name)
    whole, again, later = (objective.prepare(ids, targets, step) for step in (3, 3, 4))
    assert all(torch.equal(whole[key], again[key]) for key in whole)
    assert any(not torch.equal(whole[key], later[key]) for key in whole)
    for rank in range(3):
        objective.rank, objective.ranks = rank, 3
        own = objective.prepare(ids[rank::3], targets[rank::3], 3)
        assert all(torch.equal(whole[key][rank::3], own[key]) for key in whole)


def test_targets_that_carry_loss_are_those_that_are_hidden() -> None:
    ids, targets = batch()
    given = drawn("prefix").prepare(ids, targets, 0)
    assert counted(given["targets_BT"]) == sum(T + 1 - int(n) for n in given["prefix_B"])
    assert all((row[: n - 1] == NONE).all() for row, n in zip(given["targets_BT"], given["prefix_B"], strict=True))
    given = drawn("masked").prepare(ids, targets, 0)
    chosen = given["targets_BT"] != NONE
    assert chosen.sum(1).tolist() == [round(0.15 * T)] * 2
    assert torch.equal(given["targets_BT"][chosen], ids[chosen])
    assert torch.equal(given["ids_BT"][~chosen], ids[~chosen])
    assert not (ids[chosen] == EOT).any()
    given = drawn("spans").prepare(ids, targets, 0)
    assert given["targets_BT"].min() >= 0
    for row in range(2):
        assert given["inputs_BT"][row].tolist() == [EOT, *given["targets_BT"][row, :-1].tolist()]
        gaps: dict[int, list[int]] = {}
        for i in given["targets_BT"][row, :-1].tolist():
            gaps.setdefault(i, []) if i >= 50 and i not in gaps else None
            if i < 50 or not gaps:
                gaps[list(gaps)[-1]].append(i)
        source = [x for i in given["source_BS"][row, :-1].tolist() for x in gaps.get(i, [i])]
        assert source == ids[row].tolist() or max(ids[row]) >= 50


def test_a_prefix_sees_itself_and_nothing_that_is_to_be_predicted() -> None:
    objective = drawn("prefix")
    objective.begins = None
    ids, targets = batch()
    prepared = (objective.prepare(ids, targets, step) for step in range(20))
    given = next(some for some in prepared if 2 < some["prefix_B"][0] < T - 1)
    length = int(given["prefix_B"][0])
    hidden = objective.hidden(**given)
    for place, reaches in [(length - 1, True), (length, False)]:
        changed = {**given, "ids_BT": ids.clone()}
        changed["ids_BT"][0, place] = 3 + (ids[0, place] + 1) % 60
        moved = (objective.hidden(**changed)[0, 0] - hidden[0, 0]).abs().max() > 1e-4
        assert bool(moved) is reaches


def tokenizer(folder: Path, *special: str) -> Tokenizer:
    specials = {token: 256 + i for i, token in enumerate(("<|endoftext|>", *special))}
    BPETokenizer(byte_vocabulary([]), [], "fromzero", specials, {"bos_token": "<|endoftext|>"}).save(folder)
    return load_tokenizer(folder)


def test_tokenizers_without_the_special_tokens_say_which_are_missing(tmp_path: Path) -> None:
    plain = tokenizer(tmp_path / "a")
    config = ModelConfig(**SMALL | {"vocab_size": plain.vocab_size, "kind": "encoder"})
    with pytest.raises(UserError, match=r"hidden tokens need a special token <\|mask\|>, which this tokenizer lacks"):
        make_objective("masked", Transformer(config), plain, TrainConfig())
    for name in ("[MASK]", "<|mask|>"):
        known = tokenizer(tmp_path / name[1:3], name)
        objective = make_objective("masked", Transformer(config), known, TrainConfig())
        assert isinstance(objective, Masked)
        assert objective.mask_id == 257
    some = tokenizer(tmp_path / "b", "<extra_id_1>", "<extra_id_0>")
    shape = ModelConfig(**SMALL | {"vocab_size": some.vocab_size, "kind": "encoder_decoder", "context": 80})
    with pytest.raises(UserError, match=r"80 tokens need 4 special tokens <extra_id_2> to <extra_id_3>, which this"):
        make_objective("spans", EncoderDecoder(shape), some, TrainConfig())
    shape = ModelConfig(**SMALL | {"vocab_size": some.vocab_size, "kind": "encoder_decoder", "context": 40})
    spans = make_objective("spans", EncoderDecoder(shape), some, TrainConfig())
    assert isinstance(spans, Spans)
    assert spans.sentinels == [258, 257]
    length = row_length("spans", shape)
    given = spans.prepare(torch.from_numpy(np.full((1, length), 65)), torch.zeros(1, length), 0)
    assert given["source_BS"].shape[1] == 40  # as many as the context has room for


@pytest.mark.parametrize(
    ("train", "shape", "message"),
    [
        ({"objective": "masked"}, {}, "masked is for model.kind encoder, not decoder, which learns causal or prefix"),
        ({"objective": "causal"}, {"kind": "encoder"}, "causal is for model.kind decoder, not encoder"),
        ({"packing": "best_fit"}, {"kind": "encoder_decoder"}, "goes with packing concatenate"),
        ({"mask_documents": True}, {"kind": "encoder_decoder"}, "without mask_documents"),
        ({"objective": "prefix"}, {"predict_ahead": 1}, "predict_ahead goes with train.objective causal"),
    ],
)
def test_what_does_not_go_together_is_told(train: dict[str, Any], shape: dict[str, Any], message: str) -> None:
    with pytest.raises(UserError, match=message):
        objective_kind(TrainConfig(**train), ModelConfig(**SMALL | shape))
    kinds = {"decoder": "causal", "encoder": "masked", "encoder_decoder": "spans"}
    assert {kind: objective_kind(TrainConfig(), ModelConfig(**SMALL | {"kind": kind})) for kind in kinds} == kinds
