"""Each family is pretrained by the stage itself, from tokens or a corpus: it learns, goes on exactly, and opens."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from fromzero.artifact import open_artifact
from fromzero.config import from_arguments
from fromzero.dataset import PackConfig, pack
from fromzero.errors import UserError
from fromzero.files import digest_file
from fromzero.interop.huggingface import load_any
from fromzero.tokenizer import TokenizerConfig, train_tokenizer
from fromzero.training import PretrainConfig, Trainer, pretrain
from fromzero.training.metrics import read_metrics
from tests.conftest import Chain

BERT = "--model.kind encoder --model.head_bias true --model.norm layer --model.positions learned --model.bias true"
BERT += " --model.norm_placement post --model.embedding_norm true --model.activation gelu --model.token_types 2"
T5 = "--model.kind encoder_decoder --model.positions relative --model.attention_scale 1 --model.context 48"
WHOLE = "--train.packing best_fit --train.mask_documents true --model.context 96"
FAMILIES = {  # name: (settings, the family that is written)
    "causal": (WHOLE, "llama"),
    "prefix": ("--train.objective prefix", "llama"),
    "ahead": ("--model.predict_ahead 1 --train.mask_documents true", "fromzero"),
    "bert": (BERT, "bert"),
    "encoder": ("--model.kind encoder", "fromzero"),
    "t5": (T5 + " --model.activation relu", "t5"),
    "stream": ("stream", "llama"),
}
ALL = """--model.layers 1 --model.width 32 --model.heads 2 --train.steps 24 --train.batch_size 4 --train.dtype float32
 --train.learning_rate 0.02 --train.warmup_steps 3 --train.validate_every 12 --train.validation_tokens 600
 --train.checkpoint_every 5 --train.log_every 1 --train.device cpu --sample_points 1"""


@pytest.fixture(scope="module")
def data(chain: Chain, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Tokens of the chain's corpus, made with a tokenizer that has a mask and sentinels; the tokenizer beside them."""
    folder = tmp_path_factory.mktemp("families")
    special = ("<|endoftext|>", "<|mask|>", *(f"<extra_id_{i}>" for i in range(4)))
    train_tokenizer(TokenizerConfig(chain.corpus, folder / "tokenizer", 320, special_tokens=special))
    pack(PackConfig(chain.corpus, folder / "tokenizer", folder / "tokens"))
    return folder


def settings(name: str, chain: Chain, data: Path, output: Path) -> PretrainConfig:
    more = FAMILIES[name][0]
    source = ["--tokens", str(data / "tokens")]
    if more == "stream":
        more, source = "", ["--corpus", str(chain.corpus), "--tokenizer", str(data / "tokenizer")]
    arguments = ["--model.context", "32", *ALL.split(), *more.split(), *source, "--output", str(output)]
    return from_arguments(PretrainConfig, arguments, "fromzero", "")


def lines(folder: Path, kind: str) -> list[dict[str, Any]]:
    return [line for line in read_metrics(folder / "run" / "metrics.jsonl") if line["kind"] == kind]


@pytest.mark.parametrize("name", FAMILIES)
def test_every_family_learns_goes_on_exactly_and_opens(
    name: str, chain: Chain, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pretrain(settings(name, chain, data, tmp_path / "straight"))
    looks = [line["validation_loss"] for line in lines(tmp_path / "straight", "look")]
    assert looks[0] > 5.5
    assert looks[-1] < looks[0] - 0.8
    steps = lines(tmp_path / "straight", "train")
    assert all(line["counted_tokens"] > 0 for line in steps)
    assert all(0 <= line["data_seconds"] < line["seconds"] for line in steps)
    made = open_artifact(tmp_path / "straight", "model")
    assert made.summary["architecture"] == FAMILIES[name][1]
    assert load_any(made.path).config.kind in ("decoder", "encoder", "encoder_decoder")
    samples = tmp_path / "straight" / "run" / "samples.jsonl"
    assert samples.exists() == (name not in ("bert", "encoder", "t5"))

    taken = Trainer._train_step

    def stop_at_seven(trainer: Trainer, bar: Any) -> None:
        if trainer.step == 7:
            raise InterruptedError
        taken(trainer, bar)

    config = settings(name, chain, data, tmp_path / "cut")
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "_train_step", stop_at_seven)
        with pytest.raises(InterruptedError):
            pretrain(config)
    pretrain(config)
    assert digest_file(tmp_path / "cut" / "model.safetensors") == digest_file(made.path / "model.safetensors")
    assert [line["loss"] for line in lines(tmp_path / "cut", "train")] == [line["loss"] for line in steps]


def test_what_is_trained_on_has_to_be_named_once(chain: Chain, data: Path, tmp_path: Path) -> None:
    config = settings("stream", chain, data, tmp_path / "model")
    with pytest.raises(UserError, match="either tokens, or corpus and tokenizer"):
        replace(config, tokens=data / "tokens")
    with pytest.raises(UserError, match="either tokens, or corpus and tokenizer"):
        replace(config, tokenizer=None)
    with pytest.raises(UserError, match="best_fit needs packed tokens"):
        replace(config, train=replace(config.train, packing="best_fit"))
    encoder = settings("encoder", chain, data, tmp_path / "model")
    with pytest.raises(UserError, match=r"need a special token <\|mask\|>"):
        pretrain(replace(encoder, tokens=chain.tokens))
