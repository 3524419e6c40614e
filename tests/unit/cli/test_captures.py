"""Hex of every style, raw bytes and captures."""

from __future__ import annotations

import io
import re
import shutil
import struct
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scapy.utils import RawPcapReader

from nfnl.cli.captures import Found, datagrams, form_of, from_hex, from_pcap, ip_packets
from nfnl.wire.header import BIG, LITTLE, ByteOrder
from tests import recordings

RECORDED = [r.data for r in recordings.exchanges()][:12]


def all_of(text: str) -> list[bytes]:
    found = list(from_hex(text))
    assert not any(f.problem for f in found)
    return [f.data for f in found]


# --- hex -------------------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "text",
    [
        "4d00 0000\n0003 ff\n",
        "4d000000\t0003ff",
        "4d0 000 000 003 ff",
        "0x4d, 0x0, 0x0, 0x00, 0x00, 0x3, 0xff",
        "{ 0x4d, 0x00, 0x00, 0x00, 0x00, 0x03, 0xFF };",
        r"\x4d\x00\x00\x00\x00\x03\xff",
        "4d:00:00:00:00:03:ff",
        "# a comment\n4d 00 00 00 # another\n  # a third\n00 03 ff",
        "\n\n4d00000000 03ff\n\n\n",
        "00000000  4d 00 00 00 00 03 ff                              |M......|\n00000007\n",
        "00000000: 4d00 0000 0003 ff                        M......",
        "000000 4d 00 00 00 00 03 ff                 >M......<",
        "\t0x0000:  4d00 0000 0003 ff                        M......",
        "0000   4d 00 00 00 00 03 ff                              M......",
        "00000020: 4d00 0000\n00000024: 0003 ff\n",
    ],
)
def test_hex_in_any_style(text: str) -> None:
    assert all_of(text) == [bytes.fromhex("4d00000000 03ff")]


def test_text_beside_the_bytes_is_not_taken_for_bytes() -> None:
    assert all_of("00000000: 6162 6364 6566                           abcdef\n") == [b"abcdef"]
    assert all_of("00000000: 2320 7c20                                # | \n") == [b"# | "]
    assert all_of("00000000  61 62 63 64 65 66                                 |abcdef|\n") == [b"abcdef"]


@pytest.mark.parametrize(
    "command", ["xxd", "xxd -p", "xxd -i", "xxd -c 5 -g 1", "hexdump -C", "od -A x -t x1z", "od -A x -t x1 -v"]
)
@pytest.mark.parametrize("data", [*RECORDED[:3], bytes(100), b"ab" * 200 + b"|#>  cd  |"], ids=len)
def test_what_the_usual_programs_print(command: str, data: bytes) -> None:
    if shutil.which(command.split()[0]) is None:  # od is everywhere; the styles of the others are above
        command = "od -Ax -tx1z"
    printed = subprocess.run(command.split(), input=data, capture_output=True, check=True).stdout.decode()
    assert all_of(printed) == [data]


@given(st.binary(min_size=1), st.randoms(use_true_random=False))
def test_digits_may_be_spaced_in_any_way(data: bytes, random: object) -> None:
    text = "".join(digit + random.choice(["", "", " ", "\n", "\t"]) for digit in data.hex())  # type: ignore[attr-defined]
    if not text.split("\n")[0].startswith("000") and "\n\n" not in text:
        assert all_of(text) == [data]


def test_a_blank_line_begins_a_new_datagram() -> None:
    assert [(f.where, f.data) for f in from_hex("4d00\n0000\n\n# of the second\n1c00\n")] == [
        ("line 1", b"\x4d\0\0\0"),
        ("line 5", b"\x1c\0"),
    ]


@pytest.mark.parametrize(
    ("text", "data", "problem"),
    [
        ("4d00\nzz 00\n", b"\x4d\0", "line 2: 'zz' is not hexadecimal"),
        ("4d00\n000", b"\x4d\0\0", "line 2: half a byte is left at the end"),
        ("00000000: 4d00\n00000008: 0000\n", b"\x4d\0", "line 2: the offset is 0x8, but 2 bytes came before it"),
        ("00000000: 4d00\nhello\n", b"\x4d\0", "line 2: 'hello' does not begin with an offset"),
        ("00000000: 4d00\n*\nffffffffffff: 0000\n", b"\x4d\0", "line 3: the offset is 0xffffffffffff"),
    ],
)
def test_bad_hex_is_named_and_what_came_before_it_is_kept(text: str, data: bytes, problem: str) -> None:
    (found,) = from_hex(text)
    assert found.data == data
    assert found.problem.startswith(problem)


