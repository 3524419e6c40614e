"""The file system of a guest: what goes into it, and the archive the kernel unpacks."""

from __future__ import annotations

import importlib.util
import os
import py_compile
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from nfnl.testing._image import Image, ImageError
from tests import probes
from tests.unit.testing.cpio import Member, archive_of

# ------------------------------------------------------------------------------------------------------------- the archive


@pytest.mark.parametrize("name", range(1, 9))
@pytest.mark.parametrize("size", range(5))
def test_names_and_contents_of_every_length(name: int, size: int) -> None:
    image = Image()
    image.write("/" + "n" * name, b"x" * size)
    image.write("/z", b"behind it")
    files = archive_of(image)
    assert files["/" + "n" * name].content == b"x" * size
    assert files["/z"].content == b"behind it"


def test_kinds_of_files() -> None:
    image = Image()
    image.write("/a/b/file", "text", mode=0o755)
    image.directory("/tmp", mode=0o1777)
    image.device("/dev/null", 1, 3)
    image.link("/a/link", "b/file")
    files = archive_of(image)
    assert {path: oct(member.mode) for path, member in files.items()} == {
        "/a": "0o40755",
        "/a/b": "0o40755",
        "/a/b/file": "0o100755",
        "/a/link": "0o120777",
        "/dev": "0o40755",
        "/dev/null": "0o20600",
        "/tmp": "0o41777",
    }
    assert files["/dev/null"].device == (1, 3)
    assert files["/a/link"].content == b"b/file"


def test_the_same_path_twice_is_one_file() -> None:
    image = Image()
    image.write("/file", "old")
    image.write("/file", "new")
    assert archive_of(image)["/file"].content == b"new"


# ------------------------------------------------------------------------------------------------------------- files of here


def test_a_file_keeps_its_path_mode_and_time(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"content")
    path.chmod(0o640)
    os.utime(path, (1234567, 1234567.9))
    image = Image()
    image.copy(path)
    member = archive_of(image)[str(path.resolve())]
    assert (member.mode, member.mtime, member.content) == (stat.S_IFREG | 0o640, 1234567, b"content")


def test_every_link_on_the_way_comes_along(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / "usr/lib").mkdir(parents=True)
    (root / "usr/lib/so.1.2").write_bytes(b"library")
    (root / "usr/lib/so.1").symlink_to("so.1.2")
    (root / "lib").symlink_to("usr/lib")
    (root / "usr/up").symlink_to("../lib/so.1")
    (root / "usr/far").symlink_to(root / "usr/up")
    image = Image()
    image.copy(root / "usr/far")
    files = archive_of(image)
    inside = {path.removeprefix(f"{root}/"): member.content for path, member in files.items() if path.startswith(f"{root}/")}
    assert inside == {
        "lib": b"usr/lib",
        "usr": b"",
        "usr/far": str(root / "usr/up").encode(),
        "usr/lib": b"",
        "usr/lib/so.1": b"so.1.2",
        "usr/lib/so.1.2": b"library",
        "usr/up": b"../lib/so.1",
    }


def test_what_is_written_below_a_link_is_where_the_link_leads(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    (root / "usr/lib").mkdir(parents=True)
    (root / "lib").symlink_to("usr/lib")
    image = Image()
    image.copy(root / "lib")
    image.write(root / "lib/modules/one", "1")
    files = archive_of(image)
    assert files[f"{root}/usr/lib/modules/one"].content == b"1"
    assert f"{root}/lib/modules" not in files


def test_links_in_a_circle_are_refused(tmp_path: Path) -> None:
    (tmp_path / "a").symlink_to("b")
    (tmp_path / "b").symlink_to("a")
    with pytest.raises(OSError, match="leads to itself"):
        Image().copy(tmp_path / "a")


def test_a_tree_without_what_nobody_wants(tmp_path: Path) -> None:
    root = tmp_path.resolve()
    for path in (
        ".git/HEAD",
        "node_modules/x",
        "__pycache__/x.pyc",
        ".venv/bin/python",
        "env/pyvenv.cfg",
        "docs/a.md",
        ".hidden",
        "b",
    ):
        (root / path).parent.mkdir(parents=True, exist_ok=True)
        (root / path).write_text("x")
    image = Image()
    image.tree(root)
    assert {path.removeprefix(f"{root}/") for path in image.paths if path.startswith(f"{root}/")} == {
        ".hidden",
        "b",
        "docs",
        "docs/a.md",
    }


def test_directories_that_git_ignores_stay_at_home(tmp_path: Path) -> None:
    probes.require("git")
    for path in ("build/a.bin", "build/deep/b.bin", "kept/a.so", "kept/a.c", "c.py", "own.egg-info/entry_points.txt"):
        (tmp_path / path).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / path).write_text("")
    (tmp_path / ".gitignore").write_text("build/\n*.so\n*.egg-info/\n")
    subprocess.run(["git", "init", "-q", tmp_path], check=True)
    image = Image()
    image.tree(tmp_path)
    found = {path.removeprefix(f"{tmp_path}/") for path in image.paths if path.startswith(f"{tmp_path}/")}
    assert not {path for path in found if path.startswith("build")}
    assert {"kept/a.so", "c.py", "own.egg-info/entry_points.txt"} <= found


