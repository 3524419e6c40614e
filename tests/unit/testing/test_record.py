"""``nfnl record``: what is played, what is kept of it, and that recordings that are there can be made again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from nfnl.cli.app import app
from nfnl.subsys.queue import Packet
from nfnl.testing import _record
from nfnl.testing._record import RecordError, Scenario
from nfnl.wire.codec import decode
from nfnl.wire.constants import NlmsgFlag
from nfnl.wire.declare import Direction, Message, registry
from tests import probes
from tests.recordings import FIXTURES, Recording, every_recording, recorded

SCENARIOS = {scenario.name: scenario for scenario in _record.load(FIXTURES / "scenarios.toml")}
#: recordings of before, and the scenario that makes the same
EARLIER = {
    "6.18.44/packet.mark+priority": "packet-mark-priority",
    "6.18.44/packet.raw-sent.PREROUTING": "packet-prerouting",
    "6.18.44/range.20": "packet-range-20",
    "6.18.44/packet.uidgid.root": "packet-user",
    "6.18.44/packet.ipv6.OUTPUT": "packet-ipv6",
    "6.18.44/packet.tun.PREROUTING": "packet-from-tun",
    "6.18.15/packet.ct.new": "packet-flow",
}
#: these may differ: payload and length, devices, checksums, priority, and the time, told when anybody asked for time stamps
AS_MAY_BE = {4, 5, 6, 10, 13, 14, 21}


def shape(data: bytes, direction: Direction) -> list[tuple[str, frozenset[int]]]:
    """The kinds of messages and attributes."""
    found = []
    for message in decode(data, direction=direction):
        attributes = frozenset(raw.type & 0x3FFF for raw in message.attributes) if isinstance(message, Message) else frozenset()
        found.append((type(message).__name__, attributes))
    return found


# ------------------------------------------------------------------------------------------------------------- what is played


def scenario(*steps: dict[str, Any]) -> Scenario:
    return Scenario("tried", "queue", "for a test", steps)


PACKET = "45000021004d400040113c7d7f0000017f00000113882328000d874f68656c6c6f"


def test_what_the_kernel_says_is_kept_and_what_nfnl_says_is_not() -> None:
    probes.require("lab-available")
    heard = _record.record(
        scenario(
            {"iptables": "-A OUTPUT -p udp --dport 9000 -j NFQUEUE --queue-num 3"},
            {"listen": 3},
            {"send": PACKET, "mark": 7},
            {"send": PACKET},
        )
    )
    packets = [message for one in heard for message in decode(one.data, direction=one.direction)]
    assert [type(packet) for packet in packets] == [Packet, Packet]
    assert [packet.mark for packet in packets if isinstance(packet, Packet)] == [7, None]
    assert all(one.direction is Direction.FROM_KERNEL for one in heard)


def test_a_recording_says_what_it_is(tmp_path: Path) -> None:
    probes.require("lab-available")
    one = SCENARIOS["packet-mark-priority"]
    written = _record.text(one, _record.record(one), [])
    lines = written.splitlines()
    assert lines[0] == "# scenario: mark 0x01020304 and priority 6"
    assert lines[2].startswith(f"# recorded on Linux {_record.kernel_name()}, ")
    assert lines[3].startswith("< Packet queue 1 id 1 OUTPUT")
    assert bytes.fromhex(lines[4])


@pytest.mark.parametrize(
    "broken",
    [
        "steps = []\nsubsystem = 'queue'\nabout = 'x'",
        "steps = [{ listen = 1 }]\nsubsystem = 'weather'\nabout = 'x'",
        "steps = [{ listen = 1 }]\nsubsystem = 'queue'",
        "steps = [{ listen = 1, send = '00' }]\nsubsystem = 'queue'\nabout = 'x'",
        "steps = [{ listen = 1, mark = 1 }]\nsubsystem = 'queue'\nabout = 'x'",
        "steps = [{ dance = 1 }]\nsubsystem = 'queue'\nabout = 'x'",
    ],
    ids=["no steps", "subsystem", "about", "two at once", "not of that step", "unknown"],
)
def test_what_is_no_scenario(tmp_path: Path, broken: str) -> None:
    file = tmp_path / "scenarios.toml"
    file.write_text(f"[bad]\n{broken}\n")
    with pytest.raises(RecordError, match="bad"):
        _record.load(file)
    done = CliRunner().invoke(app, ["record", "--scenarios", str(file)])
    assert (done.exit_code, "bad" in done.output) == (1, True)


def test_the_command_writes_beside_the_scenarios(tmp_path: Path) -> None:
    probes.require("lab-available")
    file = tmp_path / "scenarios.toml"
    file.write_text(
        "[good]\nsubsystem = 'queue'\nabout = 'x'\n"
        f"steps = [{{ iptables = '-A OUTPUT -j NFQUEUE' }}, {{ listen = 0 }}, {{ send = '{PACKET}' }}]\n"
        "[bad]\nsubsystem = 'queue'\nabout = 'y'\nsteps = [{ iptables = '--nonsense' }]\n"
    )
    done = CliRunner().invoke(app, ["record", "--scenarios", str(file)])
    assert done.exit_code == 1, "one of them could not be played"
    assert "bad: " in done.output
    written = list(tmp_path.glob("queue/recorded/*/*.txt"))
    assert [path.name for path in written] == ["good.txt"]
    assert CliRunner().invoke(app, ["record", "--scenarios", str(file), "good"]).exit_code == 0
    assert CliRunner().invoke(app, ["record", "--scenarios", str(file), "other"]).exit_code == 2


# ---------------------------------------------------------------------------------------------------------- what is recorded

ALL = [*every_recording()]


def test_every_declared_message_is_recorded() -> None:
    kinds = {type(message) for one in ALL for message in decode(one.data, direction=one.direction)}
    assert {cls.__name__ for cls in registry.values()} - {cls.__name__ for cls in kinds} == set()


def test_every_scenario_is_recorded() -> None:
    there = {path.stem for path in FIXTURES.glob("*/recorded/*/*.txt")}
    assert there == SCENARIOS.keys()


def test_recordings_come_back_to_equal_bytes_and_none_is_a_request_of_ours() -> None:
    for subsystem in _record.SUBSYSTEMS:
        for one in recorded(subsystem):
            messages = decode(one.data, direction=one.direction)
            assert b"".join(map(bytes, messages)) == one.data, one.name
            if subsystem == "queue":
                assert one.direction is Direction.FROM_KERNEL
                assert not any(message.nlmsg_flags & NlmsgFlag.REQUEST for message in messages)


@pytest.mark.parametrize("earlier", EARLIER)
def test_earlier_recordings_can_be_made_again(earlier: str) -> None:
    """They have the same messages, with the same attributes but for those that depend on who sent the packet and where it waits."""
    [old] = [one for one in ALL if one.name == earlier]
    new: list[Recording] = [one for one in ALL if one.name.partition(":")[0].endswith(f"/{EARLIER[earlier]}")]
    assert new
    for one in new:
        [(kind, attributes)] = shape(one.data, one.direction)
        [(old_kind, old_attributes)] = shape(old.data, old.direction)
        assert (kind, attributes - AS_MAY_BE) == (old_kind, old_attributes - AS_MAY_BE)
