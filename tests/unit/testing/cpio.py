"""Archives as the kernel unpacks them, read by the book: Documentation/driver-api/early-userspace/buffer-format.rst."""

from __future__ import annotations

import io
from dataclasses import dataclass

from nfnl.testing._image import Image


@dataclass
class Member:
    """A file of an archive."""

    name: str
    mode: int
    links: int
    mtime: int
    device: tuple[int, int]
    content: bytes


def read_cpio(archive: bytes) -> list[Member]:
    """All files, in the order they stand."""
    members: list[Member] = []
    at = 0
    while True:
        assert archive[at : at + 6] == b"070701", f"no magic at {at}"
        number = [int(archive[start : start + 8], 16) for start in range(at + 6, at + 110, 8)]
        _, mode, uid, gid, links, mtime, size, _, _, *device, name_size, checksum = number
        assert (uid, gid, checksum) == (0, 0, 0)
        name = archive[at + 110 : at + 110 + name_size]
        assert name.endswith(b"\0")
        start = at + 110 + name_size
        start += -start % 4
        if name == b"TRAILER!!!\0":
            assert archive[start:].strip(b"\0") == b""
            return members
        content = archive[start : start + size]
        assert len(content) == size
        members.append(Member(name[:-1].decode(), mode, links, mtime, (device[0], device[1]), content))
        at = start + size
        at += -at % 4


def archive_of(image: Image) -> dict[str, Member]:
    """What the kernel would make of an image, by absolute path."""
    file = io.BytesIO()
    size = image.save(file)
    assert size == len(file.getvalue())
    assert size % 512 == 0
    members = read_cpio(file.getvalue())
    assert [member.name for member in members] == sorted(member.name for member in members), "directories come first"
    return {f"/{member.name}": member for member in members}
