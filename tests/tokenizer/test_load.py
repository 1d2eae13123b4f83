"""What a file is shows in its bytes, not in its name; what is none is told with the list of what can be opened."""

import json
import shutil
from pathlib import Path

import pytest
import tokenizers
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st

from fromzero.artifact import Artifact
from fromzero.dataset.writing import copy_tokenizer, tokenizer_digest
from fromzero.errors import UserError
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.tokenizer.bpe import BPETokenizer
from fromzero.tokenizer.bpe_file import spell
from fromzero.tokenizer.ranks import save_ranks
from tests.tokenizer.fuzz import CURIOUS, fuzzed
from tests.tokenizer.test_sentencepiece_file import train

NAMES = [("vocab.json", "merges.txt"), ("encoder.json", "vocab.bpe")]


def write_gpt2(tokenizer: BPETokenizer, folder: Path, names: tuple[str, str]) -> Path:
    """GPT-2's two files: an end of text is the last token of the vocabulary."""
    spelled = {spell(token): i for token, i in tokenizer.vocabulary.items()} | {
        "<|endoftext|>": len(tokenizer.vocabulary)
    }
    pieces = {i: token for token, i in spelled.items()}
    lines = ["#version: 0.2", *(f"{pieces[left]} {pieces[right]}" for left, right in tokenizer.merges), ""]
    (folder / names[0]).write_text(json.dumps(spelled))
    (folder / names[1]).write_text("\n".join(lines), encoding="utf-8")
    return folder


@pytest.mark.parametrize("names", NAMES)
def test_gpt2s_two_files(tokenizer: BPETokenizer, tmp_path: Path, names: tuple[str, str]) -> None:
    folder = write_gpt2(tokenizer, tmp_path, names)
    theirs = tokenizers.Tokenizer(tokenizers.models.BPE.from_file(*(str(folder / name) for name in names)))
    theirs.pre_tokenizer = tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    for ours in (load_tokenizer(folder), load_tokenizer(folder / names[0]), load_tokenizer(folder / names[1])):
        assert ours.special_tokens == {"<|endoftext|>": len(tokenizer.vocabulary)}
        assert ours.end_of_text_token == ours.roles["eos_token"] == "<|endoftext|>"
        for text in [*CURIOUS, *fuzzed(50, old=True)]:
            assert ours.encode(text) == theirs.encode(text).ids, repr(text)


def test_gpt2s_files_that_do_not_fit_are_told(tokenizer: BPETokenizer, tmp_path: Path) -> None:
    folder = write_gpt2(tokenizer, tmp_path, NAMES[0])
    (folder / "tokenizer_config.json").write_text('{"tokenizer_class": "Qwen2Tokenizer"}')
    with pytest.raises(UserError, match="class Qwen2Tokenizer"):
        load_tokenizer(folder)
    (folder / "tokenizer_config.json").unlink()
    for merges, message in (("a b c", r"merges\.txt is not a list"), ("zq qz", "'zq', which is not in its vocab")):
        (folder / "merges.txt").write_text(merges)
        with pytest.raises(UserError, match=message):
            load_tokenizer(folder)
    (folder / "merges.txt").unlink()
    with pytest.raises(UserError, match=r"merges\.txt: no such file"):
        load_tokenizer(folder)


def test_a_lone_file_of_any_name_is_opened_by_its_content(
    tokenizer: Tokenizer, trained: Artifact, tmp_path: Path
) -> None:
    shutil.copy(trained.path / "tokenizer.json", tmp_path / "a")
    assert load_tokenizer(tmp_path / "a").encode("hello") == tokenizer.encode("hello")
    train(tmp_path, model_type="bpe").rename(tmp_path / "b")
    assert load_tokenizer(tmp_path / "b").kind == "spbpe"
    (tmp_path / "c").write_text("[PAD]\n[UNK]\na\n##b\n")
    assert load_tokenizer(tmp_path / "c").encode("ab xy") == [2, 3, 1]
    save_ranks(tokenizer, tmp_path / "r50k_base")
    assert load_tokenizer(tmp_path / "r50k_base").end_of_text == 50256


def test_the_config_beside_a_file_is_used(tmp_path: Path) -> None:
    (tmp_path / "vocab.txt").write_text("[PAD]\n[UNK]\nA\na\n")
    (tmp_path / "tokenizer_config.json").write_text('{"do_lower_case": false}')
    assert load_tokenizer(tmp_path).encode("A a") == [2, 3]
    (tmp_path / "more").mkdir()
    train(tmp_path / "more", model_type="bpe")
    (tmp_path / "more" / "chat_template.jinja").write_text("{{ eos_token }}")
    ours = load_tokenizer(tmp_path / "more")
    assert ours.chat_template is not None
    assert ours.chat_template.render([{"role": "user", "content": "a"}]) == "</s>"


