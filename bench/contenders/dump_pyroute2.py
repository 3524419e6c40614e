"""pyroute2 reads the table: `NFCTSocket.dump`, the lower of its two ways, which is the faster."""

from __future__ import annotations

import sys
from pathlib import Path

from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))
from bench.contenders.dumps import take_turns

socket = NFCTSocket()
take_turns({"list": lambda: len(list(socket.dump()))})
