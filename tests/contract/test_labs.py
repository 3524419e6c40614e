"""The labs of the contract: one that is used again is as new."""

from __future__ import annotations

from contextlib import closing

from tests.contract.kernels import Kernels
from tests.contract.wirekit import udp4

FLOWS = "net.netfilter.nf_conntrack_count"


def test_a_lab_is_used_again_without_its_flows() -> None:
    """Whatever rule it was that had packets tracked: nobody has to say so."""
    with closing(Kernels()) as labs:
        with labs.make("linux") as before:
            before.iptables("-A OUTPUT -p udp -m conntrack --ctstate NEW -j ACCEPT")
            before.send(udp4())
            assert before.sysctl(FLOWS) == "1"
        with labs.make("linux") as after:
            assert after.kernel is before.kernel
            assert after.sysctl(FLOWS) == "0"
