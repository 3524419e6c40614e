"""What the documents say is run: Python and console blocks here, what sets up an environment by .ci/run.

A Python block that begins with ``# name.py`` is that file; the others are run as they are. In a console block what follows ``$`` is
a command, the rest what it prints; after a ``$`` that starts a shell, what follows ``#`` is typed into it.
"""

from __future__ import annotations

import os
import re
import runpy
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests import probes

ROOT = Path(__file__).parent.parent
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").rglob("*.md"))]


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    line: int
    language: str
    text: str

    @property
    def file(self) -> str | None:
        """The file it is, if it says so."""
        match = re.match(r"# (\S+\.py)\n", self.text)
        return match[1] if match else None

    def __str__(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def blocks() -> Iterator[Block]:
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        for match in re.finditer(r"^```(\w*)\n(.*?)^```$", text, re.MULTILINE | re.DOTALL):
            yield Block(page, text[: match.start()].count("\n") + 1, match[1], match[2])


BLOCKS = list(blocks())


def of(language: str) -> list[Block]:
    return [block for block in BLOCKS if block.language == language]


def write_files(page: Path, into: Path) -> None:
    """The files that a page shows."""
    for block in BLOCKS:
        if block.page == page and block.file:
            (into / block.file).write_text(block.text, encoding="utf-8")


def environment() -> dict[str, str]:
    return {**os.environ, "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}:/usr/sbin:/sbin"}


def test_every_block_is_of_a_kind_that_is_run() -> None:
    assert {block.language for block in BLOCKS} <= {"python", "console", "sh"}
    assert of("python")
    assert of("console")
    assert of("sh")


@pytest.mark.parametrize("block", [block for block in of("python") if not block.file], ids=str)
def test_python_blocks_run(block: Block) -> None:
    exec(compile(block.text, str(block), "exec"), {"__name__": "documentation"})


@pytest.mark.parametrize("kernel", ["fake", "linux"])
@pytest.mark.parametrize("page", sorted({block.page for block in BLOCKS if block.file}), ids=lambda page: page.name)
def test_tests_shown_pass_on_both_kernels(page: Path, kernel: str, tmp_path: Path) -> None:
    if kernel == "linux":
        probes.require("lab-available")
    write_files(page, tmp_path)
    command = [sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", f"--nfnl-kernel={kernel}", str(tmp_path)]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert " passed" in done.stdout


@dataclass(frozen=True)
class Command:
    """A command of a console block, what is typed into it, and what is to be seen."""

    line: str
    typed: str
    shown: list[str]


def commands(block: Block) -> Iterator[Command]:
    line, typed, shown = "", "", list[str]()
    for text in [*block.text.splitlines(), "$ "]:
        if text.startswith("$ "):
            if line:
                yield Command(line, typed, shown)
            line, typed, shown = text[2:], "", []
        elif text.startswith("# ") and line.endswith(" sh"):
            typed += text[2:] + "\n"
        else:
            shown.append(text)


@pytest.mark.parametrize("block", of("console"), ids=str)
def test_console_blocks_print_what_they_show(block: Block, tmp_path: Path) -> None:
    write_files(block.page, tmp_path)
    for command in commands(block):
        if command.line.startswith("unshare"):
            probes.require("user-namespaces")
        if "ping " in command.typed:
            probes.require("ping-installed")
        # what was left to run in the background ends with its shell
        typed = command.typed + "kill $!\n" * ("&\n" in command.typed)
        done = subprocess.run(
            ["sh", "-ec", command.line],
            input=typed,
            cwd=tmp_path,
            env=environment(),
            capture_output=True,
            text=True,
            check=False,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        printed = done.stdout.rstrip("\n").splitlines()
        if command.typed:
            assert all(any(line in seen for seen in printed) for line in command.shown), done.stdout + done.stderr
        else:
            assert printed == command.shown


@pytest.mark.parametrize("block", of("sh"), ids=str)
def test_what_sets_up_an_environment_is_run_by_ci(block: Block) -> None:
    ci = (ROOT / ".ci" / "run").read_text(encoding="utf-8").splitlines()
    for line in block.text.splitlines():
        assert line in ci, f".ci/run does not run {line!r}"


@pytest.mark.parametrize("page", sorted((ROOT / "docs" / "reference").glob("*.md")), ids=lambda page: page.name)
def test_generated_pages_are_up_to_date(page: Path) -> None:
    generate = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert set(generate["PAGES"]) == {path.name for path in page.parent.glob("*.md")}
    assert page.read_text(encoding="utf-8") == generate["page"](page.name), "run: tox -e docs"


def test_links_between_pages_lead_somewhere() -> None:
    for page in PAGES:
        for target in re.findall(r"\]\((?!https?:|#)([^)#]+)", page.read_text(encoding="utf-8")):
            assert (page.parent / target).exists(), f"{page.name} links to {target}"