def test_templates_in_files_of_their_own(trained: Artifact, tmp_path: Path) -> None:
    theirs = transformers.AutoTokenizer.from_pretrained(trained.path)
    theirs.chat_template = {"default": "plain", "tool_use": "{{ tools | length }} tools", "rag": "documents"}
    theirs.save_pretrained(tmp_path / "theirs")
    assert (tmp_path / "theirs" / "additional_chat_templates" / "tool_use.jinja").exists()
    load_tokenizer(tmp_path / "theirs").save(tmp_path / "ours")
    (tmp_path / "copy").mkdir()
    copy_tokenizer(tmp_path / "theirs", tmp_path / "copy")
    assert tokenizer_digest(tmp_path / "theirs") == tokenizer_digest(tmp_path / "copy")
    chat, tools = [{"role": "user", "content": "a"}], [{"type": "function", "function": {"name": "sum"}}]
    for name in ("theirs", "ours", "copy"):
        ours = load_tokenizer(tmp_path / name).chat_template
        assert ours is not None
        assert (ours.render(chat), ours.render(chat, tools=tools)) == ("plain", "1 tools")
        opened = transformers.AutoTokenizer.from_pretrained(tmp_path / name)
        assert opened.chat_template == theirs.chat_template


def test_truncation_and_padding_change_no_ids_of_a_text(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tokenizer.save(tmp_path)
    theirs = tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json"))
    theirs.enable_truncation(4)
    theirs.enable_padding(length=300)
    theirs.save(str(tmp_path / "tokenizer.json"))
    text = "longer than four tokens"
    assert load_tokenizer(tmp_path).encode(text) == tokenizer.encode(text)
    assert transformers.AutoTokenizer.from_pretrained(tmp_path).encode(text) == tokenizer.encode(text)
    load_tokenizer(tmp_path).save(tmp_path)
    assert tokenizers.Tokenizer.from_file(str(tmp_path / "tokenizer.json")).encode(text).ids == tokenizer.encode(text)


def test_what_is_no_tokenizer_is_told(tmp_path: Path) -> None:
    for content in (b"", b"hello", b"\x80\x04pickle", b"\x00" * 100):
        (tmp_path / "file").write_bytes(content)
        with pytest.raises(UserError, match=r"what can be opened: tokenizer\.json, GPT-2's"):
            load_tokenizer(tmp_path / "file")
    with pytest.raises(UserError, match="no such file or folder with a tokenizer"):
        load_tokenizer(tmp_path)
    with pytest.raises(UserError, match="no such file"):
        load_tokenizer(tmp_path / "nothing")
    for name in ("a.tiktoken", "b.tiktoken"):
        (tmp_path / name).touch()
    with pytest.raises(UserError, match=r"holds a\.tiktoken and b\.tiktoken; name the file"):
        load_tokenizer(tmp_path)


@settings(max_examples=150)
@given(st.data())
def test_a_damaged_tokenizer_json_is_read_or_told(trained: Artifact, data: st.DataObject) -> None:
    """Each time, one value somewhere in it becomes another, or a stretch of it is lost."""
    file = trained.path.parent / "damaged.json"
    text = (trained.path / "tokenizer.json").read_text()
    if data.draw(st.booleans()):
        place = data.draw(st.integers(0, len(text) - 1))
        file.write_text(text[:place] + text[place + data.draw(st.integers(1, 50)) :])
    else:
        saved = json.loads(text)
        owner, key = saved, data.draw(st.sampled_from(list(saved)))
        while isinstance(owner[key], dict | list) and owner[key] and data.draw(st.integers(0, 4)):
            owner = owner[key]
            key = data.draw(st.sampled_from(list(owner) if isinstance(owner, dict) else range(len(owner))))
        owner[key] = data.draw(st.sampled_from([None, True, -1, 10**30, 0.5, "", "a", [], [1], {}, {"type": "BPE"}]))
        file.write_text(json.dumps(saved))
    try:
        load_tokenizer(file).encode("a b, 从零 <|im_end|>", special="allow")
    except UserError as error:
        assert "damaged.json" in str(error)  # noqa: PT017
