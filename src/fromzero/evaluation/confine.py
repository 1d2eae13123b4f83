"""The child process of `sandbox`: `python -I -S confine.py SETTINGS` gives up what it may do, then runs a program.

A program of its own, of the standard library alone. In this order: a root folder in memory that holds only Python, in
namespaces without a network (where the system lets users make them); limits of resources; and a list of the system
calls that the kernel still answers, which has no call that starts a process, opens a network or signals another.
"""

import ctypes
import errno
import json
import os
import platform
import resource
import runpy
import struct
import sys

_LIBC = ctypes.CDLL(None, use_errno=True)
_NAMESPACES = 0x10000000 | 0x20000 | 0x40000000 | 0x8000000 | 0x4000000  # of users, mounts, network, IPC, host names
_BIND, _PRIVATE, _RECURSIVE = 0x1000, 0x40000, 0x4000
_MOUNT_SETATTR = 442
# What the kernel answers: reading, writing and waiting on what is open, memory, threads, clocks. The numbers are those
# of asm/unistd_64.h and asm-generic/unistd.h.
_ALLOWED = {
    "x86_64": """0 1 3 4 5 6 7 8 9 10 11 12 13 14 15 17 19 20 21 22 23 24 25 28 32 33 35 39 53 60 63 74 77 79 80
    82 83 84 87 89 96 98 99 100 102 104 107 108 110 131 137 138 158 186 201 202 204 217 218 219 228 229 230 231 232 233
    258 262 263 264 267 269 270 271 273 281 290 291 292 293 316 318 324 332 334 439""",
    "aarch64": """17 19 20 21 22 23 24 34 35 38 46 48 49 57 59 61 62 63 64 65 66 67 72 73 78 79 80 82 93 94 96 98
    99 101 113 114 115 123 124 132 134 135 139 153 160 165 169 172 173 174 175 176 177 178 179 199 214 215 216 222 226
    233 276 278 283 291 293 439""",
}
_PLATFORM = {  # audit's name of it; then clone, clone3, tgkill, openat, fcntl, ioctl; then what changes files by a path
    "x86_64": (0xC000003E, (56, 435, 234, 257, 72, 16), (82, 83, 84, 87, 258, 263, 264, 316)),
    "aarch64": (0xC00000B7, (220, 435, 131, 56, 25, 29), (34, 35, 38, 276)),
}
# What fcntl and ioctl are asked: flags, copies, locks, sizes, blocking. Others name a process that a file then signals.
_FCNTL = (0, 1, 2, 3, 4, 5, 6, 7, 1030)
_IOCTL = (0x5401, 0x5413, 0x541B, 0x5421, 0x5450, 0x5451)
_WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_THREAD = 0x10000


def _call(name: str, *arguments: object) -> None:
    if getattr(_LIBC, name)(*arguments) != 0:
        raise OSError(ctypes.get_errno(), f"{name}: {os.strerror(ctypes.get_errno())}")


def enter_namespaces(folder: str, size: int) -> None:
    """Make `folder` the root: files in memory of so many bytes, and Python, which can't be written."""
    user, group = os.getuid(), os.getgid()
    _call("unshare", _NAMESPACES)
    for name, line in (("setgroups", "deny"), ("uid_map", f"0 {user} 1"), ("gid_map", f"0 {group} 1")):
        with open(f"/proc/self/{name}", "w") as file:
            file.write(line)
    with open(f"{folder}/program.py", "rb") as file:
        program = file.read()
    _call("mount", None, b"/", None, _PRIVATE | _RECURSIVE, None)
    _call("mount", b"tmpfs", folder.encode(), b"tmpfs", 0, f"size={size}".encode())
    needed = {os.path.dirname(os.__file__), f"{sys.base_prefix}/lib", "/lib", "/lib64", "/usr/lib"}
    for path in sorted(filter(os.path.isdir, needed)):
        place = folder + path
        if not os.path.isdir(place):
            os.makedirs(place)
            _call("mount", path.encode(), place.encode(), None, _BIND | _RECURSIVE, None)
            change = struct.pack("QQQQ", 1, 0, 0, 0)  # MOUNT_ATTR_RDONLY
            _call("syscall", _MOUNT_SETATTR, -1, place.encode(), 0x8000, change, len(change))
    with open(f"{folder}/program.py", "wb") as file:
        file.write(program)
    os.chroot(folder)


def filter_calls(writable: bool) -> None:
    """Let the kernel refuse all but the list above; not writable: files are opened to be read alone."""
    audit, (clone, clone3, tgkill, openat, fcntl, ioctl), paths = _PLATFORM[platform.machine()]
    refuse, allow = (0x06, 0, 0, 0x50000 | errno.EPERM), (0x06, 0, 0, 0x7FFF0000)
    rules = [(0x20, 0, 0, 4), (0x15, 1, 0, audit), (0x06, 0, 0, 0x80000000), (0x20, 0, 0, 0)]
    for number in map(int, _ALLOWED[platform.machine()].split()):
        if writable or number not in paths:
            rules += [(0x15, 0, 1, number), allow]
    rules += [(0x15, 0, 1, clone3), (0x06, 0, 0, 0x50000 | errno.ENOSYS)]  # its flags can't be seen; clone's can
    rules += [(0x15, 0, 3, clone), (0x20, 0, 0, 16), (0x45, 0, 1, _THREAD), allow, (0x20, 0, 0, 0)]
    rules += [(0x15, 0, 3, tgkill), (0x20, 0, 0, 16), (0x15, 0, 1, os.getpid()), allow, (0x20, 0, 0, 0)]
    for number, known in ((fcntl, _FCNTL), (ioctl, _IOCTL)):
        rules += [(0x15, 0, 2 * len(known) + 2, number), (0x20, 0, 0, 24)]
        for command in known:
            rules += [(0x15, 0, 1, command), allow]
        rules.append(refuse)
    rules += [(0x15, 0, 3, openat), (0x20, 0, 0, 32), (0x45, 1, 0, 0 if writable else _WRITING), allow, refuse]
    program = b"".join(struct.pack("HBBI", *rule) for rule in rules)
    held = ctypes.create_string_buffer(program)
    _call("prctl", 38, 1, 0, 0, 0)  # no new privileges
    _call("prctl", 22, 2, struct.pack("HxxxxxxP", len(rules), ctypes.addressof(held)), 0, 0)


def main() -> None:
    """SETTINGS: {"folder", "namespaces", "filter", "disk", "limits": {name of resource: most}}."""
    settings = json.loads(sys.argv[1])
    if settings["namespaces"]:
        enter_namespaces(settings["folder"], settings["disk"])
    os.chdir("/" if settings["namespaces"] else settings["folder"])
    for name, most in settings["limits"].items():
        resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (most, most))
    if settings["filter"]:
        filter_calls(settings["namespaces"])
    sys.argv = ["program.py"]
    runpy.run_path("program.py", run_name="__main__")


if __name__ == "__main__":
    main()
