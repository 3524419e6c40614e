"""A throw-away network namespace with the verbs of the fake kernel: what a test says to `FakeKernel` it can say to Linux.

    with LinuxLab() as lab:
        lab.iptables("-A INPUT -p icmp -j DROP")
        ping = lab.receive(IP(src="10.0.0.9", dst="10.0.0.1") / ICMP())
        assert ping.dropped

It needs root, or an unprivileged user namespace (`enter_user_namespace`), and the programs ``ip``, ``nft`` and ``iptables``.
`LinuxLab.available` says whether it can be had here, and if not, why not.
"""

from __future__ import annotations

import errno
import functools
import os
import re
import shlex
import shutil
import socket
import struct
import subprocess
import sys
import tempfile
import threading
import weakref
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager, suppress
from typing import Any, Self, SupportsBytes, TypeVar

from nfnl.errors import LocalProtocolError, TransportClosed, error_name
from nfnl.sim.iptables import IptablesError
from nfnl.sim.journey import Journey
from nfnl.subsys.conntrack import Flow, GetFlow
from nfnl.testing._watch import HOOKS, OUTPUT, PREROUTING, PROBES, TABLE, TRACES, Counter, QueueState, Rules, Watch
from nfnl.transport.base import SocketOptions, Wait
from nfnl.transport.linux import LinuxKernel, LinuxTransport, in_thread
from nfnl.wire.codec import decode
from nfnl.wire.constants import NlmsgFlag

__all__ = ["LabSender", "LabSocket", "LabTransport", "LinuxLab", "enter_user_namespace", "new_namespace"]

T = TypeVar("T")
#: by IP version
_Sockets = dict[int, socket.socket]

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000
_TUNSETIFF, _TUNSETIFINDEX, _IFF_TUN, _IFF_NO_PI = 0x400454CA, 0x400454DA, 1, 0x1000
_SO_RCVBUFFORCE, _SO_SNDBUFFORCE, _SO_MARK, _SO_PRIORITY, _IPV6_HDRINCL = 33, 32, 36, 12, 36
_RTMGRP_IPV6_ROUTE, _SIOCGIFFLAGS = 0x400, 0x8913
_ETH_P_MARKER = 0x88B5  # IEEE 802: for local experiments
_BUFFER = 64 << 20
_PORT = 0x6E666E6C  #: of the lab's own netlink socket, so that the first socket of a test gets the process id as in any namespace
_COUNTERS, _QUEUES = ("snmp", "netstat", "snmp6"), "netfilter/nfnetlink_queue"
_SBIN = "/usr/local/sbin:/usr/sbin:/sbin"

#: What is set in the namespace, so that it is the same on every machine and nothing happens in it by itself or by the clock.
SYSCTLS = {
    "net.ipv4.conf.all.rp_filter": 0,
    "net.ipv4.conf.default.rp_filter": 0,
    "net.ipv4.conf.all.accept_local": 0,
    "net.ipv4.conf.default.accept_local": 0,
    "net.ipv4.conf.all.route_localnet": 0,
    "net.ipv4.conf.default.route_localnet": 0,
    "net.ipv4.conf.all.log_martians": 0,
    "net.ipv4.conf.all.accept_redirects": 0,
    "net.ipv4.conf.default.accept_redirects": 0,
    "net.ipv4.conf.all.send_redirects": 0,
    "net.ipv4.conf.default.send_redirects": 0,
    "net.ipv4.ip_forward": 0,
    "net.ipv4.icmp_ratelimit": 0,
    "net.ipv4.icmp_echo_ignore_all": 0,
    "net.ipv6.conf.all.forwarding": 0,
    "net.ipv6.conf.all.accept_ra": 0,
    "net.ipv6.conf.default.accept_ra": 0,
    "net.ipv6.conf.default.autoconf": 0,
    "net.ipv6.conf.default.accept_dad": 0,
    "net.ipv6.conf.default.dad_transmits": 0,
    "net.ipv6.conf.default.router_solicitations": 0,
    "net.ipv6.conf.default.addr_gen_mode": 1,
    "net.ipv6.conf.default.disable_ipv6": 0,
    "net.ipv6.auto_flowlabels": 0,
    "net.ipv6.icmp.ratelimit": 0,
}
#: The same, where the kernel has it for each namespace (since Linux 6.11).
NEWER_SYSCTLS = {"net.ipv4.icmp_msgs_per_sec": 1_000_000, "net.ipv4.icmp_msgs_burst": 1_000_000}