@given(st.text(st.characters(codec="ascii")))
def test_no_text_is_too_broken(text: str) -> None:
    blocks = [f for f in from_hex(text) if f.data or f.problem]
    assert blocks or not re.search(r"(?m)^[ \t]*[0-9a-fA-F]", text)


# --- captures --------------------------------------------------------------------------------------------------------------------


def cooked(data: bytes, protocol: int = 12) -> bytes:
    """A packet of LINKTYPE_NETLINK: unused, ARPHRD_NETLINK, unused, protocol; then the datagram."""
    return struct.pack("!HH10xH", 4, 824, protocol) + data


#: when, in seconds
SEEN = 1_700_000_000.000005


def pcap(packets: list[bytes], prefix: str = "<", linktype: int = 253, magic: int = 0xA1B2C3D4) -> bytes:
    out = struct.pack(prefix + "IHHIIII", magic, 2, 4, 0, 0, 262144, linktype)
    for packet in packets:
        out += struct.pack(prefix + "IIII", 1700000000, 5, len(packet), len(packet)) + packet
    return out


def pcapng(packets: list[bytes], prefix: str = "<", linktype: int = 253) -> bytes:
    out = struct.pack(prefix + "IIIHHqI", 0x0A0D0D0A, 28, 0x1A2B3C4D, 1, 0, -1, 28)
    out += struct.pack(prefix + "IIHHII", 1, 20, linktype, 0, 262144, 20)
    for packet in packets:
        padding = bytes(-len(packet) % 4)
        length = 32 + len(packet) + len(padding)
        head = struct.pack(prefix + "IIIIIII", 6, length, 0, *divmod(1_700_000_000_000_005, 1 << 32), len(packet), len(packet))
        out += head + packet + padding + struct.pack(prefix + "I", length)
    return out


@pytest.mark.parametrize(("prefix", "order"), [("<", LITTLE), (">", BIG)])
@pytest.mark.parametrize("form", [pcap, pcapng])
def test_captures(form: Callable[..., bytes], prefix: str, order: ByteOrder) -> None:
    capture = form([cooked(data) for data in RECORDED], prefix)
    assert form_of(capture) == "pcap"
    found = list(datagrams(capture, "pcap"))
    assert [f.data for f in found] == RECORDED
    assert {f.order for f in found} == {order}
    assert [f.where for f in found[:2]] == ["packet 1", "packet 2"]


def test_nanosecond_captures() -> None:
    assert [f.data for f in from_pcap(pcap([cooked(RECORDED[0])], magic=0xA1B23C4D))] == [RECORDED[0]]


def test_a_payload_of_64_kib_is_not_cut() -> None:
    whole = bytes(65_636)
    assert [f.data for f in from_pcap(pcap([cooked(whole)]))] == [whole]


def test_other_netlink_is_left_out_and_said_to_be() -> None:
    found = list(from_pcap(pcap([cooked(b"route", 0), cooked(RECORDED[0]), cooked(b"generic", 16)])))
    assert found == [
        Found("packet 2", RECORDED[0], order=LITTLE),
        Found("", remark="left out: 2 of other netlink protocols (0, 16)"),
    ]


@pytest.mark.parametrize(
    ("capture", "problem"),
    [
        (pcap([b"\xff" * 60, b"\xff" * 60], linktype=1), "left out: 2 packets of link type 1, not netlink (253)"),
        (pcapng([b"\xff" * 60], linktype=1), "left out: 1 packet of link type 1, not netlink (253)"),
        (pcap([b"1234"]), "left out: 1 packet cut off within the capture header of netlink"),
        (pcap([cooked(bytes(100))])[:100], "the capture is broken: a record at byte 40 takes 116 bytes, but 60 are left"),
        (pcap([])[:10], "the capture is broken: the file header at byte 0 takes 24 bytes, but 10 are left"),
        (pcap([])[:24] + bytes(9), "the capture is broken: the record header at byte 24 takes 16 bytes, but 9 are left"),
        (pcapng([cooked(bytes(100))])[:100], "the capture is broken: a block at byte 48 takes 148 bytes, but 52 are left"),
        (pcapng([])[:28] + bytes(20), "the capture is broken: a block at byte 28 says it has 0 bytes"),
        (pcapng([])[:28] + pcapng([cooked(b"")])[48:], "the capture is broken: the packet at byte 28 is from interface 0, which"),
        (b"not a capture", "the capture is broken: it begins neither like pcap nor like pcapng"),
    ],
)
def test_what_is_wrong_with_a_capture_is_said(capture: bytes, problem: str) -> None:
    assert any(f.problem.startswith(problem) for f in from_pcap(capture))


