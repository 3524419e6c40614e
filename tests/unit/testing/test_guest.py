"""Guests: what is made of what they report, and of how they end. The machine is a script that speaks like one, but for one test."""

from __future__ import annotations

import io
import itertools
import json
import os
import signal
import subprocess
import sys
import tarfile
import textwrap
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from nfnl.testing import _guest_init, guest
from nfnl.testing._image import Image
from nfnl.testing.guest import GuestError, GuestTimeout, Kernel
from tests import probes
from tests.unit.testing.cpio import archive_of


def frame(kind: str, content: bytes) -> bytes:
    return kind.encode() + len(content).to_bytes(4, "big") + content


def archive(**files: bytes) -> bytes:
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as tar:
        for name, content in files.items():
            member = tarfile.TarInfo(name)
            member.size = len(content)
            tar.addfile(member, io.BytesIO(content))
    return packed.getvalue()


class Machine:
    """A place where a script is called qemu."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.directory = directory
        self.said: list[str] = []
        self.output = io.BytesIO()
        self.errors = io.BytesIO()
        monkeypatch.setenv("PATH", f"{directory}:{os.environ['PATH']}")
        monkeypatch.setattr(guest, "available", lambda: None)
        monkeypatch.setattr(guest, "build_image", lambda *_: Image())

    def does(self, script: str) -> None:
        """This is what a machine does, with sockets ``console`` and ``reports``."""
        program = self.directory / guest.QEMU
        start = f"""\
            #!{sys.executable} -IS
            import os, signal, socket, sys
            words = sys.argv[1:]
            console, reports = (socket.socket(fileno=int(w.rpartition("=")[2])) for w in words if w.startswith("socket,"))
            def frame(kind, content=b""): reports.sendall(kind.encode() + len(content).to_bytes(4, "big") + content)
            """
        program.write_text(textwrap.dedent(start) + textwrap.dedent(script))
        program.chmod(0o755)

    def run(self, *, timeout: float = 60, share: Path | None = None, memory: int = 1024) -> int:
        kernel = Kernel(Path("vmlinuz"), None, "6.1.5-2")
        return guest.run(
            *(kernel, ["true"]),
            timeout=timeout,
            memory=memory,
            share=share,
            output=self.output,
            errors=self.errors,
            tell=self.said.append,
        )


@pytest.fixture
def machine(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Machine:
    return Machine(tmp_path, monkeypatch)


# ------------------------------------------------------------------------------------------------------------- how it ends


def test_output_errors_and_status(machine: Machine) -> None:
    machine.does(
        "frame('U', b'6.1.5'); frame('O', b'one\\n'); frame('E', b'two\\n'); frame('O', b'three'); frame('X', b'7'); signal.pause()"
    )
    assert machine.run() == 7
    assert machine.output.getvalue() == b"one\nthree"
    assert machine.errors.getvalue() == b"two\n"
    assert [line.rpartition(" ")[0].rpartition(" ")[0] for line in machine.said] == [
        "Linux 6.1.5-2: image of 0 MiB made in",
        "Linux 6.1.5 is up after",
    ]


def test_output_is_passed_on_as_it_comes(machine: Machine) -> None:
    """The machine goes on only when its first word has come through."""
    go_on = machine.directory / "go on"
    os.mkfifo(go_on)
    machine.does(f"frame('O', b'first'); open({str(go_on)!r}).read(); frame('X', b'0'); signal.pause()")

    class Output(io.BytesIO):
        def flush(self) -> None:
            go_on.write_text("")

    machine.output = Output()
    assert machine.run() == 0


def test_reports_in_pieces(machine: Machine) -> None:
    machine.does(
        """\
        def trickle(data):
            for byte in data:
                reports.send(bytes([byte]))
        trickle(b"O\\0\\0\\0\\5hello")
        trickle(b"O\\0\\0\\0\\0")
        trickle(b"X\\0\\0\\0\\1" + b"3")
        signal.pause()
        """
    )
    assert machine.run() == 3
    assert machine.output.getvalue() == b"hello"


def test_a_panic_is_told_with_the_last_lines(machine: Machine) -> None:
    machine.does(
        """\
        frame("U", b"6.1.5")
        for number in range(100):
            console.sendall(b"line %d\\r\\n" % number)
        console.sendall(b"[ 1.5] Kernel panic - not syncing: Fatal exception\\r\\n[ 1.6] Call Trace:\\r\\n")
        """
    )
    with pytest.raises(GuestError) as failed:
        machine.run()
    head, *lines = str(failed.value).splitlines()
    assert head == "the kernel panicked (not syncing: Fatal exception); the last lines of the console:"
    assert lines[-3:] == ["  line 99", "  [ 1.5] Kernel panic - not syncing: Fatal exception", "  [ 1.6] Call Trace:"]
    assert len(lines) < 40


@pytest.mark.parametrize(
    ("death", "told"),
    [
        ("sys.exit(1)", "qemu ended with exit status 1"),
        ("os.kill(os.getpid(), signal.SIGSEGV)", "qemu died of signal 11"),
        ("", "the guest switched itself off before its command ended"),
    ],
)
def test_the_end_of_qemu_is_told_with_what_it_said(machine: Machine, death: str, told: str) -> None:
    machine.does(f"os.write(2, b'qemu: could not load it\\n'); {death}")
    with pytest.raises(GuestError) as failed:
        machine.run()
    assert str(failed.value) == f"{told}; the last lines of the console:\n  qemu: could not load it"


def test_time_runs_out(machine: Machine) -> None:
    pid = machine.directory / "pid"
    machine.does(f"open({str(pid)!r}, 'w').write(str(os.getpid())); frame('U', b'6.1.5'); signal.pause()")
    with pytest.raises(GuestTimeout, match=r"^no end after 0.5 s, the guest was stopped; the console was silent$"):
        machine.run(timeout=0.5)
    assert not alive(int(pid.read_text()))


def alive(pid: int) -> bool:
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    return True


def test_an_interrupt_leaves_no_machine_behind(machine: Machine) -> None:
    pid = machine.directory / "pid"
    machine.does(f"open({str(pid)!r}, 'w').write(str(os.getpid())); frame('O', b'!'); signal.pause()")

    class Interrupted(io.BytesIO):
        def flush(self) -> None:
            raise KeyboardInterrupt

    machine.output = Interrupted()
    with pytest.raises(KeyboardInterrupt):
        machine.run()
    assert not alive(int(pid.read_text()))


def test_what_the_machine_is_made_of(machine: Machine) -> None:
    machine.does("frame('O', '\\n'.join(words).encode()); frame('X', b'0'); signal.pause()")
    assert machine.run(memory=2000) == 0
    words = machine.output.getvalue().decode().splitlines()
    after = dict(itertools.pairwise(words))
    assert after["-accel"].startswith("tcg"), "KVM may be there and not work"
    assert after["-nic"] == "none"
    assert after["-m"] == "2000"
    assert after["-kernel"] == "vmlinuz"
    assert "rdinit=/init" in after["-append"].split()


def test_too_little_memory_is_said_before_it_hangs(machine: Machine) -> None:
    with pytest.raises(GuestError, match=r"^memory: 100 MiB is not enough for this image; it needs 256$"):
        machine.run(memory=100)


def test_what_is_not_installed(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    why = guest.available()
    assert why is not None
    assert why.startswith(f"not installed: {guest.QEMU}, ldd")
    with pytest.raises(GuestError, match="not installed"):
        guest.run(Kernel(Path("vmlinuz"), None, "6.1.5"), ["true"])


# ------------------------------------------------------------------------------------------------------------- what comes back


def test_files_come_back(machine: Machine, tmp_path: Path) -> None:
    (machine.directory / "files").write_bytes(archive(**{"report.xml": b"<xml/>", "below/one": b"1"}))
    machine.does(f"frame('F', open({str(machine.directory / 'files')!r}, 'rb').read()); frame('X', b'0'); signal.pause()")
    share = tmp_path / "made" / "for it"
    assert machine.run(share=share) == 0
    assert {str(path.relative_to(share)): path.read_bytes() for path in share.rglob("*") if path.is_file()} == {
        "report.xml": b"<xml/>",
        "below/one": b"1",
    }


@pytest.mark.parametrize("name", ["/etc/passwd", "../outside", "a/../../outside"])
def test_files_cannot_come_out_elsewhere(tmp_path: Path, name: str) -> None:
    with pytest.raises(GuestError, match=f"the guest sent a file with the path {name}"):
        guest._unpack(archive(**{name: b"x"}), tmp_path / "share")
    assert list(tmp_path.iterdir()) == []


# ------------------------------------------------------------------------------------------------------------- the first process


def reported(act: Callable[[int], object]) -> list[tuple[str, bytes]]:
    """What the first process reports while it does this."""
    reading, writing = os.pipe()
    pieces: list[bytes] = []

    def read() -> None:
        with os.fdopen(reading, "rb") as line:
            pieces.append(line.read())

    reader = threading.Thread(target=read)
    reader.start()
    act(writing)
    os.close(writing)
    reader.join()
    return list(guest._frames(bytearray(pieces[0])))


@pytest.mark.parametrize(
    ("command", "status", "reports"),
    [
        (["sh", "-c", "echo out; exit 3"], 3, [("O", b"out\n")]),
        (["sh", "-c", "echo err >&2"], 0, [("E", b"err\n")]),
        (["sh", "-c", "kill -9 $$"], 128 + signal.SIGKILL, []),
        (["no-such-program"], 127, [("E", b"no-such-program: No such file or directory\n")]),
        (["/"], 126, [("E", b"/: Permission denied\n")]),
    ],
)
def test_a_command_and_its_exit_status(command: list[str], status: int, reports: list[tuple[str, bytes]]) -> None:
    got: list[int] = []
    assert reported(lambda line: got.append(_guest_init._run(line, command, "/"))) == reports
    assert got == [status]


def test_only_files_that_were_written_are_sent(tmp_path: Path) -> None:
    for name in ("same", "changed", "sub/same"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("old")
    before = _guest_init._files(str(tmp_path))
    (tmp_path / "changed").write_text("longer than before")
    (tmp_path / "sub/new").write_text("new")
    (tmp_path / "link").symlink_to("same")
    new = sorted(name for name, *_ in _guest_init._files(str(tmp_path)) - before)
    assert new == ["changed", "sub/new"]
    packed = _guest_init._archive(str(tmp_path), new)
    guest._unpack(packed, tmp_path / "home")
    assert (tmp_path / "home/sub/new").read_text() == "new"
    assert _guest_init._files(None) == set()


def test_the_first_process_needs_the_standard_library_alone() -> None:
    """It runs with -S: without site-packages."""
    source = Path(_guest_init.__file__).read_text()
    program = f"import sys; __name__ = 'not main'; exec({source!r})"
    subprocess.run([sys.executable, "-IS", "-c", program], check=True)


def test_the_order_names_what_is_wanted(tmp_path: Path) -> None:
    image = guest.build_image(Kernel(Path("vmlinuz"), None, "6.1.5"), ["sh", "-c", "true"], tmp_path, tmp_path / "share")
    order = json.loads(archive_of(image)[_guest_init.ORDER].content)
    assert order["command"] == ["sh", "-c", "true"]
    assert order["directory"] == str(tmp_path)
    assert order["share"] == str(tmp_path / "share")
    assert order["environment"]["PATH"].split(":")[0] == os.path.dirname(sys.executable)
    assert {"/init", "/dev/console", str(tmp_path / "share"), sys.executable} <= set(image.paths)


# ------------------------------------------------------------------------------------------------------------- a real one


def test_a_real_guest(tmp_path: Path) -> None:
    """Another kernel runs a program of ours as root, in a copy of this tree, and its file comes back."""
    probes.require("guest")
    program = "import os, sys, nfnl; print(os.uname().release, os.getuid()); open(sys.argv[1], 'w').write(os.getcwd())"
    output, errors = io.BytesIO(), io.BytesIO()
    kernel = guest.find_kernel(probes.BOOT)
    status = guest.run(
        *(kernel, [sys.executable, "-c", program, str(tmp_path / "cwd")]),
        share=tmp_path,
        output=output,
        errors=errors,
        timeout=120,
    )
    assert (status, errors.getvalue()) == (0, b"")
    release, uid = output.getvalue().decode().split()
    assert kernel.modules is None or release == kernel.modules.name
    assert uid == "0"
    assert (tmp_path / "cwd").read_text() == os.getcwd()
