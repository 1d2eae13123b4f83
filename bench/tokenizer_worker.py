"""One measured run for `tokenizer.py`; the last line that it prints is JSON."""

import json
import os
import random
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

# tiktoken's own, and the same for engines that read possessive repeats and `$` in other ways.
CL100K = (
    r"""'(?i:[sdmt]|ll|ve|re)|[^\r\n\p{L}\p{N}]?+\p{L}++|\p{N}{1,3}+| ?[^\s\p{L}\p{N}]++[\r\n]*+"""
    r"""|\s++$|\s*[\r\n]|\s+(?!\S)|\s"""
)
CUSTOM = (
    r"""(?<=\d)(?:st|nd|rd|th)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"""
)
ENCODED = 24_000_000  # bytes of the corpus that are encoded


def read(corpus: str) -> list[str]:
    """The documents of a corpus."""
    with Path(corpus).open(encoding="utf-8") as file:
        return [json.loads(line) for line in file]


def train(system: str, corpus: str, vocabulary: str) -> dict[str, float]:
    """Seconds, and the bytes by which the process grew at most while it trained."""
    documents, size = read(corpus), int(vocabulary)
    run = _trainer(system.removesuffix("-custom"), CUSTOM if system.endswith("-custom") else CL100K)
    run(documents[:20], 300)  # compiles, starts threads
    base, peak, stop = _resident(), [0], threading.Event()

    def watch() -> None:
        while not stop.wait(0.01):
            peak[0] = max(peak[0], _resident())

    threading.Thread(target=watch, daemon=True).start()
    start = time.perf_counter()
    made = run(documents, size)
    seconds = time.perf_counter() - start
    stop.set()
    assert made == size, (made, size)
    return {"seconds": seconds, "memory": peak[0] - base}


def _trainer(system: str, pattern: str) -> Callable[[list[str], int], int]:
    """A function that trains on documents and returns the size of the vocabulary."""
    if system == "fromzero":
        from fromzero.tokenizer.learn import learn_merges
        from fromzero.tokenizer.patterns import CL100K as OURS
        from fromzero.tokenizer.pretokens import count_pretokens
        from fromzero.tokenizer.splitter import Splitter

        splitter = Splitter([OURS if pattern == CL100K else pattern])
        return lambda documents, size: 256 + len(learn_merges(count_pretokens(documents, splitter), size - 256).merges)
    if system == "rustbpe":
        import rustbpe

        def run(documents: list[str], size: int) -> int:
            tokenizer = rustbpe.Tokenizer()
            tokenizer.train_from_iterator(iter(documents), size, pattern=pattern)
            return len(tokenizer.get_mergeable_ranks())

        return run
    return lambda documents, size: _tokenizers(documents, size, pattern)


def _tokenizers(documents: list[str], size: int, pattern: str) -> int:
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, trainers

    from fromzero.tokenizer.patterns import CL100K as PORTABLE

    tokenizer = Tokenizer(models.BPE())
    split = pre_tokenizers.Split(Regex(PORTABLE if pattern == CL100K else pattern), "isolated")
    byte_level = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([split, byte_level])
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(vocab_size=size, initial_alphabet=alphabet, show_progress=False)
    tokenizer.train_from_iterator(iter(documents), trainer, length=len(documents))
    return int(tokenizer.get_vocab_size())


def _resident() -> int:
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * os.sysconf("SC_PAGE_SIZE")


def encode(corpus: str, vocabulary: str, rounds: str) -> dict[str, Any]:
    """Seconds of each system in each round, after their ids were compared."""
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    import tiktoken
    import tokenizers

    documents = read(corpus)
    ours = _trained(documents, int(vocabulary))
    with tempfile.TemporaryDirectory() as folder:
        ours.save(Path(folder))
        theirs = tokenizers.Tokenizer.from_file(folder + "/tokenizer.json")
    ranks = {ours.token_bytes(i): i for i in range(ours.vocab_size)}
    tik = tiktoken.Encoding("bench", pat_str=CL100K, mergeable_ranks=ranks, special_tokens={})
    systems: dict[str, Callable[[str], Any]] = {
        "fromzero": ours.encode_ordinary,
        "tiktoken": tik.encode_ordinary,
        "tokenizers": lambda text: theirs.encode(text, add_special_tokens=False),
        "fromzero, arrays": ours.encode_array,
        "tiktoken, arrays": tik.encode_to_numpy,
    }
    groups = _groups(documents)
    batch = {form: _batch(call, groups["all"], int(rounds)) for form, call in (
        ("arrays", ours.encode_arrays), ("lists", ours.encode_batch)
    )}  # fmt: skip
    if hasattr(os, "sched_setaffinity"):
        os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})
    seconds: dict[str, dict[str, list[float]]] = {}
    for group, texts in groups.items():
        for text in texts:
            ids = ours.encode_ordinary(text)
            assert tik.encode_ordinary(text) == ids == theirs.encode(text, add_special_tokens=False).ids, text[:200]
        for _ in range(int(rounds)):
            for name, call in systems.items():
                start = time.perf_counter()
                for text in texts:
                    call(text)
                seconds.setdefault(group, {}).setdefault(name, []).append(time.perf_counter() - start)
    sizes = {group: sum(len(text.encode()) for text in texts) for group, texts in groups.items()}
    return {"seconds": seconds, "bytes": sizes, "batch": batch}


def _groups(documents: list[str]) -> dict[str, list[str]]:
    """All text together, and each kind by a simple rule: a fifth of Han characters, or lines that look like code."""
    chosen, size = [], 0
    for text in random.Random(2).sample(documents, len(documents)):
        chosen.append(text)
        size += len(text.encode())
        if size >= ENCODED:
            break
    groups: dict[str, list[str]] = {"all": chosen, "Chinese": [], "code": [], "English": []}
    for text in chosen:
        han = sum("\u4e00" <= c <= "\u9fff" for c in text[:4000]) > len(text[:4000]) / 5
        code = sum(line.rstrip().endswith((":", ";", "{", "}", ")", ",")) for line in text[:8000].splitlines())
        groups["Chinese" if han else "code" if code > text[:8000].count("\n") / 4 else "English"].append(text)
    return groups


def _batch(call: Callable[..., Any], texts: list[str], rounds: int) -> tuple[list[float], list[float]]:
    """Seconds with one thread, and with all."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(rounds + 1):
        for kept, threads in zip(seconds, (1, None), strict=True):
            start = time.perf_counter()
            call(texts, threads=threads)
            kept.append(time.perf_counter() - start)
    return seconds[0][1:], seconds[1][1:]


def _trained(documents: list[str], size: int) -> Any:
    from fromzero.tokenizer.bpe import BPETokenizer, byte_vocabulary
    from fromzero.tokenizer.learn import learn_merges
    from fromzero.tokenizer.patterns import CL100K as OURS
    from fromzero.tokenizer.pretokens import count_pretokens
    from fromzero.tokenizer.splitter import Splitter

    merges = learn_merges(count_pretokens(documents, Splitter([OURS])), size - 256).merges
    return BPETokenizer(byte_vocabulary(merges), merges, OURS)


def save(folder: str) -> None:
    """A small tokenizer to start with."""
    _trained(["The quick brown fox. 从零开始训练 " * 50], 270).save(Path(folder))


if __name__ == "__main__":
    part, *rest = sys.argv[1:]
    print(json.dumps({"train": train, "encode": encode, "save": save}[part](*rest)))
