"""What ``nfnl doctor`` finds."""

from __future__ import annotations

from dataclasses import dataclass
from enum import Enum


class State(Enum):
    """How bad it is."""

    OK = "ok"
    NOTE = "note"  #: something cannot be had, but queues can be listened at without it
    PROBLEM = "problem"  #: the main job cannot be done


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that was looked into."""

    area: str
    name: str
    state: State
    told: str
    remedy: str = ""
