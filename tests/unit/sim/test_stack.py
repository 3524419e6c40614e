"""The way through the machine and its answers. Every byte and errno here was seen on Linux 6.18.44 in the same situation."""

from __future__ import annotations

import errno

import pytest
from scapy.layers.inet import IPOption_NOP, IPOption_RR
from scapy.layers.inet6 import (
    ICMPv6DestUnreach,
    ICMPv6EchoReply,
    IPv6ExtHdrDestOpt,
    IPv6ExtHdrFragment,
    IPv6ExtHdrHopByHop,
    IPv6ExtHdrRouting,
    PadN,
)

from nfnl.errors import NotModelled
from nfnl.sim.journey import Fate
from nfnl.sim.skb import Link, checksum
from tests.unit.sim.dataplane import ICMP, PING, PING6, TCP, UDP, World, ip4, ip6

LIMITLESS = {"net.ipv4.icmp_ratelimit": 0, "net.ipv6.icmp.ratelimit": 0}


def router() -> World:
    """A second device, and forwarding."""
    world = World()
    world.stack.add_device("eth1")
    world.stack.add_address("eth1", "10.1.0.1/24")
    world.stack.add_address("eth1", "fd01::1/64")
    world.stack.sysctls |= {"net.ipv4.ip_forward": 1, "net.ipv6.conf.all.forwarding": 1} | LIMITLESS
    return world


def without_id(data: bytes) -> bytes:
    """An IPv4 packet without the one thing that differs: the kernel's ids come from secret counters."""
    return data if data[0] >> 4 == 6 else data[:4] + b"\0\0" + data[6:10] + b"\0\0" + data[12:]


# ------------------------------------------------------------------------------------------------------------------- answers


@pytest.mark.parametrize(
    ("request_", "answer"),
    [
        # the whole TOS comes back in an echo reply ...
        (ip4(PING, tos=0x17), "4517002100010000400166bf0a0000010a0000090000bc2c0001000068656c6c6f"),
        # ... and the code of the request
        (ip4(ICMP(type=8, code=3, id=1)), "4500001c00010000400166db0a0000010a0000090003fffb00010000"),
        # over nothing but zeros the checksum is 0
        (ip4(ICMP(type=8, id=0)), "4500001c00010000400166db0a0000010a0000090000000000000000"),
        # a reset has no ECN bits, DF and no id
        (
            ip4(TCP(sport=5, dport=22, seq=1000) / b"xyz", tos=0x17),
            "4514002800004000400626b30a0000010a0000090016000500000000000003ec5014000097c00000",
        ),
        (
            ip4(TCP(sport=5, dport=22, seq=1000, ack=77, flags="A")),
            "4500002800004000400626c70a0000010a000009001600050000004d00000000500400009b6f0000",
        ),
        (
            ip4(TCP(dport=9, flags="SF", seq=7) / b"ab"),
            "4500002800004000400626c70a0000010a00000900090014000000000000000b501400009b9f0000",
        ),
        (
            ip4(TCP(dport=9, flags="FPU", seq=0xFFFFFFFF) / b"ab"),
            "4500002800004000400626c70a0000010a000009000900140000000000000002501400009ba80000",
        ),
        # an ICMP error: precedence 6, the ECN bit that is a TOS bit kept
        (
            ip4(b"abc", proto=200),
            "45c0003300010000400165ff0a0000010a0000090302389b00000000450000170001000040c866150a0000090a000001616263",
        ),
        # of a UDP packet longer than it says only what it says is quoted
        (
            ip4(UDP(sport=53, dport=9, len=9, chksum=0) / b"abc"),
            "45c0003900010000400165f90a0000010a00000903039bb5000000004500001f00010000401166c40a0000090a000001003500090009000061",
        ),
        (
            ip6(PING6, tc=0x17, fl=0x12345),
            "61700000000d3a40fd000000000000000000000000000001fd000000000000000000000000000009810040d90001000068656c6c6f",
        ),
        (
            ip6(TCP(dport=7, seq=1000) / b"hello", tc=0x17),
            (
                "6140000000140640fd000000000000000000000000000001fd000000000000000000000000000009"
                "0007001400000000000003ee50140000b1bc0000"
            ),
        ),
        (
            ip6(UDP(sport=53, dport=9) / b"abc"),
            (
                "60000000003b3a40fd000000000000000000000000000001fd0000000000000000000000000000090104934b00000000"
                "60000000000b1140fd000000000000000000000000000009fd00000000000000000000000000000100350009000b412c616263"
            ),
        ),
        (
            ip6(b"hello", nh=200, tc=0x14),
            (
                "6000000000353a40fd000000000000000000000000000001fd00000000000000000000000000000904019a1900000006"
                "614000000005c840fd000000000000000000000000000009fd00000000000000000000000000000168656c6c6f"
            ),
        ),
    ],
)
def test_answers_to_the_byte(request_: bytes, answer: str) -> None:
    journey = World().stack.receive(request_)
    assert journey.delivered
    assert [without_id(reply.data) for reply in journey.answers] == [without_id(bytes.fromhex(answer))]