def test_a_tree_that_is_none(tmp_path: Path) -> None:
    (tmp_path / "big").write_bytes(bytes((1 << 20) + 1))
    with pytest.raises(ImageError, match=r"holds more than 1 MiB: too much to take into a guest"):
        Image().tree(tmp_path, limit=1 << 20)


# ------------------------------------------------------------------------------------------------------------- Python


def compiled_of(image: Image, source: Path) -> Member | None:
    return archive_of(image).get(importlib.util.cache_from_source(str(source.resolve()), optimization=""))


def test_a_source_comes_compiled(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("answer = 42\n")
    image = Image()
    image.tree(tmp_path)
    compiled = compiled_of(image, source)
    assert compiled is not None
    assert not (tmp_path / "__pycache__").exists(), "nothing is written here"
    # importable, and taken for what belongs to this source
    cache = tmp_path / "__pycache__" / Path(compiled.name).name
    cache.parent.mkdir()
    cache.write_bytes(compiled.content)
    told = subprocess.run(
        [sys.executable, "-v", "-c", "import module; print(module.answer)"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=True,
    )
    assert told.stdout == "42\n"
    assert f"{cache} matches {source}" in told.stderr


def test_what_was_compiled_before_the_last_change_is_compiled_again(tmp_path: Path) -> None:
    source = tmp_path / "module.py"
    source.write_text("answer = 41\n")
    subprocess.run(
        [sys.executable, "-c", "import module"], cwd=tmp_path, check=True, env=os.environ | {"PYTHONDONTWRITEBYTECODE": ""}
    )
    stale = Path(importlib.util.cache_from_source(str(source), optimization="")).read_bytes()
    source.write_text("answer = 4200\n")
    image = Image()
    image.tree(tmp_path)
    compiled = compiled_of(image, source)
    assert compiled is not None
    assert compiled.content != stale
    assert compiled.content[12:16] == len("answer = 4200\n").to_bytes(4, "little")


@pytest.mark.parametrize("by", [py_compile.PycInvalidationMode.TIMESTAMP, py_compile.PycInvalidationMode.CHECKED_HASH])
@pytest.mark.parametrize("changed", [False, True])
def test_what_others_have_compiled_comes_along_if_it_is_of_this_source(
    tmp_path: Path, by: py_compile.PycInvalidationMode, changed: bool
) -> None:
    source = tmp_path / "test_module.py"
    source.write_text("assert 6 * 7 == 42\n")
    own = Path(importlib.util.cache_from_source(str(source), optimization=""))
    rewritten = own.with_name(f"{own.stem}-pytest-9.2.0.pyc")
    py_compile.compile(str(source), str(rewritten), invalidation_mode=by)
    if changed:
        source.write_text("assert 6 * 9 == 420\n")
    image = Image()
    image.tree(tmp_path)
    assert (str(rewritten) in image.paths) is not changed


def test_a_source_that_cannot_be_compiled_comes_as_it_is(tmp_path: Path) -> None:
    source = tmp_path / "template.py"
    source.write_text("{{ not python }} !\n")
    image = Image()
    image.tree(tmp_path)
    assert archive_of(image)[str(source.resolve())].content == b"{{ not python }} !\n"
    assert compiled_of(image, source) is None


@pytest.fixture(scope="module")
def python() -> Image:
    image = Image()
    image.python()
    image.libraries()
    return image


def test_this_python_and_its_environment(python: Image) -> None:
    paths = set(python.paths)
    for module in ("json.decoder", "_ctypes", "construct", "hypothesis", "pytest", "scapy", "nfnl.sim", "nfnl.testing.guest"):
        found = importlib.util.find_spec(module)
        assert found is not None
        assert found.origin is not None
        assert os.path.realpath(found.origin) in paths, module
    assert sys.executable in paths
    assert os.path.realpath(sys.executable) in paths


def test_without_tools_and_screens(python: Image) -> None:
    assert not any(
        "/tkinter/" in path or "/site-packages/pip/" in path or "/__pycache__/os.cpython-3.opt" in path for path in python.paths
    )


def test_the_libraries_of_extension_modules(python: Image) -> None:
    libraries = {path.rpartition("/")[2] for path in python.paths}
    assert "libc.so.6" in libraries
    assert any(name.startswith("libffi.so") for name in libraries), "of _ctypes"
    assert any(name.startswith("ld-linux") for name in libraries), "the loader"


# ------------------------------------------------------------------------------------------------------------- programs


def test_a_program_brings_links_and_libraries() -> None:
    image = Image()
    assert image.program("sh")
    image.libraries()
    assert os.path.realpath("/bin/sh") in image.paths
    assert any(path.endswith("/libc.so.6") for path in image.paths)


def test_a_script_brings_its_interpreter(tmp_path: Path) -> None:
    script = tmp_path.resolve() / "script"
    script.write_text("#! /bin/sh -e\ntrue\n")
    script.chmod(0o755)
    image = Image()
    assert image.program(script)
    assert {str(script), os.path.realpath("/bin/sh")} <= set(image.paths)


def test_a_program_that_is_not_installed() -> None:
    image = Image()
    assert not image.program("no-such-program-anywhere")
    assert image.paths == []
