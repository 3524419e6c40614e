"""Finding a kernel to boot, and the modules it is given."""

from __future__ import annotations

import gzip
import lzma
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from nfnl.testing import _kernels
from nfnl.testing._kernels import Kernel, KernelError, find_kernel, selected_modules


def bzimage(release: str) -> bytes:
    """As much of a kernel image as tells its release. See Documentation/arch/x86/boot.rst."""
    image = bytearray(0x2000)
    image[0x202:0x206] = b"HdrS"
    image[0x20E:0x210] = (0x1000).to_bytes(2, "little")
    text = f"{release} (builder@here) #1 SMP".encode() + b"\0"
    image[0x1200 : 0x1200 + len(text)] = text
    return bytes(image)


def module(depends: str = "", softdep: str = "") -> bytes:
    """As much of a module as `modinfo` reads."""
    return b"\x7fELF..." + f"\0license=GPL\0depends={depends}\0".encode() + (f"\0softdep={softdep}\0".encode() if softdep else b"")


# ------------------------------------------------------------------------------------------------------------- on this machine


def test_an_image_tells_its_release(tmp_path: Path) -> None:
    image = tmp_path / "boot" / "vmlinuz-of-mine"
    image.parent.mkdir()
    image.write_bytes(bzimage("6.1.0-53-cloud-amd64"))
    assert find_kernel(str(image)) == Kernel(image, None, "6.1.0-53-cloud-amd64")


@pytest.mark.parametrize("place", ["boot", "lib/modules/6.1.0"], ids=["/boot", "beside its modules"])
def test_modules_are_found_where_they_are_installed(tmp_path: Path, place: str) -> None:
    modules = tmp_path / "lib/modules/6.1.0"
    (modules / "kernel").mkdir(parents=True)
    image = tmp_path / place / "vmlinuz"
    image.parent.mkdir(exist_ok=True)
    image.write_bytes(bzimage("6.1.0"))
    assert find_kernel(str(image)).modules == modules


@pytest.mark.parametrize("place", ["boot/vmlinuz-6.1.0", "usr/lib/modules/6.1.0/vmlinuz"])
def test_a_directory_that_a_package_was_unpacked_to(tmp_path: Path, place: str) -> None:
    image = tmp_path / "linux" / place
    image.parent.mkdir(parents=True)
    image.write_bytes(bzimage("6.1.0"))
    modules = tmp_path / "linux" / "usr/lib/modules/6.1.0"
    (modules / "kernel").mkdir(parents=True)
    assert find_kernel(str(tmp_path / "linux")) == Kernel(image, modules, "linux")


def test_what_is_no_kernel(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"MZ" + bytes(2000))
    for what, why in (
        (tmp_path / "file", "not a Linux kernel image (bzImage)"),
        (tmp_path, "no kernel image in this directory"),
        ("vmlinuz", "neither a kernel image nor a directory with one, and not of the form SUITE:PACKAGE"),
        ("bookworm:", "neither a kernel image nor a directory with one, and not of the form SUITE:PACKAGE"),
        (tmp_path / "a:b", "neither a kernel image nor a directory with one, and not of the form SUITE:PACKAGE"),
    ):
        with pytest.raises(KernelError, match=f"^{re.escape(f'{what}: {why}')}$"):
            find_kernel(str(what))


# ------------------------------------------------------------------------------------------------------------- modules


