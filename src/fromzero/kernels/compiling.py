"""How kernels are compiled and kept, and what the user hears of it."""

import contextlib
import hashlib
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar, cast

import numba

from fromzero.console import say

Function = TypeVar("Function", bound=Callable[..., Any])
_LEAN: dict[str, Any] = {"_nrt": False, "error_model": "numpy"}
"""Without Numba's runtime that counts references, and without a look at every divisor, which keeps loops scalar."""
PATIENCE = 1.0  # seconds; a kernel that is compiled already is loaded in a tenth of that


def compiled(function: Function) -> Function:
    """A function compiled at its first call, once for each machine; it runs without the interpreter's lock."""
    return cast(Function, numba.njit(cache=True, nogil=True)(function))


def lean(function: Function) -> Function:
    """The same for a function that neither makes nor returns arrays: it counts no references to those that it is given,
    which for a short one takes longer than all the rest."""
    return cast(Function, numba.njit(cache=True, nogil=True, **_LEAN)(function))


def inlined(function: Function) -> Function:
    """A lean function whose code is put in the place of each call."""
    return cast(Function, numba.njit(cache=True, nogil=True, forceinline=True, **_LEAN)(function))


def loose(function: Function) -> Function:
    """An inlined function whose sums may be taken in any order, so that the compiler makes vectors of them."""
    orders = {"reassoc", "contract", "nsz"}
    return cast(Function, numba.njit(cache=True, nogil=True, forceinline=True, fastmath=orders, **_LEAN)(function))


_used: set[str] = set()


@contextlib.contextmanager
def first_use(what: str) -> Iterator[None]:
    """Say that `what` is being compiled when the first block for it takes so long that someone may wonder."""
    if what in _used:
        yield
        return
    _used.add(what)
    timer = threading.Timer(PATIENCE, say, [f"compiling {what}, once on this machine ..."])
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def forget_if_changed(folder: Path) -> None:
    """Remove machine code that was kept beside the sources when any of these has changed since.

    Numba looks at the file of each function alone, but its code also has that of the functions it calls.
    """
    sources = sorted((path.name, path.stat().st_size, path.stat().st_mtime_ns) for path in folder.glob("*.py"))
    digest, stamp = hashlib.sha256(repr(sources).encode()).hexdigest(), folder / "__pycache__" / "sources.sha256"
    with contextlib.suppress(OSError):  # a folder that can't be written has no machine code
        if stamp.exists() and stamp.read_text() == digest:
            return
        for path in [*stamp.parent.glob("*.nbi"), *stamp.parent.glob("*.nbc")]:
            path.unlink(missing_ok=True)
        stamp.parent.mkdir(exist_ok=True)
        stamp.write_text(digest)


forget_if_changed(Path(__file__).parent)
