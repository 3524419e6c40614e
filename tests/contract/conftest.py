"""The contract: how the kernel behaves, each rule written once as a test, run on both kernels.

**Writing a test.** Take the fixture ``kernel`` (`kernels.KernelUnderTest`): each test with it runs twice, as ``[fake-...]`` and
as ``[linux-...]``. Say which rules of ``rules.tsv`` it is about; they become its parameter, ``test_x[fake-NL-8]``. One claim
per test, no sleeps (netlink is synchronous), and never a word about which kernel it is or how old: what differs between
versions is measured or probed for, or is no part of the contract.

    @rule("NL-8")
    def test_a_port_belongs_to_one_socket(kernel: KernelUnderTest) -> None:
        kernel.socket().bind((4711, 0))
        with refused(EADDRINUSE):
            kernel.socket().bind((4711, 0))

**Talking.** `wirekit.py` has a client that sends a datagram and gives all answers, messages built from the declarations of nfnl
where they are well-formed, and raw ones where they must not be; `ctkit.py` has the same for conntrack, and `trackkit.py`
sends packets past the tracker. Whatever a test opens through ``kernel`` is closed behind it.

**On one kernel only**: ``@only("linux", "the fake has no file descriptors")``. The table's column of the other kernel then says
why, too, unless another test holds it to the same rule.

**What differs between Linux kernels** stands with the test: ``@needs("payloads-unexamined")`` on it, or as a mark of one case
of it, and a sibling that needs the opposite says what the others do.

**Skips** go through `needs`, ``kernel.require("name")`` or `probes.require` and nothing else; each must be expected by
``tests/skips.txt``. After a run with ``--junitxml=report.xml``, ``python tests/check_skips.py report.xml`` compares. (An
ordinary user's run takes place in a user namespace, and skips what ``tests/skips-user.txt`` lists.)

**The table.** `test_rules_table.py` fails when a rule that the table calls tested has no test on that kernel, and when a
test is about a rule that the table does not have.

**Planted faults.** `faults.py` lists small breakages of the fake, at least one for each group of rules;
`test_planted_faults.py` plants each and demands that the contract's tests of that group fail.

**On other kernels** than that of this machine the contract is run by `tests/matrix.py`, in guests. ``--quick`` takes a few tests
that are together about every rule (`quick.py`); junit reports have rules and needed probes as properties of each test.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from nfnl.testing.plugin import become_root_of_a_namespace
from tests import behaviour as behaviour  # its probes, for those who ask by name
from tests import probes
from tests.contract import quick
from tests.contract.ctkit import Asker
from tests.contract.kernels import LABS, Kernels, KernelUnderTest
from tests.contract.rules import KERNELS, needed_by, rules_of
from tests.contract.trackkit import Wire


def pytest_configure(config: pytest.Config) -> None:
    config.addinivalue_line("markers", "rule(*ids): the rules of tests/contract/rules.tsv that this test is about")
    config.addinivalue_line("markers", "needs(*probes): Linux must be able to do what these probes ask")
    become_root_of_a_namespace()
    config.addinivalue_line("markers", "only(kernel, because): this contract test makes sense on one kernel only")


def pytest_unconfigure() -> None:
    LABS.close()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "kernel" not in metafunc.fixturenames:
        return
    ids = [str(name) for mark in metafunc.definition.iter_markers("rule") for name in mark.args]
    if not ids:
        raise pytest.UsageError(f"{metafunc.definition.nodeid} is about no rule; say which with @rule(...)")
    only = metafunc.definition.get_closest_marker("only")
    metafunc.parametrize("kernel", [only.args[0]] if only else KERNELS, indirect=True)
    metafunc.parametrize("rule_ids", ["+".join(ids)], indirect=True)


def pytest_ignore_collect(collection_path: Path, config: pytest.Config) -> bool | None:
    return (config.getoption("--quick") and collection_path.is_file() and not quick.may_have_some(collection_path)) or None


@pytest.hookimpl(tryfirst=True)
def pytest_pycollect_makeitem(collector: pytest.Module | pytest.Class, name: str) -> list[pytest.Item] | None:
    """Where the command line names every test, as it does in guests, nothing is made of what it does not name."""
    named = quick.named_on(collector.config)
    module = collector.getparent(pytest.Module)
    return [] if named and module and f"{module.nodeid}::{name}" not in named and name.startswith("test_") else None


@pytest.hookimpl(trylast=True)  # what -k and -m leave
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    for item in items:
        if quick.Candidate.of(item):
            about = rules_of(item.callspec.params["rule_ids"])  # type: ignore[attr-defined]
            item.user_properties += [*(("rule", name) for name in about), *(("needs", name) for name in needed_by(item))]
    if config.getoption("--quick") and not quick.named_on(config):
        few = quick.chosen(items)
        kept = set(few)
        config.hook.pytest_deselected(items=[item for item in items if item not in kept])
        items[:] = few


@pytest.fixture(autouse=True)
def rule_ids(request: pytest.FixtureRequest) -> str:
    """The rules this test is about, joined with a plus."""
    return getattr(request, "param", "")


@pytest.fixture(scope="session")
def kernels() -> Kernels:
    """What the kernels of this run come from."""
    return LABS


@pytest.fixture
def kernel(request: pytest.FixtureRequest, kernels: Kernels) -> Iterator[KernelUnderTest]:
    """A fresh kernel. See the head of this file."""
    if request.param == "linux":
        for probe in ("lab-available", *needed_by(request.node)):
            probes.require(probe)
    with kernels.make(request.param) as made:
        yield made


@pytest.fixture
def asker(kernel: KernelUnderTest) -> Asker:
    """Somebody who talks to conntrack."""
    return Asker(kernel)


@pytest.fixture
def wire(kernel: KernelUnderTest) -> Wire:
    """The machine between two hosts, which tracks what they send to each other."""
    return Wire(kernel)
