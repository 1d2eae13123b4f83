"""Conversations come back from the shards with the mask of the template; what is cut, dropped or wrong is told."""

import json
from pathlib import Path
from typing import Any

import pytest
from dataset_samples import conversation

from fromzero.artifact import Artifact
from fromzero.dataset import TokenShards
from fromzero.dataset.conversations import ConversationsConfig, pack_conversations
from fromzero.errors import UserError
from fromzero.tokenizer import Tokenizer, load_tokenizer
from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary
from fromzero.tokenizer.chat import CHATML


def write(file: Path, *conversations: Any) -> Path:
    file.write_text("".join(json.dumps({"messages": messages}) + "\n" for messages in conversations))
    return file


def test_conversations_come_back_with_their_mask(chats: Artifact, tokenizer: Tokenizer) -> None:
    assert tokenizer.chat_template is not None
    shards = TokenShards(chats.path)
    total = 0
    for i in range(45):
        start, stop = map(int, shards.boundaries[i : i + 2])
        ids, mask = tokenizer.chat_template.encode_chat(tokenizer, conversation(i))
        assert shards[start:stop].tolist() == ids
        assert shards.mask(start, stop).tolist() == mask
        total += sum(mask)
    assert len(list(chats.path.glob("train-*.mask.bin"))) > 2
    assert chats.summary["train"]["loss_tokens"] == total
    assert chats.summary["masked"] is True
    assert chats.summary["validation"]["documents"] == 1
    assert (chats.summary["truncated"], chats.summary["without_loss"]) == (0, 0)


@pytest.mark.parametrize("side", ["left", "right"])
def test_long_ones_are_cut_on_the_stated_side_and_counted(
    tokenizer_folder: Path, tokenizer: Tokenizer, tmp_path: Path, side: Any
) -> None:
    assert tokenizer.chat_template is not None
    long = [{"role": "user", "content": "x" * 20}, {"role": "assistant", "content": "y" * 200}]
    silent = [{"role": "user", "content": "z" * 500}, {"role": "assistant", "content": "y"}]  # cut from the right
    file = write(tmp_path / "c.jsonl", long, conversation(0), silent)
    config = ConversationsConfig(file, tokenizer_folder, tmp_path / "t", context=100, truncate=side, validation_share=0)
    made = pack_conversations(config)
    shards = TokenShards(made.path)
    ids, mask = tokenizer.chat_template.encode_chat(tokenizer, long)
    kept = slice(100) if side == "right" else slice(-100, None)
    assert shards[:100].tolist() == ids[kept]
    assert shards.mask(0, 100).tolist() == mask[kept]
    without = int(side == "right")
    assert (made.summary["truncated"], made.summary["without_loss"], shards.documents) == (2, without, 3 - without)


def test_the_last_answer_is_not_learned_against_its_weight(tokenizer_folder: Path, tmp_path: Path) -> None:
    first, last = conversation(0), conversation(1)
    last[-1] = {**last[-1], "weight": 0}
    file = write(tmp_path / "c.jsonl", first, [*first, *last])
    config = ConversationsConfig(file, tokenizer_folder, tmp_path / "t", loss="last", validation_share=0)
    made = pack_conversations(config)
    assert (made.summary["without_loss"], made.summary["train"]["documents"]) == (1, 1)