def test_ids_count_up_and_header_checksums_are_right() -> None:
    world = World()
    replies = [world.stack.receive(ip4(PING)).answers[0].data for _ in range(3)]
    assert [reply[4:6] for reply in replies] == [b"\0\1", b"\0\2", b"\0\3"]
    assert [checksum(reply[:20]) for reply in replies] == [0, 0, 0]


@pytest.mark.parametrize(
    ("packet", "reason"),
    [
        (ip4(ICMP(type=8, chksum=5)), "bad ICMP checksum"),
        (ip4(b"\x08\0\xf7\xff", proto=1), "malformed ICMP header"),
        (ip4(UDP(dport=9, chksum=5) / b"abc"), "bad UDP checksum"),
        (ip4(UDP(dport=9, len=19) / b"abc"), "UDP length and packet do not agree"),
        (ip4(UDP(dport=9, len=7) / b"abc"), "UDP length and packet do not agree"),
        (ip4(b"abc", proto=17), "malformed UDP header"),
        (ip4(TCP(dport=9, chksum=5)), "bad TCP checksum"),
        (ip4(TCP(dport=9, dataofs=4)), "malformed TCP header"),
        (ip4(TCP(dport=9, dataofs=6)), "malformed TCP header"),
        (ip6(UDP(dport=9, chksum=0) / b"abc"), "no UDP checksum"),
        (ip6(TCP(dport=9, chksum=4)), "bad TCP checksum"),
        (ip6(PING6, plen=0), "bad ICMPv6 checksum"),
    ],
)
def test_what_the_protocols_throw_away_has_passed_the_hooks(packet: bytes, reason: str) -> None:
    journey = World().stack.receive(packet)
    assert journey.hooks == ["PREROUTING", "INPUT"]
    assert (journey.dropped, journey.reason, journey.answers) == (True, reason, [])


@pytest.mark.parametrize(
    "packet",
    [
        ip4(TCP(dport=9, flags="R")),
        ip4(TCP(dport=9, flags="RA")),
        ip4(ICMP(type=0, id=1)),
        ip4(ICMP(type=3, code=3) / (b"x" * 28)),
        ip4(ICMP(type=19)),
        ip4(b"", proto=2),
        ip4(PING, dst="10.0.0.255"),
        ip4(UDP(dport=9), dst="10.0.0.255"),
        ip4(TCP(dport=9), dst="10.0.0.255"),
        ip4(b"abc", dst="10.0.0.255", proto=200),
        ip4(UDP(dport=9), dst="224.0.0.1"),
        ip4(UDP(dport=9), dst="255.255.255.255", src="0.0.0.0"),
        ip6(ICMPv6EchoReply()),
        ip6(ICMPv6DestUnreach() / (b"x" * 40)),
        ip6(b"abc", nh=59),
        ip6(UDP(dport=9), dst="ff02::1"),
        ip6(TCP(dport=9), dst="ff02::1"),
        ip6(UDP(dport=9), src="::"),
    ],
)
def test_delivered_in_silence(packet: bytes) -> None:
    journey = World().stack.receive(packet)
    assert journey.delivered
    assert journey.answers == []


def test_errors_quote_up_to_576_bytes_and_up_to_1280() -> None:
    world = World()
    [error] = world.stack.receive(ip4(UDP(dport=9) / (b"x" * 1000))).answers
    assert len(error.data) == 576
    [error] = world.stack.receive(ip6(UDP(dport=9) / (b"x" * 1400))).answers
    assert len(error.data) == 1280


def test_an_answer_is_a_journey_through_output_and_postrouting() -> None:
    [reply] = World().stack.receive(ip4(PING)).answers
    assert reply.hooks == ["OUTPUT", "POSTROUTING"]
    assert reply.fate is Fate.SENT


