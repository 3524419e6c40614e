"""The first process of a guest: it prepares the machine, runs one command, reports, and switches the machine off.

It is copied into the image as ``/init`` and imports the standard library alone. What it is to do stands in `ORDER`. Its reports
go to the second serial line, as frames of a letter, four bytes of length (big-endian) and the content:

    U  the machine is up       O, E  output, errors of the command
    F  files to take home (a tar archive)       X  the exit status, in decimal: the last one
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import selectors
import stat
import subprocess
import tarfile
import termios
import tty
from pathlib import Path

ORDER = "/nfnl-order.json"
_LINE = "/dev/ttyS1"
_MOUNTS = (
    ("proc", "/proc", ""),
    ("sysfs", "/sys", ""),
    ("devtmpfs", "/dev", ""),
    ("devpts", "/dev/pts", ""),
    ("tmpfs", "/dev/shm", ""),
)
_POWER_OFF = 0x4321FEDC  # linux/reboot.h


def main() -> None:
    """Never returns: a first process that ends is a kernel panic."""
    libc = ctypes.CDLL(None, use_errno=True)
    for kind, where, options in _MOUNTS:
        os.makedirs(where, exist_ok=True)
        libc.mount(kind.encode(), where.encode(), kind.encode(), 0, options.encode())
    os.symlink("/proc/self/fd", "/dev/fd")
    order = json.loads(Path(ORDER).read_text())
    os.environ.clear()
    os.environ.update(order["environment"])
    line = os.open(_LINE, os.O_RDWR | os.O_NOCTTY | os.O_CLOEXEC)
    tty.setraw(line)
    subprocess.run(["modprobe", "-qa", *order["modules"]], check=False)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=False)
    _report(line, b"U", os.uname().release.encode())
    before = _files(order["share"])
    status = _run(line, order["command"], order["directory"])
    if new := _files(order["share"]) - before:
        _report(line, b"F", _archive(order["share"], sorted(path for path, *_ in new)))
    _report(line, b"X", str(status).encode())
    termios.tcdrain(line)  # what waits in the line's buffer would end with the machine
    os.sync()
    libc.reboot(_POWER_OFF)


def _report(line: int, kind: bytes, content: bytes) -> None:
    rest = memoryview(kind + len(content).to_bytes(4, "big") + content)
    while rest:
        rest = rest[os.write(line, rest) :]


def _run(line: int, command: list[str], directory: str) -> int:
    """Run the command, report what it prints, and return its exit status as a shell would."""
    try:
        child = subprocess.Popen(
            command,
            cwd=directory,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            start_new_session=True,
        )
    except OSError as error:
        _report(line, b"E", f"{command[0]}: {error.strerror}\n".encode())
        return 127 if isinstance(error, FileNotFoundError) else 126
    with child, selectors.DefaultSelector() as selector:
        for kind, stream in ((b"O", child.stdout), (b"E", child.stderr)):
            selector.register(stream, selectors.EVENT_READ, kind)  # type: ignore[arg-type]
        while selector.get_map():
            for key, _ in selector.select():
                if data := os.read(key.fd, 1 << 16):
                    _report(line, key.data, data)
                else:
                    selector.unregister(key.fileobj)
    return child.returncode if child.returncode >= 0 else 128 - child.returncode


def _files(directory: str | None) -> set[tuple[str, int, int]]:
    """The plain files below a directory; a file that was written is another one then."""
    found = set()
    for where, _, names in os.walk(directory) if directory else ():
        for name in names:
            path = os.path.join(where, name)
            status = os.lstat(path)
            if stat.S_ISREG(status.st_mode):
                found.add((os.path.relpath(path, directory), status.st_mtime_ns, status.st_size))
    return found


def _archive(directory: str, names: list[str]) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for name in names:
            archive.add(os.path.join(directory, name), arcname=name)
    return packed.getvalue()


if __name__ == "__main__":
    main()
