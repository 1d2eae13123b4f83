"""Classification on real tiny models: it learns, what is frozen stays, and nothing depends on how rows are dealt."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from random import Random
from typing import Any

import pytest
import torch
import transformers

from fromzero.commands import main
from fromzero.dataset.labelled import LabelledLoader
from fromzero.errors import UserError
from fromzero.inference.classifying import Classifier, class_probabilities
from fromzero.interop import load_model
from fromzero.interop.huggingface import load_any, save_model
from fromzero.model import ModelConfig, Transformer
from fromzero.model.adapters import AdapterConfig
from fromzero.model.heads import HeadConfig, HeadedTransformer
from fromzero.model.quantized import numbers
from fromzero.model.rounding import round_model
from fromzero.parallel import ParallelConfig, join_world, parallelize
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.training import TrainConfig
from fromzero.tuning.classify import Classification, ClassifyConfig, class_weights, finetune_classify, freeze, head_for
from tests.parallel.ranks import run_ranks

WORDS = {"water": ("river", "cloud", "winter"), "land": ("mountain", "forest", "stone")}
QUICK = TrainConfig(steps=60, batch_size=16, learning_rate=1e-2, warmup_steps=5, validate_every=60, dtype="float32")
CONFIG = ModelConfig(vocab_size=50, context=16, layers=2, width=24, heads=4)


def records(count: int, seed: int) -> list[dict[str, str]]:
    """Three times as much land as water."""
    random = Random(seed)
    found = []
    for number in range(count):
        label = "water" if random.random() < 0.25 else "land"
        found.append({"text": f"Near garden {number} there is a {random.choice(WORDS[label])}", "label": label})
    return found


def write(path: Path, lines: list[dict[str, str]]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write(tmp_path_factory.mktemp("labelled") / "texts.jsonl", records(240, 0))


@pytest.fixture(scope="module")
def tuned(tiny_model: Path, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    output = tmp_path_factory.mktemp("classifier") / "model"
    finetune_classify(ClassifyConfig(model=tiny_model, data=data, output=output, train=QUICK))
    return output


def test_it_learns_and_says_so(tuned: Path) -> None:
    outcome = json.loads((tuned / "run" / "outcome.json").read_text())
    changes = {change["name"]: change for change in outcome["changes"]}
    assert changes["held-out balanced accuracy"]["after"] > 0.95 > changes["held-out balanced accuracy"]["before"]
    assert changes["held-out accuracy"]["count"] == sum(map(sum, outcome["confusion"]["counts"]))
    assert outcome["confusion"]["labels"] == ["land", "water"]
    assert sum(each["count"] for each in outcome["calibration"]) == changes["held-out accuracy"]["count"]
    assert outcome["more"]["bag_of_words"]["accuracy"] > 0.95
    assert any("bag of words" in note for note in outcome["notes"])
    assert outcome["examples"][0]["expected"] in WORDS
    assert "land, water" in (tuned / "MODEL_CARD.md").read_text()


def test_transformers_opens_it_and_says_the_same(tuned: Path) -> None:
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tuned, dtype=torch.float32).eval()
    assert type(theirs).__name__ == "LlamaForSequenceClassification"
    assert theirs.config.id2label == {0: "land", 1: "water"}
    tokenizer = transformers.AutoTokenizer.from_pretrained(tuned)
    assert tokenizer.model_max_length == 64
    ours, text = Classifier.open(tuned), "Nobody saw the river."
    logits = theirs(torch.tensor([tokenizer(text)["input_ids"]])).logits
    torch.testing.assert_close(logits.softmax(-1), ours([text]), atol=1e-5, rtol=1e-5)


def test_generate_tells_classes(tuned: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(tuned), "--classify", "A quiet cloud", "There is a stone"]) == 0
    found = [json.loads(line) for line in capsys.readouterr().out.splitlines() if line.startswith("{")]
    assert [line["label"] for line in found] == ["water", "land"]
    assert sum(found[0]["probabilities"].values()) == pytest.approx(1, abs=1e-5)
    file = write(tmp_path / "texts.jsonl", [{"text": "The bright winter"}])
    assert main(["generate", str(tuned), "--classify", "--input", str(file), "--output", str(tmp_path / "out")]) == 0
    assert json.loads((tmp_path / "out").read_text())["label"] == "water"


def test_what_is_no_classifier_is_said(tiny_model: Path, tuned: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["generate", str(tiny_model), "--classify", "a"]) == 2
    assert main(["generate", str(tuned), "--classify"]) == 2
    said = " ".join(capsys.readouterr().err.split())
    assert "finetune classify" in said
    assert "nothing to classify" in said


@pytest.mark.parametrize(("what", "learned"), [("all", ["classifier"]), (1, ["blocks.1", "final_norm", "classifier"])])
def test_frozen_parameters_are_bit_equal(what: Any, learned: list[str]) -> None:
    model = HeadedTransformer.on(Transformer(CONFIG), head_for("decoder", "auto", ("a", "b")))
    freeze(model, what)
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    optimizer = torch.optim.AdamW([p for p in model.parameters() if p.requires_grad], lr=0.1)
    Classification(model, torch.ones(2))(**batch()).backward()
    optimizer.step()
    changed = [name for name, tensor in model.state_dict().items() if not torch.equal(tensor, before[name])]
    assert changed
    assert all(any(name.startswith(part) for part in learned) for name in changed)
    assert {part for part in learned if any(name.startswith(part) for name in changed)} == set(learned)


def batch(rows: slice = slice(None)) -> dict[str, torch.Tensor]:
    lengths = [5, 9, 3, 7]
    ids = [[(3 * i + j) % 50 for j in range(n)] for i, n in enumerate(lengths)]
    loader = LabelledLoader(ids, torch.tensor([0, 1, 1, 1]), 4, 0, 0, 1)
    return {name: tensor[rows] for name, tensor in loader.next_batch().items()}


def headed(pooling: Any = "last") -> HeadedTransformer:
    heads = HeadConfig(pooling=pooling, classes=2)
    return HeadedTransformer.on(Transformer(CONFIG), heads)


@pytest.mark.parametrize("pooling", ["last", "mean", "first"])
def test_padding_side_and_micro_batches_change_nothing(pooling: Any) -> None:
    objective, whole = Classification(headed(pooling), torch.tensor([2.0, 0.5])), batch()
    loss = objective(**whole)
    assert objective.count(whole) == 2.0 + 3 * 0.5
    parts = sum(objective(**batch(slice(i, i + 1))) for i in range(4))
    torch.testing.assert_close(parts, loss)
    lengths = whole["keep_BT"].sum(1).tolist()
    turned = {
        name: torch.stack([row.roll(len(row) - n) for row, n in zip(whole[name], lengths, strict=True)])
        for name in ("ids_BT", "keep_BT")
    }
    torch.testing.assert_close(objective(**{**whole, **turned}), loss)


def shared_gradient(ranks: int) -> tuple[float, torch.Tensor]:
    """The loss over all ranks of a batch whose rows they share, and the gradient of the head."""
    with join_world("cpu") as world:
        objective = Classification(headed(), torch.tensor([2.0, 0.5]))
        fleet = parallelize(objective, ParallelConfig(replicate=ranks), world)
        rows = [[(3 * i + j) % 50 for j in range(n)] for i, n in enumerate([5, 9, 3, 7, 4, 8])]
        classes = torch.tensor([0, 1, 1, 1, 0, 1])
        loader = LabelledLoader(rows, classes, 4, 0, fleet.data_rank, fleet.data_size)
        for _ in range(2):  # of the second batch, two rows are filled
            dealt = loader.next_batch()
        loss = fleet.gradients(dealt, 1, fleet.sum(objective.count(dealt)))
        gradient = dict(fleet.named_parameters())["classifier.weight"].grad
        assert gradient is not None
        return loss, gradient.clone()


def test_two_ranks_have_the_loss_and_gradients_of_one() -> None:
    alone = shared_gradient(1)
    for loss, gradient in run_ranks(2, shared_gradient, 2):
        assert loss == pytest.approx(alone[0], abs=1e-6)
        torch.testing.assert_close(gradient, alone[1], atol=1e-6, rtol=1e-5)


def test_weights_of_classes() -> None:
    classes = torch.tensor([0, 0, 0, 1])
    assert class_weights(classes, 2, True).tolist() == pytest.approx([4 / 6, 2.0])
    assert class_weights(classes, 2, False).tolist() == [1, 1]


def test_the_loader_goes_on_where_it_was_and_deals_each_text_once() -> None:
    rows = [[i] * (1 + i % 4) for i in range(10)]
    loader = LabelledLoader(rows, torch.arange(10), 4, 7, 0, 1)
    first = [loader.next_batch() for _ in range(3)]
    assert sorted(c for b in first for c in b["targets_BT"].tolist()) == [-100, -100, *range(10)]
    state = json.loads(json.dumps(loader.state_dict()))
    again = LabelledLoader(rows, torch.arange(10), 4, 7, 0, 1)
    again.load_state_dict(state)
    assert torch.equal(again.next_batch()["ids_BT"], loader.next_batch()["ids_BT"])
    with pytest.raises(UserError, match="rows"):
        LabelledLoader(rows[:9], torch.arange(9), 4, 7, 0, 1).load_state_dict(state)


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_texts_lose_the_stated_side(side: Any, tiny_model: Path) -> None:
    tokenizer: Tokenizer = load_tokenizer(tiny_model)
    classifier = Classifier(headed(), tokenizer, 5, side)
    ids = tokenizer.encode_ordinary("The river near the mountain")
    rows, cut = classifier.encode(["The river near the mountain", "a", ""])
    assert (cut, len(ids) > 5) == (1, True)
    assert rows[0] == (ids[-5:] if side == "left" else ids[:5])
    assert rows[2] == [0]


def test_batches_are_as_texts_alone() -> None:
    model = headed()
    rows = [[1, 2, 3], [4], [5, 6, 7, 8, 9]]
    alone = torch.cat([class_probabilities(model, [row]) for row in rows])
    torch.testing.assert_close(class_probabilities(model, rows), alone)


def test_bad_data(tiny_model: Path, tmp_path: Path) -> None:
    one = write(tmp_path / "one.jsonl", [r for r in records(40, 1) if r["label"] == "land"])
    with pytest.raises(UserError, match="are 'land'; give two classes"):
        finetune_classify(ClassifyConfig(model=tiny_model, data=one, output=tmp_path / "a", train=QUICK))
    with pytest.raises(UserError, match="freeze"):
        ClassifyConfig(model=tiny_model, data=one, output=tmp_path / "b", freeze=2, adapters=AdapterConfig())
    with pytest.raises(UserError, match="freeze"):
        ClassifyConfig(model=tiny_model, data=one, output=tmp_path / "b", freeze="all", adapters=AdapterConfig())
    with pytest.raises(UserError, match="retain"):
        ClassifyConfig(model=tiny_model, data=one, output=tmp_path / "b", retain=one)
    with pytest.raises(UserError, match="context"):
        ClassifyConfig(model=tiny_model, data=one, output=tmp_path / "b", parallel=ParallelConfig(context=2))


def test_a_data_set_of_hugging_face_counts_by_what_it_holds(
    tiny_model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "org" / "texts").mkdir(parents=True)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    config = ClassifyConfig(
        model=tiny_model, data=Path("hf://org/texts"), output=tmp_path / "out", train=replace(QUICK, steps=1)
    )
    write(tmp_path / "org" / "texts" / "train.jsonl", records(40, 1))
    first = finetune_classify(config).manifest["key"]
    assert finetune_classify(config).manifest["key"] == first
    write(tmp_path / "org" / "texts" / "train.jsonl", records(40, 2))
    assert finetune_classify(config).manifest["key"] != first


def test_strange_classes_and_cut_texts_are_counted(tiny_model: Path, tmp_path: Path) -> None:
    folder = tmp_path / "data"
    folder.mkdir()
    write(folder / "train.jsonl", [*records(40, 1), {"text": "", "label": "land"}])
    write(folder / "validation.jsonl", [*records(20, 2), {"text": "Nobody saw the sun.", "label": "sky"}])
    train = replace(QUICK, steps=2, batch_size=8)
    config = ClassifyConfig(
        model=tiny_model, data=folder, output=tmp_path / "out", train=train, length=6, truncate="left", baseline=False
    )
    finetune_classify(config)
    notes = " ".join(json.loads((tmp_path / "out" / "run" / "outcome.json").read_text())["notes"])
    assert "validation: 1 texts are left out" in notes
    assert "40 of 40 texts lost their beginning" in notes
    assert "1 records were dropped: empty text" in notes
    assert Classifier.open(tmp_path / "out").longest == 6


@pytest.mark.parametrize("adapters", [None, AdapterConfig(rank=2)])
def test_a_model_in_few_bits_becomes_a_plain_classifier(
    adapters: AdapterConfig | None, tiny_model: Path, data: Path, tmp_path: Path
) -> None:
    small = load_model(tiny_model)
    round_model(small, "int8")
    (tmp_path / "small").mkdir()
    save_model(small, tmp_path / "small", tiny_model, {})
    train = replace(QUICK, steps=3, batch_size=8)
    finetune_classify(
        ClassifyConfig(
            model=tmp_path / "small", data=data, output=tmp_path / "out", adapters=adapters, train=train, pooling="mean"
        )
    )
    model: Any = load_any(tmp_path / "out")
    assert model.heads == HeadConfig(pooling="mean", classes=2, labels=("land", "water"))
    assert json.loads((tmp_path / "out" / "config.json").read_text())["model_type"] == "fromzero"
    assert torch.equal(model.token_embedding.weight, numbers(small.token_embedding)) == (adapters is not None)


def test_an_encoder_becomes_berts_class_for_texts(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    tokenizer = load_tokenizer(tiny_model)
    bert = ModelConfig(
        vocab_size=tokenizer.vocab_size, context=64, layers=1, width=32, heads=2, kind="encoder", positions="learned",
        norm="layer", activation="gelu", bias=True, norm_eps=1e-12, token_types=2, embedding_norm=True,
        norm_placement="post",
    )  # fmt: skip
    (tmp_path / "bert").mkdir()
    save_model(Transformer(bert), tmp_path / "bert", tiny_model, {})
    train = replace(QUICK, steps=3, batch_size=8)
    finetune_classify(ClassifyConfig(model=tmp_path / "bert", data=data, output=tmp_path / "out", train=train))
    theirs = transformers.AutoModelForSequenceClassification.from_pretrained(tmp_path / "out", dtype=torch.float32)
    assert type(theirs).__name__ == "BertForSequenceClassification"
    assert theirs.config.id2label == {0: "land", 1: "water"}
    ids = tokenizer.encode_ordinary("Nobody saw the river.")
    logits = theirs.eval()(torch.tensor([ids])).logits
    torch.testing.assert_close(logits.softmax(-1), Classifier.open(tmp_path / "out")(["Nobody saw the river."]))


@pytest.mark.parametrize("family", ["llama", "qwen3", "gpt2"])
def test_published_decoders_with_a_score(family: str, tmp_path: Path, make_decoder: Callable[[str], Any]) -> None:
    theirs = make_decoder(family)
    theirs.save_pretrained(tmp_path)
    ours = load_any(tmp_path)
    assert isinstance(ours, HeadedTransformer)
    assert ours.heads.labels == ("no", "yes", "perhaps")
    ids = torch.randint(49, (2, 7), generator=torch.Generator().manual_seed(0))
    torch.testing.assert_close(ours.eval().outputs(ids).classes, theirs(ids).logits, atol=1e-5, rtol=1e-5)


@pytest.fixture
def make_decoder() -> Callable[[str], Any]:
    def make(family: str) -> Any:
        common = {"vocab_size": 50, "pad_token_id": 49, "id2label": {0: "no", 1: "yes", 2: "perhaps"}}
        if family == "gpt2":
            shape = {"n_positions": 32, "n_layer": 2, "n_embd": 24, "n_head": 4}
        else:
            shape = {"max_position_embeddings": 32, "num_hidden_layers": 2, "hidden_size": 24, "num_attention_heads": 4}
            shape |= {"num_key_value_heads": 2, "intermediate_size": 48, "head_dim": 6}
        config = transformers.AutoConfig.for_model(family, **common, **shape, tie_word_embeddings=True)
        torch.manual_seed(0)
        return transformers.AutoModelForSequenceClassification.from_config(config).eval()

    return make


def test_it_goes_on_from_a_checkpoint_as_if_nothing_had_been(tiny_model: Path, data: Path, tmp_path: Path) -> None:
    train = replace(QUICK, steps=6, batch_size=8, checkpoint_every=3)
    whole = ClassifyConfig(model=tiny_model, data=data, output=tmp_path / "whole", train=train, baseline=False)
    finetune_classify(whole)
    from fromzero.tuning import classify

    seen: list[int] = []
    deal = LabelledLoader.next_batch

    def stop_in_the_midst(self: LabelledLoader) -> Any:
        seen.append(1)
        if len(seen) == 5:
            raise KeyboardInterrupt
        return deal(self)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(classify.LabelledLoader, "next_batch", stop_in_the_midst)
        with pytest.raises(KeyboardInterrupt):
            finetune_classify(replace(whole, output=tmp_path / "cut"))
    finetune_classify(replace(whole, output=tmp_path / "cut"))
    states = [load_model(tmp_path / name).state_dict() for name in ("whole", "cut")]
    assert all(torch.equal(states[0][name], states[1][name]) for name in states[0])
