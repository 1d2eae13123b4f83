"""Every document is in the shards once, after <|endoftext|>, and the counts are those of the shards."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from dataset_samples import TEXTS

from fromzero.artifact import UNFINISHED, Artifact, open_artifact
from fromzero.dataset import PackConfig, TokenShards, pack
from fromzero.dataset.writing import smallest_type
from fromzero.errors import UserError
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary
from fromzero.tokenizer.bpe_file import bytes_of


@pytest.mark.parametrize("split", ["train", "validation"])
def test_documents_come_back(packed: Artifact, tokenizer: Tokenizer, split: str) -> None:
    shards = TokenShards(packed.path, split)
    assert shards.documents == len(TEXTS[split])
    for i, text in enumerate(TEXTS[split]):
        ids = shards[int(shards.boundaries[i]) : int(shards.boundaries[i + 1])].tolist()
        assert ids[0] == tokenizer.end_of_text
        assert tokenizer.decode(ids[1:]) == text


def test_the_summary_is_what_is_in_the_shards(packed: Artifact) -> None:
    for split, texts in TEXTS.items():
        counts = packed.summary[split]
        assert counts["documents"] == len(texts)
        assert counts["bytes"] == sum(len(text.encode()) for text in texts)
        assert counts["tokens"] == len(TokenShards(packed.path, split))
        assert counts["bytes_per_token"] == counts["bytes"] / counts["tokens"]
    assert len(list(packed.path.glob("train-*.bin"))) == -(-packed.summary["train"]["tokens"] // 300) > 3


def test_the_tokenizer_is_in_the_artifact(packed: Artifact, tokenizer_folder: Path) -> None:
    for name in ("tokenizer.json", "tokenizer_config.json"):
        assert (packed.path / name).read_bytes() == (tokenizer_folder / name).read_bytes()
    assert load_tokenizer(packed.path).vocab_size == TokenShards(packed.path).vocab_size == packed.summary["vocab_size"]


def test_the_number_of_shards_does_not_change_the_tokens(
    packed: Artifact, corpus: Artifact, tokenizer_folder: Path, tmp_path: Path
) -> None:
    one = pack(PackConfig(corpus.path, tokenizer_folder, tmp_path / "one"))
    whole, parts = TokenShards(one.path), TokenShards(packed.path)
    assert whole.fingerprint == parts.fingerprint
    assert whole[:].tolist() == parts[:].tolist()
    for start, stop in [
        (0, 1),
        (299, 301),
        (300, 600),
        (250, 950),
        (5, 5),
        (len(whole) - 1, len(whole) + 9),
        (-3, None),
    ]:
        assert whole[start:stop].tolist() == parts[start:stop].tolist()


def test_a_slice_within_a_shard_is_not_copied(packed: Artifact) -> None:
    assert TokenShards(packed.path)[10:20].base is not None


def test_a_cut_off_pack_is_unreadable_as_artifact_and_made_again(
    packed: Artifact, corpus: Artifact, tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def die(*arguments: object) -> None:
        raise KeyboardInterrupt

    config = PackConfig(corpus.path, tokenizer_folder, tmp_path / "t", shard_tokens=300)
    with monkeypatch.context() as patch:
        patch.setattr("fromzero.dataset.packing.copy_tokenizer", die)
        with pytest.raises(KeyboardInterrupt):
            pack(config)
    assert (tmp_path / "t" / UNFINISHED).exists()
    with pytest.raises(UserError, match="unfinished"):
        open_artifact(tmp_path / "t", "tokens")
    assert pack(config).digest == packed.digest


@pytest.mark.parametrize(
    ("vocab_size", "name"), [(256, "uint8"), (257, "uint16"), (65536, "uint16"), (65537, "uint32")]
)
def test_ids_take_the_smallest_type(vocab_size: int, name: str) -> None:
    assert smallest_type(vocab_size) == name


def test_damage_is_told(packed: Artifact, tmp_path: Path) -> None:
    folder = tmp_path / "tokens"
    shutil.copytree(packed.path, folder)
    shards = TokenShards(folder)
    with pytest.raises(UserError, match="has no split 'tain'; did you mean 'train'"):
        TokenShards(folder, "tain")  # type: ignore[arg-type]
    with pytest.raises(UserError, match="no loss mask"):
        shards.mask(0, 1)
    ids = np.memmap(folder / "train-00001.bin", np.uint16, mode="r+")
    ids[7] = 60000
    ids.flush()
    assert len(shards[0:300]) == 300
    with pytest.raises(UserError, match="has the id 60000 between positions 300 and 310"):
        TokenShards(folder)[300:310]
    (folder / "train-boundaries.npy").write_bytes(b"")
    with pytest.raises(UserError, match=r"boundaries\.npy"):
        assert TokenShards(folder).boundaries
    (folder / "train-00001.bin").write_bytes(b"12")
    with pytest.raises(UserError, match="has 2 bytes, not 600"):
        TokenShards(folder)
    (folder / "train-00001.bin").unlink()
    with pytest.raises(UserError, match="can't be read"):
        TokenShards(folder)
    (folder / "tokens.json").write_text("{}")
    with pytest.raises(UserError, match="can't be read"):
        TokenShards(folder)
    with pytest.raises(UserError, match=r"holds no tokens\.json"):
        TokenShards(tmp_path)


def test_missing_inputs_are_told(corpus: Artifact, tokenizer_folder: Path, tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(UserError, match=r"empty.*tokenizer"):
        pack(PackConfig(corpus.path, tmp_path / "empty", tmp_path / "out"))
    with pytest.raises(UserError, match="no such folder"):
        pack(PackConfig(tmp_path / "none", tokenizer_folder, tmp_path / "out"))


def test_a_tokenizer_without_beginning_and_end_is_told(corpus: Artifact, tmp_path: Path) -> None:
    config = PackConfig(corpus.path, tmp_path / "plain", tmp_path / "tokens")
    BPETokenizer(byte_vocabulary([]), [], special_tokens={"[CLS]": 256}).save(config.tokenizer)
    with pytest.raises(UserError, match=r'neither a bos_token nor an eos_token.*\(\[CLS\]\) as "bos_token" in the'):
        pack(config)
    settings = json.loads((config.tokenizer / "tokenizer_config.json").read_text())
    (config.tokenizer / "tokenizer_config.json").write_text(json.dumps(settings | {"bos_token": "[CLS]"}))
    pack(config)
    assert TokenShards(config.output).end_of_text == 256


def test_a_tokenizer_in_another_format_is_saved_with_the_tokens(corpus: Artifact, tmp_path: Path) -> None:
    (tmp_path / "gpt2").mkdir()
    spelled = [*bytes_of(), "or", "<|endoftext|>"]
    (tmp_path / "gpt2" / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(spelled)}))
    (tmp_path / "gpt2" / "merges.txt").write_text("#version: 0.2\no r\n")
    config = PackConfig(corpus.path, tmp_path / "gpt2", tmp_path / "tokens")
    packed = pack(config)
    saved, foreign = load_tokenizer(packed.path), load_tokenizer(tmp_path / "gpt2")
    assert saved.encode("word, or 你好") == foreign.encode("word, or 你好")
    assert TokenShards(packed.path).end_of_text == 257
    assert pack(config).digest == packed.digest  # up to date