def test_modules_and_what_they_need_uncompressed(tmp_path: Path) -> None:
    for path, data in {
        "net/netfilter/nfnetlink_queue.ko.xz": lzma.compress(module("nfnetlink,nf-conntrack")),
        "net/netfilter/nfnetlink.ko.gz": gzip.compress(module()),
        "net/netfilter/nf_conntrack.ko": module("libcrc32c"),
        "lib/libcrc32c.ko": module(softdep="pre: crc32c"),
        "crypto/crc32c.ko": module(),
        "drivers/net/tun.ko.xz": lzma.compress(module()),
        "drivers/gpu/nothing.ko": module("missing"),
        "net/ceph/libceph.ko": module(),
    }.items():
        (tmp_path / "kernel" / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "kernel" / path).write_bytes(data)
    found = {str(path): data for path, data in selected_modules(tmp_path)}
    assert set(found) == {
        "kernel/net/netfilter/nfnetlink_queue.ko",
        "kernel/net/netfilter/nfnetlink.ko",
        "kernel/net/netfilter/nf_conntrack.ko",
        "kernel/lib/libcrc32c.ko",
        "kernel/crypto/crc32c.ko",
        "kernel/drivers/net/tun.ko",
    }
    assert found["kernel/net/netfilter/nfnetlink_queue.ko"] == module("nfnetlink,nf-conntrack")


# ------------------------------------------------------------------------------------------------------------- from apt

INDEX = """\
Debian\tmirror/updates/\tstone-security
Debian\tmirror/main/\tstone
Other\tmirror/other/\tstone
"""
#: name -> version, depends
ARCHIVE = {
    "linux-image-small": ("6.1.5-2", "linux-image-6.1.5-small (= 6.1.5-2)"),
    "linux-image-6.1.5-small": ("6.1.5-2", "kmod, linux-base (>= 4.3), initramfs-tools | linux-initramfs-tool"),
    "linux-image-6.1.12-small": ("6.1.12-1", "kmod, linux-binary-6.1.12-small (= 6.1.12-1), linux-modules-6.1.12-small"),
    "linux-binary-6.1.12-small": ("6.1.12-1", ""),
    "linux-modules-6.1.12-small": ("6.1.12-1", ""),
    "linux-image-6.2-small": ("6.2-1", "linux-modules-6.2-small"),
}


class FakeApt:
    """apt with the archive above: it answers as the programs do, and notes what was asked."""

    def __init__(self) -> None:
        self.asked: list[str] = []
        self.broken = ""

    def __call__(self, command: list[str], where: Path | None = None) -> str:
        words = [word for word in command[1:] if "=" not in word or word.startswith("linux")]
        words = [word for word in words if word not in ("-qq", "-o", "--no-all-versions")]
        self.asked.append(" ".join([command[0], *words]))
        if self.broken:
            raise KernelError(self.broken)
        match [command[0], *words]:
            case ["apt-get", "indextargets", *_]:
                return INDEX
            case ["apt-get", "update"]:
                return ""
            case ["apt-cache", "pkgnames", start]:
                return "\n".join(name for name in ARCHIVE if name.startswith(start))
            case ["apt-cache", "show", name]:
                if name not in ARCHIVE:
                    raise KernelError("apt-cache: E: No packages found")
                version, depends = ARCHIVE[name]
                return f"Package: {name}\nVersion: {version}\nDepends: {depends}\nFilename: x\n"
            case ["apt-get", "download", package]:
                assert where is not None
                (where / f"{package.partition('=')[0]}_x.deb").touch()
                return ""
            case ["dpkg-deb", "-x", package, to]:
                name = Path(package).name.partition("_")[0]
                if re.search(r"\d", name) and not name.startswith("linux-modules"):
                    (Path(to) / "boot").mkdir(parents=True, exist_ok=True)
                    if name.startswith("linux-binary") or "6.1.5" in name:
                        (Path(to) / "boot" / f"vmlinuz-{name}").write_bytes(bzimage(name))
                return ""
        raise AssertionError(f"nobody knows {command}")


@pytest.fixture
def apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> FakeApt:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    fake = FakeApt()
    monkeypatch.setattr(_kernels, "_run", fake)
    return fake


@pytest.fixture
def downloads(apt: FakeApt) -> Callable[[], list[str]]:
    return lambda: [line.split()[2] for line in apt.asked if line.startswith("apt-get download")]


