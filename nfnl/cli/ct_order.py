"""What a command line of ``nfnl conntrack`` says, once it is understood."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import Enum
from ipaddress import IPv4Address, IPv6Address
from typing import Any, NamedTuple

from nfnl.subsys.conntrack import Status
from nfnl.wire.constants import Family

Address = IPv4Address | IPv6Address

HINT = "Try `nfnl conntrack --help' for more information."


class UsageProblem(Exception):
    """The command line makes no sense; exit status 2."""


class OutputProblem(Exception):
    """What cannot be shown: forms of output that do not go together, a filter for nothing; exit status 1."""

    def __init__(self, problem: str, warnings: Sequence[str] = ()) -> None:
        super().__init__(problem)
        #: what is to be said before
        self.warnings = warnings


class Command(Enum):
    """What to do; the value is conntrack's letter, its long name, and the word."""

    LIST = ("L", "dump", "list")
    GET = ("G", "get", "get")
    DELETE = ("D", "delete", "delete")
    CREATE = ("I", "create", "create")
    ADD = ("A", "add", "add")
    UPDATE = ("U", "update", "update")
    EVENTS = ("E", "event", "events")
    FLUSH = ("F", "flush", "flush")
    COUNT = ("C", "counter", "count")
    STATS = ("S", "stats", "stats")
    LOAD = ("R", "load-file", "load")

    @property
    def letter(self) -> str:
        """As an option: ``-L``."""
        return self.value[0]

    @property
    def long(self) -> str:
        """As a long option: ``--dump``."""
        return self.value[1]

    @property
    def word(self) -> str:
        """As the first word: ``list``."""
        return self.value[2]


WORDS = {command.word: command for command in Command}
TABLES = ("expect", "conntrack", "dying", "unconfirmed")


class Masked(NamedTuple):
    """A value and the bits of it that count."""

    value: int
    mask: int


class Net(NamedTuple):
    """An address, and how many of its bits count; None: all, unless a mask is said elsewhere."""

    address: Address
    bits: int | None


class NatEnd(NamedTuple):
    """What an end was translated to: any, an address, a port."""

    address: Address | None = None
    port: int | None = None


class StatusWish(NamedTuple):
    """Bits that must be set, and bits that must be clear."""

    on: Status
    off: Status


@dataclass
class Order:
    """A whole command line."""

    command: Command
    table: str = "conntrack"
    #: values by `Option.name` and the names in `PROTOCOL_OPTIONS`, already checked
    values: dict[str, Any] = field(default_factory=dict)
    family: Family = Family.UNSPEC
    #: remarks that do not stop anything
    warnings: list[str] = field(default_factory=list)
    #: file of commands, of LOAD
    file: str = ""

    def __getitem__(self, name: str) -> Any:
        return self.values.get(name)

    def __contains__(self, name: str) -> bool:
        return name in self.values