def test_tools_are_told_to_the_template(tokenizer: Tokenizer, tmp_path: Path) -> None:
    tool = {"type": "function", "function": {"name": "sum", "parameters": {}}}
    source = "{% if tools %}{{ tools | tojson }}\n{% endif %}" + CHATML
    specials, roles = tokenizer.special_tokens, {"bos_token": "<|endoftext|>"}
    BPETokenizer(byte_vocabulary([]), [], special_tokens={t: 256 + i for i, t in enumerate(specials)},
                 roles=roles, chat_template=source).save(tmp_path / "tokenizer")  # fmt: skip
    lines = [{"messages": conversation(0), "tools": tools} for tools in ([tool], [], None)]
    (tmp_path / "train.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    config = ConversationsConfig(tmp_path / "train.jsonl", tmp_path / "tokenizer", tmp_path / "t", validation_share=0)
    shards, tokenizer = TokenShards(pack_conversations(config).path), load_tokenizer(tmp_path / "tokenizer")
    assert tokenizer.chat_template is not None
    ids = [tokenizer.chat_template.encode_chat(tokenizer, conversation(0), tools=t)[0] for t in ([tool], None, None)]
    assert tokenizer.decode(ids[0]).startswith('[{"type": "function"')
    assert shards[:].tolist() == [i for row in ids for i in row]
    (tmp_path / "train.jsonl").write_text(json.dumps({"messages": conversation(0), "tools": [{"name": 1}]}))
    with pytest.raises(UserError, match=r"train\.jsonl line 1: tool 0 is not"):
        pack_conversations(config)


def test_answers_that_a_template_rewrites_get_a_row_each(tokenizer: Tokenizer, tmp_path: Path, capsys: Any) -> None:
    source = (
        "{% for m in messages %}{{ m.role + '|' }}{{ 'so: ' if m.role == 'assistant' and loop.last else '' }}"
        "{{ m.content + '<|im_end|>' }}{% endfor %}{% if add_generation_prompt %}assistant|{% endif %}"
    )
    specials = {text: 256 + i for i, text in enumerate(tokenizer.special_tokens)}
    roles = {"bos_token": "<|endoftext|>"}
    BPETokenizer(byte_vocabulary([]), [], special_tokens=specials, roles=roles, chat_template=source).save(
        tmp_path / "tokenizer"
    )
    turns = [{"role": role, "content": f"{role} {i}"} for i in range(3) for role in ("user", "assistant")]
    file = write(tmp_path / "c.jsonl", turns[:4], turns[4:])
    made = pack_conversations(ConversationsConfig(file, tmp_path / "tokenizer", tmp_path / "t", validation_share=0))
    assert (made.summary["by_answer"], made.summary["train"]["documents"]) == (1, 3)
    assert "1 conversations in a row for each answer" in " ".join(capsys.readouterr().err.split())
    shards, opened = TokenShards(made.path), load_tokenizer(tmp_path / "tokenizer")
    for row in range(3):
        start, stop = map(int, shards.boundaries[row : row + 2])
        said = shards[start:stop][shards.mask(start, stop).astype(bool)]
        assert opened.decode(said.tolist()) == f"so: assistant {row}<|im_end|>"


def test_a_share_is_held_out_by_contents(tokenizer_folder: Path, tmp_path: Path) -> None:
    conversations = [conversation(i) for i in range(200)]
    sizes, held_out = [], []
    for name, order in (("a", conversations), ("b", conversations[::-1])):
        file = write(tmp_path / f"{name}.jsonl", *order, *order)
        config = ConversationsConfig(file, tokenizer_folder, tmp_path / name, validation_share=0.2)
        summary = pack_conversations(config).summary
        sizes.append((summary["train"]["tokens"], summary["validation"]["tokens"]))
        held_out.append(summary["validation"]["documents"])
    assert sizes[0] == sizes[1]
    assert held_out[0] % 2 == 0  # equal conversations are on the same side
    assert 40 < held_out[0] < 120


def test_other_masks_over_the_same_ids_are_other_data(
    chats: Artifact, tokenizer_folder: Path, tmp_path: Path, tokenizer: Tokenizer
) -> None:
    from fromzero.dataset.writing import TokenWriter

    prints = []
    for i, mask in enumerate(([True, False], [False, True])):
        (tmp_path / str(i)).mkdir()
        writer = TokenWriter(tmp_path / str(i), "train", 300, 100, masked=True)
        writer.add([1, 2], 2, mask)
        prints.append(writer.close()["sha256"])
    assert prints[0] != prints[1]


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "line 2 is not valid JSON"),
        ("[" * 100_000, "line 2 is not valid JSON"),
        ("[1]", 'line 2 is not an object with "messages"'),
        ('{"messages": []}', "line 2: .*at least one"),
        (
            '{"messages": [{"role": "user", "content": "a"}, {"role": "bot", "content": "b"}]}',
            "line 2: message 1 has the role",
        ),
        ('{"messages": [{"role": "user", "content": "\\ud800"}]}', r"line 2: .*surrogate U\+D800"),
    ],
)
def test_bad_lines_are_told_with_file_and_number(
    tokenizer_folder: Path, tmp_path: Path, line: str, message: str
) -> None:
    file = write(tmp_path / "c.jsonl", conversation(0))
    file.write_text(file.read_text() + line + "\n")
    with pytest.raises(UserError, match=f"c.jsonl {message}"):
        pack_conversations(ConversationsConfig(file, tokenizer_folder, tmp_path / "t"))


def test_bytes_that_are_not_utf8_and_endless_lines_are_told(
    tokenizer_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "c.jsonl"
    file.write_bytes(b'{"messages": "\xff"}\n')
    with pytest.raises(UserError, match="line 1 is not valid JSON in UTF-8"):
        pack_conversations(ConversationsConfig(file, tokenizer_folder, tmp_path / "t"))
    monkeypatch.setattr("fromzero.dataset.sources.MAX_LINE_BYTES", 10)
    with pytest.raises(UserError, match="line 1 is longer than 10 bytes"):
        pack_conversations(ConversationsConfig(file, tokenizer_folder, tmp_path / "t"))


def test_missing_and_empty_input_is_told(tokenizer_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UserError, match="neither a file"):
        pack_conversations(ConversationsConfig(tmp_path / "none", tokenizer_folder, tmp_path / "t"))
    with pytest.raises(UserError, match="no conversation to train on"):
        pack_conversations(ConversationsConfig(write(tmp_path / "c.jsonl"), tokenizer_folder, tmp_path / "t"))


def test_a_tokenizer_without_template_is_told(tmp_path: Path) -> None:
    BPETokenizer(byte_vocabulary([]), [], "fromzero", {"<|endoftext|>": 256}, {"bos_token": "<|endoftext|>"}).save(
        tmp_path / "bare"
    )
    with pytest.raises(UserError, match="no chat template"):
        pack_conversations(
            ConversationsConfig(write(tmp_path / "c.jsonl", conversation(0)), tmp_path / "bare", tmp_path / "t")
        )


@pytest.mark.parametrize("settings", [{"context": 1}, {"validation_share": 1.0}, {"validation_share": -0.1}])
def test_bad_settings_are_told(settings: dict[str, Any]) -> None:
    with pytest.raises(UserError, match=f"{next(iter(settings))} is"):
        ConversationsConfig(Path("a"), Path("b"), Path("c"), **settings)
