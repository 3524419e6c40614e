"""What can be said to ``nfnl conntrack``: the options of conntrack 1.4.7, which command takes which, and their values.

The tables below are the documentation of that command turned into data (conntrack(8), and what the command was seen to do). Its
messages are kept word for word, as scripts look at them; docs/explanation/conntrack-command.md says where nfnl differs.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from typing import Any, NamedTuple, NoReturn

from nfnl.cli.ct_order import TABLES, WORDS, Address, Command, NatEnd, Net, Order, OutputProblem, UsageProblem
from nfnl.cli.ct_values import VALUES, protocol_of, protocol_value
from nfnl.subsys.conntrack import Protocol
from nfnl.wire.constants import Family

#: columns of `Option.legal`: these commands on flows, then these on expectations
_ON_FLOWS, _ON_EXPECTATIONS = "LIAUDGFE", "LIDGE"


class Option(NamedTuple):
    """An option: where its value goes, its names, how many values ("1", "0", or "?" for one that may be left out), who takes it.

    ``legal`` has a letter for each command: o it may be there, r it must, c either both -s and -d or both -r and -q, . it may not.
    """

    name: str
    short: str
    longs: tuple[str, ...]
    values: str
    legal: str


OPTIONS = (
    Option("src", "s", ("src", "orig-src"), "1", "occooc.o.rrr."),
    Option("dst", "d", ("dst", "orig-dst"), "1", "occooc.o.rrr."),
    Option("reply_src", "r", ("reply-src",), "1", "occooc.o.ooo."),
    Option("reply_dst", "q", ("reply-dst",), "1", "occooc.o.ooo."),
    Option("protonum", "p", ("protonum",), "1", "orroor.o.rrr."),
    Option("timeout", "t", ("timeout",), "1", ".rroo....r..."),
    Option("status", "u", ("status",), "1", "ooooo....o..."),
    Option("zero", "z", ("zero",), "0", "o............"),
    Option("event_mask", "e", ("event-mask",), "1", ".......o....."),
    Option("tuple_src", "", ("tuple-src",), "1", ".........r..."),
    Option("tuple_dst", "", ("tuple-dst",), "1", ".........r..."),
    Option("mask_src", "", ("mask-src",), "1", "o..oo..o.r..."),
    Option("mask_dst", "", ("mask-dst",), "1", "o..oo..o.r..."),
    Option("nat_range", "a", ("nat-range",), "1", "ooooooooooooo"),
    Option("mark", "m", ("mark",), "1", "ooooo..o....."),
    Option("id", "i", ("id",), "1", "...ooo......."),
    Option("family", "f", ("family",), "1", "o..oo.ooo...."),
    Option("src_nat", "n", ("src-nat",), "?", "ooooo..o....."),
    Option("dst_nat", "g", ("dst-nat",), "?", "ooooo..o....."),
    Option("output", "o", ("output",), "1", "o..ooo.oo...o"),
    Option("secmark", "c", ("secmark",), "1", "o......o....."),
    Option("buffer_size", "b", ("buffer-size",), "1", ".......o....."),
    Option("any_nat", "j", ("any-nat",), "?", "o......o....."),
    Option("zone", "w", ("zone",), "1", "ooo.o..o....."),
    Option("label", "l", ("label",), "1", "o..ooo.o....."),
    Option("label_add", "", ("label-add",), "1", ".ooo........."),
    Option("label_del", "", ("label-del",), "?", "...o........."),
    Option("orig_zone", "", ("orig-zone",), "1", "ooo.o..o....."),
    Option("reply_zone", "", ("reply-zone",), "1", "ooo.o..o....."),
    Option("labelmap", "M", ("labelmap",), "1", "o..ooo.o....."),
)

_PORTS = {
    "port_src": ("sport", "orig-port-src"),
    "port_dst": ("dport", "orig-port-dst"),
    "reply_port_src": ("reply-port-src",),
    "reply_port_dst": ("reply-port-dst",),
    "mask_port_src": ("mask-port-src",),
    "mask_port_dst": ("mask-port-dst",),
    "tuple_port_src": ("tuple-port-src",),
    "tuple_port_dst": ("tuple-port-dst",),
}
_KEYS = {
    "port_src": ("srckey", "orig-key-src"),
    "port_dst": ("dstkey", "orig-key-dst"),
    "reply_port_src": ("reply-key-src",),
    "reply_port_dst": ("reply-key-dst",),
    "mask_port_src": ("mask-key-src",),
    "mask_port_dst": ("mask-key-dst",),
    "tuple_port_src": ("tuple-key-src",),
    "tuple_port_dst": ("tuple-key-dst",),
}
_STATE = {"state": ("state",)}


def _icmp(name: str) -> dict[str, tuple[str, ...]]:
    return {f"icmp_{part}": (f"{name}-{part}",) for part in ("type", "code", "id")}


#: options that come with a protocol: where the value goes -> names
PROTOCOL_OPTIONS: dict[int, dict[str, tuple[str, ...]]] = {
    Protocol.TCP: _PORTS | _STATE,
    Protocol.UDP: _PORTS,
    Protocol.UDPLITE: _PORTS,
    Protocol.SCTP: _PORTS | _STATE | {"orig_vtag": ("orig-vtag",), "reply_vtag": ("reply-vtag",)},
    Protocol.DCCP: _PORTS | _STATE | {"role": ("role",)},
    Protocol.ICMP: _icmp("icmp"),
    Protocol.ICMPV6: _icmp("icmpv6"),
    Protocol.GRE: _KEYS,
}
#: with which commands, on flows and on expectations, an option of a protocol means something; all others with any
_MEANT_WITH: dict[str, tuple[str, str]] = {
    **dict.fromkeys(("tuple_port_src", "tuple_port_dst", "mask_port_src", "mask_port_dst"), ("", "I")),
    **dict.fromkeys(("reply_port_src", "reply_port_dst"), ("LIAUDGE", "DG")),
    **dict.fromkeys(("orig_vtag", "reply_vtag"), ("IAUG", "IDG")),
    "role": ("IA", "IDG"),
}
_ANYWHERE = (_ON_FLOWS, _ON_EXPECTATIONS)
_BOTH_PORTS = ("port_src", "port_dst")
#: what making a flow of a protocol takes; ports of either direction will do. Of DCCP Linux tells neither ports nor state any
#: more: they are not asked for, or what is saved could not be loaded
NEEDED: dict[int, tuple[str, ...]] = {
    Protocol.TCP: ("state",),
    Protocol.SCTP: ("state", "orig_vtag", "reply_vtag"),
    Protocol.ICMP: ("icmp_type", "icmp_code"),
    Protocol.ICMPV6: ("icmp_type", "icmp_code"),
}
_WITH_PORTS = frozenset((Protocol.TCP, Protocol.UDP, Protocol.UDPLITE, Protocol.SCTP, Protocol.GRE))


class _Parser(argparse.ArgumentParser):
    def error(self, message: str) -> NoReturn:
        raise UsageProblem(message)


def _parser() -> _Parser:
    parser = _Parser(prog="nfnl conntrack", add_help=False)
    for command in Command:
        if command is Command.LOAD:
            parser.add_argument("-R", "--load-file", dest="file")
        else:
            parser.add_argument(f"-{command.letter}", f"--{command.long}", dest=command.name, nargs="?", const="conntrack")
    arities: dict[str, dict[str, Any]] = {"0": {"action": "store_const", "const": ""}, "1": {}, "?": {"nargs": "?", "const": ""}}
    for option in OPTIONS:
        names = [*([f"-{option.short}"] if option.short else []), *(f"--{name}" for name in option.longs)]
        parser.add_argument(*names, dest=option.name, **arities[option.values])
    for name, where in sorted({(name, to) for table in PROTOCOL_OPTIONS.values() for to, names in table.items() for name in names}):
        parser.add_argument(f"--{name}", dest=f"{name}/{where}")
    return parser


_BY_NAME = {option.name: option for option in OPTIONS}


def parse(arguments: Sequence[str]) -> Order:
    """A command line, its first word a command or an option that is one. Raises `UsageProblem` and `OutputProblem`."""
    words = list(arguments)
    if words and words[0] in WORDS:
        command = WORDS[words.pop(0)]
        if words and not words[0].startswith("-"):
            words[:1] = [f"-{command.letter}", words[0]]
        else:
            words.insert(0, f"-{command.letter}")
    elif words and not words[0].startswith("-"):
        raise UsageProblem(f"unknown command `{words[0]}'; there are {', '.join(WORDS)}")
    _complain_of_unknown(words, _GENERAL | _OF_PROTOCOLS)
    try:
        said = {name: value for name, value in vars(_parser().parse_args(words)).items() if value is not None}
    except UsageProblem as problem:
        raise UsageProblem(_in_its_words(str(problem))) from None
    commands = [command for command in Command if command.name in said]
    file = said.pop("file", "")
    if file:
        commands.append(Command.LOAD)
    if len(commands) != 1:
        raise UsageProblem("Invalid commands combination" if commands else "you have to say a command, such as list or -L")
    (command,) = commands
    order = Order(command, _table(said.pop(command.name, "conntrack")), file=file)
    if order.table in ("dying", "unconfirmed") and command is not Command.LIST:
        raise UsageProblem("Can't do that command with tables `dying' and `unconfirmed'")
    if order.table == "expect" and command in (Command.UPDATE, Command.ADD):
        raise UsageProblem(f"Can't do --{command.long} on expectations")
    if "protonum" not in said:
        _complain_of_unknown(words, _GENERAL)
    if said.pop("nat_range", None) is not None:
        order.warnings.append("WARNING: ignoring -a, deprecated option.")
    _check_legal(order, said)
    _take_values(order, said)
    _check_needed(order)
    return order


_GENERAL = frozenset({name for option in OPTIONS for name in option.longs} | {command.long for command in Command})
_OF_PROTOCOLS = frozenset(name for table in PROTOCOL_OPTIONS.values() for names in table.values() for name in names)


def _complain_of_unknown(words: Sequence[str], known: frozenset[str]) -> None:
    """Say so of the first long option that nobody knows; as short as one likes it may be."""
    for word in words:
        name = word[2:].partition("=")[0]
        if word.startswith("--") and name and not any(candidate.startswith(name) for candidate in known):
            raise UsageProblem(f"unknown option `--{name}'")


def _in_its_words(message: str) -> str:
    """argparse's complaint as conntrack would say it."""
    if "expected one argument" in message:
        names = message.removeprefix("argument ").partition(":")[0].split("/")
        return f"option `{names[0]}' requires an argument"
    if message.startswith("unrecognized arguments: "):
        unknown = message.removeprefix("unrecognized arguments: ").split()  # nothing of one that is empty
        return f"unknown argument `{unknown[0] if unknown else ''}'"
    return message


