"""The expectations of a table, for its doors."""

from __future__ import annotations

import builtins
from typing import TYPE_CHECKING

from nfnl.session.flowspec import expected_tuple
from nfnl.subsys.conntrack import ExpectStatsCpu, FlowAttributes, Tuple
from nfnl.subsys.expect import Expectation, ExpectFlag, ExpectNat
from nfnl.wire.constants import Family

if TYPE_CHECKING:
    from nfnl._table import FlowTableDoor


class Expectations:
    """The expectations of a table: flows that helpers have announced before they come."""

    def __init__(self, door: FlowTableDoor) -> None:
        self._door = door
        self._session = door._session

    def list(
        self, *, family: Family | None = None, master: Tuple | FlowAttributes | None = None, retries: int = 0
    ) -> list[Expectation]:
        """All expectations, those of a family, or those of a master.

        Raises `NotFound` if there is no such master, `DumpInterruptedError` if the table changed meanwhile, ``retries`` times.
        """
        return self._door._all(Expectation, lambda: self._session.dump_expectations(family=family, master=master), retries)

    def get(self, wanted: Tuple, *, zone: int | None = None) -> Expectation:
        """The expectation that a packet with this tuple would meet. Raises `NotFound`."""
        return self._door._one(Expectation, self._session.get_expectation(wanted, zone=zone))

    def create(
        self,
        wanted: Tuple,
        *,
        master: Tuple | FlowAttributes,
        mask: Tuple | None = None,
        zone: int | None = None,
        flags: ExpectFlag | None = None,
        expect_class: int | None = None,
        nat: ExpectNat | None = None,
        fn: str | None = None,
    ) -> None:
        """Expect a flow, announced by ``master``, which must have a helper.

        Without a ``mask`` its source must be as far as ``wanted`` says, and its destination be equal. How long it is waited for
        is up to the helper. Raises `NotFound` without such a master, `Busy` if it overlaps with another, and other `NetlinkError`.
        """
        if mask is None:
            wanted, mask = expected_tuple(wanted)
        self._door._do(
            self._session.create_expectation(
                wanted, master=master, mask=mask, zone=zone, flags=flags, expect_class=expect_class, nat=nat, fn=fn
            )
        )

    def delete(self, target: Tuple | Expectation, *, zone: int | None = None) -> None:
        """Delete one expectation. Raises `NotFound`."""
        self._door._do(self._session.delete_expectation(target, zone=zone))

    def flush(self, *, helper: str | None = None) -> None:
        """Delete all expectations, or all of a helper."""
        self._door._do(self._session.flush_expectations(helper=helper))

    def cpu_stats(self) -> builtins.list[ExpectStatsCpu]:
        """What each CPU has counted of expectations. Since Linux 3.6."""
        return self._door._all(ExpectStatsCpu, self._session.expectation_stats)