class LinuxLab:
    """A network namespace of its own, gone when it is closed: a `Kernel` of the seam, and the tester's verbs.

    **The world**: lo; eth0, a point-to-point device (tun) with 10.0.0.1/24, fd00::1/64 and the default routes, so that any
    address is reachable without ARP or neighbour discovery. Nothing happens in it by itself. All limits by time on what the
    kernel answers are off; reverse-path filter, redirects, forwarding, router advertisements, duplicate address detection and
    link-local addresses too: `SYSCTLS` has them all.

    **How a fate is known.** An nftables chain before and one behind everything else at each hook report what comes by, in order,
    and iptables reports the rules it meets; see `nfnl.testing._watch`. *Delivered* means reported from behind INPUT, and that
    no counter says a protocol refused it (a wrong checksum); *sent*, that it was read from the tun device; *queued*, that the
    kernel's own count of waiting packets says so. *Dropped* is what is left at rest, and at rest the lab knows by a frame that
    it sends through the same loopback behind all the others: no time-outs. ``reason`` names the rule, the verdict, or the
    counters that moved.

    **What belongs to the lab**: the table ``inet nfnl_lab``, the NFLOG groups 0 and 65535, the default logger of IPv4 and IPv6,
    netlink port 0x6e666e6c. None of it shows in iptables or its counters.

    **Verdicts** sent with the lab's sockets (`open`, `socket`) are tied to their packets by id. Of a program that the lab does not
    see, it sees what its verdicts did; which of several packets one dropped it cannot know, and takes the oldest.

    **Limits.** What happens at once must fit into the buffer it is reported to, else `OverrunError` says that the lab lost sight:
    root has room for some ten thousand packets set free by one datagram; a user namespace gets ``net.core.rmem_max``, which
    before Linux 6.18 is enough for about 40.

    Safe to use from several threads. ``NFNL_IPTABLES`` chooses between ``legacy`` and ``nft``; without it legacy is taken if it
    works. Raises OSError, with the reason in words, where there can be no lab.
    """

    def __init__(self) -> None:
        if sys.platform != "linux":
            raise OSError(errno.ENOSYS, "a lab needs Linux")
        self.flavour = iptables_flavour()
        self._lock = threading.RLock()
        self._holder = 0  #: the thread that holds the lock
        self._idling = 0
        #: what programs have sent with `send_raw`, such as the answers of `QueuedPacket.reject`; the last is the latest
        self.sent: list[Journey] = []
        self._tuns: dict[str, tuple[int, int]] = {}  #: name -> descriptor, ifindex
        self._transports: weakref.WeakSet[LabTransport] = weakref.WeakSet()
        self._cached_rules: dict[int, Rules] = {}
        self._led: dict[str, str] = {}  #: destination -> device, of the routes that `forward` has made
        self._marker = 0
        self._proc: dict[str, int] = {}  #: name -> descriptor of the /proc/net file; empty before it is furnished and when closed
        self._counters: dict[str, str] = {}
        with ExitStack() as cleanup:
            self._namespace = new_namespace()
            cleanup.callback(os.close, self._namespace)
            self._environment = os.environ | {"PATH": f"{os.environ.get('PATH', '')}:{_SBIN}"}
            directory = cleanup.enter_context(tempfile.TemporaryDirectory(prefix="nfnl-lab-"))
            self._environment["XTABLES_LOCKFILE"] = f"{directory}/xtables.lock"
            self._kernel = LinuxKernel(self._namespace)
            cleanup.callback(self._close_devices)
            self._furnish()
            self._open_windows(cleanup)
            self._cleanup = cleanup.pop_all()
        self._refresh()

    # ------------------------------------------------------------------ making the world

    def _furnish(self) -> None:
        self._kernel.inside(_quieten)
        with _reason("making a tun device"):
            self._open_device("eth0")
        with self._until_usable("eth0", "fd00::1"):
            self._ip(
                *("link set lo up", *_as_devices_are("eth0")),
                *("address add 10.0.0.1/24 dev eth0", "address add fd00::1/64 dev eth0 nodad"),
                *("route add 0.0.0.0/0 dev eth0", "route add ::/0 dev eth0"),
            )
        probes = "".join(
            f"chain {hook.lower()}_{edge} {{ type filter hook {hook.lower()} priority {priority}; {rule}; }}\n"
            for hook in HOOKS
            # tracing is off behind the last function and on again at the next hook, so that the probes are not traced themselves
            for edge, priority, rule in (
                ("first", -500, f'log group {PROBES} prefix "first"; meta nftrace set 1'),
                ("last", 2**31 - 1, f'meta nftrace set 0; log group {PROBES} prefix "last"'),
            )
        )
        self._expect(self._program(["nft", "-f", "-"], f"table inet {TABLE} {{\n{probes}}}\n"))

    def _open_windows(self, cleanup: ExitStack) -> None:
        """Open what the lab looks and acts through: sockets and /proc files."""

        def opened(*arguments: int) -> socket.socket:
            return cleanup.enter_context(self._kernel.inside(lambda: socket.socket(*arguments)))

        self._reports = opened(socket.AF_NETLINK, socket.SOCK_RAW, 12)
        self._reports.bind((_PORT, 0))
        _enlarge(self._reports, _SO_RCVBUFFORCE, socket.SO_RCVBUF)
        _configure_netfilter(self._reports)
        if self.flavour == "nft":
            self._reports.setsockopt(270, 1, 9)  # NETLINK_ADD_MEMBERSHIP of NFNLGRP_NFTRACE
        self._watch = Watch(self._reports, self._rules, self._refresh)
        self._loopback = opened(socket.AF_PACKET, socket.SOCK_DGRAM, 0)
        self._loopback.bind(("lo", _ETH_P_MARKER))
        self._loopback.settimeout(1)
        self._raw = self._raw_sockets()
        cleanup.callback(_close_all, list(self._raw.values()))
        for raw in self._raw.values():
            _enlarge(raw, _SO_SNDBUFFORCE, socket.SO_SNDBUF)  # it has to hold all that waits in queues at OUTPUT
        for name in (*_COUNTERS, _QUEUES):
            # read through these descriptors, the files tell of this namespace from any thread
            look = functools.partial(os.open, f"/proc/thread-self/net/{name}", os.O_RDONLY | os.O_CLOEXEC)
            with _reason("the kernel hides its counters from this user"):
                self._proc[name] = self._kernel.inside(look)
            cleanup.callback(os.close, self._proc[name])

    def _raw_sockets(self) -> _Sockets:
        """By IP version, to send whole packets through."""
        raw = {
            version: self._kernel.inside(functools.partial(socket.socket, family, socket.SOCK_RAW, socket.IPPROTO_RAW))
            for version, family in ((4, socket.AF_INET), (6, socket.AF_INET6))
        }
        raw[4].setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        raw[6].setsockopt(socket.IPPROTO_IPV6, _IPV6_HDRINCL, 1)
        return raw

    @staticmethod
    @functools.cache
    def available() -> str | None:
        """None when a lab can be had here, else the reason why not, in words. It is tried; once."""
        try:
            LinuxLab().close()
        except OSError as error:
            return str(error.strerror or error)
        return None

    # ------------------------------------------------------------------ the seam

    def open(self, options: SocketOptions = SocketOptions()) -> LabTransport:
        """Open a socket in the namespace. Raises OSError with the kernel's errno."""
        sock = self._kernel.inside(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 12))
        try:
            transport = LabTransport(self, sock, options)
        except BaseException:
            sock.close()
            raise
        self._transports.add(transport)
        return transport

    def socket(self, type: int = socket.SOCK_RAW, protocol: int = 12) -> LabSocket:  # noqa: A002
        """A netlink socket in the namespace, not bound: a `socket.socket` in everything, but the lab notes what is sent with it."""
        sock = self._kernel.inside(lambda: LabSocket(socket.AF_NETLINK, type, protocol))
        sock.lab = self
        return sock

    def read_proc(self, name: str) -> str:
        """The text of ``/proc/net/<name>``. Raises OSError; EACCES for the queues in a user namespace."""
        return self._kernel.read_proc(name)

    def interface_name(self, index: int) -> str | None:
        """What the device with this number is called; None if there is none."""
        return self._kernel.interface_name(index)

    def sysctl(self, name: str, value: str | int | None = None) -> str:
        """Read a sysctl, after writing ``value`` if one is given. Raises OSError."""
        return self._kernel.sysctl(name, value)

    # ------------------------------------------------------------------ the tester's verbs

    def iptables(self, line: str) -> str:
        """``iptables <line>``, as typed in a shell; what it prints. Raises `IptablesError` with what it complains of."""
        return self._iptables("iptables", line)

    def ip6tables(self, line: str) -> str:
        """``ip6tables <line>``."""
        return self._iptables("ip6tables", line)

    def iptables_restore(self, text: str) -> str:
        """``iptables-restore`` with this input. Raises `IptablesError`."""
        return self._iptables("iptables", "", text)

    def ip6tables_restore(self, text: str) -> str:
        """``ip6tables-restore`` with this input. Raises `IptablesError`."""
        return self._iptables("ip6tables", "", text)

    def sender(self, *, send_buffer: int = 106496) -> LabSender:
        """A local program with raw sockets of its own: what it sends and what then waits in queues fills its send buffer.

        ``send_buffer`` is SO_SNDBUF in bytes, which the kernel doubles.
        """
        sender = LabSender(self, self._raw_sockets(), send_buffer)
        weakref.finalize(sender, _close_all, list(sender.sockets.values()))
        return sender

    def send(self, packet: SupportsBytes, *, mark: int = 0, priority: int = 0) -> Journey:
        """A local program sends a packet, from the network header on, through a raw socket with IP_HDRINCL.

        The kernel sets IPv4's total length and header checksum, and id and source if they are 0. What ``sendto`` reports is
        `Journey.errno`.
        """
        return self._send(self._raw, packet, mark, priority)

    def _send(self, sockets: _Sockets, packet: SupportsBytes, mark: int, priority: int) -> Journey:
        data = bytes(packet)
        v6 = data[:1] and data[0] >> 4 == 6
        family, to = (socket.AF_INET6, data[24:40].ljust(16, b"\0")) if v6 else (socket.AF_INET, data[16:20].ljust(4, b"\0"))
        with self._step():
            journey = self._watch.new(data, OUTPUT, mark)
            raw = sockets[6 if v6 else 4]
            for option, value in ((_SO_MARK, mark), (_SO_PRIORITY, priority)):
                raw.setsockopt(socket.SOL_SOCKET, option, struct.pack("=I", value))
            try:
                raw.sendto(data, socket.MSG_DONTWAIT, (socket.inet_ntop(family, to), 0))
            except OSError as error:
                journey.errno = error.errno or 0
                journey.reason = _REFUSALS.get(journey.errno, error_name(journey.errno))
        return journey

    def send_raw(self, packet: bytes) -> None:
        """Send an IP packet, as `nfnl.transport.base.Kernel.send_raw` says; for programs, where `send` is for their tester."""
        journey = self.send(packet)
        self.sent.append(journey)
        if journey.errno:
            raise OSError(journey.errno, journey.reason)

    def receive(self, packet: SupportsBytes, dev: str = "eth0") -> Journey:
        """A packet arrives on a device. Raises OSError: ENODEV, ENETDOWN, EINVAL for what is not IP."""
        with self._step():
            descriptor, _ = self._device(dev)
            journey = self._watch.new(bytes(packet), PREROUTING)
            try:
                os.write(descriptor, journey.packet)
            except OSError as error:
                self._watch.forget(journey)
                if error.errno == errno.EIO:
                    raise OSError(errno.ENETDOWN, os.strerror(errno.ENETDOWN), dev) from None
                raise
        return journey

    def forward(self, packet: SupportsBytes, in_dev: str = "eth0", out_dev: str | None = None) -> Journey:
        """A packet arrives on ``in_dev`` that is to be passed on; both stay as the verb leaves them:

        forwarding is switched on for its family, and with ``out_dev`` there is a route to its destination through that device.
        """
        data = bytes(packet)
        if data[0] >> 4 == 4:
            self.sysctl("net.ipv4.ip_forward", 1)
            to = f"{socket.inet_ntoa(data[16:20])}/32"
        else:
            self.sysctl("net.ipv6.conf.all.forwarding", 1)
            to = f"{socket.inet_ntop(socket.AF_INET6, data[24:40])}/128"
        if out_dev is not None:
            self._device(out_dev)
            if (led := self._led).get(to) != out_dev:
                self._ip(f"route replace {to} dev {out_dev}")
                self._led = led | {to: out_dev}
        return self.receive(data, in_dev)

    def flows(self) -> list[Flow]:
        """The flows that are tracked in the namespace, each as a dump over netlink shows it."""
        transport = self.open()
        try:
            transport.send(bytes(GetFlow(nlmsg_flags=NlmsgFlag.REQUEST | NlmsgFlag.DUMP)))
            found: list[Flow] = []
            while datagrams := transport.receive():  # a dump goes on as it is read: there is nothing to wait for
                for datagram in datagrams:
                    found += (message for message in decode(datagram) if isinstance(message, Flow))
            return found
        finally:
            transport.close()

    def advance(self, seconds: float) -> None:
        """Refused: LocalProtocolError."""
        raise LocalProtocolError(f"advance({seconds}): the real kernel's time passes by itself, and cannot be moved")

    @contextmanager
    def until_idle(self) -> Iterator[None]:
        """Inside, a `wait` of this lab's transports that nothing can end answers `Wait.IDLE` instead of blocking.

        That is when the socket is empty and nothing moves in the namespace. Leaving the block brings all journeys up to date.
        """
        self._idling += 1
        try:
            yield
        finally:
            self._idling -= 1
            self._refresh()

    def add_device(self, name: str, *, index: int | None = None, mtu: int = 1500) -> None:
        """Another device of eth0's kind, up and without addresses. Raises OSError (EEXIST, EBUSY for the index, EINVAL)."""
        self._open_device(name, index)
        self._ip(*_as_devices_are(name, mtu))

    def _open_device(self, name: str, index: int | None = None) -> None:
        if name in self._tuns:
            raise OSError(errno.EEXIST, os.strerror(errno.EEXIST), name)
        descriptor = self._kernel.inside(lambda: _open_tun(name, index))
        with self._lock:
            self._tuns[name] = descriptor, self._kernel.inside(lambda: socket.if_nametoindex(name))

    def add_address(self, dev: str, address: str) -> None:
        """``"10.0.0.1/24"``: an address of this machine and the network behind the device. Raises OSError (EEXIST, ENODEV)."""
        if ":" not in address:
            self._ip(f"address add {address} dev {dev}")
            return
        with self._until_usable(dev, address.split("/")[0]):
            self._ip(f"address add {address} dev {dev} nodad")

    @contextmanager
    def _until_usable(self, dev: str, address: str) -> Iterator[None]:
        """Inside, a device is given this IPv6 address. It can be used afterwards.

        A kernel worker makes it usable, perhaps later; then it announces the local route to it. Not while the device is down.
        """
        own = socket.inet_pton(socket.AF_INET6, address)
        with self._kernel.inside(lambda: socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0)) as routes:
            routes.bind((0, _RTMGRP_IPV6_ROUTE))
            yield
            while _is_up(routes, dev) and not _announces(routes.recv(4096), own):
                pass

    def add_route(self, prefix: str, dev: str | None, *, mark: int | None = None) -> None:
        """``"192.0.2.0/24"`` leads out of ``dev``; None: it is unreachable. Raises OSError (EEXIST, ENODEV).

        With a mark the route is for packets with that mark only and comes before the others.
        """
        where = f"{prefix} dev {dev}" if dev is not None else f"unreachable {prefix}"
        if mark is None:
            self._ip(f"route add {where}")
        else:
            with suppress(FileExistsError):
                self._ip(f"rule add fwmark {mark} lookup {1000 + mark}", family="-6" if ":" in prefix else "-4")
            self._ip(f"route add {where} table {1000 + mark}")

    def del_route(self, prefix: str, *, mark: int | None = None) -> None:
        """Raises OSError (ESRCH)."""
        table = "" if mark is None else f" table {1000 + mark}"
        self._ip(f"route del {prefix}{table}")

    def set_up(self, dev: str, up: bool) -> None:
        """``ip link set dev up|down``. Raises OSError (ENODEV)."""
        self._ip(f"link set {dev} {'up' if up else 'down'}")

    def run(self, command: str | Sequence[str]) -> subprocess.CompletedProcess[str]:
        """Run a program in the namespace and wait for it: an argument list, or a command line without shell syntax."""
        argv = shlex.split(command) if isinstance(command, str) else list(command)
        cpu = _this_cpu()
        done = self._program(argv, cpu=cpu)
        self._cached_rules.clear()
        self._led = {}
        self._refresh(cpu)
        return done

    def close(self) -> None:
        """Close the lab's transports and let go of the namespace. What waited in queues is gone; journeys stay as they are."""
        with self._lock:
            self._proc.clear()
            for transport in list(self._transports):
                transport.close()
            self._cleanup.close()

    def __enter__(self) -> LinuxLab:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    # ------------------------------------------------------------------ programs

    def _program(self, argv: Sequence[str], text: str | None = None, cpu: int | None = None) -> subprocess.CompletedProcess[str]:
        program = shutil.which(argv[0], path=self._environment["PATH"])
        if program is None:
            raise FileNotFoundError(errno.ENOENT, f"{argv[0]} is not installed")

        def start() -> subprocess.CompletedProcess[str]:
            if cpu is not None:
                os.sched_setaffinity(0, {cpu})  # of this thread, which ends with the program, and so of the program
            return subprocess.run(
                [program, *argv[1:]], input=text, capture_output=True, text=True, check=False, env=self._environment
            )

        return self._kernel.inside(start)

    @staticmethod
    def _expect(done: subprocess.CompletedProcess[str]) -> str:
        if done.returncode:
            raise OSError(errno.EIO, f"{os.path.basename(done.args[0])}: {done.stderr.strip()}")
        return done.stdout

    def _ip(self, *lines: str, family: str = "") -> None:
        """``ip <line>`` for each; the family matters only where no address tells it. Raises OSError."""
        self._led = {}
        done = self._program(["ip", *filter(None, (family,)), "-batch", "-"], "".join(f"{line}\n" for line in lines))
        if done.returncode:
            complaint = done.stderr.strip().splitlines()[0]
            number = next((number for text, number in _IP_COMPLAINTS.items() if text in complaint), errno.EINVAL)
            raise OSError(number, f"{os.strerror(number)}: ip {'; '.join(lines)}: {complaint}")
        self._refresh()

    def _iptables(self, program: str, line: str, text: str | None = None) -> str:
        words = shlex.split(line)
        if words and words[0] in (program, f"{program}-{self.flavour}"):
            del words[0]
        with self._step():
            done = self._program([f"{program}-{self.flavour}{'' if text is None else '-restore'}", *words], text)
            self._cached_rules.clear()
        if done.returncode:
            raise IptablesError(done.returncode, done.stderr)
        return done.stdout

    def _rules(self, family: int) -> Rules:
        """The rules there are now; asked for again after each of the lab's verbs that may have changed them."""
        if family not in self._cached_rules:
            program, nft_family = ("iptables", "ip") if family == socket.AF_INET else ("ip6tables", "ip6")
            try:
                saved = self._expect(self._program([f"{program}-{self.flavour}-save"]))
                listing = self._expect(self._program(["nft", "-a", "list", "ruleset", nft_family])) if self.flavour == "nft" else ""
            except OSError:  # whoever asks may not see them; fates do not hang on it, only what is told of them
                return Rules({}, {})
            self._cached_rules[family] = Rules(_chains(saved), dict(_handles(listing)))
        return self._cached_rules[family]

    # ------------------------------------------------------------------ one thing after the other

    @contextmanager
    def _step(self) -> Iterator[None]:
        """Do one thing, alone, and see what comes of it."""
        with self._alone():
            self._settle()  # what others have done in the meantime is not because of this
            self._watch.begin()
            try:
                yield
            finally:
                self._settle()

    @contextmanager
    def _alone(self, cpu: int | None = None) -> Iterator[None]:
        """Hold the lock, on one processor: packets on the loopback then wait in one queue, that of this processor."""
        with self._lock:
            if not self._proc:
                raise TransportClosed("the lab was closed")
            holder, self._holder = self._holder, threading.get_ident()
            everywhere = os.sched_getaffinity(0)
            os.sched_setaffinity(0, {_this_cpu() if cpu is None else cpu})
            try:
                yield
            finally:
                os.sched_setaffinity(0, everywhere)
                self._holder = holder

    def _refresh(self, cpu: int | None = None) -> None:
        """See what has come of packets by the doing of others."""
        if self._proc and self._holder != threading.get_ident():
            with self._alone(cpu):
                self._watch.begin()
                self._settle()

    def _settle(self) -> None:
        """Wait until nothing moves, and take note of everything that did.

        Netlink, a tun device and a raw socket have done all they cause when the call returns, but for the loopback: what is sent
        there may still be waiting for its turn.
        """
        while True:
            self._watch.read()
            self._pass_loopback()
            if not self._watch.read():
                break
        for descriptor, index in self._tuns.values():
            with suppress(BlockingIOError):
                while True:
                    self._watch.left(index, os.read(descriptor, 1 << 17))
        counters = {name: self._look(name) for name in _COUNTERS}
        rows = (list(map(int, line.split())) for line in self._look(_QUEUES).splitlines())
        queues = {row[0]: QueueState(row[1], row[2], row[3], row[5], row[6], row[7]) for row in rows}
        self._watch.rest(queues, Counter(self._counters or counters, counters))
        self._counters = counters

    def _pass_loopback(self) -> None:
        """Send a frame over the loopback, of a protocol nobody knows, and wait for it: what was sent before has arrived then."""
        self._marker += 1
        frame = self._marker.to_bytes(8, "big")
        while True:
            try:
                self._loopback.sendto(frame, ("lo", _ETH_P_MARKER, 0, 0, bytes(6)))
                while self._loopback.recv(16) != frame:
                    pass
            except TimeoutError:  # lost in a crowd; another one then
                continue
            except OSError as error:
                if error.errno not in (errno.ENETDOWN, errno.ENXIO):
                    raise  # but a loopback that is down holds nothing
            return

    def _look(self, name: str) -> str:
        descriptor = self._proc[name]
        text = b""
        while more := os.pread(descriptor, 1 << 16, len(text)):
            text += more
        return text.decode()

    def _device(self, name: str) -> tuple[int, int]:
        if name == "lo":
            raise LocalProtocolError("nothing arrives on lo from outside: send() the packet to an address of this machine")
        try:
            return self._tuns[name]
        except KeyError:
            raise OSError(errno.ENODEV, os.strerror(errno.ENODEV), name) from None

    def _close_devices(self) -> None:
        for descriptor, _ in self._tuns.values():
            os.close(descriptor)
        self._tuns.clear()

    @contextmanager
    def _seen(self, datagram: bytes = b"") -> Iterator[None]:
        """A netlink socket of the lab does something inside: send this, or be closed."""
        if not self._proc:
            yield
            return
        with self._step():
            self._watch.netlink(datagram)
            yield