def _table(word: str) -> str:
    for table in TABLES:
        if word and table.startswith(word):
            return table
    raise UsageProblem(f"unknown type `{word}'")


def _column(order: Order) -> str | None:
    """Which column of the tables holds for a command; None: it takes no options."""
    columns = _ON_EXPECTATIONS if order.table == "expect" else _ON_FLOWS
    if order.command.letter not in columns:
        return None
    at = columns.index(order.command.letter)
    return "".join(option.legal[at + (len(_ON_FLOWS) if order.table == "expect" else 0)] for option in OPTIONS)


def _check_legal(order: Order, said: dict[str, Any]) -> None:
    column = _column(order)
    for at, option in enumerate(OPTIONS):
        legal = column[at] if column else "."
        if option.name in said and legal == ".":
            raise UsageProblem(f"Illegal option `--{option.longs[0]}' with this command")
        if option.name not in said and legal == "r":
            raise UsageProblem(f"You need to supply the `--{option.longs[0]}' option for this command")
    if column and "c" in column and not ({"src", "dst"} <= said.keys() or {"reply_src", "reply_dst"} <= said.keys()):
        raise UsageProblem("you have to specify `--src' and `--dst'")
    for end in ("src", "dst"):
        if f"mask_{end}" in said and end not in said and order.table == "conntrack":
            raise UsageProblem(f"Can't use --mask-{end} without --{end}")
    if "any_nat" in said and ("src_nat" in said or "dst_nat" in said):
        raise UsageProblem("cannot specify `--src-nat' or `--dst-nat' with `--any-nat'")
    if "zero" in said and len(said.keys() - {"zero", "output", "family"}):
        raise UsageProblem("Can't use -z with filtering parameters")


