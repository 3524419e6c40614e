"""Expectations (ctnetlink): flows that a helper has announced before they come.

Sources: include/uapi/linux/netfilter/nfnetlink_conntrack.h for numbers, nf_conntrack_common.h beside it for the flags,
net/netfilter/nf_conntrack_netlink.c for the policies and for the order in which the kernel writes attributes. Numbers inside
attributes are in network byte order. Statistics are asked for here and answered in subsystem 1, by
`nfnl.subsys.conntrack.ExpectStatsCpu`.
"""

from __future__ import annotations

from enum import IntEnum, IntFlag
from typing import Annotated

from nfnl.subsys.tuples import NEST, Tuple
from nfnl.wire.constants import SubsystemId
from nfnl.wire.declare import AttrSet, Direction, Message, Subsystem, View, attr
from nfnl.wire.layout import Be16, Be32, CString, as_enum, be16, be32

EXPECT = Subsystem(SubsystemId.CTNETLINK_EXP, "expect", "net/netfilter/nf_conntrack_netlink.c")


class ExpectFlag(IntFlag):
    """``NF_CT_EXPECT_*`` (include/uapi/linux/netfilter/nf_conntrack_common.h). Other bits are refused (EINVAL)."""

    PERMANENT = 1  #: stays when a flow has come
    INACTIVE = 2  #: does not take part yet
    USERSPACE = 4  #: set by user space; taken away from what a request says


class ExpectDirection(IntEnum):
    """``enum ip_conntrack_dir``: which way the expected flow goes, seen from its master."""

    ORIGINAL = 0
    REPLY = 1


class ExpectNat(AttrSet):
    """``CTA_EXPECT_NAT``: how the expected flow is to be rewritten. A request must have both (EINVAL)."""

    __slots__ = ()

    dir: Annotated[int, as_enum(be32, ExpectDirection)] | None = attr(
        1, "CTA_EXPECT_NAT_DIR", default=None, policy=be32, doc="direction of the expected flow; above 1 refused (ERANGE)"
    )
    tuple: Tuple | None = attr(2, "CTA_EXPECT_NAT_TUPLE", default=None, policy=NEST, doc="source address and port before rewriting")


class ExpectationAttributes(View):
    """``CTA_EXPECT_*``: all there is to say of an expectation, in the order of the kernel."""

    __slots__ = ()

    tuple: Tuple | None = attr(2, "CTA_EXPECT_TUPLE", default=None, policy=NEST, doc="the packets that are expected")
    mask: Tuple | None = attr(
        3, "CTA_EXPECT_MASK", default=None, policy=NEST, doc="which bits of tuple count; of the destination always all"
    )
    master: Tuple | None = attr(1, "CTA_EXPECT_MASTER", default=None, policy=NEST, doc="the flow whose helper expects them")
    nat: ExpectNat | None = attr(10, "CTA_EXPECT_NAT", default=None, since="3.4", policy=NEST, doc="how they are to be rewritten")
    timeout: Be32 | None = attr(4, "CTA_EXPECT_TIMEOUT", default=None, policy=be32, doc="seconds left")
    id: Be32 | None = attr(5, "CTA_EXPECT_ID", default=None, policy=be32, doc="opaque; the same as long as it lives")
    zone: Be16 | None = attr(7, "CTA_EXPECT_ZONE", default=None, since="2.6.34", policy=be16, doc="the zone; only in requests")
    flags: Annotated[ExpectFlag, as_enum(be32, ExpectFlag)] | None = attr(
        8, "CTA_EXPECT_FLAGS", default=None, since="2.6.37", policy=be32, doc="how it behaves"
    )
    expect_class: Be32 | None = attr(
        9, "CTA_EXPECT_CLASS", default=None, since="3.4", policy=be32, doc="which of the helper's kinds of expectation it is"
    )
    help_name: CString | None = attr(6, "CTA_EXPECT_HELP_NAME", default=None, doc="name of the helper, up to 15 bytes")
    fn: CString | None = attr(
        11, "CTA_EXPECT_FN", default=None, since="3.4", doc="name of the function that sets up the flow that comes"
    )

    def __str__(self) -> str:
        said = [str(self.tuple)] if self.tuple is not None else []
        if self.master is not None:
            said.append(f"master {self.master}")
        said += [f"{name} {value}" for name in ("zone", "timeout", "help_name", "fn") if (value := getattr(self, name))]
        return " ".join(said)


class AttachedExpectation(ExpectationAttributes, AttrSet):
    """An expectation as it stands in a verdict (NFQA_EXP, since 3.12): made for the flow of the packet, which is its master."""

    __slots__ = ()
    __told_by__ = "expect.Expectation"


class Expectation(
    ExpectationAttributes, Message, subsystem=EXPECT, type=0, direction=Direction.FROM_KERNEL, kernel_name="IPCTNL_MSG_EXP_NEW"
):
    """An expectation: an entry of a dump, the answer to a request (NLM_F_MULTI), or the event of a new one (NLM_F_CREATE)."""

    __slots__ = ()

    tuple: Tuple = attr(2, "CTA_EXPECT_TUPLE", policy=NEST, doc="the packets that are expected")
    mask: Tuple = attr(3, "CTA_EXPECT_MASK", policy=NEST, doc="which bits of tuple count; of the destination always all")
    master: Tuple = attr(1, "CTA_EXPECT_MASTER", policy=NEST, doc="original tuple of the flow whose helper expects them")


class DestroyedExpectation(
    ExpectationAttributes, Message, subsystem=EXPECT, type=2, direction=Direction.FROM_KERNEL, kernel_name="IPCTNL_MSG_EXP_DELETE"
):
    """An expectation is gone (group CONNTRACK_EXP_DESTROY): a flow came, its time or its master ended, or it was deleted."""

    __slots__ = ()

    tuple: Tuple = attr(2, "CTA_EXPECT_TUPLE", policy=NEST, doc="the packets that were expected")
    mask: Tuple = attr(3, "CTA_EXPECT_MASK", policy=NEST, doc="which bits of tuple counted; of the destination always all")
    master: Tuple = attr(1, "CTA_EXPECT_MASTER", policy=NEST, doc="original tuple of the flow whose helper expected them")


class NewExpectation(
    ExpectationAttributes, Message, subsystem=EXPECT, type=0, direction=Direction.TO_KERNEL, kernel_name="IPCTNL_MSG_EXP_NEW"
):
    """Make an expectation (NLM_F_CREATE): tuple, mask and master are needed (EINVAL). Of one that is there only timeout changes."""

    __slots__ = ()


class GetExpectation(
    ExpectationAttributes, Message, subsystem=EXPECT, type=1, direction=Direction.TO_KERNEL, kernel_name="IPCTNL_MSG_EXP_GET"
):
    """Ask for an expectation by tuple, else by master, which is then taken for a tuple; as a dump for all, or all of a master."""

    __slots__ = ()


class DeleteExpectation(
    ExpectationAttributes, Message, subsystem=EXPECT, type=2, direction=Direction.TO_KERNEL, kernel_name="IPCTNL_MSG_EXP_DELETE"
):
    """Delete an expectation by tuple (and id), else all of a helper by name, **else all there are**."""

    __slots__ = ()


class GetExpectStatsCpu(
    Message, subsystem=EXPECT, type=3, direction=Direction.TO_KERNEL, kernel_name="IPCTNL_MSG_EXP_GET_STATS_CPU"
):
    """Ask for `nfnl.subsys.conntrack.ExpectStatsCpu` of every CPU (since 3.6). Only as a dump."""

    __slots__ = ()
