"""What this machine can do. Every skipped test is skipped by one of these, by name, so that the set of skips can be compared
with `skips.txt` (see `check_skips.py`): a test that silently stops running is a test that was deleted.

A probe finds out by trying, never by a version number. It answers None, or the reason why not.
"""

from __future__ import annotations

import functools
import os
import shutil
import socket
import subprocess
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from nfnl import open_queue
from nfnl.subsys.queue import QueueFlag
from nfnl.testing.guest import available
from nfnl.testing.lab import LinuxLab
from nfnl.wire.constants import SocketOption
from tests.contract.bridges import Bridge

PROBES: dict[str, Callable[[], str | None]] = {}


def probe(function: Callable[[], str | None]) -> Callable[[], str | None]:
    """Register a probe under its name with dashes. It is asked once."""
    cached = functools.cache(function)
    PROBES[function.__name__.replace("_", "-")] = cached
    return cached


def require(name: str) -> None:
    """Skip the test unless this machine can do what the probe asks."""
    if reason := PROBES[name]():
        pytest.skip(f"probe {name}: {reason}")


#: The kernel that ``pytest --boot`` names; "" when none is to be booted.
BOOT = ""


@probe
def guest() -> str | None:
    """A guest may be started, which takes about ten seconds: ``pytest --boot SUITE:PACKAGE``, and what it needs is installed."""
    return available() if BOOT else "no kernel to boot was named: pytest --boot"


@probe
def initial_user_namespace() -> str | None:
    """root of the machine, not of a user namespace: some things are never given to the latter."""
    try:
        mapping = Path("/proc/self/uid_map").read_text(encoding="ascii").split()
    except OSError:
        return "not Linux"
    if os.geteuid() != 0:
        return "not root"
    return None if mapping == ["0", "0", "4294967295"] else "root of a user namespace only"


@probe
def lab_available() -> str | None:
    """A network namespace with a tun device and iptables can be had, by root or in a user namespace."""
    return LinuxLab.available()


@probe
def conntrack_glue() -> str | None:
    """Queues can tell about flows: CONFIG_NETFILTER_NETLINK_GLUE_CT, and nf_conntrack_netlink is there."""

    def bind(lab: LinuxLab) -> None:
        open_queue(1, kernel=lab, flags=QueueFlag.CONNTRACK).close()

    return _tried(bind)


@probe
def nft_queue() -> str | None:
    """nftables has a queue statement: CONFIG_NFT_QUEUE."""

    def add(lab: LinuxLab) -> None:
        for line in ("add table ip t", "add chain ip t c { type filter hook output priority 0; }", "add rule ip t c queue num 5"):
            done = lab.run(["nft", line])
            if done.returncode:
                raise OSError(f"nft {line}: {done.stderr.splitlines()[0]}")

    return _tried(add)


@probe
def iptables_legacy() -> str | None:
    """iptables-legacy is installed, and this kernel and this user can have its tables."""
    return _tried(lambda lab: _runs(lab, "iptables-legacy -S"))


@probe
def iptables_nft() -> str | None:
    """iptables-nft is installed, and nftables takes extensions of iptables: CONFIG_NFT_COMPAT."""
    return _tried(lambda lab: _runs(lab, "iptables-nft -A OUTPUT -m mark --mark 1 -j NFQUEUE"))


def _runs(lab: LinuxLab, command: str) -> None:
    """Raises OSError unless it does."""
    done = lab.run(command)
    if done.returncode:
        raise OSError(f"{command}: {done.stderr.splitlines()[0]}")


@probe
def bridge_queue() -> str | None:
    """A bridge can hand packets to a queue: CONFIG_BRIDGE, CONFIG_NF_TABLES_BRIDGE, CONFIG_NFT_QUEUE, and veth."""

    def build(lab: LinuxLab) -> None:
        with ExitStack() as cleanup:
            Bridge(lab, cleanup)

    return _tried(build)


def _tried(attempt: Callable[[LinuxLab], None]) -> str | None:
    """None if this can be done in a lab, else the reason why not."""
    try:
        with LinuxLab() as lab:
            attempt(lab)
    except OSError as error:
        return " ".join(str(error.strerror or error).split())
    return None


@probe
def rmem_max_visible() -> str | None:
    """Network namespaces show net.core.rmem_max, so that it can be compared with what their sockets do."""
    asked = subprocess.run(["unshare", "-n", "cat", "/proc/sys/net/core/rmem_max"], capture_output=True, text=True, check=False)
    return asked.stderr.strip() or None


@probe
def network_namespaces() -> str | None:
    """A network namespace can be made, by root of whatever user namespace."""
    tried = subprocess.run(["unshare", "-n", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or None


@probe
def listen_all_nsid_readable() -> str | None:
    """NETLINK_LISTEN_ALL_NSID can be read back; since Linux 6.12."""
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12) as sock:
        try:
            sock.getsockopt(270, SocketOption.LISTEN_ALL_NSID)
        except OSError as error:
            return str(error.strerror)
    return None


@probe
def user_namespaces() -> str | None:
    """A user namespace can be made, with a network namespace in it."""
    tried = subprocess.run(["unshare", "-Urn", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or None


@probe
def user_namespaces_for_nobody() -> str | None:
    """Anybody may make a user namespace; to be asked by root."""
    nobody = ["setpriv", "--reuid=65534", "--regid=65534", "--clear-groups"]
    tried = subprocess.run([*nobody, "unshare", "-Urn", "true"], capture_output=True, text=True, check=False)
    return tried.stderr.strip() or None


@probe
def ping_installed() -> str | None:
    """There is a ``ping``, for what the documents show."""
    return None if shutil.which("ping", path=f"{os.environ.get('PATH', '')}:/bin:/usr/bin") else "no ping"


@probe
def conntrack_command() -> str | None:
    return None if shutil.which("conntrack") else "there is no conntrack command"


@probe
def iproute2() -> str | None:
    """There is an ``ip``, which makes namespaces with names."""
    return None if shutil.which("ip") else "no ip"


@probe
def git() -> str | None:
    """There is a ``git``, which knows what of a tree is source."""
    return None if shutil.which("git") else "no git"


@probe
def tshark() -> str | None:
    """There is Wireshark's ``tshark``, whose dissectors ours are compared with."""
    return None if shutil.which("tshark") else "no tshark"


@probe
def ruby() -> str | None:
    """There is a ``ruby``, the language of Vagrantfiles."""
    return None if shutil.which("ruby") else "no ruby"


@probe
def shellcheck() -> str | None:
    """There is a ``shellcheck``, which finds mistakes in shell scripts."""
    return None if shutil.which("shellcheck") else "no shellcheck"
