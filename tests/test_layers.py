"""Imports point one way. This file is the table; what the sources import is read with `ast` and held to it."""

from __future__ import annotations

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nfnl"

#: The world outside: nothing below the transports sees a socket, a clock, a thread, an event loop, chance, the environment.
WORLD = {"socket", "time", "select", "selectors", "threading", "asyncio", "trio", "random", "secrets", "os", "subprocess", "ctypes"}

WIRE = ["constants", "header", "layout", "datagram", "declare", "compiled", "reference", "control", "codec", "describe"]
DATA_PLANE = [
    "clock",
    "journey",
    "skb",
    "answers",
    "exthdrs",
    "checksums",
    "defrag",
    "hooks",
    "ct_defrag",
    "jhash",
    "balance",
    "gso",
    "bridge",
    "queueing",
    "routing",
    "responder",
    "reject",
    "protocols",
    "stack",
    "lots",
    "tuples",
    "protoinfo",
    "ct_sysctls",
    "ct_expiry",
    "helpers",
    "ct_entry",
    "ct_events",
    "ct_limits",
    "conntrack",
    "expectations",
    "nat",
    "tracker",
    "tcp_segment",
    "tcp_window",
    "tracker_tcp",
    "tracker_simple",
    "tracker_sctp",
    "ct_packet",
    "tracking",
    "nat_packet",
    "nat_hooks",
    "seqadj",
    "helper_ftp",
    "ground",
    "criteria",
    "rules",
    "matches",
    "matches_around",
    "matches_flow",
    "targets",
    "targets_flow",
    "tables",
]
CONTROL_PLANE = [
    "errnos",
    "profile",
    "bpf",
    "gate",
    "af_netlink",
    "socket",
    "netlink",
    "dump",
    "nfnetlink",
    "ct_requests",
    "ct_filter",
    "ct_messages",
    "ct_notify",
    "ct_dumps",
    "ct_change",
    "ct_proc",
    "ctnetlink",
    "ctnetlink_expect",
    "ct_glue",
    "queue",
    "transport",
]
COMPOSITION = [
    "xtables",
    "xt_packet",
    "xt_flow",
    "xt_targets",
    "xt_nat",
    "xt_known",
    "xshared",
    "iptables",
    "sender",
    "kernel",
    "__init__",
]

#: module, or package with a dot at its end -> what it may import of nfnl. The most specific row counts.
ALLOWED: dict[str, list[str]] = {
    "nfnl.errors": [],
    "nfnl.packets": ["nfnl.errors"],
    "nfnl.wire.": ["nfnl.errors", "nfnl.wire."],
    "nfnl.subsys.": ["nfnl.wire.", "nfnl.subsys."],
    "nfnl.session.": ["nfnl.subsys.", "nfnl.wire.", "nfnl.errors", "nfnl.session."],
    "nfnl.transport.base": ["nfnl.wire.constants", "nfnl.wire.datagram", "nfnl.errors"],
    "nfnl.transport.linux": ["nfnl.transport.base", "nfnl.wire.constants", "nfnl.wire.datagram", "nfnl.errors"],
    "nfnl.transport.": ["nfnl.transport.base", "nfnl.transport.wrap", "nfnl.wire.", "nfnl.subsys.", "nfnl.errors"],
    "nfnl._pump": ["nfnl.session.", "nfnl.transport.base", "nfnl.errors"],
    "nfnl._handles": ["nfnl.session.", "nfnl.subsys.", "nfnl.wire.constants", "nfnl.errors", "nfnl.packets", "nfnl._door"],
    "nfnl._door": ["nfnl.session.", "nfnl.transport.", "nfnl.subsys.", "nfnl.errors", "nfnl._pump", "nfnl._handles"],
    "nfnl._expectations": ["nfnl.session.", "nfnl.subsys.", "nfnl.wire.constants"],
    "nfnl._table": [
        "nfnl.session.",
        "nfnl.transport.",
        "nfnl.subsys.",
        "nfnl.wire.constants",
        "nfnl.wire.declare",
        "nfnl.errors",
        "nfnl._pump",
        "nfnl._door",
        "nfnl._expectations",
    ],
    "nfnl.sync": [
        "nfnl.session.",
        "nfnl.transport.",
        "nfnl.subsys.",
        "nfnl.errors",
        "nfnl._door",
        "nfnl._handles",
        "nfnl._table",
    ],
    "nfnl._async": [
        "nfnl.session.",
        "nfnl.transport.",
        "nfnl.subsys.",
        "nfnl.errors",
        "nfnl._door",
        "nfnl._handles",
        "nfnl._table",
    ],
    "nfnl.aio": ["nfnl.session.", "nfnl.transport.", "nfnl.errors", "nfnl._door", "nfnl._table", "nfnl._async"],
    "nfnl.trio": ["nfnl.session.", "nfnl.transport.", "nfnl.errors", "nfnl._door", "nfnl._table", "nfnl._async"],
    "nfnl.__init__": [
        "nfnl.errors",
        "nfnl.wire.",
        "nfnl.subsys.",
        "nfnl.session.",
        "nfnl.transport.",
        "nfnl.sync",
        "nfnl._door",
        "nfnl._handles",
        "nfnl._table",
    ],
    **{f"nfnl.sim.{name}": ["nfnl.errors", *(f"nfnl.sim.{n}" for n in DATA_PLANE)] for name in DATA_PLANE},
    **{
        f"nfnl.sim.{name}": ["nfnl.errors", "nfnl.wire.", "nfnl.subsys.", "nfnl.transport.base"]
        + [f"nfnl.sim.{n}" for n in (*DATA_PLANE, *CONTROL_PLANE)]
        for name in CONTROL_PLANE
    },
    **{
        f"nfnl.sim.{name}": ["nfnl.errors", "nfnl.wire.", "nfnl.subsys.", "nfnl.transport.base", "nfnl.sim."]
        for name in COMPOSITION
    },
    "nfnl.testing.": ["nfnl."],
    "nfnl.cli.": ["nfnl."],
}

