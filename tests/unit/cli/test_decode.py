"""``nfnl decode``."""

from __future__ import annotations

from pathlib import Path

import pytest

from nfnl.subsys.queue import Packet, PacketHeader
from nfnl.wire.describe import lines, tree
from tests import recordings
from tests.unit.cli.terminal import Terminal, pipe, without_colour

BIND = "1c000000 02030500 01000000 00000000 00000001 0800010001000000"
FILE = recordings.FIXTURES / "queue" / "exchanges" / "6.18.44" / "packet.OUTPUT.packet.hex"
PACKET = next(r.data for r in recordings.exchanges() if r.name == "6.18.44/packet.OUTPUT.packet")


def test_hex_on_standard_input() -> None:
    done = pipe("decode", given=BIND.encode())
    assert (done.returncode, done.stderr) == (0, b"")
    assert done.stdout.decode().splitlines() == [
        "# datagram 1, line 1, 28 bytes",
        *lines(tree(bytes.fromhex(BIND))),
        "",
    ]


def test_a_file_and_a_packet_inside_in_words() -> None:
    done = pipe("decode", str(FILE))
    assert (done.returncode, done.stderr) == (0, b"")
    assert "payload: 33 bytes, UDP 127.0.0.1:59695 > 127.0.0.1:9000, 5 bytes  NFQA_PAYLOAD 10" in done.stdout.decode()


@pytest.mark.parametrize("options", [[], ["--binary"]])
def test_raw_bytes(options: list[str]) -> None:
    done = pipe("decode", "-", *options, given=PACKET)
    assert done.returncode == 0
    assert "# datagram 1, the whole input, 77 bytes" in done.stdout.decode()


def test_the_direction_can_be_said() -> None:
    ambiguous = BIND.replace("02030500", "02030000").encode()  # without NLM_F_REQUEST
    assert "command: BIND" not in pipe("decode", given=ambiguous).stdout.decode()
    assert "command: BIND" in pipe("decode", "--to-kernel", given=ambiguous).stdout.decode()
    assert "command: BIND" not in pipe("decode", "--from-kernel", given=BIND.encode()).stdout.decode()


def test_long_contents_are_cut_unless_all_is_wanted() -> None:
    datagram = bytes(Packet(header=PacketHeader(1, 0x0800, 3), payload=bytes(1000)))
    assert "more bytes" in pipe("decode", given=datagram).stdout.decode()
    whole = pipe("decode", "--all", given=datagram).stdout.decode()
    assert "more bytes" not in whole
    assert len(whole.splitlines()) > len(datagram) / 8


def test_broken_input_is_shown_as_far_as_it_goes_and_named_at_the_end() -> None:
    short = BIND.replace("08000100", "06000100")  # the command has two bytes instead of four
    done = pipe("decode", given=f"{BIND}\n\n{short}\n\n4d00 zz\n".encode())
    assert done.returncode == 1
    shown, complaints = done.stdout.decode(), done.stderr.decode().splitlines()
    assert shown.count("# datagram") == 3
    assert "command: BIND (1)" in shown
    assert "command: 2 bytes are too few for Command, which takes 4" in shown
    assert complaints[0].startswith("nfnl decode: standard input: line 3: Malformed Config.command at byte 20: 2 bytes are too few")
    assert complaints[1].startswith("nfnl decode: standard input: line 5: broken framing: message at byte 0: a datagram of 2 bytes")
    assert complaints[2:] == ["nfnl decode: standard input: line 5: 'zz' is not hexadecimal"]


@pytest.mark.parametrize(
    ("arguments", "given", "complaint"),
    [
        (["decode"], b"", "nfnl decode: standard input: there is no datagram in it"),
        (["decode", "/nowhere"], b"", "Error: /nowhere: No such file or directory"),
        (["decode", "/"], b"", "Error: /: Is a directory"),
        (["decode", "--pcap"], BIND.encode(), "nfnl decode: standard input: the capture is broken: it begins neither"),
    ],
)
def test_what_cannot_be_read_is_said_in_a_line(arguments: list[str], given: bytes, complaint: str) -> None:
    done = pipe(*arguments, given=given)
    assert done.returncode == 1
    assert done.stderr.decode().startswith(complaint)
    assert b"Traceback" not in done.stderr


def test_a_terminal_has_the_same_words_in_colour(tmp_path: Path) -> None:
    terminal = Terminal("decode", str(FILE))
    assert terminal.close() == 0
    assert "\x1b[" in terminal.shown
    shown = [line.rstrip() for line in without_colour(terminal.shown).splitlines()]
    assert shown == pipe("decode", str(FILE)).stdout.decode().splitlines()
