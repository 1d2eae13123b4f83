"""URLs as paths, what is never shown of them, and names that come from elsewhere."""

import errno
import os
import time
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from fromzero import locations
from fromzero.errors import UserError
from fromzero.files import to_plain
from fromzero.locations import at, cached, fetch, masked, name_of, read, safe_name, shown, url_of
from tests.servers import Answer, files, serving


@pytest.mark.parametrize(
    "url", ["s3://bucket/a b/文.txt", "hf://datasets/org/name@v1/x.parquet", "https://host/a?b=c", "memory://x"]
)
def test_a_url_survives_being_a_path(url: str) -> None:
    assert url_of(Path(url)) == url
    assert url_of(Path(url) / "below") == url + "/below"


@pytest.mark.parametrize("path", ["folder/x", "C:/x", "/s3:/x", "s3:x", "folder/s3:/x", "S3", "", "a:b:/c"])
def test_what_is_no_url(path: str) -> None:
    assert url_of(Path(path)) is None
    assert shown(Path(path)) == Path(path).as_posix()


@given(st.text("abc:@?&%=.-/0", max_size=20), st.text("abc:@?&%=.-", max_size=20))
def test_secrets_are_never_shown(signature: str, password: str) -> None:
    url = f"https://me:SECRET{password}@host/folder/a.txt?key=SECRET{signature}"
    for text in (masked(f"before {url} after"), shown(Path(url)), to_plain(Path(url)), masked(f"--inputs='[{url}]'")):
        assert "SECRET" not in text
        assert "host/folder/a.txt" in text
    assert "SECRET" not in str(cached("downloads", url))
    assert name_of(url) == "a.txt"


@given(st.text(max_size=200))
def test_a_name_from_elsewhere_stays_in_its_folder(name: str) -> None:
    path = Path("/folder") / f"000001-{safe_name(name)}"
    assert Path(os.path.normpath(path)).parent == Path("/folder")
    assert len(os.fsencode(path.name)) <= 255


def test_names_keep_what_tells_the_format() -> None:
    assert safe_name("../../文 a?.jsonl.zst") == "_.._文_a_.jsonl.zst"
    assert name_of("http://host/a%20b.html?x=/y") == "a b.html"
    assert name_of("s3://bucket") == name_of("s3://bucket/") == "bucket"


def test_unknown_schemes_and_missing_packages(monkeypatch: pytest.MonkeyPatch) -> None:
    with (
        pytest.raises(UserError, match="'htp' is not a kind of URL that is understood; did you mean 'http'"),
        at("htp://x"),
    ):
        pass
    monkeypatch.setitem(locations.SCHEMES, "s3", "no_such_package")
    with pytest.raises(UserError, match=r"pip install 'fromzero\[remote\]'"), at("s3://bucket"):
        pass


def test_a_full_disk_is_not_taken_for_a_fault_of_the_server() -> None:
    with pytest.raises(OSError, match="full") as caught, at("memory://x"):
        raise OSError(errno.ENOSPC, "full")
    assert caught.value.errno == errno.ENOSPC


def test_nobody_answers(tmp_path: Path) -> None:
    start = time.monotonic()
    for url in ("http://me:SECRET@127.0.0.1:1/a.txt", "http://no-such-host.invalid/a.txt"):
        with pytest.raises(UserError, match=r"can't be reached .* check the address and the network") as caught:
            read(url, 100)
        assert "SECRET" not in str(caught.value)
    assert time.monotonic() - start < 10


def test_statuses_are_told_apart(tmp_path: Path) -> None:
    with serving(lambda method, path: (int(path[1:4]), {}, b"")) as address:
        assert read(f"{address}/404", 100) is None
        with pytest.raises(UserError, match=r"access was refused .*give credentials in the environment"):
            read(f"{address}/403?signature=SECRET", 100)
        with pytest.raises(UserError, match="there is no such file or folder"):
            fetch(f"{address}/404", tmp_path / "a")
    with serving(files({"big": b"x" * 101})) as address, pytest.raises(UserError, match="more than 100 bytes"):
        read(f"{address}/big", 100)


def test_what_fails_once_is_tried_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(locations, "WAITS", (0.01, 0.01))
    asked: list[str] = []

    def answer(method: str, path: str) -> Answer:
        asked.append(path)
        # The first answer is an error, the second is cut off.
        return [(503, {}, b""), (200, {}, b"half"), (200, {}, b"all of it")][len(asked) - 1]

    with serving(answer) as address:
        fetch(f"{address}/a", tmp_path / "deep" / "a", 9)
        assert (tmp_path / "deep" / "a").read_bytes() == b"all of it"
    monkeypatch.setattr(locations, "WAITS", ())
    cut_off = serving(lambda method, path: (200, {"Content-Length": "9"}, b"half"))
    with cut_off as address, pytest.raises(UserError, match="can't be reached"):
        fetch(f"{address}/a", tmp_path / "b")
