"""``nfnl doctor``: can queues be listened at here, what will conntrack tell, and what is in the way?"""

from __future__ import annotations

import dataclasses
import errno
import json
import os
import shutil
import socket
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING

import click

import nfnl
from nfnl.cli.doctor_conntrack import conntrack
from nfnl.cli.findings import Finding, State
from nfnl.cli.owners import owners
from nfnl.cli.rights import has_net_admin, in_initial_user_namespace
from nfnl.cli.screen import Screen
from nfnl.errors import error_name
from nfnl.sim.iptables import IptablesError
from nfnl.subsys.queue import Command, Config, ConfigCommand, QueueFlag
from nfnl.transport.base import Kernel, SocketOptions
from nfnl.transport.linux import LinuxKernel, many_at_once
from nfnl.wire.constants import NETLINK_NETFILTER, SOL_NETLINK, NlmsgFlag, SocketOption
from nfnl.wire.control import Ack

if TYPE_CHECKING:
    from nfnl.testing.lab import LinuxLab


_STYLES = {State.OK: "green", State.NOTE: "yellow", State.PROBLEM: "bold red"}
#: bytes of receive buffer that are asked for on trial
_BUFFER = 8 << 20
_MODULE = "load it: modprobe nfnetlink_queue; or take a kernel with CONFIG_NETFILTER_NETLINK_QUEUE"
#: What a flag needs.
_FLAGS = {
    QueueFlag.FAIL_OPEN: "Linux 3.6",
    QueueFlag.CONNTRACK: "Linux 3.6 with CONFIG_NETFILTER_NETLINK_GLUE_CT, and nf_conntrack_netlink (modprobe it)",
    QueueFlag.GSO: "Linux 3.10",
    QueueFlag.UID_GID: "Linux 3.14",
    QueueFlag.SECCTX: "Linux 4.3 with CONFIG_NETWORK_SECMARK",
}
_RULE = "-A OUTPUT -p udp -j NFQUEUE --queue-num 0 --queue-bypass"
_NFT_RULE = "table inet try { chain try { type filter hook output priority 0; meta l4proto udp queue num 0 bypass; }; }"
#: How to make a rule that queues packets: the program, its arguments, its input; the Debian package, the kernel's part.
_RULES = (
    ("iptables-legacy", _RULE, "", "iptables", "ip_tables and xt_NFQUEUE"),
    ("iptables-nft", _RULE, "", "iptables", "nft_compat and xt_NFQUEUE"),
    ("nft", "-f -", _NFT_RULE, "nftables", "nft_queue"),
)
#: What there is to do where no lab can be had: a word of the reason, a remedy; the first that fits.
_LAB_REMEDIES = (
    ("not installed", "install iproute2, iptables and nftables"),
    ("/dev/net/tun", "let this user open /dev/net/tun (modprobe tun; chmod 666 /dev/net/tun)"),
    ("", "be root, or allow user namespaces; tests on the fake kernel need neither"),
)
#: IPv4 and UDP, from 127.0.0.1 to 127.0.0.1, port 9
_DATAGRAM = bytes.fromhex("4500001c00010000401100007f0000017f0000011388000900080000")
_AREAS = ("rights", "kernel", "rules", "buffers", "queues", "conntrack", "tests")
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"


@click.command()
@click.option("--json", "as_json", is_flag=True, help="Print the findings as JSON.")
def command(as_json: bool) -> None:
    """Look whether queues can be listened at here, what conntrack will tell, and what is in the way.

    Everything is found out by trying, in a network namespace that is gone at the end: rules, queues and settings of this machine
    stay as they are. (Kernel modules that are tried stay loaded, as after any other use.) The exit status is 0 when packets can be
    queued and listened to, 1 when not.

    \b
    Examples:
      nfnl doctor
      nfnl doctor --json | jq '.findings[] | select(.state != "ok")'
    """
    found = sorted(findings(), key=lambda finding: _AREAS.index(finding.area))
    problems = sum(finding.state is State.PROBLEM for finding in found)
    if as_json:
        listed = [dataclasses.asdict(finding) | {"state": finding.state.value} for finding in found]
        click.echo(json.dumps({"able": not problems, "findings": listed}, indent=2))
    else:
        show(found, problems, Screen())
    sys.exit(1 if problems else 0)


def show(found: Sequence[Finding], problems: int, screen: Screen) -> None:
    """For people."""
    area = ""
    for finding in found:
        if finding.area != area:
            area = finding.area
            screen.line((area, "bold"))
        screen.line((f"  {finding.state.value:<8} ", _STYLES[finding.state]), (f"{finding.name:<22} ", ""), (finding.told, ""))
        if finding.remedy:
            screen.line((f"{'':<11}{'':<22} -> {finding.remedy}", "dim"))
    if problems:
        screen.line((f"Queues cannot be listened at here: {problems} problem{'s' * (problems != 1)}.", "bold red"))
    else:
        screen.line(("Queues can be listened at here.", "bold green"))


