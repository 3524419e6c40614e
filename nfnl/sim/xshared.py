"""Reading a command line of iptables as iptables 1.8.9 reads it (iptables/xshared.c, `do_parse`)."""

from __future__ import annotations

from dataclasses import dataclass, field
from errno import EINVAL

from nfnl.errors import NotModelled
from nfnl.sim import xt_known, xtables
from nfnl.sim.criteria import Address, Interface, Protocol
from nfnl.sim.rules import STANDARD, Jump, Rule, Standard, TableError, Target
from nfnl.sim.skb import IPV4
from nfnl.sim.tables import Table
from nfnl.sim.xtables import MatchExtension, Problem, TargetExtension

#: Longest name of a chain or target.
MAX_NAME = 28


class OtherFamily(Exception):
    """A line for ip6tables (``-6``) in a file for both, or the other way round: not for us."""


@dataclass
class Command:
    """A parsed command line."""

    letter: str = ""
    table: str = "filter"
    chain: str = ""
    #: -E: the new name; -P: the policy
    second: str = ""
    number: int | None = None
    verbose: bool = False
    counters: tuple[int, int] = (0, 0)
    src: list[Address] = field(default_factory=list)
    dst: list[Address] = field(default_factory=list)
    indev: Interface | None = None
    outdev: Interface | None = None
    protocol: Protocol = Protocol(0)
    fragment: bool | None = None
    matches: list[MatchExtension] = field(default_factory=list)
    jump: str = ""
    goto: bool = False
    target: TargetExtension | None = None
    family: int = IPV4

    def rules(self, table: Table) -> list[Rule]:
        """One rule for every pair of addresses. Raises `Problem`."""
        matches = tuple(match.finish() for match in self.matches)
        target = self._target(table)
        everywhere = [Address(0, 0)]
        return [
            Rule(
                self.family,
                src=src,
                dst=dst,
                indev=self.indev,
                outdev=self.outdev,
                protocol=self.protocol,
                fragment=self.fragment,
                matches=matches,
                target=target,
                packets=self.counters[0],
                bytes=self.counters[1],
            )
            for src in self.src or everywhere
            for dst in self.dst or everywhere
        ]

    def _target(self, table: Table) -> Target | None:
        if self.target:
            return self.target.finish()
        if not self.jump:
            return None
        if self.jump in STANDARD and not self.goto:
            return Standard(self.jump)
        chain = table.find(self.jump)
        if chain is None:
            if self.goto:
                raise Problem(f"goto '{self.jump}' is not a chain")
            raise Problem(f"Couldn't load target `{self.jump}':No such file or directory\n")
        if chain.builtin:
            raise TableError(EINVAL)
        return Jump(chain, self.goto)


#: long option -> (letter, how it takes a value): "" not, "1" one word, "?" perhaps
_LONG = {
    "append": ("A", "1"), "check": ("C", "1"), "delete": ("D", "1"), "insert": ("I", "1"), "replace": ("R", "1"),
    "list": ("L", "?"), "list-rules": ("S", "?"), "flush": ("F", "?"), "zero": ("Z", "?"), "new-chain": ("N", "1"),
    "delete-chain": ("X", "?"), "rename-chain": ("E", "1"), "policy": ("P", "1"), "source": ("s", "1"), "destination": ("d", "1"),
    "src": ("s", "1"), "dst": ("d", "1"), "protocol": ("p", "1"), "in-interface": ("i", "1"), "jump": ("j", "1"),
    "table": ("t", "1"), "match": ("m", "1"), "numeric": ("n", ""), "out-interface": ("o", "1"), "verbose": ("v", ""),
    "wait": ("w", "?"), "wait-interval": ("W", "?"), "exact": ("x", ""), "version": ("V", ""), "help": ("h", "?"),
    "line-numbers": ("0", ""), "modprobe": ("M", "1"), "set-counters": ("c", "1"), "goto": ("g", "1"), "ipv4": ("4", ""),
    "ipv6": ("6", ""), "fragments": ("f", ""), "proto": ("p", "1"),
}  # fmt: skip
_SHORT = dict(_LONG.values()) | {"b": ""}
_COMMAND_LETTERS = "ACDIRLSFZNXEP"
#: Options, in the order iptables checks them, and the commands they do not go with.
_ILLEGAL = {
    "n": "ACDdIRSFZzNXEP", "s": "dLSFZzNXEP", "d": "dLSFZzNXEP", "p": "dLSFZzNXEP", "j": "dLSFZzNXEP", "x": "ACDdIRSFZzNXEP",
    "i": "dLSFZzNXEP", "o": "dLSFZzNXEP", "0": "ACDdIRSFZzNXEP", "c": "CDdLSFZzNXE", "f": "dLSFZzNXEP",
}  # fmt: skip


