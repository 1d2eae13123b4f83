"""Servers on this machine that stand for those of others: web servers of one's own making, S3, and a hub."""

import contextlib
import http.server
import json
import threading
from collections.abc import Callable, Iterator, Mapping
from urllib.parse import unquote, urlsplit

Answer = tuple[int, dict[str, str], bytes]


@contextlib.contextmanager
def serving(answer: Callable[[str, str], Answer]) -> Iterator[str]:
    """A web server whose answer(method, path) is (status, headers, body). Yields its address."""

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            status, headers, body = answer(self.command, unquote(self.path))
            self.send_response(status)
            for name, value in ({"Content-Length": str(len(body))} | headers).items():
                if value:
                    self.send_header(name, value)
            self.end_headers()
            self.wfile.write(b"" if self.command == "HEAD" else body)

        do_HEAD = do_GET

        def log_message(self, *_: object) -> None:
            pass

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    try:
        yield f"http://127.0.0.1:{server.server_port}"
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def files(contents: Mapping[str, bytes]) -> Callable[[str, str], Answer]:
    """Plain files, looked up at each request, with an ETag that says what is in them."""

    def answer(method: str, path: str) -> Answer:
        body = contents.get(urlsplit(path).path.lstrip("/"))
        return (404, {}, b"") if body is None else (200, {"ETag": f'"{hash(body)}"'}, body)

    return answer


def hub(contents: Mapping[str, bytes]) -> Callable[[str, str], Answer]:
    """The data set org/name on something like huggingface.co: what a listing and a download ask for."""

    def answer(method: str, path: str) -> Answer:
        _, _, place = urlsplit(path).path.partition("/main/" if "/resolve/" in path else "/tree/main")
        if "/resolve/" in path:
            return 200, {"ETag": '"1"', "X-Repo-Commit": "a" * 40}, contents[place]
        if "/tree/" not in path:
            return 200, {"Content-Type": "application/json"}, json.dumps({"id": "org/name", "sha": "a" * 40}).encode()
        inside = [name for name in contents if f"/{name}".rpartition("/")[0] == place]
        folders = {name.partition("/")[0] for name in contents if "/" in name} if not place else set()
        entries = [{"type": "directory", "path": name, "oid": "d" * 40, "size": 0} for name in sorted(folders)]
        for name in inside:
            oid = f"{hash(contents[name]) % 2**64:040x}"
            entries.append({"type": "file", "path": name, "size": len(contents[name]), "oid": oid})
        return 200, {"Content-Type": "application/json"}, json.dumps(entries).encode()

    return answer