def test_marks_are_not_answered() -> None:
    world = World()
    world.iptables("-t mangle -A PREROUTING -j MARK --set-mark 5")
    [reply] = world.stack.receive(ip4(PING)).answers
    assert reply.mark == 0


def test_a_timestamp_is_answered_in_virtual_time() -> None:
    world = World()
    world.clock.advance(1.5)
    [reply] = world.stack.receive(ip4(ICMP(type=13, id=0x1234, ts_ori=7))).answers
    assert reply.data[20:22] == b"\x0e\0"
    assert reply.data[24:] == bytes.fromhex("12340000 00000007 000005dc 000005dc")


def test_an_echo_reply_longer_than_the_mtu_leaves_in_fragments() -> None:
    [reply] = World().stack.receive(ip4(ICMP() / (b"x" * 4000))).answers
    assert reply.fate is Fate.SENT
    assert reply.reason == "in 3 fragments"


# ------------------------------------------------------------------------------------------------------------------- limits


def test_errors_to_one_address_are_limited() -> None:
    world = World()
    sent = [len(world.stack.receive(ip4(UDP(dport=9))).answers) for _ in range(8)]
    assert sent == [1] * 6 + [0] * 2
    assert len(world.stack.receive(ip4(UDP(dport=9), src="10.0.0.8")).answers) == 1
    assert len(world.stack.receive(ip4(TCP(dport=9))).answers) == 1  # a reset is no ICMP error
    assert len(world.stack.receive(ip4(PING)).answers) == 1
    world.clock.advance(0.9)
    assert world.stack.receive(ip4(UDP(dport=9))).answers == []
    world.clock.advance(0.1)
    assert [len(world.stack.receive(ip4(UDP(dport=9))).answers) for _ in range(2)] == [1, 0]


def test_over_the_loopback_nothing_is_limited() -> None:
    world = World()
    packet = ip4(UDP(dport=9), src="127.0.0.1", dst="127.0.0.1")
    assert all(world.stack.send(packet).answers for _ in range(20))


def test_in_ipv6_wider_routes_have_more() -> None:
    world = World()

    def burst(src: str) -> int:
        return sum(len(world.stack.receive(ip6(UDP(dport=9), src=src)).answers) for _ in range(10))

    assert (burst("fd00::9"), burst("2001:db8::9")) == (6, 6)
    world.clock.advance(0.025)  # 100 ms, halved for every 32 bits the prefix is shorter than 128
    assert (burst("fd00::9"), burst("2001:db8::9")) == (1, 4)


def test_the_limit_can_be_lifted() -> None:
    world = World()
    world.stack.sysctls |= LIMITLESS
    assert all(world.stack.receive(ip4(UDP(dport=9))).answers for _ in range(20))


# ------------------------------------------------------------------------------------------------------------------- coming in


@pytest.mark.parametrize(
    ("fields", "reason"),
    [
        ({"chksum": 1}, "bad IP header checksum"),
        ({"len": 10}, "IP total length and packet do not agree"),
        ({"len": 100}, "IP total length and packet do not agree"),
        ({"ihl": 4}, "malformed IP header"),
        ({"ihl": 15}, "malformed IP header"),
        ({"version": 5}, "malformed IP header"),
    ],
)
def test_a_broken_header_does_not_reach_prerouting(fields: dict[str, int], reason: str) -> None:
    journey = World().stack.receive(ip4(PING, **fields))
    assert (journey.hooks, journey.reason) == ([], reason)


def test_what_stands_behind_the_packet_is_cut_off() -> None:
    world = World()
    journey = world.stack.receive(ip4(PING) + b"trailing")
    assert journey.data == ip4(PING)
    assert world.stack.receive(ip6(PING6) + b"trailing").data == ip6(PING6)


