"""Run a command on another Linux kernel: in a guest that is made for it, and is gone afterwards.

    kernel = find_kernel("bookworm:linux-image-cloud-amd64")
    status = run(kernel, ["python", "-m", "pytest", "tests"], share=Path("reports"))

The guest is a machine emulated by qemu (KVM is not used, as where it can be opened it often does not work), with that kernel and a
file system in memory, put together from files of this machine: this Python with its environment, the source tree, the programs
of netfilter, the modules of the kernel. It has no network and no disk, and needs no root. x86-64 only.
"""

from __future__ import annotations

import ctypes
import io
import json
import os
import platform
import selectors
import shutil
import signal
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path, PurePosixPath
from typing import BinaryIO

from nfnl.errors import NfnlError
from nfnl.testing import _guest_init
from nfnl.testing._image import TREE_LIMIT, Image
from nfnl.testing._kernels import Kernel, find_kernel, prepared_modules

__all__ = ["Guest", "GuestError", "GuestTimeout", "Kernel", "available", "build_image", "find_kernel", "run"]

QEMU = "qemu-system-x86_64"
#: Programs the guest has, as far as they are installed here.
PROGRAMS = (
    """
    bash cat chmod chown cp cut date dd df dmesg echo env false find grep head hostname id kill ln ls mkdir mknod mktemp mount mv
    nsenter ps pwd readlink rm rmdir sed seq setpriv sh sleep sort stat stty sync sysctl tail tee test timeout touch tr true umount
    uname uniq unshare wc which xargs
    bridge conntrack ethtool ip ipset nfct nft nstat ping ss tc tcpdump
    ebtables-nft xtables-legacy-multi xtables-nft-multi
    depmod insmod kmod lsmod modinfo modprobe
    """,
    *(
        f"ip{six}tables{back_end}{what}"
        for six in ("", "6")
        for back_end in ("", "-legacy", "-nft")
        for what in ("", "-save", "-restore")
    ),
)
#: Of these a guest can do nothing without.
NEEDED = ("ip", "kmod", "modprobe")
#: Loaded before the command runs: what has to be there before anybody asks for it, or what only root of the machine may load.
MODULES = (
    "tun",
    "veth",
    "bridge",
    "nfnetlink",
    "nfnetlink_queue",
    "nfnetlink_log",
    "nf_tables",
    "nf_nat_ftp",
    "nf_synproxy_core",
    *(f"ip{six}table_{table}" for six in ("", "6") for table in ("filter", "mangle", "raw", "nat")),
)
#: Taken along where they are: what libraries look up, and programs that kernel and shells know by one path.
_FILES = (
    *("/etc/ethertypes", "/etc/ld.so.cache", "/etc/protocols", "/etc/rpc", "/etc/services"),
    *("/bin/sh", "/sbin/ip", "/sbin/modprobe", "/usr/bin/env"),
)
_MACHINE = (
    "-M",
    "q35",
    "-accel",
    "tcg,thread=multi",
    "-cpu",
    "qemu64,-cx16,+rdrand",
    "-no-reboot",
    "-nodefaults",
    "-no-user-config",
)
#: An oops is an end, not an incident. Grace periods of RCU, of which a namespace takes many, are not waited for at leisure.
_ARGUMENTS = "console=ttyS0 rdinit=/init loglevel=4 panic=-1 oops=panic mitigations=off rcupdate.rcu_expedited=1"
_LAST_LINES = 30
_PR_SET_PDEATHSIG = 1


class GuestError(NfnlError):
    """The guest did not get to the end of its command: it could not be started, its kernel panicked, qemu died, time ran out."""


class GuestTimeout(GuestError):
    """The command did not end in time."""


