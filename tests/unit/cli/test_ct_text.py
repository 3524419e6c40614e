"""Flows and expectations as text, against what the C libraries print for the same bytes."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

import nfnl
import nfnl.subsys.expect
from nfnl.cli import ct_text
from nfnl.cli.ct_text import Style, What
from nfnl.subsys.conntrack import FlowAttributes
from nfnl.subsys.expect import ExpectationAttributes
from nfnl.wire.declare import Direction

VECTORS = Path(__file__).parents[3] / "fixtures/conntrack/print-vectors.txt"
#: the clock of the recording
NOW = 1795410000.0
LABELS = {0: "eth0-in", 1: "eth0-out", 5: "web label", 40: "bulk"}
ALL = Style(extended=True, id=True, ktimestamp=True, labels=True, label_names=LABELS)


def vectors() -> Iterator[tuple[str, dict[str, str]]]:
    for block in VECTORS.read_text().split("\n\n"):
        lines = [line for line in block.splitlines() if not line.startswith("#") or line[2:3].isdigit()]
        if lines and lines[0].startswith("# "):
            yield lines[0][2:], dict(line.split("\t", 1) for line in lines[1:])


def message_of(vector: dict[str, str]) -> object:
    (message,) = nfnl.decode(bytes.fromhex(vector["msg"]), direction=Direction.FROM_KERNEL)
    return message


FLOWS = [(name, vector) for name, vector in vectors() if isinstance(message_of(vector), FlowAttributes)]
EXPECTATIONS = [(name, vector) for name, vector in vectors() if isinstance(message_of(vector), ExpectationAttributes)]


@pytest.fixture(autouse=True)
def time_zone_of_the_recording(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    monkeypatch.setenv("TZ", "UTC")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def what_of(message: object) -> What:
    type_, flags = int.from_bytes(bytes(message)[4:6], "little"), message.nlmsg_flags  # type: ignore[call-overload,attr-defined]
    return What.DESTROY if type_ & 0xFF == 2 else What.NEW if flags & 0x600 else What.UPDATE


FLOW_FORMS: dict[str, Callable[[FlowAttributes, What], str]] = {
    "plain": lambda flow, what: ct_text.flow_line(flow, now=NOW),
    "event": lambda flow, what: ct_text.flow_line(flow, what=what, now=NOW),
    "ext+id+ktimestamp+labels": lambda flow, what: ct_text.flow_line(flow, ALL, now=NOW),
    "xml": lambda flow, what: ct_text.flow_xml(flow, Style(labels=True, label_names=LABELS), now=NOW),
    "xml event+timestamp+time": lambda flow, what: ct_text.flow_xml(
        flow, Style(timestamp=True, ktimestamp=True, labels=True, label_names=LABELS), what=what, now=NOW
    ),
}

#: where the library is wrong and we are not: (vector, form) -> what is right, and what it prints
MENDED = {
    # XML takes the states of SCTP from the table of TCP
    ("8 from ct-delete.txt", "xml"): ("<state>ESTABLISHED</state>", "<state>FIN_WAIT</state>"),
    ("92 hand-made: sctp states HEARTBEAT_SENT", "xml"): ("<state>HEARTBEAT_SENT</state>", "<state>CLOSE</state>"),
}


def test_there_are_vectors_of_each_kind() -> None:
    assert len(FLOWS) >= 50
    assert len(EXPECTATIONS) >= 4


@pytest.mark.parametrize("form", FLOW_FORMS)
@pytest.mark.parametrize(("name", "vector"), FLOWS, ids=[name for name, _ in FLOWS])
def test_a_flow_reads_as_the_library_prints_it(name: str, vector: dict[str, str], form: str) -> None:
    flow = message_of(vector)
    assert isinstance(flow, FlowAttributes)
    ours = FLOW_FORMS[form](flow, what_of(flow))
    if (name, form.split()[0]) in MENDED:
        right, wrong = MENDED[name, form.split()[0]]
        assert ours.count(right) == 1
        ours = ours.replace(right, wrong)
    assert ours == vector[form]


EXPECTATION_FORMS: dict[str, Callable[[ExpectationAttributes, What], str]] = {
    "plain": lambda expectation, what: ct_text.expectation_line(expectation, now=NOW),
    "event": lambda expectation, what: ct_text.expectation_line(expectation, what=what, now=NOW),
    "xml event": lambda expectation, what: ct_text.expectation_xml(expectation, what=what, now=NOW),
}


@pytest.mark.parametrize("form", EXPECTATION_FORMS)
@pytest.mark.parametrize(("name", "vector"), EXPECTATIONS, ids=[name for name, _ in EXPECTATIONS])
def test_an_expectation_reads_as_the_library_prints_it(name: str, vector: dict[str, str], form: str) -> None:
    expectation = message_of(vector)
    assert isinstance(expectation, ExpectationAttributes)
    assert EXPECTATION_FORMS[form](expectation, what_of(expectation)) == vector[form]
