"""The iptables command, and iptables-restore: text in, changed tables out.

Follows iptables-legacy 1.8.9 (iptables/xshared.c, iptables/iptables.c, iptables/iptables-restore.c, libiptc) down to its
complaints, as far as it is modelled: tables mangle and filter; commands -A -C -D -I -R -S -F -Z -N -X -E -P; the matches and
targets of `nfnl.sim.xtables`. All else raises `IptablesNotModelled`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from dataclasses import dataclass, field
from errno import E2BIG, EEXIST, EINVAL, ELOOP, EMLINK, ENOENT, ENOTEMPTY

from nfnl.errors import NfnlError
from nfnl.sim import xtables
from nfnl.sim.hooks import HookTable
from nfnl.sim.rules import (
    STANDARD,
    TABLES,
    Address,
    Chain,
    Interface,
    Jump,
    Protocol,
    Rule,
    Ruleset,
    Standard,
    Table,
    TableError,
    Target,
)
from nfnl.sim.skb import IPV4, NotModelled
from nfnl.sim.xtables import MatchExtension, Problem, TargetExtension

_VERSION = "v1.8.9 (legacy)"
#: Longest name of a chain or target.
_MAX_NAME = 28


class IptablesError(NfnlError):
    """iptables would fail. ``exit_code`` and ``text`` are what the real one returns and prints to standard error."""

    def __init__(self, exit_code: int, text: str) -> None:
        super().__init__(text)
        self.exit_code = exit_code
        self.text = text

    def __str__(self) -> str:
        return self.text.split("\nTry `")[0].strip()


class IptablesNotModelled(IptablesError, NotModelled):
    """iptables would do it, the fake kernel cannot. Nothing was changed."""

    def __init__(self, what: str) -> None:
        super().__init__(2, f"not modelled: {what}")


class Iptables:
    """``iptables`` (family 2) or ``ip6tables`` (family 10) of one network namespace."""

    def __init__(self, hooks: HookTable, family: int) -> None:
        self.family = family
        self.ruleset = Ruleset(hooks, family)
        self.name = "iptables" if family == IPV4 else "ip6tables"

    def __call__(self, line: str) -> str:
        """Carry out a command line, with or without the name of the program in front. Returns what it prints.

        Raises `IptablesError`; nothing was changed then.
        """
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise IptablesError(2, f"sh: {error}") from None
        if words and words[0] in (self.name, f"{self.name}-legacy"):
            words = words[1:]
        try:
            command = _parse(words, self.family)
            table = self._table(command.table)
            return self._execute(command, table)
        except NotModelled as error:
            raise IptablesNotModelled(str(error)) from None
        except Problem as problem:
            raise IptablesError(2, self._problem_text(problem, self.name)) from None

    def _problem_text(self, problem: Problem, program: str, where: str = "") -> str:
        front = "" if problem.bare else f"{program} {_VERSION}: "
        text = f"{front}{problem.text}\n" if problem.text else ""
        return f"{text}{where}Try `{program} -h' or '{program} --help' for more information."

    def _table(self, name: str) -> Table:
        if name in ("raw", "nat", "security"):
            raise NotModelled(f"table {name}")
        if name not in TABLES:
            text = f"can't initialize {self.name} table `{name}': Table does not exist (do you need to insmod?)"
            raise IptablesError(3, f"{self.name} {_VERSION}: {text}\nPerhaps {self.name} or your kernel needs to be upgraded.")
        return self.ruleset.table(name)

    def _execute(self, command: Command, table: Table) -> str:
        try:
            with table.transaction():
                return _COMMANDS[command.letter](command, table)
        except TableError as error:
            raise IptablesError(1, f"{self.name}: {_reason(command, error.errno)}") from None

    # ------------------------------------------------------------------ whole files

    def save(self, table: str | None = None, *, counters: bool = False) -> str:
        """What iptables-save prints, without its comments: the tables that exist, or one.

        Raises `IptablesError` for a table there is not and cannot be.
        """
        names = reversed(self.ruleset.tables) if table is None else [table]  # the kernel lists the newest first
        try:
            return "".join(_save(self._table(name), counters) for name in names)
        except NotModelled as error:
            raise IptablesNotModelled(str(error)) from None

    def restore(self, text: str, *, counters: bool = False) -> None:
        """What iptables-restore does with a file: each table in it is emptied and filled anew, as a whole, at its COMMIT.

        ``counters``: set them as the file says (``-c``). Raises `IptablesError`: the table with the mistake and those after it are
        as they were, those before it have been loaded.
        """
        lines = list(enumerate(text.splitlines(), 1))
        at = 0
        while at < len(lines):
            number, line = lines[at]
            at += 1
            if not line or line.startswith("#"):
                continue
            if not line.startswith("*"):
                raise IptablesError(1, f"{self.name}-restore: line {number} failed")
            end = next((i for i in range(at, len(lines)) if lines[i][1] == "COMMIT"), None)
            self._restore_table(number, line[1:].strip(), lines[at:end], counters, lines[end][0] if end is not None else None)
            at = len(lines) if end is None else end + 1

    def _restore_table(self, number: int, name: str, lines: list[tuple[int, str]], counters: bool, commit: int | None) -> None:
        program = f"{self.name}-restore"
        try:
            if name not in TABLES and name not in ("raw", "nat", "security"):
                raise Problem(f"{program}: unable to initialize table '{name}'")
            table = self._table(name)
            with table.transaction():
                table.clear()
                for number, line in lines:
                    if line.startswith(":"):
                        self._restore_chain(table, number, line, counters)
                    elif line and not line.startswith("#"):
                        self._restore_rule(table, number, line, counters)
                if commit is None:
                    raise IptablesError(1, f"{program}: COMMIT expected at line {number + 1}")
                number = commit
        except TableError:
            raise IptablesError(1, f"{program}: line {number} failed") from None
        except NotModelled as error:
            raise IptablesNotModelled(f"{error} (line {number})") from None
        except Problem as problem:
            raise IptablesError(2, self._problem_text(problem, program, f"Error occurred at line: {number}\n")) from None

    def _restore_chain(self, table: Table, number: int, line: str, counters: bool) -> None:
        """``:INPUT DROP [packets:bytes]``"""
        name, policy, counts = (*line[1:].split(), "", "", "")[:3]
        chain = table.find(name)
        if len(name) > _MAX_NAME:
            raise Problem(f"Invalid chain name `{name}' ({_MAX_NAME} chars max)")
        if chain is None or not chain.builtin:
            try:
                table.new_chain(name)
            except TableError:
                raise Problem(f"error creating chain '{name}':File exists") from None
        if not policy:
            raise Problem(f"{self.name}-restore: line {number} policy invalid")
        if policy == "-" or chain is None or not chain.builtin:
            return
        if policy not in ("ACCEPT", "DROP"):
            raise IptablesError(
                1, f"{self.name}-restore {_VERSION}: Can't set policy `{policy}' on `{name}' line {number}: Bad policy name"
            )
        chain.set_policy(policy)
        if counters:
            pair = _counters(counts)
            if pair is None:
                raise Problem(f"invalid policy counters for chain '{name}'")
            chain.packets, chain.bytes = pair

    def _restore_rule(self, table: Table, number: int, line: str, counters: bool) -> None:
        """``[packets:bytes] -A INPUT ...``, the counters only where iptables-save -c put them."""
        pair: tuple[int, int] | None = None
        if line.startswith("["):
            counts, bracket, line = line.partition("]")
            if not bracket:
                raise Problem(f"Bad line {number}: need ]")
            pair = _counters(counts + bracket)
        try:
            words = shlex.split(line)
        except ValueError as error:
            raise Problem(f"{error}") from None
        try:
            command = _parse(words, self.family, restoring=True)
        except _OtherFamily:
            return
        if counters and pair:
            command.counters = pair
        _COMMANDS[command.letter](command, table)


def _counters(text: str) -> tuple[int, int] | None:
    packets, _, octets = text.strip("[]").partition(":")
    return (int(packets), int(octets)) if packets.isdigit() and octets.isdigit() else None


def _save(table: Table, counters: bool) -> str:
    lines = [f"*{table.name}"]
    lines += [f":{chain.name} {chain.policy if chain.builtin else '-'} [{chain.packets}:{chain.bytes}]" for chain in table.chains]
    for chain in table.chains:
        for rule in chain.rules:
            front = f"[{rule.packets}:{rule.bytes}] " if counters else ""
            lines.append(f"{front}-A {chain.name} {rule.text()}".rstrip())
    return "\n".join([*lines, "COMMIT", ""])


# ---------------------------------------------------------------------------------------------------------- the command line


class _OtherFamily(Exception):
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

    def __init__(self, words: list[str], family: int, restoring: bool) -> None:
        self.words = words
        self.at = 0
        self.restoring = restoring
        self.command = Command(family=family)
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
        key = command.letter
        if command.number is not None and key in "DZ":
            key = key.lower()
        for option, letters in _ILLEGAL.items():
            if option in self.given and key in letters:
                raise Problem(f"Illegal option `-{option}' with this command")
        if len(command.chain) > _MAX_NAME:
            raise Problem(f"chain name `{command.chain}' too long (must be under {_MAX_NAME + 1} chars)")
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
        values = [value] if equals else []
        while len(values) < count and self.at < len(self.words):
            values.append(self.words[self.at])
            self.at += 1
        if count and not values:
            raise Problem(f'option "{word}" requires an argument')
        inverted, self.inverted = self.inverted, False
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
        match = xtables.find_protocol_match(command.protocol.number, command.family)
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
        if len(name) > _MAX_NAME:
            raise Problem(f"Invalid target name `{name}' ({_MAX_NAME} chars max)")
        if any(c.isspace() for c in name):
            raise Problem(f"Invalid target name `{name}'")
        command.jump, command.goto = name, letter == "g"
        if letter == "j":
            command.target = xtables.find_target(name)

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
            match = xtables.find_match(value or "", command.family)
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
                    raise _OtherFamily
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
    if len(name) > _MAX_NAME:
        raise Problem(f"chain name `{name}' too long (must be under {_MAX_NAME + 1} chars)")
    if name[:1] in ("-", "!"):
        raise Problem(f"chain name not allowed to start with `{name[0]}'")
    if xtables.is_target(name):
        raise Problem("chain name may not clash with target name")
    if any(c.isspace() for c in name):
        raise Problem(f"Invalid chain name `{name}'")


def _parse(words: list[str], family: int, *, restoring: bool = False) -> Command:
    return _Parser(words, family, restoring).parse()


# ---------------------------------------------------------------------------------------------------------- the commands


def _chains(command: Command, table: Table) -> list[Chain]:
    return [table.chain(command.chain)] if command.chain else table.chains


def _append(command: Command, table: Table) -> str:
    rules = command.rules(table)
    chain = table.chain(command.chain)
    for rule in rules:
        chain.insert(rule, len(chain.rules))
    return ""


def _insert(command: Command, table: Table) -> str:
    rules = command.rules(table)
    chain = table.chain(command.chain)
    for rule in rules:
        chain.insert(rule, (command.number or 1) - 1)
    return ""


def _replace(command: Command, table: Table) -> str:
    rule = command.rules(table)[0]
    table.chain(command.chain).replace(rule, (command.number or 1) - 1)
    return ""


def _delete(command: Command, table: Table) -> str:
    if command.number is not None:
        table.chain(command.chain).delete(command.number - 1)
        return ""
    rules = command.rules(table)
    chain = table.chain(command.chain)
    for rule in rules:
        chain.delete(chain.index(rule))
    return ""


def _check(command: Command, table: Table) -> str:
    rules = command.rules(table)
    chain = table.chain(command.chain)
    for rule in rules:
        chain.index(rule)
    return ""


def _list(command: Command, table: Table) -> str:
    chains = _chains(command, table)
    if command.number is not None:
        index = command.number - 1
        return "".join(_line(chain, rule, command.verbose) for chain in chains for rule in chain.rules[index : index + 1])
    lines = []
    for chain in chains:
        counters = f" -c {chain.packets} {chain.bytes}" if command.verbose and chain.builtin else ""
        lines.append(f"-P {chain.name} {chain.policy}{counters}\n" if chain.builtin else f"-N {chain.name}\n")
    lines += [_line(chain, rule, command.verbose) for chain in chains for rule in chain.rules]
    return "".join(lines)


def _line(chain: Chain, rule: Rule, counters: bool) -> str:
    return f"-A {chain.name} {rule.text(counters)}".rstrip() + "\n"


def _flush(command: Command, table: Table) -> str:
    for chain in _chains(command, table):
        chain.rules = []
    return ""


def _zero(command: Command, table: Table) -> str:
    if command.number is not None:
        rule = table.chain(command.chain).at(command.number - 1)
        rule.packets = rule.bytes = 0
        return ""
    for chain in _chains(command, table):
        chain.zero()
    return ""


def _new_chain(command: Command, table: Table) -> str:
    table.new_chain(command.chain)
    return ""


def _delete_chain(command: Command, table: Table) -> str:
    if command.chain:
        table.delete_chain(table.chain(command.chain))
        return ""
    refused: TableError | None = None
    for chain in table.user:
        try:
            table.delete_chain(chain)
        except TableError as error:
            refused = error  # the others are tried all the same, for the last one's errno is what is told
    if refused:
        raise refused
    return ""


def _rename_chain(command: Command, table: Table) -> str:
    if table.find(command.second):  # this is looked at before the chain itself
        raise TableError(EEXIST)
    if len(command.second) > _MAX_NAME:
        raise TableError(EINVAL)
    table.rename_chain(table.chain(command.chain), command.second)
    return ""


def _policy(command: Command, table: Table) -> str:
    chain = table.find(command.chain)
    if chain is None or not chain.builtin:
        raise TableError(ENOENT)
    if command.second not in ("ACCEPT", "DROP"):
        raise TableError(EINVAL)
    chain.set_policy(command.second)
    chain.packets, chain.bytes = command.counters
    return ""


def _list_table(command: Command, table: Table) -> str:
    raise NotModelled("-L; use -S")


_COMMANDS: dict[str, Callable[[Command, Table], str]] = {
    "A": _append,
    "C": _check,
    "D": _delete,
    "I": _insert,
    "R": _replace,
    "L": _list_table,
    "S": _list,
    "F": _flush,
    "Z": _zero,
    "N": _new_chain,
    "X": _delete_chain,
    "E": _rename_chain,
    "P": _policy,
}

_REASONS = {
    EEXIST: "File exists.",
    EINVAL: "Invalid argument. Run `dmesg' for more information.",
    ELOOP: "Too many levels of symbolic links.",
    EMLINK: "Too many links.",
    ENOENT: "No chain/target/match by that name.",
    ENOTEMPTY: "Directory not empty.",
}
_REASONS_OF_COMMAND = {
    ("N", EEXIST): "Chain already exists.",
    ("I", E2BIG): "Index of insertion too big.",
    ("R", E2BIG): "Index of replacement too big.",
    ("D", E2BIG): "Index of deletion too big.",
    ("Z", E2BIG): "Index of counter too big.",
    ("P", ENOENT): "Bad built-in chain name.",
    ("P", EINVAL): "Bad policy name. Run `dmesg' for more information.",
}


def _reason(command: Command, errno: int) -> str:
    """What `iptc_strerror` makes of it."""
    standard = not command.jump or command.jump in STANDARD
    if command.letter in "DC" and errno == ENOENT and command.number is None and standard:
        return "Bad rule (does a matching rule exist in that chain?)."
    return _REASONS_OF_COMMAND.get((command.letter, errno)) or _REASONS[errno]