@pytest.mark.parametrize(
    ("src", "dst", "hooks"),
    [
        ("10.0.0.1", "10.0.0.1", 1),  # martian: an address of our own
        ("127.0.0.1", "10.0.0.1", 1),
        ("0.0.0.0", "10.0.0.1", 1),
        ("224.0.0.1", "10.0.0.1", 1),
        ("255.255.255.255", "10.0.0.1", 1),
        ("0.1.2.3", "10.0.0.1", 2),
        ("240.0.0.1", "10.0.0.1", 2),
        ("8.8.8.8", "10.0.0.1", 2),
        ("10.0.0.9", "127.0.0.1", 1),
        ("10.0.0.9", "0.0.0.0", 1),
        ("10.0.0.9", "224.0.0.1", 2),
        ("10.0.0.1", "224.0.0.1", 1),
        ("0.0.0.0", "224.0.0.1", 2),
        ("10.0.0.9", "224.0.0.5", 1),  # nobody joined it
        ("10.0.0.9", "255.255.255.255", 2),
        ("127.0.0.7", "255.255.255.255", 2),
        ("10.0.0.1", "255.255.255.255", 1),
        ("0.0.0.0", "0.0.0.0", 2),
        ("10.0.0.9", "10.0.0.255", 2),
        ("0.0.0.0", "10.0.0.255", 1),
        ("10.0.0.9", "10.0.0.7", 1),  # not ours, and forwarding is off
        ("10.0.0.9", "8.8.8.8", 1),
    ],
)
def test_martians_and_strangers(src: str, dst: str, hooks: int) -> None:
    journey = World().stack.receive(ip4(PING, src=src, dst=dst))
    assert len(journey.hooks) == hooks, journey.reason
    assert journey.delivered is (hooks == 2)


@pytest.mark.parametrize(
    ("src", "dst", "hooks"),
    [
        ("fd00::1", "fd00::1", 2),  # IPv6 does not mind
        ("::", "fd00::1", 2),
        ("::1", "fd00::1", 0),
        ("ff02::1", "fd00::1", 0),
        ("fd00::9", "::1", 0),
        ("fd00::9", "::", 1),
        ("fd00::9", "ff02::1", 2),
        ("fd00::9", "ff01::1", 0),
        ("fd00::9", "ff00::1", 0),
        ("fd00::9", "ff02::2", 1),
        ("fd00::9", "ff02::1:ff00:1", 1),  # a tun device has no neighbours to solicit
        ("fd00::9", "fd00::", 1),  # the address of the routers, and this is none
        ("fd00::9", "fd00::7", 1),
    ],
)
def test_martians_and_strangers_ipv6(src: str, dst: str, hooks: int) -> None:
    journey = World().stack.receive(ip6(PING6, src=src, dst=dst))
    assert len(journey.hooks) == hooks, journey.reason


def test_behind_ethernet_the_solicited_node_group_is_joined() -> None:
    world = World()
    world.stack.add_device("eth1", Link.ETHER)
    world.stack.add_address("eth1", "fd01::12:3456/64")
    assert world.stack.receive(ip6(PING6, dst="ff02::1:ff12:3456"), "eth1").delivered
    assert world.stack.receive(ip6(PING6, dst="ff02::1:ff12:3457"), "eth1").dropped


def test_devices_that_are_down_or_not_there() -> None:
    stack = World().stack
    with pytest.raises(OSError, match="No such device"):
        stack.receive(ip4(PING), "eth7")
    stack.set_up("eth0", False)
    with pytest.raises(OSError, match="Network is down"):
        stack.receive(ip4(PING))


@pytest.mark.parametrize(
    "extension",
    [
        IPv6ExtHdrHopByHop(),
        IPv6ExtHdrHopByHop(options=[PadN(optdata=bytes(4))]),
        IPv6ExtHdrDestOpt(),
        IPv6ExtHdrFragment(),
        IPv6ExtHdrRouting(),
        IPv6ExtHdrHopByHop() / IPv6ExtHdrDestOpt() / IPv6ExtHdrRouting(),
    ],
)
def test_extension_headers_that_ask_for_nothing_are_passed_over(extension: object) -> None:
    from scapy.packet import Packet

    assert isinstance(extension, Packet)
    journey = World().stack.receive(ip6(extension / PING6))
    assert journey.delivered
    assert len(journey.answers) == 1


@pytest.mark.parametrize(
    ("packet", "hooks"),
    [
        (ip6(b"\x3a\0\x01\x09" + bytes(4), nh=0), 0),  # a hop-by-hop header is read before PREROUTING
        (ip6(b"\x3a\0\x01\x09" + bytes(4), nh=60), 2),
        (ip6(b"\x3a\0\x01\x04\0\x01\0\0", nh=60), 2),  # padding that is not zeros
        (ip6(b"\x11\x05", nh=60), 2),
        (ip6(b"\x11\x05", nh=43), 2),
        (ip6(b"\x11\x05", nh=0), 0),
    ],
)
def test_broken_extension_headers_are_dropped(packet: bytes, hooks: int) -> None:
    journey = World().stack.receive(packet)
    assert journey.dropped
    assert len(journey.hooks) == hooks
    assert journey.answers == []


