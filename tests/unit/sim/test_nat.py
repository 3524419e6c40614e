"""Choosing translations (rules A.4.2, B.8)."""

from __future__ import annotations

from ipaddress import ip_address
from pathlib import Path

import pytest

from nfnl.sim.conntrack import ConntrackTable
from nfnl.sim.ct_entry import NO_ADJUSTMENT, Entry, Status
from nfnl.sim.helpers import Help, find_helper
from nfnl.sim.nat import PERSISTENT, PROTO_OFFSET, PROTO_RANDOM_FULLY, Manip, Nat, Range
from nfnl.sim.protoinfo import TcpInfo, TcpState
from nfnl.sim.skb import ICMP, IPV4, IPV6, TCP, UDP
from nfnl.sim.tuples import DEFAULT_ZONE, GRE, Tuple, Zone
from tests.unit.sim.flows import A, B, C, inverse, new_table, request, udp

OUT = b"\x0a\0\2\x32"
RECORDED = Path(__file__).parents[3] / "fixtures/conntrack/nat-addresses.tsv"
SRC_BITS, DST_BITS = Status.SRC_NAT | Status.SRC_NAT_DONE, Status.DST_NAT | Status.DST_NAT_DONE


class World:
    def __init__(self) -> None:
        _, self.table, _ = new_table()
        self.nat = Nat(self.table)

    def new(self, t: Tuple, zone: Zone = DEFAULT_ZONE) -> Entry:
        return self.table.allocate(zone, t, inverse(t))

    def snat(self, t: Tuple, wanted: Range = Range((OUT, OUT)), zone: Zone = DEFAULT_ZONE) -> Entry:
        """A flow with its source bound, in the table."""
        entry = self.new(t, zone)
        assert self.nat.setup(entry, wanted, Manip.SRC)
        entry.expires = 10**6
        self.table.confirm(entry)
        self.table.put(entry)
        return entry


def test_snat_changes_the_destination_of_the_answers() -> None:
    world = World()
    entry = world.new(udp(2000))
    assert world.nat.setup(entry, Range((OUT, OUT)), Manip.SRC)
    assert entry.reply == Tuple(IPV4, B, OUT, UDP, 53, 2000)
    assert entry.status == SRC_BITS
    assert world.nat.null_binding(entry, Manip.DST)
    assert entry.status == SRC_BITS | Status.DST_NAT_DONE


def test_dnat_changes_their_source() -> None:
    world = World()
    entry = world.new(udp(2000))
    assert world.nat.setup(entry, Range((C, C), (5353, 5353)), Manip.DST)
    assert entry.reply == Tuple(IPV4, C, A, UDP, 5353, 2000)
    assert world.nat.null_binding(entry, Manip.SRC)
    assert entry.status == DST_BITS | Status.SRC_NAT_DONE


def test_an_end_is_bound_once_and_a_confirmed_flow_not_at_all() -> None:
    world = World()
    entry = world.new(udp())
    assert world.nat.null_binding(entry, Manip.SRC)
    assert not world.nat.setup(entry, Range((OUT, OUT)), Manip.SRC)
    assert entry.reply == inverse(udp())
    confirmed = request(world.table, udp(9))
    assert world.nat.setup(confirmed, Range((OUT, OUT)), Manip.SRC)
    assert confirmed.status == Status.CONFIRMED


def test_a_range_that_is_satisfied_changes_nothing() -> None:
    world = World()
    entry = world.new(udp(1500))
    assert world.nat.setup(entry, Range((A, A), (1000, 2000)), Manip.SRC)
    assert (entry.reply, entry.status) == (inverse(udp(1500)), Status.SRC_NAT_DONE)


@pytest.mark.parametrize(
    ("port", "least", "most"), [(100, 1, 511), (511, 1, 511), (512, 600, 1023), (1023, 600, 1023), (1024, 1024, 65535)]
)
def test_where_a_port_goes_that_is_taken(port: int, least: int, most: int) -> None:
    world = World()
    world.snat(udp(port))
    clashing = world.snat(udp(port, src=C))
    assert clashing.reply.dst == OUT
    assert clashing.reply.dst_part != port
    assert least <= clashing.reply.dst_part <= most


def test_the_same_source_keeps_its_mapping() -> None:
    world = World()
    world.snat(udp(2000))
    mapped = world.snat(udp(2000, src=C))
    again = world.snat(udp(2000, 54, src=C))
    assert again.reply.dst_part == mapped.reply.dst_part != 2000
    elsewhere = world.snat(udp(2000, 54, src=C), zone=Zone(5))
    assert elsewhere.reply.dst_part == 2000


def test_what_is_freed_is_forgotten() -> None:
    world = World()
    world.snat(udp(2000))
    gone = world.snat(udp(2000, src=C))
    world.table.flush()
    assert world.nat._by_source == {}
    assert world.snat(udp(2000, 54, src=C)).reply.dst_part == 2000 != gone.reply.dst_part


def test_a_small_range_is_used_up_and_then_the_last_try_stands() -> None:
    world = World()
    wanted = Range((OUT, OUT), (7000, 7003))
    ports = [world.snat(udp(1000 + i), wanted).reply.dst_part for i in range(4)]
    assert sorted(ports) == [7000, 7001, 7002, 7003]
    with pytest.raises(FileExistsError):
        world.snat(udp(1004), wanted)


def test_a_single_port_is_given_to_everybody() -> None:
    world = World()
    wanted = Range((OUT, OUT), (7000, 7000))
    assert world.snat(udp(1), wanted).reply.dst_part == 7000
    with pytest.raises(FileExistsError):
        world.snat(udp(3), wanted)
    assert world.snat(udp(3, 54), wanted).reply.dst_part == 7000


