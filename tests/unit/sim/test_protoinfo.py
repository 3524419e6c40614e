"""What requests set of a protocol's state (rule A.4.5)."""

from __future__ import annotations

from nfnl.sim.protoinfo import SctpInfo, TcpFlag, TcpInfo, TcpState, fresh
from nfnl.sim.skb import TCP, UDP
from nfnl.sim.tuples import SCTP


def test_only_tcp_and_sctp_have_a_state_from_the_beginning() -> None:
    tcp, sctp = fresh(TCP), fresh(SCTP)
    assert isinstance(tcp, TcpInfo)
    assert tcp.state is TcpState.NONE
    assert isinstance(sctp, SctpInfo)
    assert fresh(UDP) is None


def test_the_state_alone_leaves_the_rest() -> None:
    tcp = TcpInfo()
    tcp.configure(3)
    assert tcp.state is TcpState.ESTABLISHED
    assert [(side.scale, side.flags, side.maxwin) for side in tcp.sides] == [(0, 0, 0)] * 2


def test_flags_change_under_their_mask() -> None:
    tcp = TcpInfo()
    tcp.configure(flags=((0xFF, 0x0F), None))
    tcp.configure(flags=((0x00, 0x03), (0x08, 0xFF)))
    assert [side.flags for side in tcp.sides] == [0x0C, 0x08]


def test_scales_count_only_if_both_are_there_and_both_sides_scale() -> None:
    scaling = ((TcpFlag.WINDOW_SCALE, 0xFF), (TcpFlag.WINDOW_SCALE, 0xFF))
    tcp = TcpInfo()
    tcp.configure(scales=(7, 8))
    assert [side.scale for side in tcp.sides] == [0, 0]
    tcp.configure(scales=(7, 8), flags=scaling)  # the flags of the same message count
    assert [side.scale for side in tcp.sides] == [7, 8]
    tcp.configure(scales=(1, None))
    assert [side.scale for side in tcp.sides] == [7, 8]
