"""Small breakages of the fake kernel, each of which the contract must notice.

A fault belongs to a group of rules (the letters of their ids) and is planted with pytest's monkeypatch in `nfnl.sim`. It should
be the kind of mistake somebody could make.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest


@dataclass(frozen=True)
class Fault:
    """One breakage."""

    #: the rules whose tests must notice: ``"NL"``, ``"RB"`` ...
    group: str
    #: break the fake, until the monkeypatch is undone
    plant: Callable[[pytest.MonkeyPatch], None]


#: What is wrong, in words -> how it is planted.
FAULTS: dict[str, Fault] = {}
