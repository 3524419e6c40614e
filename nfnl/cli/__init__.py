"""The ``nfnl`` command. What it needs comes with ``nfnl[cli]``."""

from __future__ import annotations

import sys
from importlib.util import find_spec


def main() -> None:
    """Run the command. Says how to install what is missing, if something is."""
    missing = [name for name in ("click", "rich", "scapy") if find_spec(name) is None]
    if missing:
        sys.exit(f"nfnl: the command needs {' and '.join(missing)}, to be had with: pip install 'nfnl[cli]'")
    from nfnl.cli.app import app

    app(prog_name="nfnl")
