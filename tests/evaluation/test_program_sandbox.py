"""Programs that want out: whatever they try, they come to an end, and nothing is left of them."""

import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from fromzero.errors import UserError
from fromzero.evaluation import sandbox
from fromzero.evaluation.sandbox import Limits, Ran, contained, run_program

Run = Callable[..., Ran]


@pytest.fixture(params=["namespaces", "filter"])
def run(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Once with all walls, once without namespaces, as in many containers."""
    if request.param == "filter":
        monkeypatch.setattr(sandbox, "contained", lambda how: how == "filter")
    else:
        assert contained("filter")
    return lambda program, seconds=10.0: run_program(program, Limits(seconds))


def test_a_program_runs(run: Run) -> None:
    program = "import asyncio, math, random, re\nasyncio.run(asyncio.sleep(0))\nprint(math.pi, '你好')"
    assert run(program) == Ran("done", "3.141592653589793 你好\n")
    assert "EOFError" in run("input()").output
    threads = "import threading\nt = threading.Thread(target=print, args=[5])\nt.start()\nt.join()"
    assert run(threads) == Ran("done", "5\n")
    assert run("raise SystemExit(3)").how == "failed"
    assert "ZeroDivisionError" in run("1 / 0").output
    assert run("def").how == "failed"


REFUSED = {
    "fork bomb": "import os\nwhile True: os.fork()",
    "child": "import subprocess, sys\nsubprocess.run([sys.executable, '-c', ''])",
    "another program": "import os\nos.execv('/bin/sh', ['sh'])",
    "network": "import socket\nsocket.create_connection(('127.0.0.1', 1))",
    "datagrams": "import socket\nsocket.socket(socket.AF_INET, socket.SOCK_DGRAM)",
    "signals": "import os\nos.kill(os.getppid(), 0)",
    "limits": "import resource\nresource.setrlimit(resource.RLIMIT_AS, (-1, -1))",
    "memory": "x = []\nwhile True: x.append('a' * 10**6)",
    "disk": "f = open('big', 'wb')\nwhile True: f.write(b'x' * 10**6)",
    "system's files": "open('/usr/lib/fromzero', 'w')",
    "system calls": "import ctypes\nassert ctypes.CDLL(None).unshare(0x10000000) == 0",
    "rings": "import ctypes\nassert ctypes.CDLL(None).syscall(425, 1, 0) >= 0",
    "tracing": "import ctypes\nassert ctypes.CDLL(None).ptrace(16, 1, 0, 0) == 0",
    "crash": "import ctypes\nctypes.string_at(0)",
}


@pytest.mark.parametrize("program", REFUSED.values(), ids=REFUSED)
def test_what_is_refused(run: Run, program: str) -> None:
    assert run(program).how == "failed"


def test_files_signal_nobody(run: Run) -> None:
    """Whoever owns a file is signalled when it can be read, and may be made to be any process; sockets too."""
    program = """import os, socket, struct
from fcntl import fcntl, ioctl
r, w = os.pipe()
fcntl(r, 4, fcntl(r, 3) | os.O_NONBLOCK)
for refused in (
    lambda: fcntl(r, 8, os.getppid()),
    lambda: fcntl(r, 15, struct.pack("ii", 1, os.getppid())),
    lambda: fcntl(r, 10, 9),
    lambda: ioctl(socket.socketpair()[0], 0x8901, struct.pack("i", os.getppid())),
    lambda: ioctl(0, 0x5412, b"x"),
):
    try:
        refused()
    except PermissionError:
        print("refused")
"""
    assert run(program) == Ran("done", "refused\n" * 5)


def test_time_ends(run: Run) -> None:
    for program in (
        "while True: pass",
        "import time\ntime.sleep(60)",
        "import os, time\nos.close(1)\nos.close(2)\ntime.sleep(60)",
        "import threading, time\nwhile True: threading.Thread(target=time.sleep, args=[60]).start()",
    ):
        start = time.monotonic()
        assert run(program, 0.5).how == "too slow"
        assert time.monotonic() - start < 5


def test_a_flood_ends(run: Run) -> None:
    ran = run("while True: print('x' * 1000)")
    assert ran.how == "too much output"
    assert len(ran.output) == Limits().output


def test_writing_outside(run: Run, tmp_path: Path) -> None:
    assert run(f"open({str(tmp_path / 'there')!r}, 'w')").how == "failed"
    assert run(f"import os\nos.rmdir({str(tmp_path)!r})").how == "failed"
    assert tmp_path.exists()
    assert not list(tmp_path.iterdir())


def test_secrets_are_out_of_reach(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("API_KEY", "hunter2")
    assert contained("namespaces")
    assert "hunter2" not in run_program("import os\nprint(dict(os.environ))").output
    assert run_program("import os\nopen(f'/proc/{os.getppid()}/environ')").how == "failed"
    (tmp_path / "secret").write_text("hunter2")
    assert "No such file" in run_program(f"print(open({str(tmp_path / 'secret')!r}).read())").output
    assert run_program("open('/etc/passwd')").how == "failed"


def test_a_folder_of_its_own() -> None:
    program = "import os\nopen('a', 'w').write('x')\nos.mkdir('d')\nos.rename('a', 'd/b')\nprint(open('d/b').read())"
    assert run_program(program).output == "x\n"
    assert "No such file" in run_program("open('d/b')").output  # nothing is left for the next


def test_orphans_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "contained", lambda how: False)
    with pytest.raises(UserError, match="can't be contained"):
        run_program("print(5)")
    program = "import os, time\nif os.fork() == 0:\n    os.close(1); os.close(2); time.sleep(60)\nprint(os.getpgid(0))"
    ran = sandbox._run(program, Limits(), namespaces=False, filtered=False)
    assert ran.how == "done"
    deadline = time.monotonic() + 5
    while _alive(int(ran.output)):
        assert time.monotonic() < deadline
        time.sleep(0.02)


def _alive(group: int) -> bool:
    listed = subprocess.run(["ps", "-eo", "pgid,stat"], capture_output=True, text=True, check=True).stdout
    return any(line.split()[0] == str(group) and "Z" not in line.split()[1] for line in listed.splitlines()[1:])