def test_an_unknown_protocol_behind_extension_headers_is_pointed_at_where_it_stands() -> None:
    [error] = World().stack.receive(ip6(IPv6ExtHdrDestOpt(nh=200) / b"abc")).answers
    assert error.data[40:48] == bytes.fromhex("0401dd9600000028")


@pytest.mark.parametrize(
    "packet",
    [
        ip4(PING, options=[IPOption_RR(pointer=4, routers=["0.0.0.0"])]),
        ip6(IPv6ExtHdrRouting(addresses=["fd00::7"], segleft=1) / PING6),
        ip6(b"\x3a\0\x9e\x04abcd", nh=60),
        ip4(b"abcdefgh", proto=136),
    ],
)
def test_what_is_not_modelled_is_refused_loudly(packet: bytes) -> None:
    with pytest.raises(NotModelled):
        World().stack.receive(packet)


def test_options_that_ask_for_nothing_are_passed_over() -> None:
    [reply] = World().stack.receive(ip4(PING, options=[IPOption_NOP()] * 4)).answers
    assert reply.data[0] == 0x45
    world = World()
    packet = ip4(UDP(dport=9), options=[IPOption_NOP()] * 4)
    [error] = world.stack.receive(packet).answers
    assert error.data[28:] == packet


# ------------------------------------------------------------------------------------------------------------------- going out


def test_a_raw_socket_completes_the_ipv4_header() -> None:
    journey = World().stack.send(ip4(PING, src="0.0.0.0", dst="10.0.0.9", id=0, len=5, chksum=7))
    assert journey.data == ip4(PING, src="10.0.0.1", dst="10.0.0.9", id=1)
    assert World().stack.send(ip4(PING, src="9.9.9.9", dst="10.0.0.9")).delivered


def test_a_raw_socket_completes_nothing_in_ipv6() -> None:
    packet = ip6(PING6, src="::", dst="fd00::9", plen=3)
    assert World().stack.send(packet).data == packet


@pytest.mark.parametrize(
    ("packet", "code"),
    [
        (ip4(PING)[:19], errno.EINVAL),
        (ip4(PING, ihl=3), errno.EINVAL),
        (ip4(PING, ihl=15), errno.EINVAL),
        (b"", errno.EINVAL),
        (ip6(PING6)[:39], errno.EINVAL),
        (ip4(b"x" * 1481, dst="10.0.0.9"), errno.EMSGSIZE),
        (ip6(b"x" * 1461, dst="fd00::9"), errno.EMSGSIZE),
        (ip4(b"x" * 1480, dst="10.0.0.9"), 0),
        (ip4(b"x" * 20000, dst="10.0.0.1"), 0),  # over the loopback
        (ip4(PING, dst="10.0.0.9", version=5), 0),
    ],
)
def test_what_sendto_reports(packet: bytes, code: int) -> None:
    journey = World().stack.send(packet)
    assert journey.errno == code
    assert journey.dropped is bool(code)


def test_no_route() -> None:
    world = World()
    world.stack.del_route("0.0.0.0/0")
    world.stack.add_route("192.0.2.0/24", None)
    for dst, code in (
        ("8.8.8.8", errno.ENETUNREACH),
        ("224.0.0.1", errno.ENETUNREACH),
        ("255.255.255.255", errno.ENETUNREACH),
        ("192.0.2.1", errno.EHOSTUNREACH),
        ("10.0.0.9", 0),
    ):
        assert world.stack.send(ip4(PING, src="10.0.0.1", dst=dst)).errno == code


def test_to_oneself_by_way_of_the_loopback() -> None:
    world = World()
    journey = world.stack.send(ip4(PING, src="10.0.0.1", dst="127.5.5.5"))
    assert journey.hooks == ["OUTPUT", "POSTROUTING", "PREROUTING", "INPUT"]
    assert [dev for dev, _ in world.stack.seen] == ["lo", "lo"]
    [reply] = journey.answers
    assert reply.hooks == journey.hooks
    assert reply.data[12:20] == bytes([127, 5, 5, 5, 10, 0, 0, 1])


def test_127_does_not_leave_the_machine_as_the_source_of_an_answer() -> None:
    journey = World().stack.send(ip4(PING, src="9.9.9.9", dst="127.0.0.1"))
    assert journey.delivered
    assert journey.answers == []


