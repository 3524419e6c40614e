"""What this process may do, as /proc tells."""

from __future__ import annotations

from pathlib import Path

_CAP_NET_ADMIN = 12


def has_net_admin() -> bool:
    """CAP_NET_ADMIN is effective, in whichever user namespace this process is."""
    for line in Path("/proc/self/status").read_text(encoding="ascii", errors="replace").splitlines():
        if line.startswith("CapEff:"):
            return bool(int(line.split()[1], 16) >> _CAP_NET_ADMIN & 1)
    return False


def in_initial_user_namespace() -> bool:
    """The ids of this process are the machine's own."""
    return Path("/proc/self/uid_map").read_text(encoding="ascii").split() == ["0", "0", "4294967295"]
