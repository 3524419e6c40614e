"""What can be held to of vagrant/ without a machine: its scripts are well-formed, and the one that fetches reports loses nothing.

`vagrant/check` does everything for real.
"""

from __future__ import annotations

import os
import re
import runpy
import shutil
import subprocess
import tomllib
from pathlib import Path
from typing import Any

import pytest

from tests import probes

ROOT = Path(__file__).parent.parent
VAGRANT = ROOT / "vagrant"
SCRIPTS = sorted(
    path.name
    for path in VAGRANT.iterdir()
    if path.is_file() and path.read_text(encoding="utf-8").startswith("#!/usr/bin/env bash\n")
)

#: The machines of the Vagrantfile: name, public box, kernel.
MACHINES = re.findall(
    r'^  "(\w+)" => "(.*)", +# Linux ([\d.]+)', (VAGRANT / "Vagrantfile").read_text(encoding="utf-8"), re.MULTILINE
)

#: Stands for Vagrant: ``vagrant ssh MACHINE --no-tty --command COMMAND`` runs the command right here, and notes it.
STANDS_FOR_VAGRANT = """\
#!/bin/sh
[ "$1 $3 $4" = "ssh --no-tty --command" ] || exit 9
echo "$2: $5" >>"$NOTES"
exec sh -c "$5"
"""


def run(*command: str | Path, **environment: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(command, capture_output=True, text=True, check=False, env={**os.environ, **environment})


def test_the_vagrantfile_is_ruby() -> None:
    probes.require("ruby")
    done = run("ruby", "-c", VAGRANT / "Vagrantfile")
    assert done.returncode == 0, done.stderr


def test_the_page_has_the_machines_and_variables_of_the_vagrantfile() -> None:
    text = (VAGRANT / "Vagrantfile").read_text(encoding="utf-8")
    page = (ROOT / "docs" / "how-to" / "vagrant.md").read_text(encoding="utf-8")
    assert [name for name, _, _ in MACHINES] == ["bookworm", "trixie", "noble"]
    for name, box, kernel in MACHINES:
        assert re.search(rf"^\| `{name}`.* \| `{box}` \| {kernel} \|", page, re.MULTILINE)
    assert set(re.findall(r"NFNL_\w+", text)) <= set(re.findall(r"NFNL_\w+", page))


@pytest.mark.parametrize("name", SCRIPTS)
def test_scripts_are_well_formed(name: str) -> None:
    done = run("bash", "-n", VAGRANT / name)
    assert done.returncode == 0, done.stderr
    assert os.access(VAGRANT / name, os.X_OK)


@pytest.mark.parametrize("name", SCRIPTS)
def test_shellcheck_has_nothing_to_say(name: str) -> None:
    probes.require("shellcheck")
    done = run("shellcheck", VAGRANT / name)
    assert done.returncode == 0, done.stdout


# ---------------------------------------------------------------------------------------------------------------------- wheels


@pytest.fixture(scope="module")
def wheels() -> dict[str, Any]:
    """What vagrant/fetch-wheels defines."""
    return runpy.run_path(str(VAGRANT / "fetch-wheels"))


@pytest.fixture(scope="module")
def project() -> dict[str, Any]:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_wheels_cover_all_that_a_project_names(wheels: dict[str, Any]) -> None:
    named = {
        "build-system": {"requires": ["builder"]},
        "project": {"dependencies": ["one", "two>=2"], "optional-dependencies": {"a": ["three", "one"], "b": ["four"]}},
        "tool": {"tox": {"requires": ["tox>=4"], "env_run_base": {"deps": ["five"]}, "env": {"lint": {"deps": ["linter"]}}}},
    }
    assert wheels["requirements"](named) == ["builder", "five", "four", "one", "three", "tox>=4", "two>=2"]


def test_wheels_cover_this_project(wheels: dict[str, Any], project: dict[str, Any]) -> None:
    wanted = set(wheels["requirements"](project))
    assert wanted >= set(project["project"]["dependencies"])
    for extra in project["project"]["optional-dependencies"].values():
        assert wanted >= set(extra)
    assert wheels["pythons"](project) == ["3.11", "3.12", "3.13"]


# ------------------------------------------------------------------------------------------------------------------- run-suite


class Guest:
    """run-suite with something that stands for Vagrant, whose nfnl-suite does what a test says."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        self.left = directory / "left"
        self.left.mkdir()
        self.script = directory / "run-suite"
        # in the guest, the results are in a place that belongs to nobody else
        text = (VAGRANT / "run-suite").read_text(encoding="utf-8")
        assert text.count("/var/tmp/nfnl-results") == 1
        self._install("run-suite", text.replace("/var/tmp/nfnl-results", str(self.left)))
        self._install("vagrant", STANDS_FOR_VAGRANT)

    def _install(self, name: str, text: str) -> None:
        path = self.directory / name
        path.write_text(text, encoding="utf-8")
        path.chmod(0o755)

    def run_suite(self, *arguments: str, suite: str) -> int:
        """Its exit status, where the suite in the guest is this line of a shell."""
        self._install("nfnl-suite", f"#!/bin/sh\n{suite}\n")
        path = f"{self.directory}:{os.environ['PATH']}"
        return run(self.script, *arguments, PATH=path, NOTES=str(self.directory / "notes")).returncode

    def notes(self) -> list[str]:
        """What Vagrant was told."""
        return (self.directory / "notes").read_text(encoding="utf-8").splitlines()


@pytest.fixture
def guest(tmp_path: Path) -> Guest:
    return Guest(tmp_path)


def test_reports_are_fetched_and_replace_older_ones(guest: Guest) -> None:
    results = guest.directory / "results" / "trixie"
    results.mkdir(parents=True)
    (results / "older").touch()
    assert guest.run_suite("trixie", suite=f"echo fine >{guest.left}/report.txt; mkdir {guest.left}/recordings") == 0
    assert sorted(path.name for path in results.iterdir()) == ["recordings", "report.txt"]
    assert (results / "report.txt").read_text(encoding="utf-8") == "fine\n"
    assert guest.notes()[0] == "trixie: nfnl-suite"


def test_the_first_machine_is_taken_when_none_is_named(guest: Guest) -> None:
    assert guest.run_suite(suite="true") == 0
    assert guest.notes()[0] == "bookworm: nfnl-suite"
    assert MACHINES[0][0] == "bookworm"


@pytest.mark.parametrize("status", [1, 5])
def test_a_failure_in_the_guest_is_one_outside(guest: Guest, status: int) -> None:
    assert guest.run_suite("bookworm", suite=f"echo failed >{guest.left}/report.txt; exit {status}") == status
    assert (guest.directory / "results" / "bookworm" / "report.txt").exists()


def test_reports_that_cannot_be_fetched_are_a_failure_and_older_ones_stay(guest: Guest) -> None:
    assert guest.run_suite("bookworm", suite=f"echo fine >{guest.left}/report.txt") == 0
    shutil.rmtree(guest.left)
    assert guest.run_suite("bookworm", suite="true") == 1
    assert guest.run_suite("bookworm", suite="exit 5") == 5
    assert (guest.directory / "results" / "bookworm" / "report.txt").exists()


def test_arguments_arrive_as_they_were_given(guest: Guest) -> None:
    assert guest.run_suite("bookworm", "-k", "a and not 'b'", suite=f'printf "<%s>" "$@" >{guest.left}/report.txt') == 0
    assert (guest.directory / "results" / "bookworm" / "report.txt").read_text(encoding="utf-8") == "<-k><a and not 'b'>"