# --- what is said ------------------------------------------------------------------------------------------------------------


def _take_values(order: Order, said: dict[str, Any]) -> None:
    number = protocol_of(said["protonum"]) if "protonum" in said else None
    allowed = PROTOCOL_OPTIONS.get(-1 if number is None else number, {})
    for key, text in said.items():
        name, _, where = key.partition("/")
        if where:
            if name not in allowed.get(where, ()):
                raise UsageProblem(f"unknown option `--{name}'")
            if order.command.letter not in _MEANT_WITH.get(where, _ANYWHERE)[order.table == "expect"]:
                raise UsageProblem(f"Illegal option `--{name}' with this command")
            order.values[where] = protocol_value(where, name, text, number or 0)
        else:
            order.values[name] = VALUES[name](text, _BY_NAME[name].longs[0], order)
    if order["output"] and "save" in order["output"] and len(order["output"]) > 1:
        raise OutputProblem("cannot combine save output with any other output type, use -o save only")
    for end in ("src", "dst"):
        if order[end] is not None and order[end].bits is not None and f"mask_{end}" in order:
            raise UsageProblem(f"`--mask-{end}' and a prefix length say the same: give one of them")
    families = {Family.IPV6 if address.version == 6 else Family.IPV4 for address in _addresses(order)}
    if "family" in order:
        families.add(order["family"])
    if len(families) > 1:
        raise UsageProblem("mismatched address family")
    order.family = families.pop() if families else Family.UNSPEC


def _addresses(order: Order) -> list[Address]:
    found = [value for name, value in order.values.items() if name.endswith(("src", "dst")) and not isinstance(value, Net | int)]
    found += [value.address for value in order.values.values() if isinstance(value, Net)]
    found += [value.address for value in order.values.values() if isinstance(value, NatEnd) and value.address is not None]
    return found


def _check_needed(order: Order) -> None:
    if order.command not in (Command.CREATE, Command.ADD, Command.GET):
        return
    number = order["protonum"]
    making = order.command is not Command.GET
    needed = NEEDED.get(number, ()) if making or number in (Protocol.ICMP, Protocol.ICMPV6) else ()
    for name in needed if order.table == "conntrack" else ():
        if name not in order:
            raise UsageProblem(f"You need to supply the `--{PROTOCOL_OPTIONS[number][name][0]}' option for this command")
    if number in _WITH_PORTS and not (
        {"port_src", "port_dst"} <= order.values.keys() or {"reply_port_src", "reply_port_dst"} <= order.values.keys()
    ):
        first, second = (PROTOCOL_OPTIONS[number][name][0] for name in _BOTH_PORTS)
        raise UsageProblem(f"you have to specify `--{first}' and `--{second}'")
