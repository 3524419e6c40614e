"""Kernels to boot: found on this machine, or fetched with apt from any suite of the distribution that apt is set up for.

What is fetched stays in ``nfnl/kernels`` of the user's cache directory and is looked for anew after a day. apt keeps its lists
there too: nothing is installed, no root is needed, and the signatures are checked with the distribution's own keyring.
"""

from __future__ import annotations

import fcntl
import fnmatch
import gzip
import lzma
import os
import re
import shutil
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from nfnl.errors import NfnlError

__all__ = ["Kernel", "KernelError", "find_kernel"]

#: Modules that a guest can have, beside what they need: paths below ``kernel/``.
_MODULES = (
    "net/802/*",
    "net/8021q/*",
    "net/bridge/*",
    "net/core/*",
    "net/ipv4/*",
    "net/ipv6/*",
    "net/llc/*",
    "net/netfilter/*",
    "net/netlink/*",
    "net/packet/*",
    "net/sched/*",
    "net/sctp/*",
    "net/unix/*",
    "drivers/net/dummy.ko*",
    "drivers/net/ifb.ko*",
    "drivers/net/macvlan.ko*",
    "drivers/net/nlmon.ko*",
    "drivers/net/tun.ko*",
    "drivers/net/veth.ko*",
    "drivers/net/vrf.ko*",
)
_UNPACK: dict[str, Callable[[bytes], bytes]] = {
    ".ko": bytes,
    ".xz": lzma.decompress,
    ".gz": gzip.decompress,
    ".zst": lambda data: subprocess.run(["zstd", "-dcq"], input=data, capture_output=True, check=True).stdout,
}
_DAY = 86400


class KernelError(NfnlError):
    """There is no such kernel, or it cannot be had."""


@dataclass(frozen=True)
class Kernel:
    """A kernel that can be booted.

    ``version`` tells kernels apart that call themselves the same: it is that of the package where there is one, which has the
    patch level (``"6.1.192-1"``), else the release (``uname -r``).
    """

    image: Path
    #: its ``lib/modules/<release>``, or None: all that it has is built in
    modules: Path | None
    version: str


def find_kernel(what: str, tell: Callable[[str], None] = lambda text: None) -> Kernel:
    """The kernel of that description.

    ``what`` is a kernel image (``/boot/vmlinuz-...``; its modules are looked for where it lies and in /lib/modules), a directory
    that a kernel package was unpacked to, or ``SUITE:PACKAGE``, such as ``bookworm:linux-image-cloud-amd64``. In PACKAGE, ``*``
    stands for anything; of several the newest is taken. ``tell`` hears of what takes time. Raises `KernelError`, with the reason.
    """
    path = Path(what)
    if path.is_dir():
        return _unpacked(path, path.name)
    if path.is_file():
        return Kernel(path, _modules_of(path), _release(path))
    suite, colon, package = what.partition(":")
    if not colon or "/" in what or not suite or not package:
        raise KernelError(f"{what}: neither a kernel image nor a directory with one, and not of the form SUITE:PACKAGE")
    return _fetched(suite, package, tell)


# ---------------------------------------------------------------------- on this machine


def _unpacked(root: Path, version: str) -> Kernel:
    images = [*root.glob("boot/vmlinuz*"), *root.glob("**/lib/modules/*/vmlinuz")]
    if len(images) != 1:
        raise KernelError(f"{root}: {'no kernel image' if not images else f'{len(images)} kernel images'} in this directory")
    modules = [found for found in root.glob("**/lib/modules/*") if found.is_dir()]
    return Kernel(images[0], modules[0] if modules else None, version)


def _release(image: Path) -> str:
    """What ``uname -r`` will say, as the header of a bzImage tells. See Documentation/arch/x86/boot.rst: kernel_version."""
    with image.open("rb") as file:
        head = file.read(1 << 16)
    if head[0x202:0x206] != b"HdrS":
        raise KernelError(f"{image}: not a Linux kernel image (bzImage)")
    at = 0x200 + int.from_bytes(head[0x20E:0x210], "little")
    return head[at : head.index(b"\0", at)].split()[0].decode()


def _modules_of(image: Path) -> Path | None:
    release = _release(image)
    places = (image.parent, image.parent.parent / "lib/modules" / release, Path("/lib/modules") / release)
    return next((place for place in places if (place / "kernel").is_dir()), None)