#: modules of `WORLD` that a row may import all the same, and why
WORLDLY: dict[str, set[str]] = {
    "nfnl.errors": {"os"},  # strerror
    "nfnl.transport.linux": WORLD,  # the one place
    "nfnl.sync": {"threading"},  # to know whose loop it is
    "nfnl.aio": {"asyncio"},
    "nfnl.trio": {"trio"},
    "nfnl.sim.gate": {"threading"},  # the one lock
    "nfnl.testing.": WORLD,
    "nfnl.cli.": WORLD,
}


def module_name(path: Path) -> str:
    return ".".join(path.relative_to(ROOT).with_suffix("").parts)


MODULES = {module_name(path): path for path in sorted(PACKAGE.rglob("*.py"))}


def imports(path: Path) -> Iterator[tuple[str, bool]]:
    """(module, only for type checkers) of everything a file imports, anywhere in it."""
    tree = ast.parse(path.read_text())
    for_types = {
        inner
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) in ("TYPE_CHECKING", "typing.TYPE_CHECKING")
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, node in for_types
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}: imports are absolute"
            assert node.module is not None
            for alias in node.names:
                whole = f"{node.module}.{alias.name}"
                yield (whole if whole in MODULES else node.module), node in for_types


def covers(row: str, module: str) -> bool:
    return module.startswith(row) or module == row.rstrip(".") if row.endswith(".") else module == row


def row_of(module: str, table: dict[str, list[str]] | dict[str, set[str]]) -> str | None:
    rows = [row for row in table if covers(row, module)]
    return max(rows, key=len) if rows else None


@pytest.mark.parametrize("module", MODULES)
def test_a_module_imports_only_what_its_row_allows(module: str) -> None:
    path = MODULES[module]
    if path.name == "__init__.py" and not ast.parse(path.read_text()).body:
        return  # an empty package marker
    row = row_of(module, ALLOWED)
    assert row is not None, f"{module} stands in no row of the table"
    wrong = [
        target
        for target, typing_only in imports(path)
        if (target == "nfnl" or target.startswith("nfnl."))
        and not typing_only
        and not any(covers(allowed, target) for allowed in ALLOWED[row])
    ]
    assert not wrong, f"{module} (row {row}) may not import {', '.join(wrong)}"


@pytest.mark.parametrize("module", MODULES)
def test_the_world_is_seen_only_where_it_must_be(module: str) -> None:
    row = row_of(module, WORLDLY)
    allowed = WORLDLY[row] if row else set()
    seen = {target.split(".")[0] for target, _ in imports(MODULES[module])} & WORLD
    assert seen <= allowed, f"{module} imports {', '.join(sorted(seen - allowed))}"


def test_sim_and_session_know_nothing_of_each_other() -> None:
    """If both ends shared code, one misunderstanding would make every test agree."""
    for module, path in MODULES.items():
        for target, _ in imports(path):
            assert not (module.startswith("nfnl.sim") and target.startswith("nfnl.session")), module
            assert not (module.startswith("nfnl.session") and target.startswith("nfnl.sim")), module


def test_nobody_imports_the_test_tools_or_the_command() -> None:
    for module, path in MODULES.items():
        if module.startswith(("nfnl.testing", "nfnl.cli")):
            continue
        for target, _ in imports(path):
            assert not target.startswith(("nfnl.testing", "nfnl.cli")), f"{module} imports {target}"


@pytest.mark.parametrize("order", [WIRE, DATA_PLANE], ids=["wire", "data plane"])
def test_layers_inside_a_package_point_down(order: list[str]) -> None:
    """Each module imports only those before it in the list; imports inside functions (lazy generation) do not count."""
    package = "nfnl.wire" if order is WIRE else "nfnl.sim"
    for i, name in enumerate(order):
        path = MODULES.get(f"{package}.{name}")
        if path is None:
            continue
        tree = ast.parse(path.read_text())
        for node in tree.body:
            if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith(package + "."):
                target = node.module.removeprefix(package + ".")
                assert target in order[:i], f"{package}.{name} imports {target}, which is not below it"


def test_the_table_has_no_dead_rows() -> None:
    for row in ALLOWED:
        assert any(covers(row, module) for module in MODULES), f"{row} names nothing"


def test_a_forbidden_import_would_be_found(tmp_path: Path) -> None:
    bad = tmp_path / "bad.py"
    bad.write_text("def f():\n    import socket\n    from nfnl.session import queue\n")
    assert {target for target, _ in imports(bad)} == {"socket", "nfnl.session.queue"}