class LabSender:
    """A local program with sockets of its own, one for each family."""

    def __init__(self, lab: LinuxLab, sockets: _Sockets, send_buffer: int) -> None:
        self._lab = lab
        self.sockets = sockets
        for sock in sockets.values():
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, send_buffer)

    def send(self, packet: SupportsBytes, *, mark: int = 0, priority: int = 0) -> Journey:
        """As `LinuxLab.send`. With a full send buffer `Journey.errno` is EAGAIN."""
        return self._lab._send(self.sockets, packet, mark, priority)

    @property
    def send_buffer(self) -> int:
        """SO_SNDBUF as granted, in bytes, for each family."""
        return self.sockets[4].getsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF)


class LabTransport(LinuxTransport):
    """A Linux socket in a lab, which notes what is sent with it."""

    def __init__(self, lab: LinuxLab, sock: socket.socket, options: SocketOptions) -> None:
        super().__init__(sock, options)
        self._lab = lab

    def send(self, datagram: bytes) -> None:
        with self._lab._seen(datagram):
            super().send(datagram)

    def wait(self, deadline: float | None) -> Wait:
        if not self._lab._idling:
            return super().wait(deadline)
        self._lab._refresh()
        why = super().wait(self.now())
        due = deadline is not None and deadline <= self.now()
        return Wait.IDLE if why is Wait.DEADLINE and not due else why

    def close(self) -> None:
        with self._lab._seen():
            super().close()


