"""Connection tracking helpers by name: which flows may have one, and what it may expect (nf_conntrack_helper.c and the modules)."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

from nfnl.sim.skb import IPV4, IPV6, TCP, UDP

if TYPE_CHECKING:
    from nfnl.sim.expectations import Expectation


class Policy(NamedTuple):
    """What may be expected of one class (`struct nf_conntrack_expect_policy`)."""

    max_expected: int  #: at once, for one master; 0: any number
    timeout: int  #: seconds an expectation waits
    name: str = ""  #: of the class, where it has one


class Helper(NamedTuple):
    """One helper for one protocol (`struct nf_conntrack_helper`). The classes of its expectations are numbered from 0."""

    name: str
    families: tuple[int, ...]
    protocol: int
    policies: tuple[Policy, ...]

    def __deepcopy__(self, memo: Any) -> Helper:
        return self


_BOTH = (IPV4, IPV6)
_ONE = (Policy(1, 300),)
_SIP = (Policy(1, 180, "signalling"), Policy(4, 180, "audio"), Policy(4, 180, "video"), Policy(2, 180, "image"))

#: Those that come with Linux, with the settings they have unless told otherwise.
HELPERS = (
    Helper("ftp", _BOTH, TCP, _ONE),
    Helper("irc", (IPV4,), TCP, (Policy(8, 300),)),
    Helper("sane", _BOTH, TCP, _ONE),
    Helper("tftp", _BOTH, UDP, _ONE),
    Helper("sip", _BOTH, UDP, _SIP),
    Helper("sip", _BOTH, TCP, _SIP),
    Helper("amanda", _BOTH, UDP, (Policy(3, 180),)),
    Helper("netbios-ns", (IPV4,), UDP, (Policy(1, 3),)),
    Helper("snmp", (IPV4,), UDP, (Policy(1, 30),)),
    Helper("pptp", (IPV4,), TCP, (Policy(2, 300),)),
    Helper("RAS", _BOTH, UDP, (Policy(32, 240),)),
    Helper("Q.931", _BOTH, TCP, (Policy(18, 240),)),
    Helper("H.245", _BOTH, UDP, (Policy(18, 240),)),
)

#: Functions that a new expected flow may be handed to (`nf_ct_helper_expectfn_find_by_name`).
EXPECT_FUNCTIONS = frozenset(("nat-follow-master", "Q.931", "callforwarding", "sip"))


def find_helper(name: str, family: int, protocol: int) -> Helper | None:
    """The helper of that name for flows of this kind; ports play no role (`nf_conntrack_helper_find`)."""
    for helper in HELPERS:
        if helper.name == name and helper.protocol == protocol and family in helper.families:
            return helper
    return None


class Help:
    """What a flow with a helper carries (`struct nf_conn_help`)."""

    __slots__ = ("data", "expectations", "helper")

    def __init__(self, helper: Helper | None) -> None:
        #: None after it was taken away
        self.helper = helper
        #: what the helper remembers of the flow
        self.data: object = None
        #: what it waits for, oldest first
        self.expectations: list[Expectation] = []

    def expecting(self, class_: int) -> int:
        """How many of one class it waits for."""
        return sum(expectation.class_ == class_ for expectation in self.expectations)