@given(st.data(), st.sampled_from([pcap, pcapng]), st.sampled_from("<>"))
def test_no_capture_is_too_broken(data: st.DataObject, form: Callable[..., bytes], prefix: str) -> None:
    capture = bytearray(form([cooked(r) for r in RECORDED[:3]], prefix))
    for _ in range(data.draw(st.integers(1, 3))):
        place = data.draw(st.integers(0, len(capture) - 1))
        if data.draw(st.booleans()):
            capture[place] = data.draw(st.integers(0, 255))
        else:
            del capture[place : place + data.draw(st.integers(1, 20))]
    list(from_pcap(bytes(capture)))


@pytest.mark.parametrize("prefix", ["<", ">"])
@pytest.mark.parametrize("form", [pcap, pcapng])
def test_scapy_reads_the_same_from_what_these_tests_make(form: Callable[..., bytes], prefix: str) -> None:
    packets = [cooked(data) for data in RECORDED]
    assert [packet for packet, _ in RawPcapReader(io.BytesIO(form(packets, prefix)))] == packets


# --- forms -----------------------------------------------------------------------------------------------------------------------


def test_the_form_shows_by_itself(tmp_path: Path) -> None:
    assert form_of(b"4d 00 00 00\n") == "hex"
    assert form_of(RECORDED[0]) == "binary"
    assert form_of(b"") == "hex"
    assert [f.data for f in datagrams(RECORDED[0], "binary")] == [RECORDED[0]]


# --- IP packets in captures ------------------------------------------------------------------------------------------------------

V4, V6 = b"\x45 an IPv4 packet", b"\x60 an IPv6 packet"


@pytest.mark.parametrize(
    ("linktype", "frame", "packet"),
    [
        (0, b"\2\0\0\0" + V4, V4),
        (1, bytes(12) + b"\x08\0" + V4, V4),
        (1, bytes(12) + b"\x86\xdd" + V6, V6),
        (1, bytes(12) + b"\x81\0\0\7\x08\0" + V4, V4),
        (1, bytes(12) + b"\x88\xa8\0\1\x81\0\0\7\x08\0" + V4, V4),
        (1, bytes(12) + b"\x08\6" + V4, None),  # ARP, whatever it begins with
        (1, bytes(12) + b"\x08\0\0", None),  # no version of IP that there is
        (1, b"cut off", None),
        (101, V4, V4),
        (101, V6, V6),
        (101, b"", None),
        (108, b"\0\0\0\2" + V4, V4),
        (113, bytes(14) + b"\x08\0" + V4, V4),
        (228, V4, V4),
        (229, V6, V6),
        (276, b"\x86\xdd" + bytes(18) + V6, V6),
        (276, b"\x08\6" + bytes(18) + V4, None),
    ],
)
def test_ip_packets_of_every_link_type(linktype: int, frame: bytes, packet: bytes | None) -> None:
    for form in (pcap, pcapng):
        for prefix in "<>":
            found = list(ip_packets(form([frame], prefix, linktype)))
            if packet is None:
                assert found == [Found("", remark="left out: 1 packet that is not IP")]
            else:
                assert found == [Found("packet 1", packet, time=SEEN)]


def test_times_of_captures_are_seconds_whatever_they_count() -> None:
    nanoseconds = pcap([V4], linktype=101, magic=0xA1B23C4D)
    assert [found.time for found in ip_packets(nanoseconds)] == [1_700_000_000.000000005]
    plain = pcapng([V4], linktype=101)
    for exponent, seen in ((9, 1_700_000.000000005), (0x8A, 1_700_000_000_000_005 / 1024)):
        options = struct.pack("<HH3sxHHB3xHH", 2, 3, b"lo\0", 9, 1, exponent, 0, 0)
        size = struct.pack("<I", 20 + len(options))
        described = plain[28:32] + size + plain[36:44] + options + size
        assert [found.time for found in ip_packets(plain[:28] + described + plain[48:])] == [seen]


def test_a_capture_of_something_else_has_no_ip_packets() -> None:
    problem = "the capture is broken: packet 1 is of link type 253, in which there are no IP packets"
    assert list(ip_packets(pcap([cooked(b"")]))) == [Found("", problem=problem)]
    whole, broken = ip_packets(pcap([V4, V4], linktype=101)[:-1])
    assert whole == Found("packet 1", V4, time=SEEN)
    assert broken.problem.startswith("the capture is broken: a record at byte")
