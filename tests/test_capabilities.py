"""docs/reference/capabilities.tsv, held to the code: what it says is there is there, and tests show it."""

from __future__ import annotations

import ast
import csv
import importlib
import importlib.metadata
import re
import sys
import tomllib
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PACKAGE = ROOT / "nfnl"
STATUSES = {"have", "part", "will not", "open"}

#: how ids begin -> how many rows there are to answer for. Of B only the rows that concern what nfnl has so far.
COMPLETE = {
    "MNL-": 21,
    "NFN-": 15,
    "QUE-": 66,
    "CTN-": 76,
    "CLI-": 64,
    "PEER-A": 22,
    "PEER-C": 41,
    "PEER-D": 13,
    "PEER-E": 10,
    "PEER-F": 3,
    "PEER-G": 25,
    "PEER-H": 9,
}


@dataclass(frozen=True)
class Row:
    """A row of the table: something that netlink libraries can do, and whether nfnl can."""

    id: str
    what: str
    status: str
    names: tuple[str, ...]  #: where in nfnl
    tests: tuple[str, ...]  #: ``tests/file.py::name``
    remark: str


def rows() -> Iterator[Row]:
    with (ROOT / "docs" / "reference" / "capabilities.tsv").open(encoding="utf-8", newline="") as file:
        header, *lines = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
    assert header == ["id", "what", "status", "nfnl", "tests", "remark"]
    for id_, what, status, names, tests, remark in lines:
        yield Row(id_, what, status, tuple(names.split()), tuple(tests.split()), remark)


ROWS = list(rows())


def test_every_id_stands_once() -> None:
    assert [name for name, count in Counter(row.id for row in ROWS).items() if count > 1] == []


def test_no_row_is_left_out() -> None:
    ids = {row.id for row in ROWS}
    for prefix, count in COMPLETE.items():
        assert {name for name in ids if name.startswith(prefix)} == {f"{prefix}{number:02}" for number in range(1, count + 1)}


def test_every_row_says_what_its_status_asks_for() -> None:
    for row in ROWS:
        assert row.what, row
        assert row.status in STATUSES, row
        if row.status in ("have", "part"):
            assert row.names, f"{row.id}: where is it?"
            assert row.tests, f"{row.id}: which test shows it?"
        if row.status == "open":
            assert not row.tests, f"{row.id}: if a test shows some of it, it is there in part"
        if row.status in ("part", "will not"):
            assert row.remark, f"{row.id}: what is missing, or why not?"


# --- names -----------------------------------------------------------------------------------------------------------------------


def exists(name: str) -> bool:
    """There is such a module, or such a thing in one; the key of a TypedDict counts as its attribute."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = importlib.import_module(".".join(parts[:length]))
        except ModuleNotFoundError as error:
            if error.name is None or not name.startswith(error.name):
                raise
            continue
        for attribute in parts[length:]:
            if attribute not in getattr(found, "__annotations__", {}):
                if not hasattr(found, attribute):
                    return False
                found = getattr(found, attribute)
        return True
    return False


def test_the_names_in_nfnl_exist() -> None:
    named = {(row.id, name) for row in ROWS for name in row.names}
    assert {(row, name) for row, name in named if not name.startswith("nfnl.") or not exists(name)} == set()


def test_a_name_that_does_not_exist_would_be_found() -> None:
    assert exists("nfnl.QueueOptions.no_enobufs")
    assert not exists("nfnl.QueueOptions.no_such_option")
    assert not exists("nfnl.Queue.teleport")
    assert not exists("nfnl.no.such.module")


# --- tests -----------------------------------------------------------------------------------------------------------------------


@cache
def defined_in(file: str) -> frozenset[str]:
    """The tests of a file, without their parameters; none if pytest does not look there."""
    path = ROOT / file
    if not path.is_file() or not re.fullmatch(r"tests/(\w+/)*test_\w+\.py", file):
        return frozenset()
    names: set[str] = set()
    for node in ast.parse(path.read_text(encoding="utf-8")).body:
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                names.add(name)
            case ast.Assign(targets=[ast.Name(id=name)]):  # TestMachine = Machine.TestCase
                names.add(name)
    return frozenset(name for name in names if re.match("test_|Test", name))


def test_the_tests_exist() -> None:
    named = {(row.id, *test.split("::")) for row in ROWS for test in row.tests}
    assert {(row, file, name) for row, file, name in named if name not in defined_in(file)} == set()


def test_a_test_that_does_not_exist_would_be_found() -> None:
    here = defined_in("tests/test_capabilities.py")
    assert "test_the_tests_exist" in here
    assert "defined_in" not in here
    assert "TestQueueMachine" in defined_in("tests/properties/test_queue_session.py")
    assert defined_in("tests/test_no_such_file.py") == frozenset()


# --- what only files can show ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def project() -> dict[str, object]:
    with (ROOT / "pyproject.toml").open("rb") as file:
        project: dict[str, object] = tomllib.load(file)["project"]
    return project


def test_types_are_shipped() -> None:
    with (ROOT / "pyproject.toml").open("rb") as file:
        assert tomllib.load(file)["tool"]["setuptools"]["package-data"]["nfnl"] == ["py.typed"]
    assert (PACKAGE / "py.typed").is_file()


def test_it_is_all_python() -> None:
    files = {path for path in PACKAGE.rglob("*") if path.is_file() and "__pycache__" not in path.parts}
    assert {path.name for path in files if path.suffix != ".py"} == {"py.typed"}


def test_the_library_needs_construct_and_nothing_else(project: dict[str, object]) -> None:
    """What is beside the library (the trio door, help for tests, the command) has extras of its own."""
    beside = [PACKAGE / "trio.py", PACKAGE / "testing", PACKAGE / "cli"]
    imported: set[str] = set()
    for path in PACKAGE.rglob("*.py"):
        if not any(path.is_relative_to(extra) for extra in beside):
            for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
                if isinstance(node, ast.Import):
                    imported |= {alias.name.partition(".")[0] for alias in node.names}
                elif isinstance(node, ast.ImportFrom):
                    imported.add(str(node.module).partition(".")[0])
    assert imported - sys.stdlib_module_names - {"nfnl"} == {"construct"}
    assert [re.match(r"[\w-]+", need)[0] for need in project["dependencies"]] == ["construct"]  # type: ignore[attr-defined,index]


def test_the_licence_is_permissive(project: dict[str, object]) -> None:
    assert project["license"] == "BSD-3-Clause"
    assert "Redistribution and use in source and binary forms" in (ROOT / "LICENSE").read_text(encoding="utf-8")
    assert importlib.metadata.metadata("construct")["License"] == "MIT"