@pytest.mark.parametrize("dst", ["10.0.0.255", "255.255.255.255", "224.0.0.1"])
def test_what_is_for_all_comes_back_to_its_sender(dst: str) -> None:
    world = World()
    world.iptables("-t mangle -A POSTROUTING")
    journey = world.stack.send(ip4(PING, src="10.0.0.1", dst=dst))
    assert journey.hooks == ["OUTPUT", "POSTROUTING"]
    [copy] = journey.answers
    assert copy.hooks == ["POSTROUTING", "PREROUTING", "INPUT"]
    assert copy.delivered
    assert world.stack.seen == [("eth0", journey.data)]
    assert world.hits("POSTROUTING", table="mangle") == [2]


def test_ipv4_copies_before_postrouting_and_ipv6_behind_it() -> None:
    world = World()
    for program in (world.iptables, world.ip6tables):
        program("-t mangle -A POSTROUTING -j DROP")
    world.stack.send(ip4(PING, src="10.0.0.1", dst="10.0.0.255"))
    world.stack.send(ip6(PING6, src="fd00::1", dst="ff02::1"))
    assert world.hits("POSTROUTING", table="mangle") == [2]
    assert world.hits("POSTROUTING", table="mangle", v6=True) == [1]


def test_nobody_asks_for_the_checksum_of_a_copy() -> None:
    world = World()
    world.listen()
    world.iptables("-t mangle -A PREROUTING -j NFQUEUE --queue-num 1")
    world.stack.send(ip4(PING, src="10.0.0.1", dst="10.0.0.255"))
    [(_, entry)] = world.told
    assert (entry.indev, entry.hwaddr, entry.skb_info) == (2, None, 0)


def test_a_group_nobody_joined_here_does_not_come_back() -> None:
    assert World().stack.send(ip4(PING, src="10.0.0.1", dst="224.0.0.5")).answers == []
    assert World().stack.send(ip6(PING6, src="fd00::1", dst="ff02::2")).answers == []
    [copy] = World().stack.send(ip6(PING6, src="fd00::1", dst="ff02::1")).answers
    assert len(copy.answers) == 1


# ------------------------------------------------------------------------------------------------------------------- through


def test_forwarding_lowers_the_ttl_between_prerouting_and_forward() -> None:
    world = router()
    packet = ip4(PING, dst="10.1.0.5", ttl=2)
    journey = world.stack.receive(packet)
    assert journey.hooks == ["PREROUTING", "FORWARD", "POSTROUTING"]
    assert journey.fate is Fate.SENT
    assert world.stack.seen == [("eth1", ip4(PING, dst="10.1.0.5", ttl=1))]
    assert world.stack.receive(ip6(PING6, dst="fd01::5", hlim=2)).data == ip6(PING6, dst="fd01::5", hlim=1)


@pytest.mark.parametrize("ttl", [0, 1])
def test_time_exceeded(ttl: int) -> None:
    world = router()
    packet = ip4(PING, dst="10.1.0.5", ttl=ttl)
    journey = world.stack.receive(packet)
    assert journey.hooks == ["PREROUTING"]
    [error] = journey.answers
    assert error.data[12:22] == bytes([10, 0, 0, 1, 10, 0, 0, 9, 11, 0])
    assert error.data[28:] == packet
    [error] = world.stack.receive(ip6(PING6, dst="fd01::5", hlim=ttl)).answers
    assert error.data[40:42] == b"\x03\0"


@pytest.mark.parametrize(
    "packet",
    [
        ip4(b"x" * 8, dst="10.1.0.5", ttl=1, frag=5),
        ip4(ICMP(type=3) / (b"x" * 28), dst="10.1.0.5", ttl=1),
        ip4(b"", dst="10.1.0.5", ttl=1, proto=1),
        ip4(ICMP(type=19), dst="10.1.0.5", ttl=1),
        ip6(ICMPv6DestUnreach() / (b"x" * 40), dst="fd01::5", hlim=1),
    ],
)
def test_no_error_about_later_fragments_and_errors(packet: bytes) -> None:
    assert router().stack.receive(packet).answers == []


def test_an_error_about_a_later_ipv6_fragment_is_sent() -> None:
    packet = ip6(IPv6ExtHdrFragment(offset=5, nh=58) / (b"\x01" * 8), dst="fd01::5", hlim=1)
    assert len(router().stack.receive(packet).answers) == 1


