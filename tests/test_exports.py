"""The front door, tested as an object."""

from __future__ import annotations

import inspect
import subprocess
import sys

import nfnl
from nfnl import aio, sync
from nfnl._door import QueueDoor, QueueOptions
from nfnl._table import ConntrackOptions, FlowTableDoor


def test_all_names_exist_once_and_are_documented() -> None:
    assert len(set(nfnl.__all__)) == len(nfnl.__all__)
    for name in nfnl.__all__:
        value = getattr(nfnl, name)
        if inspect.isclass(value) or inspect.isfunction(value):
            assert (value.__doc__ or "").strip(), f"nfnl.{name} has no docstring"


def test_public_methods_are_documented() -> None:
    for name in nfnl.__all__:
        value = getattr(nfnl, name)
        if not inspect.isclass(value) or not value.__module__.startswith("nfnl"):
            continue
        for method, function in vars(value).items():
            if not method.startswith("_") and (inspect.isfunction(function) or isinstance(function, property)):
                assert function.__doc__ or any(getattr(base, method, None) for base in value.__mro__[1:]), f"{name}.{method}"


def test_nothing_heavy_is_imported_with_nfnl() -> None:
    """Neither scapy nor hypothesis, no event loop, no fake kernel, nothing of Linux."""
    program = "import sys, nfnl; print(*sorted(sys.modules))"
    out = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout.split()
    heavy = {"scapy", "hypothesis", "pytest", "click", "rich", "asyncio", "trio", "ctypes", "nfnl.sim", "nfnl.testing", "nfnl.cli"}
    assert not heavy & set(out)


def test_both_doors_take_the_same_options() -> None:
    assert inspect.signature(sync.open_queue).parameters.keys() == inspect.signature(aio.open_queue).parameters.keys()
    assert "Unpack[QueueOptions]" in str(inspect.signature(QueueDoor.__init__))
    assert QueueOptions.__total__ is False
    assert inspect.signature(sync.open_conntrack).parameters.keys() == inspect.signature(aio.open_conntrack).parameters.keys()
    assert "Unpack[ConntrackOptions]" in str(inspect.signature(FlowTableDoor.__init__))
    assert ConntrackOptions.__total__ is False


def test_the_async_tables_have_all_that_the_sync_one_has() -> None:
    assert {name for name in dir(sync.FlowTable) if not name.startswith("_")} == {
        name for name in dir(aio.FlowTable) if not name.startswith("_")
    }