# ---------------------------------------------------------------------- modules


def prepared_modules(modules: Path, into: Path) -> Path:
    """Those modules a guest can have, ready to be loaded: uncompressed, with the indices that ``modprobe`` reads.

    They are put in ``into``, below ``lib/modules``, and that directory is returned. Raises `KernelError` where ``depmod`` is
    missing.
    """
    if (depmod := shutil.which("depmod", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin")) is None:
        raise KernelError("depmod is not installed (package kmod)")
    to = into / "lib/modules" / modules.name
    to.mkdir(parents=True)
    for path, data in selected_modules(modules):
        (to / path).parent.mkdir(parents=True, exist_ok=True)
        (to / path).write_bytes(data)
    for name in ("modules.order", "modules.builtin", "modules.builtin.modinfo"):
        source = modules / name
        (to / name).write_bytes(source.read_bytes() if source.exists() else b"")
    _run([depmod, "-b", str(into), modules.name])
    return to


def selected_modules(modules: Path) -> Iterator[tuple[Path, bytes]]:
    """Path, below this directory, and content of those modules a guest can have, and of those that they need."""
    there = {_module_name(path): path for path in modules.glob("kernel/**/*.ko*")}
    todo = [name for name, path in there.items() if _is_wanted(str(path.relative_to(modules / "kernel")))]
    done: set[str] = set()
    while todo:
        name = todo.pop()
        if name in done or name not in there:
            continue
        done.add(name)
        path = there[name]
        data = _UNPACK[path.suffix](path.read_bytes())
        yield path.relative_to(modules).with_name(f"{path.name.partition('.')[0]}.ko"), data
        todo += _needed_by(data)


def _is_wanted(path: str) -> bool:
    return any(fnmatch.fnmatch(path, pattern) for pattern in _MODULES)


def _module_name(path: Path) -> str:
    return path.name.partition(".")[0].replace("-", "_")


def _needed_by(module: bytes) -> Iterator[str]:
    """Names of the modules that a module says it needs (``modinfo``: depends, softdep)."""
    for found in re.finditer(rb"\0depends=([^\0]*)", module):
        yield from (name.replace("-", "_") for name in found[1].decode().split(",") if name)
    for found in re.finditer(rb"\0softdep=(?:pre|post): ([^\0]*)", module):
        yield from (name.replace("-", "_") for name in found[1].decode().split())


# ---------------------------------------------------------------------- from apt


def cache_directory() -> Path:
    """Where fetched kernels are kept."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "nfnl" / "kernels"


def _fetched(suite: str, pattern: str, tell: Callable[[str], None]) -> Kernel:
    cache = cache_directory()
    name = cache / "names" / f"{suite}:{pattern}"  #: holds the name of the tree it meant when it was last looked for
    name.parent.mkdir(parents=True, exist_ok=True)
    with (cache / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not name.exists() or time.time() - name.stat().st_mtime > _DAY:
            try:
                name.write_text(_fetch(suite, pattern, cache, tell))
            except KernelError as error:
                if not name.exists():
                    raise
                tell(f"{error}; taking the one fetched before")
    tree = name.read_text()
    return _unpacked(cache / tree, tree.partition("_")[2])


def _fetch(suite: str, pattern: str, cache: Path, tell: Callable[[str], None]) -> str:
    """Fetch and unpack what is not there yet. Returns the name of the tree: the package's with its version."""
    apt = _Apt(suite, cache / "apt" / suite)
    tell(f"looking for {pattern} in {suite}")
    apt.update()
    packages = apt.closure(pattern)
    newest = packages[0]
    tree = f"{newest.name}_{newest.version}"
    if (cache / tree).exists():
        return tree
    tell(f"fetching {newest.name} {newest.version}")
    with tempfile.TemporaryDirectory(dir=cache) as scratch:
        unpacked, kept = Path(scratch, "unpacked"), Path(scratch, "kept")
        for package in packages:
            _run(["dpkg-deb", "-x", str(apt.download(package, Path(scratch))), str(unpacked)])
        kernel = _unpacked(unpacked, newest.version)
        kept.mkdir()
        if kernel.modules is not None:
            prepared_modules(kernel.modules, kept)
        (kept / "boot").mkdir()
        shutil.copyfile(kernel.image, kept / "boot" / "vmlinuz")
        kept.rename(cache / tree)
    return tree


@dataclass(frozen=True)
class _Package:
    name: str
    version: str
    depends: str


class _Apt:
    """apt with lists of its own, for one suite of the distribution whose other suites this machine uses."""

    def __init__(self, suite: str, state: Path) -> None:
        self._suite = suite
        self._state = state

    def update(self) -> None:
        """Bring the lists up to date. Raises `KernelError` if there is no such suite."""
        origin, site = self._site()
        keyring = f"/usr/share/keyrings/{origin.lower()}-archive-keyring.gpg"
        signed = f" [signed-by={keyring}]" if os.path.exists(keyring) else ""
        for directory in ("lists/partial", "cache/archives/partial"):
            (self._state / directory).mkdir(parents=True, exist_ok=True)
        (self._state / "status").touch()
        (self._state / "sources.list").write_text(f"deb{signed} {site} {self._suite} main\n")
        self._apt("apt-get", "update")

    def _site(self) -> tuple[str, str]:
        """Origin and address of the archive that has the suite: as this machine uses it for its own suites."""
        wanted = self._suite.endswith("-security")
        targets = _run(["apt-get", "indextargets", "--format", "$(ORIGIN)\t$(REPO_URI)\t$(RELEASE)", "Created-By: Packages"])
        for line in targets.splitlines():
            origin, site, release = line.split("\t")
            if origin in ("Debian", "Ubuntu") and release.endswith("-security") == wanted:
                return origin, site
        raise KernelError(f"{self._suite}: apt is set up for no suites of Debian or Ubuntu, or 'apt-get update' was never run")

    def closure(self, pattern: str) -> list[_Package]:
        """The newest package of that name, and those with parts of the kernel that it depends on."""
        names = fnmatch.filter(self._apt("apt-cache", "pkgnames", pattern.partition("*")[0]).split(), pattern)
        packages = [found for name in names if (found := self._show(name))]
        if not packages:
            raise KernelError(f"{self._suite} has no package {pattern}")
        newest = max(packages, key=lambda package: _as_number(package.version))
        closure = [newest]
        for package in closure:
            for name in re.findall(r"\blinux-(?:image|binary|modules)-[^\s,|]+", package.depends):
                part = self._show(name)
                if part is None:
                    raise KernelError(f"{package.name} of {self._suite} depends on {name}, which is not there")
                if part not in closure:
                    closure.append(part)
        return closure

    def _show(self, name: str) -> _Package | None:
        """A package that can be had, in its newest version."""
        shown = self._apt("apt-cache", "show", "--no-all-versions", name, missing="")
        fields = dict(re.findall(r"^(Version|Depends|Filename): (.*)$", shown, re.MULTILINE))
        return _Package(name, fields["Version"], fields.get("Depends", "")) if "Filename" in fields else None

    def download(self, package: _Package, into: Path) -> Path:
        """Fetch the archive file of a package."""
        self._apt("apt-get", "download", f"{package.name}={package.version}", where=into)
        return next(into.glob(f"{package.name}_*.deb"))

    def _apt(self, program: str, *arguments: str, where: Path | None = None, missing: str | None = None) -> str:
        settings = {
            "Dir::State": self._state,
            "Dir::State::status": self._state / "status",
            "Dir::Cache": self._state / "cache",
            "Dir::Etc::sourcelist": self._state / "sources.list",
            "Dir::Etc::sourceparts": "-",
            "Acquire::Languages": "none",
            "Acquire::Check-Valid-Until": "false",  # suites that nobody updates any more
            "APT::Sandbox::User": "root",  # this user, that is: no other could write to his cache
        }
        options = [word for name, value in settings.items() for word in ("-o", f"{name}={value}")]
        try:
            return _run([program, "-qq", *options, *arguments], where)
        except KernelError:
            if missing is None:
                raise
            return missing


def _run(command: list[str], where: Path | None = None) -> str:
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, cwd=where)
    except FileNotFoundError:
        raise KernelError(f"{command[0]} is not installed: kernels are fetched with apt only") from None
    if done.returncode:
        raise KernelError(f"{command[0]}: {' '.join(done.stderr.split()) or f'exit status {done.returncode}'}")
    return done.stdout


def _as_number(version: str) -> list[tuple[int, str]]:
    """For sorting: runs of digits count as numbers."""
    return [(int(digits or 0), rest) for rest, digits in re.findall(r"(\D*)(\d*)", version)]
