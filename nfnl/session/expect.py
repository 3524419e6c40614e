"""Requests about expectations: flows that a helper has announced before they come. Part of `nfnl.session.conntrack`."""

from __future__ import annotations

import errno
from typing import Any

from nfnl.errors import LocalProtocolError
from nfnl.session.base import Hints
from nfnl.session.flowspec import family_of, which
from nfnl.session.requests import Kind, RequestSession
from nfnl.subsys.conntrack import FlowAttributes, Tuple
from nfnl.subsys.expect import (
    DeleteExpectation,
    Expectation,
    ExpectFlag,
    ExpectNat,
    GetExpectation,
    GetExpectStatsCpu,
    NewExpectation,
)
from nfnl.wire.constants import Family, NlmsgFlag

EXPECT_HINTS: Hints = {
    (NewExpectation.__type__, errno.ENOENT): "There is no flow with the master's tuple in this zone",
    (NewExpectation.__type__, errno.EOPNOTSUPP): "The master has no helper",
    (NewExpectation.__type__, errno.EINVAL): "Tuple, mask and master must be whole, the helper must have this class, "
    "and the kernel must know the function",
    (NewExpectation.__type__, errno.EBUSY): "It overlaps with another expectation",
    (NewExpectation.__type__, errno.EEXIST): "It is expected already",
    (NewExpectation.__type__, errno.EMFILE): "There are too many (net.netfilter.nf_conntrack_expect_max)",
    (GetExpectation.__type__, errno.ENOENT): "Nothing of the kind is expected",
    (DeleteExpectation.__type__, errno.ENOENT): "Nothing of the kind is expected, or it has another id by now",
}


class ExpectRequests(RequestSession):
    """The requests of a session that are about expectations."""

    def dump_expectations(self, *, family: Family | None = None, master: Tuple | FlowAttributes | None = None) -> int:
        """List expectations: all, those of a family, or those of a master (since Linux 3.11; ENOENT if there is no such flow)."""
        # Without helper a master has no expectations, and the kernel is silent but for an acknowledgement, if it is asked for one.
        fields: dict[str, Any] = {"nfgen_family": family or Family.UNSPEC}
        if master is not None:
            named = which(master, None)
            fields = {"master": named.get("original", named.get("reply")), "nfgen_family": named["nfgen_family"]}
            if named["zone"]:
                fields["zone"] = named["zone"]
        return self._ask(Kind.DUMP, GetExpectation, "list expectations", fields)

    def get_expectation(self, wanted: Tuple, *, zone: int | None = None, id: int | None = None) -> int:  # noqa: A002
        """Ask for the expectation that a packet with this tuple would meet."""
        fields = {"tuple": wanted, "zone": zone, "id": id, "nfgen_family": family_of(wanted)}
        return self._ask(Kind.QUERY, GetExpectation, f"get the expectation of {wanted}", fields)

    def create_expectation(
        self,
        wanted: Tuple,
        *,
        master: Tuple | FlowAttributes,
        mask: Tuple,
        zone: int | None = None,
        flags: ExpectFlag | None = None,
        expect_class: int | None = None,
        nat: ExpectNat | None = None,
        fn: str | None = None,
    ) -> int:
        """Expect a flow. ``master`` is the flow, with a helper, that announces it; of ``mask`` only the source half counts.

        How long it is waited for is up to the helper: the kernel takes no timeout here.
        """
        named = which(master, zone)
        fields = {
            "tuple": wanted,
            "mask": mask,
            "master": named.get("original", named.get("reply")),
            "zone": named["zone"],
            "flags": flags,
            "expect_class": expect_class,
            "nat": nat,
            "fn": fn,
            "nfgen_family": named["nfgen_family"],
        }
        new = NlmsgFlag.CREATE | NlmsgFlag.EXCL
        return self._ask(Kind.COMMAND, NewExpectation, f"expect {wanted}", fields, flags=new, done_already=errno.EEXIST)

    def delete_expectation(self, target: Tuple | Expectation, *, zone: int | None = None) -> int:
        """Delete one expectation; the id of one that is known keeps the kernel from deleting another in its place."""
        wanted, id_ = (target, None) if isinstance(target, Tuple) else (target.tuple, target.id)
        if wanted.ip is None or wanted.proto is None:
            raise LocalProtocolError("one expectation is named by a whole tuple; without one the kernel would delete all")
        fields = {"tuple": wanted, "id": id_, "zone": zone, "nfgen_family": family_of(wanted)}
        what = f"delete the expectation of {wanted}"
        return self._ask(Kind.COMMAND, DeleteExpectation, what, fields, done_already=errno.ENOENT)

    def flush_expectations(self, *, helper: str | None = None) -> int:
        """Delete all expectations, or all of a helper."""
        if helper == "":
            raise LocalProtocolError("a helper without a name would mean none")
        return self._ask(Kind.COMMAND, DeleteExpectation, "flush expectations", {"help_name": helper})

    def expectation_stats(self) -> int:
        """Ask what each CPU has counted of expectations (`ExpectStatsCpu`). Since Linux 3.6."""
        return self._ask(Kind.DUMP, GetExpectStatsCpu, "list statistics of expectations")
