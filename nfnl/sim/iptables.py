"""The iptables command, and iptables-restore: text in, changed tables out.

Follows iptables-legacy 1.8.9 (iptables/iptables.c, iptables/iptables-restore.c, libiptc) down to its complaints, as far as it is
modelled: all five tables; commands -A -C -D -I -R -S -F -Z -N -X -E -P; the matches and targets of `nfnl.sim.xt_known`. All else
raises `IptablesNotModelled`.
"""

from __future__ import annotations

import shlex
from collections.abc import Callable
from errno import E2BIG, EEXIST, EINVAL, ELOOP, EMLINK, ENOENT, ENOTEMPTY, ERANGE

from nfnl.errors import NfnlError, NotModelled
from nfnl.sim.ground import Ground
from nfnl.sim.rules import STANDARD, Chain, Rule, TableError
from nfnl.sim.skb import IPV4
from nfnl.sim.tables import TABLES, Ruleset, Table
from nfnl.sim.xshared import MAX_NAME, Command, OtherFamily, parse
from nfnl.sim.xt_known import OTHER_MATCHES, OTHER_TARGETS
from nfnl.sim.xtables import Problem

_VERSION = "v1.8.9 (legacy)"


#: What is not understood; `IptablesNotModelled` is raised for what is refused.
NOT_MODELLED = {
    f"matches {', '.join(sorted(OTHER_MATCHES))}": "refused",
    f"targets {', '.join(sorted(OTHER_TARGETS))}": "refused",
    "ranges of ICMP codes, --suppl-groups, --nflog-range, --left-shift-mark and --right-shift-mark, names of labels": "refused",
    "-L, -h, -V, and -v with anything but -S": "refused; -S lists",
    "names of hosts and users": "refused; names of services are those of a short list, others are unknown to it",
    "-j CT --timeout": "there are no timeout policies, so that each is unknown",
    "LOG and NFLOG": "the journey of the packet has a step of it, and nobody else is told",
    "-m connlimit": "looks through its flows for every packet; Linux now and then finds another number",
    "-m statistic --mode random": "the lots come from a seed",
    "-m conntrack and its like behind -j CT in the raw table": "see no flow; in Linux one that is all zeros",
    "iptables-restore --noflush and --test": "there is no way to ask for them",
    "-Z in a file for iptables-restore": "sets counters to 0; in Linux those set by the same file stay",
}


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

    def __init__(self, ground: Ground, family: int) -> None:
        self.family = family
        self.ruleset = Ruleset(ground, family)
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
            command = parse(words, self.family)
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
            if name not in TABLES:
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
        if len(name) > MAX_NAME:
            raise Problem(f"Invalid chain name `{name}' ({MAX_NAME} chars max)")
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
            command = parse(_words(line), self.family, table.name)
        except OtherFamily:
            return
        if counters and pair:
            command.counters = pair
        _COMMANDS[command.letter](command, table)


def _words(line: str) -> list[str]:
    """The words of a line of a file (`add_param_to_argv`): a quote ends a word, a backslash counts inside quotes only."""
    words: list[str] = []
    word, inside, escaped = "", False, False
    for c in line:
        if inside and (escaped or c not in '\\"'):
            word += c
            escaped = False
        elif inside and c == "\\":
            escaped = True
        elif inside or (c in " \t\n" and word):
            words.append(word)
            word, inside = "", False
        elif c == '"':
            inside = True
        elif c not in " \t\n":
            word += c
    return [*words, word] if word else words


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
    if len(command.second) > MAX_NAME:
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
    ERANGE: "Numerical result out of range.",
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