def available() -> str | None:
    """None when guests can be had here, else the reason why not, in words."""
    if sys.platform != "linux" or platform.machine() != "x86_64":
        return "guests are made of x86-64 Linux programs only"
    missing = [
        name for name in (QEMU, "ldd", *NEEDED) if shutil.which(name, path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin") is None
    ]
    return f"not installed: {', '.join(missing)}" if missing else None


def run(
    kernel: Kernel,
    command: Sequence[str],
    *,
    tree: Path | None = None,
    share: Path | None = None,
    timeout: float = 300,
    memory: int = 1024,
    output: BinaryIO | None = None,
    errors: BinaryIO | None = None,
    tell: Callable[[str], None] = lambda text: None,
) -> int:
    """Run a command as root in a guest with this kernel, and return its exit status (as of a shell: 127, if there is no such).

    The command starts in ``tree`` (default: the current directory), of which the guest has a copy. What it prints is written to
    ``output`` and ``errors`` (default: those of this process) as it comes. Files it writes below ``share`` are there afterwards.
    ``timeout`` is in seconds and counts from the start of qemu, ``memory`` in MiB; ``tell`` hears of what takes time.

    Raises `GuestError` with the last lines of the guest's console, if it did not come to an exit status. Whatever happens, also
    KeyboardInterrupt, when this returns there is no guest any more.
    """
    if why_not := available():
        raise GuestError(why_not)
    started = time.monotonic()
    tree = (tree or Path.cwd()).absolute()
    if share is not None:
        share = share.absolute()
        share.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryFile() as file:
        size = build_image(kernel, command, tree, share).save(file)
        file.flush()
        tell(f"Linux {kernel.version}: image of {size >> 20} MiB made in {time.monotonic() - started:.1f} s")
        if memory << 20 < (least := 2 * size + (256 << 20)):
            raise GuestError(f"memory: {memory} MiB is not enough for this image; it needs {least >> 20}")
        guest = Guest(kernel.image, file.fileno(), memory)
        try:
            return _attend(guest, timeout, output or sys.stdout.buffer, errors or sys.stderr.buffer, share, tell)
        finally:
            guest.kill()


# ---------------------------------------------------------------------- the image


def build_image(kernel: Kernel, command: Sequence[str], tree: Path, share: Path | None) -> Image:
    """All that a guest with this kernel needs to run this command."""
    image = Image()
    for path in ("/dev", "/proc", "/sys", "/run", "/var", "/root"):
        image.directory(path)
    image.directory("/tmp", mode=0o1777)
    image.device("/dev/console", 5, 1)
    image.device("/dev/null", 1, 3)
    image.python()
    image.tree(tree, limit=TREE_LIMIT)
    for program in (*" ".join(PROGRAMS).split(), command[0]):
        image.program(program)
    for pattern in ("usr/lib/*/xtables/*.so", "usr/lib*/xtables/*.so", "lib/*/libgcc_s.so.1", "usr/lib64/libgcc_s.so.1"):
        for found in Path("/").glob(pattern):  # what programs load when they run
            image.copy(found)
    for file in _FILES:
        if os.path.exists(file):
            image.copy(file)
    image.write("/etc/passwd", "root:x:0:0:root:/root:/bin/sh\nnobody:x:65534:65534:nobody:/:/bin/sh\n")
    image.write("/etc/group", "root:x:0:\nnogroup:x:65534:\n")
    image.write("/etc/hosts", "127.0.0.1 localhost\n::1 localhost\n")
    image.libraries()
    if kernel.modules is not None:
        _add_modules(image, kernel.modules)
    if share is not None:
        image.directory(share)
    init = Path(_guest_init.__file__).read_text(encoding="utf-8")
    image.write("/init", f"#!{os.path.realpath(sys.executable)} -IS\n{init}", mode=0o755)
    order = {
        "command": list(command),
        "directory": str(tree),
        "share": str(share) if share is not None else None,
        "modules": MODULES,
        "environment": {
            "PATH": f"{os.path.dirname(sys.executable)}:/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
            "HOME": "/root",
            "LANG": "C.UTF-8",
            "PYTHONDONTWRITEBYTECODE": "1",
            "PYTHONUNBUFFERED": "1",
        },
    }
    image.write(_guest_init.ORDER, json.dumps(order))
    return image


def _add_modules(image: Image, modules: Path) -> None:
    with tempfile.TemporaryDirectory() as scratch:
        ready = prepared_modules(modules, Path(scratch))
        for path in ready.rglob("*"):
            if path.is_file():
                image.write(f"/lib/modules/{modules.name}/{path.relative_to(ready)}", path.read_bytes())


# ---------------------------------------------------------------------- the machine


class Guest:
    """A qemu that runs, and three lines to it: the console of the kernel, the reports of the first process, what qemu says."""

    def __init__(self, kernel: Path, initramfs: int, memory: int) -> None:
        self.console, console = socket.socketpair()
        self.reports, reports = socket.socketpair()
        libc = ctypes.CDLL(None)
        lines = [
            word
            for name, end in (("console", console), ("reports", reports))
            for word in ("-chardev", f"socket,id={name},fd={end.fileno()}", "-serial", f"chardev:{name}")
        ]
        with console, reports:
            self._process = subprocess.Popen(
                [
                    *(QEMU, *_MACHINE, "-m", str(memory), "-smp", "1", "-display", "none", "-nic", "none"),
                    *("-kernel", str(kernel), "-initrd", f"/proc/self/fd/{initramfs}", "-append", _ARGUMENTS, *lines),
                ],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.PIPE,
                pass_fds=(initramfs, console.fileno(), reports.fileno()),
                start_new_session=True,
                preexec_fn=lambda: libc.prctl(_PR_SET_PDEATHSIG, signal.SIGKILL),  # however this process ends
            )
        assert self._process.stderr is not None
        self.complaints = self._process.stderr

    def kill(self) -> int:
        """End it, if it still runs. Returns the exit status of qemu."""
        self._process.kill()
        status = self._process.wait()
        for line in (self.console, self.reports, self.complaints):
            line.close()
        return status


@dataclass
class _Console:
    """What was said outside the reports, as far as it may be wanted to explain a failure."""

    panic: str = ""
    _lines: deque[bytes] = field(default_factory=lambda: deque([b""], maxlen=_LAST_LINES))

    def add(self, data: bytes) -> None:
        first, *others = data.replace(b"\r", b"").split(b"\n")
        self._lines[-1] += first
        for line in others:
            if b"Kernel panic - " in self._lines[-1]:
                self.panic = self._lines[-1].partition(b"Kernel panic - ")[2].decode("utf-8", "replace")
            self._lines.append(line)

    def ending_with(self, what: str) -> str:
        """This failed; and what was said last."""
        lines = [line.decode("utf-8", "replace") for line in self._lines if line.strip()]
        return "\n  ".join([f"{what}; the last lines of the console:", *lines]) if lines else f"{what}; the console was silent"


def _attend(
    guest: Guest, timeout: float, output: BinaryIO, errors: BinaryIO, share: Path | None, tell: Callable[[str], None]
) -> int:
    """Pass on what the guest says until it says how its command ended."""
    started = time.monotonic()
    console, reports = _Console(), bytearray()
    with selectors.DefaultSelector() as selector:
        for line in (guest.console, guest.reports, guest.complaints):
            selector.register(line, selectors.EVENT_READ)
        while selector.get_map():
            left = started + timeout - time.monotonic()
            if left <= 0:
                raise GuestTimeout(console.ending_with(f"no end after {timeout:g} s, the guest was stopped"))
            for key, _ in selector.select(left):
                data = os.read(key.fd, 1 << 16)
                if not data:
                    selector.unregister(key.fileobj)
                elif key.fileobj is not guest.reports:
                    console.add(data)
                else:
                    reports += data
                for kind, content in _frames(reports):
                    match kind:
                        case "O" | "E":
                            stream = output if kind == "O" else errors
                            stream.write(content)
                            stream.flush()
                        case "U":
                            tell(f"Linux {content.decode()} is up after {time.monotonic() - started:.1f} s")
                        case "F":
                            assert share is not None
                            _unpack(content, share)
                        case "X":
                            return int(content)
    status = guest.kill()
    if console.panic:
        what = f"the kernel panicked ({console.panic})"
    elif status:
        what = f"qemu died of signal {-status}" if status < 0 else f"qemu ended with exit status {status}"
    else:
        what = "the guest switched itself off before its command ended"
    raise GuestError(console.ending_with(what))


def _frames(reports: bytearray) -> Iterator[tuple[str, bytes]]:
    """Take the frames that are whole. See `_guest_init`."""
    while len(reports) >= 5 and len(reports) >= (end := 5 + int.from_bytes(reports[1:5], "big")):
        yield chr(reports[0]), bytes(reports[5:end])
        del reports[:end]


def _unpack(packed: bytes, to: Path) -> None:
    """Write what came back. The guest is not trusted with a path that leads elsewhere."""
    with tarfile.open(fileobj=io.BytesIO(packed)) as archive:
        for member in archive:
            path = PurePosixPath(member.name)
            if path.is_absolute() or ".." in path.parts:
                raise GuestError(f"the guest sent a file with the path {member.name}")
            content = archive.extractfile(member)
            assert content is not None, member.name
            (to / path).parent.mkdir(parents=True, exist_ok=True)
            (to / path).write_bytes(content.read())
