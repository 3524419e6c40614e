"""A file system for a guest, put together from files of this machine and written as an initramfs. Needs no root.

Files keep their absolute paths, so that programs find in the guest what they find here: the interpreter its library, an
editable installation its source.
"""

from __future__ import annotations

import json
import marshal
import os
import re
import shutil
import stat
import struct
import subprocess
import sys
from dataclasses import dataclass
from importlib.metadata import Distribution, distributions
from importlib.util import MAGIC_NUMBER, cache_from_source, source_hash
from pathlib import Path
from typing import BinaryIO
from urllib.parse import unquote, urlsplit

from nfnl.errors import NfnlError

__all__ = ["TREE_LIMIT", "Image", "ImageError"]

#: A source tree with more bytes than this is not one: somebody stands in his home directory.
TREE_LIMIT = 256 << 20

#: What nobody looks for in a guest, wherever it is: hidden directories, too.
_LEFT_OUT = r"__pycache__|node_modules|\..*"
#: What of the standard library the guest goes without: no screen, no compiler, no installation of packages.
_LEFT_OUT_OF_THE_LIBRARY = (
    r"config-.*|ensurepip|idlelib|lib2to3|pydoc_data|(site|dist)-packages|tests?|_test.*|turtledemo|tkinter|_tkinter.*|venv"
)
#: Distributions that make or check programs but do not run them: they stay at home.
_TOOLS = {"mypy", "pip", "ruff", "setuptools", "tox", "virtualenv", "wheel"}
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"
#: Flags of a compiled file that knows its source by a hash (PEP 552).
_HASHED_AND_CHECKED = 3


class ImageError(NfnlError):
    """There is something that cannot be put into an image."""


@dataclass(frozen=True, slots=True)
class _Entry:
    """A file as the archive has it: ``content`` is what it holds, where that is to be read, or where a link leads."""

    mode: int
    content: bytes | Path
    mtime: int = 0
    device: tuple[int, int] = (0, 0)


