"""pyroute2 reads the table: `NFCTSocket.dump`, the lower of its two ways, which is the faster."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from pyroute2.netlink.nfnetlink.nfctsocket import NFCTSocket

from bench.contenders.turns import take_turns

socket = NFCTSocket()
take_turns(lambda way: {"flows": len(list(socket.dump()))})