def test_ipv6_errors_come_from_the_device_the_packet_came_in_by() -> None:
    [error] = router().stack.receive(ip6(PING6, src="fd00::9", dst="2001:db8::1", hlim=1), "eth1").answers
    assert error.data[8:24].hex() == "fd010000000000000000000000000001"
    [error] = router().stack.receive(ip4(PING, src="10.0.0.9", dst="192.0.2.1", ttl=1), "eth1").answers
    assert error.data[12:16] == bytes([10, 0, 0, 1])


def test_too_big() -> None:
    world = router()
    world.stack.devices["eth1"].mtu = 1400
    packet = ip4(UDP() / (b"x" * 1400), dst="10.1.0.5", flags="DF")
    journey = world.stack.receive(packet)
    assert journey.hooks == ["PREROUTING"]
    [error] = journey.answers
    assert error.data[20:22] + error.data[26:28] == b"\x03\x04" + (1400).to_bytes(2, "big")
    assert world.stack.receive(ip4(UDP() / (b"x" * 1400), dst="10.1.0.5")).reason == "in 2 fragments"
    [error] = world.stack.receive(ip6(UDP() / (b"x" * 1400), dst="fd01::5")).answers
    assert error.data[40:48] == bytes.fromhex("0200") + error.data[42:44] + (1400).to_bytes(4, "big")


def test_in_and_out_by_the_same_device_earns_a_redirect() -> None:
    world = router()
    journey = world.stack.receive(ip4(PING, dst="10.0.0.5"))
    assert journey.hooks == ["PREROUTING", "FORWARD", "POSTROUTING"]
    [redirect] = journey.answers
    assert redirect.data[20:22] + redirect.data[24:28] == bytes([5, 1, 10, 0, 0, 5])
    assert redirect.data[28:] == ip4(PING, dst="10.0.0.5", ttl=63)
    assert world.stack.receive(ip4(PING, dst="10.0.0.6")).answers == []  # not twice within 40 ms
    world.clock.advance(0.05)
    assert len(world.stack.receive(ip4(PING, dst="10.0.0.6")).answers) == 1
    world.clock.advance(1.0)
    world.stack.sysctls |= {"net.ipv4.conf.all.send_redirects": 0}
    assert len(world.stack.receive(ip4(PING, dst="10.0.0.6")).answers) == 1  # the device still says yes
    world.clock.advance(1.0)
    world.stack.sysctls |= {"net.ipv4.conf.eth0.send_redirects": 0}
    assert world.stack.receive(ip4(PING, dst="10.0.0.6")).answers == []


@pytest.mark.parametrize(
    ("src", "dst", "forwarded"),
    [
        ("10.0.0.1", "10.1.0.5", False),
        ("10.1.0.1", "10.1.0.5", False),
        ("10.1.0.9", "10.1.0.5", True),  # there is no reverse path filter
        ("10.0.0.255", "10.1.0.5", True),
        ("10.0.0.255", "10.0.0.5", False),  # where a redirect may be due, the source is looked at more closely
        ("10.0.0.9", "0.0.0.1", True),
        ("10.0.0.9", "240.0.0.1", True),
    ],
)
def test_what_is_forwarded(src: str, dst: str, forwarded: bool) -> None:
    assert ("FORWARD" in router().stack.receive(ip4(PING, src=src, dst=dst)).hooks) is forwarded


@pytest.mark.parametrize(
    ("src", "dst", "forwarded", "code"),
    [
        ("::", "fd01::5", False, None),
        ("fe80::1", "fd01::5", False, 2),
        ("fe80::1", "fd00::5", True, None),
        ("fd00::1", "fd01::5", True, None),
    ],
)
def test_what_is_forwarded_ipv6(src: str, dst: str, forwarded: bool, code: int | None) -> None:
    journey = router().stack.receive(ip6(PING6, src=src, dst=dst))
    assert ("FORWARD" in journey.hooks) is forwarded
    assert [answer.data[41] for answer in journey.answers] == ([] if code is None else [code])


def test_a_router_answers_for_its_networks() -> None:
    [reply] = router().stack.receive(ip6(PING6, dst="fd01::")).answers
    assert reply.data[8:24].hex() == "fd000000000000000000000000000001"
    assert router().stack.receive(ip6(PING6, dst="ff02::2")).delivered


def test_a_broadcast_of_another_network_is_for_this_machine() -> None:
    assert router().stack.receive(ip4(PING, dst="10.1.0.255")).hooks == ["PREROUTING", "INPUT"]


