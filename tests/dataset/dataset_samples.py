"""The documents and conversations that the tests of this folder pack."""

TEXTS = {
    "train": [f"Document {i}: 从零开始 " + "word " * (i % 7) for i in range(40)],
    "validation": ["held out", "另一个"],
}


def conversation(i: int) -> list[dict[str, str]]:
    turns = [{"role": "user", "content": f"question {i} " + "word " * (i * 7 % 11)}]
    turns.append({"role": "assistant", "content": f"answer {i} 好" + "!" * (i % 5)})
    return turns * (1 + i % 3)