class _Parser:
    """`do_parse`: getopt over the words, in their order, with the options of every extension named so far."""

    def __init__(self, words: list[str], family: int, restoring: str) -> None:
        self.words = words
        self.at = 0
        self.restoring = restoring
        self.command = Command(family=family, table=restoring or "filter")
        self.given: set[str] = set()
        self.inverted = False
        #: matches loaded because of ``-p``
        self.protocol_used = False

    def parse(self) -> Command:
        command = self.command
        while self.at < len(self.words):
            word = self.words[self.at]
            self.at += 1
            if word == "--":
                break
            if word == "!":
                if self.inverted:
                    raise Problem("multiple consecutive ! not allowed")
                self.inverted = True
                continue
            if word.startswith("--"):
                self._long(word)
            elif word.startswith("-") and len(word) > 1:
                self._cluster(word)
            else:
                raise Problem(f"Bad argument `{word}'", bare=True)
        if self.at < len(self.words):
            raise Problem("unknown arguments found on commandline")
        if not command.letter:
            raise Problem("no command specified")
        if self.inverted:
            raise Problem("nothing appropriate following !")
        self._check()
        return command

    def _check(self) -> None:
        command = self.command
        if command.table == "nat" and "DROP" in (command.jump, command.second if command.letter == "P" else ""):
            text = 'The "nat" table is not intended for filtering, the use of DROP is therefore inhibited.'
            raise Problem(f"\n{text}\n\n")
        key = command.letter
        if command.number is not None and key in "DZ":
            key = key.lower()
        for option, letters in _ILLEGAL.items():
            if option in self.given and key in letters:
                raise Problem(f"Illegal option `-{option}' with this command")
        if len(command.chain) > MAX_NAME:
            raise Problem(f"chain name `{command.chain}' too long (must be under {MAX_NAME + 1} chars)")
        if command.letter in "ACDIR":
            for option, chains in (("o", ("PREROUTING", "INPUT")), ("i", ("POSTROUTING", "OUTPUT"))):
                if option in self.given and command.chain in chains:
                    raise Problem(f"Can't use -{option} with {command.chain}\n")
            if command.letter == "R" and len(command.src or [1]) * len(command.dst or [1]) > 1:
                raise Problem("Replacement rule does not specify a unique address")
        if command.verbose and command.letter != "S":
            raise NotModelled("-v with anything but -S")

    # ------------------------------------------------------------------ getopt

    def _long(self, word: str) -> None:
        name, equals, value = word[2:].partition("=")
        option, owner = self._lookup(name)
        if option is None and self._load_protocol_match(name):
            option, owner = self._lookup(name)
        if option is None:
            raise Problem(f'unknown option "{word}"')
        if owner is None:
            letter, takes = _LONG[option]
            if equals and not takes:
                raise Problem(f'unknown option "{word}"')
            self._option(letter, self._value(takes, value if equals else None, word), word)
            return
        count = owner.options[option]
        if equals and not count:
            raise Problem(f'unknown option "{word}"')
        values = [value] if equals else []
        while len(values) < count and self.at < len(self.words):
            values.append(self.words[self.at])
            self.at += 1
        if count and not values:
            raise Problem(f'option "{word}" requires an argument')
        inverted, self.inverted = self.inverted, False
        owner.asked = self.command.protocol
        owner.take(option, values, inverted)

    def _lookup(self, name: str) -> tuple[str | None, xtables.Extension | None]:
        """An option by its name or the beginning of it; of two extensions with the same one, the last named."""
        command = self.command
        owners: list[xtables.Extension | None] = [*reversed(command.matches), None]
        if command.target:
            owners.insert(0, command.target)
        known = [(option, owner) for owner in owners for option in (owner.options if owner else _LONG)]
        for option, owner in known:
            if option == name:
                return option, owner
        found = [(option, owner) for option, owner in known if option.startswith(name)]
        meanings = {(_LONG[option] if owner is None else option, id(owner)) for option, owner in found}
        return found[0] if len(meanings) == 1 else (None, None)

    def _load_protocol_match(self, name: str) -> bool:
        """An option nobody knows may be one of the match named like the protocol, which need not be named."""
        command = self.command
        if "p" not in self.given or self.protocol_used:
            return False
        match = xt_known.find_protocol_match(command.protocol.number, command.family)
        if match is None or not any(option.startswith(name) for option in match.options):
            return False
        self.protocol_used = True
        command.matches.append(match)
        return True

    def _cluster(self, word: str) -> None:
        """``-t mangle``, ``-tmangle``, ``-nv``."""
        at = 1
        while at < len(word):
            letter = word[at]
            at += 1
            takes = _SHORT.get(letter)
            if takes is None:
                raise Problem(f'unknown option "{word}"')
            if takes:
                rest = word[at:] or None
                self._option(letter, self._value(takes, rest, word), word)
                return
            self._option(letter, None, word)

    def _value(self, takes: str, value: str | None, word: str) -> str | None:
        if takes == "1" and value is None:
            if self.at == len(self.words):
                raise Problem(f'option "{word}" requires an argument')
            value = self.words[self.at]
            self.at += 1
        return value

    def _argument(self) -> str | None:
        """The next word, if it is no option (`xs_has_arg`)."""
        if self.at < len(self.words) and not self.words[self.at].startswith(("-", "!")):
            self.at += 1
            return self.words[self.at - 1]
        return None

    # ------------------------------------------------------------------ options

    def _option(self, letter: str, value: str | None, word: str) -> None:
        if letter in _COMMAND_LETTERS:
            self._letter(letter, value)
            return
        inverted, self.inverted = self.inverted, False
        if letter in "psdiof":
            self._once(letter)
            self._criterion(letter, value, inverted)
        elif letter in "jg":
            if inverted:
                raise Problem("cannot have ! before -j")
            self._once("j")
            # as with -p: -jDROP asks for a target of the name "-jDROP"; -g does not do so
            self._jump(letter, self.words[self.at - 1] if letter == "j" else value or "")
        else:
            self._other(letter, value, inverted, word)

    def _once(self, letter: str) -> None:
        if letter in self.given:
            raise Problem(f"multiple -{letter} flags not allowed")
        self.given.add(letter)

    def _letter(self, letter: str, value: str | None) -> None:
        command = self.command
        if self.inverted:
            raise Problem("unexpected '!' flag")
        if command.letter:
            raise Problem(f"Cannot use -{letter} with -{command.letter}")
        command.letter = letter
        command.chain = value if value is not None else (self._argument() or "") if letter in "LSFZX" else ""
        if letter in "NE":
            new = command.chain if letter == "N" else self._argument()
            if new is None:
                raise Problem("-E requires old-chain-name and new-chain-name")
            command.second = new
            if letter == "N":
                _check_chain_name(new)
        elif letter == "P":
            policy = self._argument()
            if policy is None:
                raise Problem("-P requires a chain and a policy")
            command.second = policy
        elif letter in "DIRLSZ" and command.chain:
            word = self._argument()
            if word is not None:
                command.number = xtables.number(word, 0xFFFFFFFF)
                if not command.number:
                    raise Problem(f"Invalid rule number `{word}'")
            elif letter == "R":
                raise Problem("-R requires a rule number")

    def _criterion(self, letter: str, value: str | None, inverted: bool) -> None:
        command = self.command
        text = self.words[self.at - 1]  # as iptables does it: with -ptcp this is "-ptcp", and no protocol
        if letter == "p":
            number = xtables.protocol(text.lower())
            if not number and inverted:
                raise Problem("rule would never match protocol")
            command.protocol = Protocol(number, bool(number) and inverted)
        elif letter == "s":
            command.src = xtables.addresses(text, command.family, inverted)
        elif letter == "d":
            command.dst = xtables.addresses(text, command.family, inverted)
        elif letter == "i":
            command.indev = xtables.interface(text if value else "", inverted)
        elif letter == "o":
            command.outdev = xtables.interface(text if value else "", inverted)
        else:
            if command.family != IPV4:
                raise Problem("`-f' is not supported in IPv6, use -m frag instead")
            command.fragment = not inverted

    def _jump(self, letter: str, name: str) -> None:
        command = self.command
        if not name:
            raise Problem("Invalid target name (too short)")
        if len(name) > MAX_NAME:
            raise Problem(f"Invalid target name `{name}' ({MAX_NAME} chars max)")
        if any(c.isspace() for c in name):
            raise Problem(f"Invalid target name `{name}'")
        command.jump, command.goto = name, letter == "g"
        if letter == "j":
            command.target = xt_known.find_target(name, command.family)

    def _other(self, letter: str, value: str | None, inverted: bool, word: str) -> None:
        command = self.command
        if letter in "tm" and inverted:
            raise Problem(f"unexpected ! flag before --{'table' if letter == 't' else 'match'}")
        if letter in "nvx0" and inverted:
            raise Problem(f"cannot have ! before -{letter}")
        if letter == "t":
            if self.restoring:
                raise Problem("The -t option cannot be used in " + self._restore_name() + ".\n")
            command.table = value or ""
        elif letter == "m":
            match = xt_known.find_match(value or "", command.family)
            if match is None:
                raise Problem(f"Couldn't load match `{value}':No such file or directory\n")
            command.matches.append(match)
        elif letter in "nx0":
            self.given.add(letter)
        elif letter == "v":
            command.verbose = True
        elif letter in "wW":
            if self.restoring:
                raise Problem(f"You cannot use `-{letter}' from {self._restore_name()}")
            seconds = value if value is not None else self._argument()
            if seconds is not None and not seconds.isdigit():
                raise Problem("wait seconds not numeric")
        elif letter == "c":
            self.given.add("c")
            command.counters = self._set_counters(value or "")
        elif letter in "46":
            if (letter == "4") is not (command.family == IPV4):
                if self.restoring:
                    raise OtherFamily
                raise Problem("", bare=True)
        elif letter == "b":
            raise Problem('Unknown arg "(null)"')
        elif letter == "M":
            pass  # how to load modules; there are none
        else:
            raise NotModelled(f"option {word}")

    def _restore_name(self) -> str:
        return ("iptables" if self.command.family == IPV4 else "ip6tables") + "-restore"

    def _set_counters(self, packets: str) -> tuple[int, int]:
        octets = self._argument()
        if octets is None:
            raise Problem("-c requires packet and byte counter")
        if not packets.isdigit():
            raise Problem("-c packet counter not numeric")
        if not octets.isdigit():
            raise Problem("-c byte counter not numeric")
        return int(packets), int(octets)


def _check_chain_name(name: str) -> None:
    if len(name) > MAX_NAME:
        raise Problem(f"chain name `{name}' too long (must be under {MAX_NAME + 1} chars)")
    if name[:1] in ("-", "!"):
        raise Problem(f"chain name not allowed to start with `{name[0]}'")
    if xt_known.is_target(name):
        raise Problem("chain name may not clash with target name")
    if any(c.isspace() for c in name):
        raise Problem(f"Invalid chain name `{name}'")


def parse(words: list[str], family: int, restoring: str = "") -> Command:
    """The words of a command line, or of a line of a file for iptables-restore, in the part about the table ``restoring``.

    Raises `Problem`, `NotModelled`, and when restoring `OtherFamily`.
    """
    return _Parser(words, family, restoring).parse()
