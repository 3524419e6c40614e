"""Command lines of ``nfnl conntrack``: which are legal, and what is said of those that are not."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from nfnl.cli.ct_options import OPTIONS, PROTOCOL_OPTIONS, Option, parse
from nfnl.cli.ct_order import Command, Masked, OutputProblem, UsageProblem
from nfnl.cli.ct_values import number_of, protocol_of
from tests.unit.cli.conversations import RECORDINGS, run

LEGALITY = RECORDINGS / "legality.tsv"


def verdicts() -> Iterator[tuple[str, str, str]]:
    """Command lines, what conntrack 1.4.7 made of them, and what it said."""
    for line in LEGALITY.read_text().splitlines():
        if not line.startswith("#"):
            words, verdict, said = line.split("\t")
            yield words, verdict, said


def complaint(words: str) -> str:
    """What nfnl says of a command line; "" if it takes it."""
    try:
        parse(words.split())
    except UsageProblem as problem:
        return str(problem)
    return ""


def other_rules(words: str) -> bool:
    """Where nfnl has rules of its own: conntrack wants ports of expectations that say nothing, and refuses types of ICMP."""
    return any(f"-{letter} expect" in words and "-p" in words.split() for letter in "IDG")


def test_what_conntrack_refuses_is_refused_in_its_words() -> None:
    ours = {words: complaint(words) for words, _, _ in verdicts() if not other_rules(words)}
    of_dccp = [
        words for words, verdict, _ in verdicts() if "-p dccp" in words and verdict in ("required", "refused") and words in ours
    ]
    assert {ours.pop(words) for words in of_dccp} == {""}
    assert ours == {words: said for words, _, said in verdicts() if words in ours} | {
        # of two that are illegal the first that is met is named
        words: said
        for words, said in ours.items()
        if "--role" in words and said == "Illegal option `--role' with this command"
    }
    assert len(ours) > 1200


def test_of_expectations_the_general_rules_are_the_same() -> None:
    compared = 0
    for words, verdict, said in verdicts():
        general = "port" not in said and "icmp" not in said and "key" not in said
        if other_rules(words) and verdict == "illegal" and general:
            assert complaint(words) == said
            compared += 1
    assert compared > 50


def test_every_option_is_among_the_recorded() -> None:
    recorded = {word.partition("=")[0] for words, _, _ in verdicts() for word in words.split()}
    missing = [option.name for option in OPTIONS if not {f"--{option.longs[0]}", f"-{option.short}"} & recorded]
    assert missing == ["labelmap"]  # came with 1.4.9
    of_protocols = {names[0] for table in PROTOCOL_OPTIONS.values() for names in table.values()}
    assert {name for name in of_protocols if f"--{name}" not in recorded} == set()


_NAMES = [
    *(f"--{name}" for option in OPTIONS for name in option.longs),
    *(f"-{option.short}" for option in OPTIONS if option.short),
    *(f"--{name}" for table in PROTOCOL_OPTIONS.values() for names in table.values() for name in names),
    *(f"-{command.letter}" for command in Command),
    *(command.word for command in Command),
]
_VALUES = ["1.1.1.1", "fd00::1/64", "1.1.1.1:53", "[::1]:1", "[::1", "tcp", "17", "0x11", "ESTABLISHED", "!ASSURED", "xml,id"]
_VALUES += ["expect", "1/2", "-1", "/", ""]


@example(["-L", "-s", "1.1.1.1", ""])
@given(st.lists(st.sampled_from(_NAMES) | st.sampled_from(_VALUES) | st.text(max_size=6), max_size=12))
def test_any_command_line_is_taken_or_complained_of(words: list[str]) -> None:
    with suppress(UsageProblem, OutputProblem):
        assert isinstance(parse(words).command, Command)


@given(st.sampled_from(_VALUES) | st.text(max_size=8), st.sampled_from(OPTIONS), st.sampled_from("LIAUDGFE"))
def test_any_value_of_any_option_is_taken_or_complained_of(value: str, option: Option, command: str) -> None:
    with suppress(UsageProblem, OutputProblem):
        assert option.name in parse([f"-{command}", f"--{option.longs[0]}={value}", "-p", "tcp"]) or option.name == "nat_range"


WRONG = [
    ("-U -t abc", "`abc' of `--timeout'"),
    ("-U -t -1", "`-1' of `--timeout'"),
    ("-U -t 4294967296", "`4294967296' of `--timeout'"),
    ("-L -m 1/", "`' of `--mark'"),
    ("-L -m x", "`x' of `--mark'"),
    ("-L -w 70000", "`70000' of `--zone'"),
    ("-L --orig-zone abc", "`abc' of `--orig-zone'"),
    ("-L --reply-zone -1", "`-1' of `--reply-zone'"),
    ("-L -c x", "`x' of `--secmark'"),
    ("-U -i x", "`x' of `--id'"),
    ("-E -b x", "`x' of `--buffer-size'"),
    ("-L -l nosuch", "unknown label 'nosuch'"),
    ("-L -M /no/such/file", "/no/such/file: No such file or directory"),
    ("-L -o foo", "Bad parameter `foo'"),
    ("-L -u FOO", "Bad parameter `FOO'"),
    ("-E -e FOO", "Bad parameter `FOO'"),
    ("-L -s 1.1.1", "Invalid IP address `1.1.1'"),
    ("-L -d x", "Invalid IP address `x'"),
    ("-L -s 1.1.1.1/33", "Invalid netmask"),
    ("-L -s 1.1.1.1 --mask-src x", "Invalid IP address `x'"),
    ("-L -r 1.1.1.1/3", "CIDR notation unavailable for `--reply-src'"),
    ("-L -n 1.1.1.1:99999", "Invalid port `99999'"),
    ("-L -g 1.1.1.1:", "No port specified after `:'"),
    ("-L -j [::1", "Invalid IP address `[::1'"),
    ("-L -f ip", "`ip' unsupported protocol"),
    ("-L -p nosuch", "`nosuch' unsupported protocol"),
    ("-L -p 256", "`256' unsupported protocol"),
    ("-L -p tcp --sport 70000", "`70000' of `--sport'"),
    ("-L -p tcp --state X", "unknown TCP state `X'"),
    ("-L -p icmp --icmp-type 300", "`300' of `--icmp-type'"),
    ("-L -p udp --state X", "unknown option `--state'"),
    ("-L --sport 1", "unknown option `--sport'"),
    ("-L -s 1.1.1.1 -d ::1", "mismatched address family"),
    ("-L -s 1.1.1.1/8 --mask-src 255.0.0.0", "`--mask-src'"),
    ("-L -j -n", "cannot specify"),
    ("-L -z -p tcp", "Can't use -z with filtering parameters"),
    ("-L -s", "option `-s' requires an argument"),
    ("-L --nosuch", "unknown option `--nosuch'"),
    ("-L -D", "Invalid commands combination"),
    ("-L nosuch", "unknown type `nosuch'"),
    ("list conntrack more", "unknown argument `more'"),
]


@pytest.mark.parametrize(("words", "said"), WRONG, ids=[words for words, _ in WRONG])
@pytest.mark.usefixtures("ct_kernel")
def test_what_is_wrong_is_named_and_the_exit_status_is_2(words: str, said: str) -> None:
    result = run(f"conntrack {words}")
    assert said in result.stderr
    assert result.stderr.startswith("nfnl conntrack: ")
    assert result.stderr.endswith("Try `nfnl conntrack --help' for more information.\n")
    assert (result.stdout, result.exit_code) == ("", 2)


@pytest.mark.parametrize(("text", "number"), [("100", 100), ("0x64", 100), ("0144", 100), ("0", 0)])
def test_numbers_are_read_as_in_c(text: str, number: int) -> None:
    assert number_of(text, "timeout") == number
    assert parse(["-L", "-m", f"{text}/0xff"])["mark"] == Masked(number, 255)


@pytest.mark.parametrize(("text", "number"), [("tcp", 6), ("Tcp", 6), ("0x11", 17), ("021", 17), ("132", 132), ("0", 0)])
def test_protocols_have_names_and_numbers(text: str, number: int) -> None:
    assert protocol_of(text) == number


def test_other_protocols_have_the_names_that_the_system_knows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("socket.getprotobyname", {"ospf": 89}.__getitem__)
    assert protocol_of("ospf") == 89

    def without_a_file(name: str) -> int:
        raise OSError("protocol not found")

    monkeypatch.setattr("socket.getprotobyname", without_a_file)
    with pytest.raises(UsageProblem, match="`ospf' unsupported protocol"):
        protocol_of("ospf")
    assert protocol_of("89") == 89


def test_an_option_without_effect_is_told_to_be_one(ct_kernel: object) -> None:
    result = run("conntrack -L -a 1.1.1.1-1.1.1.2")
    assert result.stderr.splitlines()[0] == "WARNING: ignoring -a, deprecated option."
    assert result.exit_code == 0


@pytest.mark.parametrize("command", ["-D expect", "-G expect"])
def test_ports_of_expectations_that_say_nothing_are_not_asked_for(command: str) -> None:
    words = f"{command} -s 1.1.1.1 -d 2.2.2.2 -p tcp --orig-port-src 1 --orig-port-dst 2"
    recorded = {line: said for line, _, said in verdicts()}
    assert recorded[words] == "You need to supply the `--reply-port-src' option for this command"
    assert complaint(words) == ""
