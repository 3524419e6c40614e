"""What the single steps cost, without a real kernel: codecs, the fake kernel, the import.

    python -m bench.micro

CPU time, in rounds that take turns; median and quartiles. Good for comparing two versions of nfnl on one machine.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path

import nfnl
from bench.tables import Spread, table
from nfnl.sim import FakeKernel
from nfnl.subsys.queue import Packet, VerdictHeader, VerdictMessage
from nfnl.wire import reference
from nfnl.wire.compiled import Codec, packer
from nfnl.wire.header import NATIVE

RECORDINGS = Path(__file__).resolve().parents[1] / "fixtures" / "queue" / "exchanges" / "6.18.44"
#: CPU seconds that one task may take in one round
SLICE = 0.05

#: an ICMP echo reply from 10.0.0.9 to 10.0.0.1: nobody answers it
ECHO_REPLY = bytes.fromhex("4500001c00010000400166d70a0000090a0000010000ffff00000000")

#: does a step so many times
Steps = Callable[[int], object]


def recording(name: str) -> bytes:
    """One recorded datagram of a real kernel."""
    lines = (RECORDINGS / f"{name}.hex").read_text("ascii").splitlines()
    return bytes.fromhex("".join(line for line in lines if not line.startswith("#")))


def repeat(step: Callable[[], object]) -> Steps:
    """A task of a single call."""

    def steps(count: int) -> None:
        for _ in range(count):
            step()

    return steps


def tasks() -> dict[str, Steps]:
    """Every task by its name."""
    data, other = recording("packet.INPUT.packet"), recording("packet.OUTPUT.packet")
    codec = Codec(Packet, NATIVE)
    packet = codec.decode(data)
    mixed = Codec(Packet, NATIVE)
    pack = packer(VerdictMessage, "header", nlmsg_flags=1)

    def alternate() -> None:
        mixed.decode(data)
        mixed.decode(other)

    return {
        "recognise a packet of the shape before": repeat(lambda: codec.match(data)),
        "decode a packet of the shape before": repeat(lambda: codec.decode(data)),
        "decode two packets of shapes that take turns": repeat(alternate),
        "decode a packet attribute by attribute": repeat(lambda: Codec(Packet, NATIVE)._analyse(data, 0)),
        "decode a datagram, whatever it is": repeat(lambda: nfnl.decode(data)),
        "decode a packet with construct": repeat(lambda: reference.decode(Packet, data)),
        "read the payload": repeat(lambda: packet.payload),
        "read the packet header": repeat(lambda: packet.header),
        "read an absent mark": repeat(lambda: packet.mark),
        "build a verdict from a template": repeat(lambda: pack(7, 1, 7)),
        "build a verdict from its declaration": repeat(lambda: VerdictMessage(nlmsg_flags=1, header=VerdictHeader(1, 7))),
        "fake kernel: packet in, queue, handler, delivered": through_the_fake,
    }


def through_the_fake(count: int) -> None:
    """Packets that a handler accepts, on a fake kernel; some dozens at a time, as a test would."""
    kernel = FakeKernel()
    kernel.iptables("-A INPUT -j NFQUEUE --queue-num 0")
    with nfnl.open_queue(0, kernel=kernel) as queue, kernel.until_idle():
        for start in range(0, count, 32):
            journeys = [kernel.receive(ECHO_REPLY) for _ in range(min(32, count - start))]
            for waiting in queue:
                waiting.accept()
            if not all(journey.delivered for journey in journeys):
                raise AssertionError(f"the fake kernel did not deliver: {journeys[0]}")


def calibrate(steps: Steps) -> int:
    """How many steps fit into `SLICE`."""
    count = 1
    while (spent := cpu(steps, count)) < SLICE / 8:
        count *= 4
    return max(1, int(count * SLICE / spent))


def cpu(steps: Steps, count: int) -> float:
    """CPU seconds for so many steps."""
    start = time.process_time()
    steps(count)
    return time.process_time() - start


def import_time(module: str) -> float:
    """Milliseconds that importing a module takes, beyond what the interpreter imports for itself."""
    command = [sys.executable, "-X", "importtime", "-c", f"import {module}"]
    done = subprocess.run(command, check=True, capture_output=True, text=True)
    lines = [line.removeprefix("import time:").split("|") for line in done.stderr.splitlines()]
    return next(int(total) / 1000 for _, total, name in lines if name.strip() == module)


def parse(arguments: Sequence[str] | None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description="What the single steps cost.")
    parser.add_argument("--rounds", type=int, default=7, help="turns of each task (%(default)s)")
    parser.add_argument("--json", type=Path, help="write the results there")
    return parser.parse_args(arguments)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run it; the exit status."""
    options = parse(arguments)
    todo = {name: (steps, calibrate(steps)) for name, steps in tasks().items()}
    took: dict[str, list[float]] = {name: [] for name in todo}
    for _ in range(options.rounds):
        for name, (steps, count) in todo.items():
            took[name].append(cpu(steps, count) / count * 1e6)
    results = {f"{name}, µs": Spread.of(values) for name, values in took.items()}
    for module in ("nfnl", "nfnl.sim"):
        results[f"import {module}, ms"] = Spread.of([import_time(module) for _ in range(options.rounds)])
    print(table(("", "median (quartiles)"), list(results.items())))
    if options.json:
        options.json.write_text(json.dumps({name: asdict(spread) for name, spread in results.items()}, indent=1) + "\n")
    return 0


if __name__ == "__main__":
    sys.exit(main())