class Image:
    """The files of a guest. Paths are absolute; what is added twice is there once; directories come by themselves."""

    def __init__(self) -> None:
        self._entries: dict[str, _Entry] = {}
        self._linked: list[str] = []  #: programs and libraries whose shared libraries are still to be looked for

    # ------------------------------------------------------------------ files

    @property
    def paths(self) -> list[str]:
        """What is in it, in order."""
        return sorted(self._entries)

    def write(self, path: str | Path, content: bytes | str, *, mode: int = 0o644) -> None:
        """A file with this content."""
        data = content.encode() if isinstance(content, str) else content
        self._put(str(path), _Entry(stat.S_IFREG | mode, data))

    def directory(self, path: str | Path, *, mode: int = 0o755) -> None:
        """A directory."""
        self._put(str(path), _Entry(stat.S_IFDIR | mode, b""))

    def device(self, path: str, major: int, minor: int) -> None:
        """A character device."""
        self._put(path, _Entry(stat.S_IFCHR | 0o600, b"", device=(major, minor)))

    def link(self, path: str | Path, target: str) -> None:
        """A symbolic link."""
        self._put(str(path), _Entry(stat.S_IFLNK | 0o777, target.encode()))

    def copy(self, path: str | Path) -> None:
        """A file of this machine, or a directory without what is in it, and every link on the way to it.

        Raises OSError if it is not there.
        """
        way = Path(os.path.abspath(path)).parts[:0:-1]
        todo, at, links = list(way), Path("/"), 0
        while todo:
            at /= todo.pop()
            if at.name == "..":
                at = at.parent.parent
                continue
            status = at.lstat()
            if stat.S_ISLNK(status.st_mode):
                links += 1
                if links > 40:
                    raise OSError(f"{path}: a link that leads to itself")
                target = os.readlink(at)
                self.link(at, target)
                todo += Path(target).parts[::-1] if not target.startswith("/") else Path(target).parts[:0:-1]
                at = Path("/") if target.startswith("/") else at.parent
            elif stat.S_ISDIR(status.st_mode):
                self._put(str(at), _Entry(stat.S_IFDIR | stat.S_IMODE(status.st_mode) | 0o700, b""))
            elif stat.S_ISREG(status.st_mode) and str(at) not in self._entries:
                self._put(str(at), _Entry(status.st_mode, at, int(status.st_mtime)))
                if _is_elf(at):
                    self._linked.append(str(at))

    def _put(self, path: str, entry: _Entry) -> None:
        assert path.startswith("/"), path
        if path != "/":
            parent, _, name = path.rpartition("/")
            self._entries[f"{self._directory(parent)}/{name}"] = entry

    def _directory(self, path: str) -> str:
        """See that there is a directory of that name, and return where it is once all links are followed."""
        if not path:
            return ""
        parent, _, name = path.rpartition("/")
        parent = self._directory(parent)
        entry = self._entries.setdefault(f"{parent}/{name}", _Entry(stat.S_IFDIR | 0o755, b""))
        if stat.S_ISLNK(entry.mode):
            assert isinstance(entry.content, bytes)
            return self._directory(os.path.normpath(f"{parent or '/'}/{entry.content.decode()}"))
        return f"{parent}/{name}"

    # ------------------------------------------------------------------ trees, programs, Python

    def tree(self, root: str | Path, *, without: str = "", limit: int | None = None) -> None:
        """A directory and what is in it: source files of Python with their compiled form.

        Left out are the names that the regular expression ``without`` matches, hidden directories, virtual environments,
        directories that git ignores and files that cannot be read. Raises `ImageError` when it holds more than ``limit`` bytes.
        """
        total = 0
        names, hidden = re.compile(without), re.compile(_LEFT_OUT)
        ignored = _ignored_by_git(root)
        for directory, directories, files in os.walk(root):
            self.copy(directory)
            directories[:] = [
                name
                for name in directories
                if not (names.fullmatch(name) or hidden.fullmatch(name))
                and os.path.join(directory, name) not in ignored
                and not os.path.exists(os.path.join(directory, name, "pyvenv.cfg"))
            ]
            for path in (Path(directory, name) for name in files if not names.fullmatch(name)):
                if os.access(path, os.R_OK):
                    total += path.stat().st_size
                    if limit is not None and total > limit:
                        raise ImageError(f"{root} holds more than {limit >> 20} MiB: too much to take into a guest")
                    self._copy_source(path)

    def program(self, name: str | Path) -> bool:
        """A program, by path or as found on PATH; False if it is not installed."""
        found = shutil.which(name, path=f"{os.environ.get('PATH', '')}:{_SBIN}")
        if found is None:
            return False
        self.copy(found)
        with open(found, "rb") as file:
            if file.read(2) == b"#!":
                interpreter = file.readline().split()[0].decode()
                self.program(interpreter)
        return True

    def python(self) -> None:
        """This Python under all its names: interpreter, standard library, and the distributions of its environment."""
        interpreter = Path(sys.executable)
        self.program(interpreter.resolve())
        for name in interpreter.parent.glob("python*"):
            if name.resolve() == interpreter.resolve():
                self.copy(name)
        if sys.prefix != sys.base_prefix:
            self.copy(Path(sys.prefix, "pyvenv.cfg"))
        self.tree(Path(os.__file__).parent, without=_LEFT_OUT_OF_THE_LIBRARY)
        for distribution in distributions():
            if distribution.name.lower() not in _TOOLS:
                self._distribution(distribution)

    def _distribution(self, distribution: Distribution) -> None:
        for file in distribution.files or ():
            path = Path(os.path.normpath(str(file.locate())))
            if path.suffix != ".pyc" and path.is_file():
                self._copy_source(path)
        origin = json.loads(distribution.read_text("direct_url.json") or "{}")
        if origin.get("dir_info", {}).get("editable"):
            self.tree(unquote(urlsplit(origin["url"]).path), limit=TREE_LIMIT)

    def _copy_source(self, path: Path) -> None:
        """A file; one of Python with everything this Python has compiled of it, so that the guest need not do it again."""
        self.copy(path)
        if path.suffix != ".py":
            return
        source, status = path.read_bytes(), path.stat()
        by_time = MAGIC_NUMBER + struct.pack("<III", 0, int(status.st_mtime) & 0xFFFFFFFF, status.st_size & 0xFFFFFFFF)
        by_hash = MAGIC_NUMBER + struct.pack("<I", _HASHED_AND_CHECKED) + source_hash(source)
        own = Path(cache_from_source(str(path), optimization=""))
        for compiled in own.parent.glob(f"{own.stem}*.pyc"):  # pytest keeps its own beside it
            with open(compiled, "rb") as file:
                if file.read(16) in (by_time, by_hash) and ".opt-" not in compiled.name:
                    self.copy(compiled)
        if str(own) not in self._entries:
            try:
                code = compile(source, str(path), "exec", dont_inherit=True)
            except (SyntaxError, ValueError):
                return  # a template, or a file that tests what a syntax error looks like
            self.write(own, by_time + marshal.dumps(code))

    # ------------------------------------------------------------------ shared libraries

    def libraries(self) -> None:
        """The shared libraries of all programs and libraries that are in it. What is broken here will be broken there."""
        while self._linked:
            todo, self._linked = self._linked, []
            done = subprocess.run(["ldd", *todo], capture_output=True, text=True, check=False)
            for found in re.finditer(r"^\t(?:\S+ => )?(/\S+) \(", done.stdout, re.MULTILINE):
                self.copy(found[1])

    # ------------------------------------------------------------------ the archive

    def save(self, file: BinaryIO) -> int:
        """Write a cpio archive in the new portable format, as the kernel unpacks it. Returns its size."""
        size = 0
        for number, (path, entry) in enumerate(sorted(self._entries.items()), 1):
            data = entry.content if isinstance(entry.content, bytes) else entry.content.read_bytes()
            size += _member(file, path.lstrip("/"), entry, number, data)
        size += _member(file, "TRAILER!!!", _Entry(0, b""), 0, b"")
        return size + file.write(bytes(-size % 512))


def _member(file: BinaryIO, name: str, entry: _Entry, number: int, data: bytes) -> int:
    """One file of the archive; see Documentation/driver-api/early-userspace/buffer-format.rst."""
    encoded = name.encode() + b"\0"
    fields = (number, entry.mode, 0, 0, 1, entry.mtime, len(data), 0, 0, *entry.device, len(encoded), 0)
    head = b"070701" + b"".join(b"%08X" % field for field in fields) + encoded
    return file.write(head + bytes(-len(head) % 4) + data + bytes(-len(data) % 4))


def _ignored_by_git(root: str | Path) -> set[str]:
    """The directories below this one that are ignored: what is built, fetched or measured there is no source."""
    question = ["git", "-C", root, "ls-files", "-z", "--others", "--ignored", "--exclude-standard", "--directory"]
    try:
        answer = subprocess.run(question, capture_output=True, text=True, check=False).stdout
    except FileNotFoundError:
        return set()
    return {os.path.join(root, name[:-1]) for name in answer.split("\0") if name.endswith("/") and not name.endswith(".egg-info/")}


def _is_elf(path: Path) -> bool:
    with open(path, "rb") as file:
        return file.read(4) == b"\x7fELF"