def test_a_range_the_wrong_way_round_is_turned() -> None:
    assert 7000 <= World().snat(udp(1), Range((OUT, OUT), (7003, 7000))).reply.dst_part <= 7003


def test_dnat_without_ports_never_changes_them_and_with_ports_starts_at_the_first() -> None:
    world = World()
    request(world.table, udp(2000, 53, dst=C))
    entry = world.new(udp(2000))
    assert world.nat.setup(entry, Range((C, C)), Manip.DST)
    assert entry.reply == Tuple(IPV4, C, A, UDP, 53, 2000)
    entry = world.new(udp(2001))
    assert world.nat.setup(entry, Range((C, C), (8000, 8010)), Manip.DST)
    assert entry.reply.src_part == 8000


def test_icmp_gets_another_id() -> None:
    world = World()
    echo = Tuple(IPV4, A, B, ICMP, 5, 8 << 8)
    world.snat(echo)
    clashing = world.snat(echo._replace(src=C))
    assert clashing.reply.dst == OUT
    assert clashing.reply.src_part != 5
    assert clashing.reply.icmp_type == 0
    assert world.snat(echo._replace(src_part=6), Range((OUT, OUT), (100, 100))).reply.src_part == 100


@pytest.mark.parametrize("protocol", [GRE, 50])
def test_where_there_is_nothing_to_vary_it_stays_as_it_is(protocol: int) -> None:
    world = World()
    t = Tuple(IPV4, A, B, protocol)
    world.snat(t)
    with pytest.raises(FileExistsError):
        world.snat(t._replace(src=C))


def test_random_ports_are_drawn_even_if_nothing_is_in_the_way() -> None:
    world = World()
    ports = {world.snat(udp(2000 + i), Range((OUT, OUT), flags=PROTO_RANDOM_FULLY)).reply.dst_part for i in range(20)}
    assert len(ports & set(range(2000, 2020))) < 3


def test_an_offset_moves_a_range_of_ports_onto_another() -> None:
    world = World()
    entry = world.new(udp(1, 5007))
    assert world.nat.setup(entry, Range((C, C), (6000, 6100), PROTO_OFFSET, base=5000), Manip.DST)
    assert entry.reply.src_part == 6007


def test_a_persistent_source_is_mapped_alike_whatever_it_talks_to() -> None:
    world = World()
    first, last = b"\x0a\0\2\0", b"\x0a\0\2\xff"
    to = [bytes((10, 9, 9, i)) for i in range(50)]
    alike = {world.snat(udp(1, dst=dst), Range((first, last), flags=PERSISTENT)).reply.dst for dst in to}
    spread = {world.snat(udp(2, dst=dst), Range((first, last), flags=PROTO_RANDOM_FULLY)).reply.dst for dst in to}
    assert len(alike) == 1
    assert len(spread) > 10


@pytest.mark.parametrize("line", RECORDED.read_text().splitlines()[3:])
def test_linux_chooses_the_same_address(line: str) -> None:
    manip, zone, *addresses = line.split("\t")
    src, dst, first, last, reply_src, reply_dst = (ip_address(address).packed for address in addresses)
    world = World()
    entry = world.new(Tuple(IPV4 if len(src) == 4 else IPV6, src, dst, UDP, 1000, 2000), Zone(int(zone)))
    assert world.nat.setup(entry, Range((first, last)), Manip[manip])
    assert (entry.reply.src, entry.reply.dst) == (reply_src, reply_dst)


def test_a_flow_with_a_helper_gets_place_for_sequence_adjustment() -> None:
    world = World()
    entry = world.new(Tuple(IPV4, A, B, TCP, 1, 21))
    entry.help = Help(find_helper("ftp", IPV4, TCP))
    world.nat.null_binding(entry, Manip.DST)
    assert entry.seqadj is None
    world.nat.setup(entry, Range((OUT, OUT)), Manip.SRC)
    assert entry.seqadj == NO_ADJUSTMENT


def closing(table: ConntrackTable, nat: Nat, end: int, state: TcpState) -> Entry:
    t = Tuple(IPV4, A, B, TCP, 1000, 80)
    entry = table.allocate(DEFAULT_ZONE, t, inverse(t))
    assert isinstance(entry.proto, TcpInfo)
    entry.proto.state, entry.proto.sides[0].end = state, end
    nat.setup(entry, Range((OUT, OUT), (7000, 7003)), Manip.SRC)
    entry.expires = 10**6
    table.confirm(entry)
    table.put(entry)
    return entry


@pytest.mark.parametrize(
    ("state", "end", "new_end", "goes"),
    [
        (TcpState.TIME_WAIT, 100, 200, True),
        (TcpState.CLOSE, 0xFFFFFFF0, 5, True),
        (TcpState.TIME_WAIT, 200, 100, False),
        (TcpState.LAST_ACK, 100, 200, False),
    ],
)
def test_a_tcp_flow_that_is_over_makes_room(state: TcpState, end: int, new_end: int, goes: bool) -> None:
    world = World()
    old = closing(world.table, world.nat, end, state)
    port = old.reply.dst_part
    new = world.new(Tuple(IPV4, C, B, TCP, 9, 80))
    assert isinstance(new.proto, TcpInfo)
    new.proto.state, new.proto.sides[0].end = TcpState.SYN_SENT, new_end
    # from the same range: the only port that is left is the old one
    others = [
        world.snat(Tuple(IPV4, C, B, TCP, other, 80), Range((OUT, OUT), (other, other)))
        for other in range(7000, 7004)
        if other != port
    ]
    assert len(others) == 3
    world.nat.setup(new, Range((OUT, OUT), (7000, 7003)), Manip.SRC)
    assert old.dying == goes
    if goes:
        assert new.reply.dst_part == port