def findings() -> Iterator[Finding]:
    """Everything, in the order in which it has to be looked into: what comes last may move this process to another namespace."""
    if sys.platform != "linux":
        yield Finding("kernel", "system", State.PROBLEM, f"this is {sys.platform}, not Linux", "the fake kernel runs everywhere")
        return
    here = LinuxKernel()
    yield from rights(here)
    yield from buffers(here)
    yield from queues(here)
    yield from conntrack(here)
    yield Finding("kernel", "release", State.OK, os.uname().release)
    try:
        namespace = _throw_away_namespace()
    except OSError as error:
        told = f"cannot be tried without a network namespace: {error.strerror}"
        remedy = "try it as root, or allow user namespaces"
        yield Finding("kernel", "queue flags", State.NOTE, told, remedy)
        yield Finding("rules", "NFQUEUE", State.NOTE, told, remedy)
    else:
        try:
            there = LinuxKernel(namespace)
            yield from features(there)
            yield from rules(there)
        finally:
            os.close(namespace)
    yield from lab()


# --- as things are --------------------------------------------------------------------------------------------------------------


def rights(kernel: Kernel) -> Iterator[Finding]:
    """Who this is, and whether nfnetlink_queue takes orders from him."""
    whose = "the machine's user namespace" if in_initial_user_namespace() else "a user namespace of its own"
    capable = "has CAP_NET_ADMIN" if has_net_admin() else "has no CAP_NET_ADMIN"
    told = f"user {os.geteuid()} in {whose} {capable}"
    number = _ask_in_vain(kernel)
    remedy = ""
    if number == errno.EPERM:
        remedy = "run it as root, or give it CAP_NET_ADMIN, or a network of its own: unshare -Urn"
        told += "" if not has_net_admin() else ", but not for this network namespace"
    yield Finding("rights", "CAP_NET_ADMIN", State.PROBLEM if remedy else State.OK, told, remedy)
    if number and number != errno.EPERM:
        yield Finding("kernel", "nfnetlink_queue", State.PROBLEM, f"not there: {error_name(number)}", _MODULE)
    elif not number:
        yield Finding("kernel", "nfnetlink_queue", State.OK, "answers")


def _ask_in_vain(kernel: Kernel) -> int:
    """The errno of a request that takes the rights to listen at queues and does nothing: PF_BIND, a no-op since Linux 3.8."""
    flags = NlmsgFlag.REQUEST | NlmsgFlag.ACK
    request = Config(command=Command(ConfigCommand.PF_BIND), nlmsg_flags=flags, nlmsg_seq=1)
    try:
        transport = kernel.open()
        try:
            transport.send(bytes(request))
            answers = [message for datagram in transport.receive() for message in nfnl.decode(datagram)]
        finally:
            transport.close()
    except OSError as error:  # no netlink, or none of its subsystems
        return error.errno or errno.EIO
    return next((answer.error for answer in answers if isinstance(answer, Ack)), errno.EIO)


def buffers(kernel: Kernel) -> Iterator[Finding]:
    """How large the buffer is that packets wait in between kernel and program."""
    for name in ("rmem_max", "rmem_default", "wmem_max", "wmem_default"):
        try:
            told = f"{int(kernel.sysctl(f'net.core.{name}')):,} bytes"
        except OSError:
            told = "not to be seen in this network namespace"
        yield Finding("buffers", f"net.core.{name}", State.OK, told)
    try:
        transport = kernel.open(SocketOptions(receive_buffer=_BUFFER))
    except OSError as error:
        yield Finding("buffers", "receive buffer", State.PROBLEM, f"no netlink socket: {error.strerror}", "run it on Linux itself")
        return
    granted = transport.receive_buffer // 2  # the kernel doubles it
    transport.close()
    told = f"{granted:,} of {_BUFFER:,} bytes are granted"
    if granted < _BUFFER:
        remedy = f"root gets what it asks for; others with: sysctl -w net.core.rmem_max={_BUFFER}"
        yield Finding("buffers", "receive buffer", State.NOTE, f"{told}: bursts may be lost", remedy)
    else:
        yield Finding("buffers", "receive buffer", State.OK, told)


def queues(kernel: Kernel) -> Iterator[Finding]:
    """Which numbers are taken, and by whom."""
    try:
        taken = owners(kernel)
    except OSError as error:
        if error.errno != errno.ENOENT:  # else there is no nfnetlink_queue, and it has been said
            yield Finding("queues", "taken", State.NOTE, "only root may see which", "run nfnl doctor as root")
        return
    for owner in taken.values():
        waiting = f"{owner.waiting} packet{'s' * (owner.waiting != 1)} waiting"
        yield Finding("queues", f"queue {owner.queue}", State.OK, f"taken by {owner}, {waiting}")
    if not taken:
        yield Finding("queues", "taken", State.OK, "none")