class LabSocket(socket.socket):
    """A netlink socket in a lab, which notes what is sent with it."""

    lab: LinuxLab

    def dup(self) -> Self:
        other = super().dup()
        other.lab = self.lab
        return other

    def send(self, data: Any, *rest: Any) -> int:
        with self.lab._seen(bytes(data)):
            return super().send(data, *rest)

    def sendall(self, data: Any, *rest: Any) -> None:
        with self.lab._seen(bytes(data)):
            super().sendall(data, *rest)

    def sendto(self, data: Any, *rest: Any) -> int:
        with self.lab._seen(bytes(data)):
            return super().sendto(data, *rest)

    def sendmsg(self, buffers: Any, *rest: Any) -> int:
        data = b"".join(map(bytes, buffers))
        with self.lab._seen(data):
            return super().sendmsg([data], *rest)

    def close(self) -> None:
        with self.lab._seen():
            super().close()


def enter_user_namespace() -> None:
    """Move this process to a new user namespace, where it is root, so that an ordinary user can have labs.

    For the start of a test run: the process must have one thread only, and everything it does from here on it does with the
    rights of that namespace, which outside of it are those of the user. Raises OSError, with the reason in words.
    """
    import ctypes

    uid, gid = os.geteuid(), os.getegid()
    number = errno.EINVAL
    for _ in range(1000):  # a thread that Python has joined may need a moment more to be gone
        if _libc().unshare(_CLONE_NEWUSER) == 0:
            number = 0
            break
        number = ctypes.get_errno()
        if number != errno.EINVAL:
            break
        os.sched_yield()
    if number:
        why = {
            errno.EINVAL: "the process has more than one thread",
            errno.EPERM: "unprivileged user namespaces are switched off",
            errno.ENOSPC: "no user namespaces are allowed (user.max_user_namespaces)",
        }.get(number, "making a user namespace")
        raise OSError(number, f"{os.strerror(number)}: {why}")
    for name, line in (("setgroups", "deny"), ("uid_map", f"0 {uid} 1"), ("gid_map", f"0 {gid} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(line)


@functools.cache
def iptables_flavour() -> str:
    """``"legacy"`` if this kernel and this user can have it, else ``"nft"``; or what ``NFNL_IPTABLES`` says."""
    forced = os.environ.get("NFNL_IPTABLES")
    if forced is not None:
        if forced not in ("legacy", "nft"):
            raise OSError(errno.EINVAL, f"NFNL_IPTABLES={forced}: neither legacy nor nft")
        return forced
    program = shutil.which("iptables-legacy", path=f"{os.environ.get('PATH', '')}:{_SBIN}")
    if program is None:
        return "nft"
    namespace = new_namespace()  # another one: to ask makes the table
    try:
        with tempfile.NamedTemporaryFile(prefix="nfnl-lab-") as lock:
            environment = os.environ | {"XTABLES_LOCKFILE": lock.name}
            probe = LinuxKernel(namespace).inside(
                lambda: subprocess.run([program, "-S"], capture_output=True, check=False, env=environment)
            )
    finally:
        os.close(namespace)
    return "legacy" if probe.returncode == 0 else "nft"


#: What ``ip`` says, and what it was told. (Some answers of the kernel it replaces by the text of the extended ack.)
_IP_COMPLAINTS = {
    "File exists": errno.EEXIST,
    "already assigned": errno.EEXIST,
    "No such process": errno.ESRCH,
    "No such device": errno.ENODEV,
    "Cannot find device": errno.ENODEV,
}
#: Why a raw socket does not take a packet.
_REFUSALS = {
    errno.EAGAIN: "the send buffer is full of what waits in queues",
    errno.EINVAL: "no IP header",
    errno.EMSGSIZE: "longer than the MTU of the device",
    errno.ENETUNREACH: "no route",
    errno.EHOSTUNREACH: "a route that says unreachable",
}


@contextmanager
def _reason(what: str) -> Iterator[None]:
    """Say in an OSError what was being done."""
    try:
        yield
    except OSError as error:
        raise OSError(error.errno, f"{what}: {error.strerror}{f': {error.filename}' if error.filename else ''}") from error


@functools.cache
def _libc() -> Any:
    import ctypes

    return ctypes.CDLL(None, use_errno=True)


def _this_cpu() -> int:
    return int(_libc().sched_getcpu())


def new_namespace() -> int:
    """A descriptor of a new network namespace, which lasts as long as it is open. Raises OSError: EPERM without CAP_SYS_ADMIN."""
    import ctypes

    def make() -> int:
        if _libc().unshare(_CLONE_NEWNET) != 0:
            number = ctypes.get_errno()
            raise OSError(number, f"making a network namespace: {os.strerror(number)} (needs CAP_SYS_ADMIN, or a user namespace)")
        return os.open("/proc/thread-self/ns/net", os.O_RDONLY | os.O_CLOEXEC)

    return in_thread(make)


def _quieten() -> None:
    """Set the sysctls of the calling thread's namespace: all at once, as to go there takes longer than to write them."""
    here = LinuxKernel()
    for name, value in SYSCTLS.items():
        here.sysctl(name, value)
    for name, value in NEWER_SYSCTLS.items():
        with suppress(FileNotFoundError):
            here.sysctl(name, value)


def _as_devices_are(name: str, mtu: int = 1500) -> tuple[str, ...]:
    """What is said to ``ip`` about a new device."""
    return f"link set {name} mtu {mtu} txqueuelen 10000 multicast off", f"link set {name} up"


def _open_tun(name: str, index: int | None) -> int:
    import fcntl

    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    try:
        if index is not None:
            fcntl.ioctl(descriptor, _TUNSETIFINDEX, struct.pack("=I", index))
        fcntl.ioctl(descriptor, _TUNSETIFF, struct.pack("=16sH22x", name.encode(), _IFF_TUN | _IFF_NO_PI))
    except BaseException:
        os.close(descriptor)
        raise
    return descriptor


def _is_up(sock: socket.socket, name: str) -> bool:
    import fcntl

    answer = fcntl.ioctl(sock, _SIOCGIFFLAGS, struct.pack("=16s24x", name.encode()))
    return bool(struct.unpack_from("=H", answer, 16)[0] & 1)


def _announces(datagram: bytes, address: bytes) -> bool:
    """RTM_NEWROUTE (struct nlmsghdr, struct rtmsg, attributes) of a local route to one address."""
    kind, length, route = struct.unpack_from("=4xH10x x B 5x B", datagram)
    return (kind, length, route) == (24, 128, 2) and address in datagram


def _close_all(sockets: list[socket.socket]) -> None:
    for sock in sockets:
        sock.close()


def _enlarge(sock: socket.socket, force: int, ask: int) -> None:
    try:
        sock.setsockopt(socket.SOL_SOCKET, force, _BUFFER)
    except PermissionError:
        sock.setsockopt(socket.SOL_SOCKET, ask, _BUFFER)


def _configure_netfilter(sock: socket.socket) -> None:
    """Receive the log groups of the probes and of traced packets (nfnetlink_log.h), and see to it that there are queues."""

    def attribute(number: int, value: bytes) -> bytes:
        return struct.pack("=HH", 4 + len(value), number) + value + bytes(-len(value) % 4)

    # NFULNL_CFG_CMD_BIND; NFULNL_COPY_PACKET; NFULA_CFG_QTHRESH: report at once
    everything = attribute(1, b"\1") + attribute(2, struct.pack("!IBx", 65531, 2)) + attribute(5, struct.pack("!I", 1))
    for what, message, family, group, attributes in (
        ("becoming the logger of IPv4", 0x0401, socket.AF_INET, 0, attribute(1, b"\3")),
        ("becoming the logger of IPv6", 0x0401, socket.AF_INET6, 0, attribute(1, b"\3")),
        ("binding the NFLOG group of traces", 0x0401, 0, TRACES, everything),
        ("binding the NFLOG group of the probes", 0x0401, 0, PROBES, everything),
        # NFQNL_CFG_CMD_PF_UNBIND does nothing, but whoever says so first has the module loaded, and with it comes the /proc file
        ("looking for queues", 0x0302, 0, 0, attribute(1, b"\4\0\0\0")),
    ):
        body = struct.pack("!BBH", family, 0, group) + attributes
        sock.sendto(struct.pack("=IHHII", 16 + len(body), message, 5, 1, 0) + body, (0, 0))
        number = -int(struct.unpack_from("=i", sock.recv(4096), 16)[0])
        if number:
            raise OSError(number, f"{what}: {os.strerror(number)}")


def _chains(saved: str) -> dict[tuple[str, str], tuple[str, list[str]]]:
    """What iptables-save prints: (table, chain) -> policy, rules."""
    found: dict[tuple[str, str], tuple[str, list[str]]] = {}
    table = ""
    for line in saved.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            chain, policy, _ = line[1:].split(" ", 2)
            found[table, chain] = policy, []
        elif line.startswith("-A "):
            found[table, line.split(" ", 2)[1]][1].append(line)
    return found


def _handles(listing: str) -> Iterator[tuple[tuple[str, str, int], int]]:
    """Where in its chain the rule with a handle stands, from what ``nft -a list ruleset`` prints."""
    table = chain = ""
    index = 0
    for line in listing.splitlines():
        if found := re.match(r"table \S+ (\S+) ", line):
            table = found[1]
        elif found := re.match(r"\tchain (\S+) ", line):
            chain, index = found[1], 0
        elif found := re.match(r"\t\t.* # handle (\d+)$", line):
            yield (table, chain, int(found[1])), index
            index += 1