def test_a_package_that_only_names_another(apt: FakeApt, downloads: Callable[[], list[str]], tmp_path: Path) -> None:
    kernel = find_kernel("stone:linux-image-small")
    assert kernel.version == "6.1.5-2"
    assert kernel.image.read_bytes() == bzimage("linux-image-6.1.5-small")
    assert kernel.image.is_relative_to(tmp_path / "nfnl/kernels")
    assert downloads() == ["linux-image-small=6.1.5-2", "linux-image-6.1.5-small=6.1.5-2"]


def test_a_package_in_parts(apt: FakeApt, downloads: Callable[[], list[str]]) -> None:
    kernel = find_kernel("stone:linux-image-6.1.12-small")
    assert kernel.image.read_bytes() == bzimage("linux-binary-6.1.12-small")
    assert downloads() == [f"linux-{part}-6.1.12-small=6.1.12-1" for part in ("image", "binary", "modules")]


def test_of_several_the_newest(apt: FakeApt) -> None:
    assert find_kernel("stone:linux-image-6.1.*-small").version == "6.1.12-1", "12 is more than 5"


@pytest.mark.parametrize(
    ("suite", "site"), [("stone", "mirror/main/"), ("old-stone", "mirror/main/"), ("iron-security", "mirror/updates/")]
)
def test_other_suites_come_from_where_this_machine_s_do(apt: FakeApt, tmp_path: Path, suite: str, site: str) -> None:
    find_kernel(f"{suite}:linux-image-small")
    source = (tmp_path / "nfnl/kernels/apt" / suite / "sources.list").read_text()
    assert re.fullmatch(rf"deb( \[signed-by=\S+\])? {site} {suite} main\n", source)


def test_what_was_fetched_today_is_not_looked_for_again(apt: FakeApt) -> None:
    first = find_kernel("stone:linux-image-small")
    apt.asked.clear()
    assert find_kernel("stone:linux-image-small") == first
    assert apt.asked == []


def yesterday(cache: Path) -> None:
    for name in (cache / "nfnl/kernels/names").iterdir():
        os.utime(name, (0, 0))


def test_a_day_later_it_is_looked_for_and_fetched_only_if_it_is_another(
    apt: FakeApt, downloads: Callable[[], list[str]], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = find_kernel("stone:linux-image-small")
    yesterday(tmp_path)
    apt.asked.clear()
    assert find_kernel("stone:linux-image-small") == first
    assert any(line == "apt-get update" for line in apt.asked)
    assert downloads() == []
    yesterday(tmp_path)
    monkeypatch.setitem(ARCHIVE, "linux-image-small", ("6.1.12-1", "linux-image-6.1.12-small"))
    assert find_kernel("stone:linux-image-small").version == "6.1.12-1"


def test_without_network_the_last_one_is_good_enough(apt: FakeApt, tmp_path: Path) -> None:
    first = find_kernel("stone:linux-image-small")
    yesterday(tmp_path)
    apt.broken = "apt-get: no network"
    told: list[str] = []
    assert find_kernel("stone:linux-image-small", told.append) == first
    assert told[-1] == "apt-get: no network; taking the one fetched before"
    with pytest.raises(KernelError, match=r"^apt-get: no network$"):
        find_kernel("stone:linux-image-6.1.5-small")


def test_what_there_is_not(apt: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(KernelError, match=r"^stone has no package linux-image-9\*$"):
        find_kernel("stone:linux-image-9*")
    with pytest.raises(
        KernelError, match=r"^linux-image-6.2-small of stone depends on linux-modules-6.2-small, which is not there$"
    ):
        find_kernel("stone:linux-image-6.2-small")


def test_a_machine_of_another_distribution(apt: FakeApt, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tests.unit.testing.test_kernels.INDEX", "Other\tmirror/\tstone\n")
    with pytest.raises(KernelError, match="apt is set up for no suites of Debian or Ubuntu"):
        find_kernel("stone:linux-image-small")


def test_a_machine_without_apt(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(*_: object, **__: object) -> None:
        raise FileNotFoundError(2, "No such file or directory")

    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.setattr(subprocess, "run", missing)
    with pytest.raises(KernelError, match="apt-get is not installed: kernels are fetched with apt only"):
        find_kernel("stone:linux-image-small")