# --- by trying, in a namespace that nobody misses -------------------------------------------------------------------------------


def _throw_away_namespace() -> int:
    """A descriptor of a new network namespace. Moves the process to a user namespace where that is needed. Raises OSError."""
    from nfnl.testing.lab import enter_user_namespace, new_namespace

    try:
        return new_namespace()
    except PermissionError:
        enter_user_namespace()
        return new_namespace()


def features(kernel: LinuxKernel) -> Iterator[Finding]:
    """What this kernel's queues can do."""
    for flag, needs in _FLAGS.items():
        name = f"QueueFlag.{flag.name}"
        try:
            nfnl.open_queue(0, kernel=kernel, flags=flag).close()
        except OSError as error:
            yield Finding("kernel", name, State.NOTE, f"refused: {error_name(error.errno or 0)}", f"it takes {needs}")
        else:
            yield Finding("kernel", name, State.OK, "accepted")

    def extended() -> None:
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as sock:
            sock.setsockopt(SOL_NETLINK, SocketOption.EXT_ACK, 1)

    try:
        kernel.inside(extended)
    except OSError as error:
        yield Finding("kernel", "extended ack", State.NOTE, f"refused: {error_name(error.errno or 0)}", "it takes Linux 4.12")
    else:
        yield Finding("kernel", "extended ack", State.OK, "refusals come with a reason")
    many = "many datagrams per system call" if many_at_once() else "not to be had: one datagram per system call"
    yield Finding("kernel", "recvmmsg", State.OK if many_at_once() else State.NOTE, many)


def rules(kernel: LinuxKernel) -> Iterator[Finding]:
    """With which programs a rule can be made that brings packets to a queue."""
    able = False
    for program, arguments, text, package, part in _RULES:
        path = shutil.which(program, path=f"{os.environ.get('PATH', '')}:{_SBIN}")
        if path is None:
            yield Finding("rules", program, State.NOTE, "not installed", f"apt-get install {package}")
        elif complaint := _complaint(kernel, [path, *arguments.split()], text):
            yield Finding("rules", program, State.NOTE, complaint, f"it takes a kernel with {part} (modprobe)")
        else:
            able = True
            yield Finding("rules", program, State.OK, "can queue packets")
    if not able:
        remedy = "one of these programs, with its part of the kernel, is enough"
        yield Finding("rules", "NFQUEUE", State.PROBLEM, "no program here can make a rule that queues packets", remedy)


def _complaint(kernel: LinuxKernel, arguments: Sequence[str], text: str) -> str:
    """What a program in the namespace complains of; "" if it does not."""
    with tempfile.NamedTemporaryFile(prefix="nfnl-doctor-") as lock:
        environment = os.environ | {"XTABLES_LOCKFILE": lock.name}
        done = kernel.inside(
            lambda: subprocess.run(arguments, input=text, capture_output=True, text=True, check=False, env=environment)
        )
    if done.returncode == 0:
        return ""
    return (done.stderr.strip().splitlines() or [f"exit status {done.returncode}"])[0]


def lab() -> Iterator[Finding]:
    """Whether tests can run on the real kernel, and what is known of packets only by queueing one."""
    from nfnl.testing.lab import LinuxLab

    reason = LinuxLab.available()
    if reason:
        remedy = next(remedy for word, remedy in _LAB_REMEDIES if word in reason)
        yield Finding("tests", "LinuxLab", State.NOTE, reason, remedy)
        return
    yield Finding("tests", "LinuxLab", State.OK, "tests can run on this kernel, in namespaces of their own")
    with LinuxLab() as there:
        complaint = _missing_conntrack(there)
    if complaint:
        remedy = f"it takes {_FLAGS[QueueFlag.CONNTRACK]}, and xt_conntrack"
        yield Finding("kernel", "NFQA_CT", State.NOTE, complaint, remedy)
    else:
        yield Finding("kernel", "NFQA_CT", State.OK, "packets bring their conntrack entry")


def _missing_conntrack(lab: LinuxLab) -> str:
    """Why queued packets do not bring their conntrack entry; "" if they do."""
    try:
        lab.iptables("-A OUTPUT -p udp -m conntrack --ctstate NEW -j NFQUEUE --queue-num 0")
        with nfnl.open_queue(0, kernel=lab, flags=QueueFlag.CONNTRACK) as queue, lab.until_idle():
            lab.send(_DATAGRAM)
            for packet in queue:
                packet.accept()
                return "" if packet.message.ct is not None else "packets come without it"
    except IptablesError as error:
        return str(error).strip()
    except OSError as error:
        return f"refused: {error_name(error.errno or 0)}"
    return "no packet came"