@pytest.mark.parametrize("forwarding", [False, True])
def test_no_route_is_told_by_routers_and_in_ipv6_by_everybody(forwarding: bool) -> None:
    world = World()
    for prefix in ("0.0.0.0/0", "::/0"):
        world.stack.del_route(prefix)
    world.stack.sysctls["net.ipv4.ip_forward"] = int(forwarding)
    assert [a.data[20:22] for a in world.stack.receive(ip4(PING, dst="8.8.8.8")).answers] == [b"\x03\0"] * forwarding
    assert [a.data[40:42] for a in world.stack.receive(ip6(PING6, dst="2001:db8::1")).answers] == [b"\x01\0"]


def test_a_route_that_says_unreachable() -> None:
    world = router()
    world.stack.add_route("192.0.2.0/24", None)
    [error] = world.stack.receive(ip4(PING, dst="192.0.2.1")).answers
    assert error.data[20:22] == b"\x03\x01"


def test_a_mark_chooses_the_route() -> None:
    world = router()
    world.stack.add_route("0.0.0.0/0", "eth1", mark=7)
    world.iptables("-t mangle -A PREROUTING -p udp -j MARK --set-mark 7")
    world.stack.receive(ip4(UDP(), dst="192.0.2.1"))
    assert [dev for dev, _ in world.stack.seen] == ["eth1"]
    world.stack.del_route("0.0.0.0/0", mark=7)
    with pytest.raises(OSError, match="No such process"):
        world.stack.del_route("0.0.0.0/0", mark=7)


def test_forward_makes_the_machine_forward() -> None:
    world = World()
    world.stack.add_device("eth1")
    journey = world.stack.forward(ip4(PING, dst="192.0.2.1"), "eth0", "eth1")
    assert journey.fate is Fate.SENT
    assert world.stack.seen == [("eth1", ip4(PING, dst="192.0.2.1", ttl=63))]
    assert world.stack.sysctls["net.ipv4.ip_forward"] == 1
    assert world.stack.forward(ip6(PING6, dst="2001:db8::1"), "eth0", "eth1").fate is Fate.SENT
    assert world.stack.forward(ip4(PING, dst="192.0.2.1"), "eth1", "eth0").fate is Fate.SENT
    assert world.stack.seen[-1][0] == "eth0"


# ------------------------------------------------------------------------------------------------------------------- configuration


def test_devices_have_the_next_index_and_one_name() -> None:
    stack = World().stack
    assert [(dev.name, dev.index) for dev in stack.devices.values()] == [("lo", 1), ("eth0", 2)]
    assert stack.add_device("eth1").index == 3
    for name, index in (("eth1", None), ("eth2", 3)):
        with pytest.raises(OSError, match="File exists"):
            stack.add_device(name, index=index)


def test_addresses_are_given_once() -> None:
    stack = World().stack
    with pytest.raises(OSError, match="File exists"):
        stack.add_address("eth0", "10.0.0.1/24")
    with pytest.raises(OSError, match="No such device"):
        stack.add_address("eth7", "10.0.0.1/24")


def test_down_and_up_again() -> None:
    world = router()
    world.stack.add_route("10.9.0.0/16", "eth1")
    world.stack.set_up("eth1", False)
    local, neighbour = ip4(PING, src="10.1.0.1", dst="10.1.0.1"), ip4(PING, src="10.1.0.1", dst="10.1.0.7")
    assert world.stack.send(local).delivered  # the address stays
    world.stack.send(neighbour)
    assert world.stack.seen[-1][0] == "eth0"  # by the default route
    assert world.stack.send(ip6(PING6, src="fd00::1", dst="fd01::1")).fate is Fate.SENT  # the IPv6 address does not
    world.stack.set_up("eth1", True)
    world.stack.send(neighbour)
    assert world.stack.seen[-1][0] == "eth1"
    world.stack.send(ip4(PING, src="10.1.0.1", dst="10.9.0.7"))
    assert world.stack.seen[-1][0] == "eth0"  # the route made by hand is gone


def test_the_same_scenario_twice_gives_the_same_log() -> None:
    def scenario() -> list[tuple[str, bytes]]:
        world = router()
        for packet in (ip4(PING), ip4(UDP(dport=9)), ip6(TCP(dport=9)), ip4(PING, dst="10.1.0.9")):
            world.stack.receive(packet)
        return world.stack.seen

    assert scenario() == scenario()
