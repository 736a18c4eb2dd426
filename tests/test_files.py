"""A file is whole or as it was, and nothing is left over."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from clipfit_cli.errors import ConfigError
from clipfit_cli.files import (
    expanded,
    file_sha256,
    folder_written_whole,
    read_bytes,
    read_text,
    remove_unfinished,
    why_no_folder,
    write_through,
    write_whole,
    written_whole,
)

KILLED = """
import sys, time
from pathlib import Path
from typing import Any
from clipfit_cli.files import written_whole
with written_whole(Path(sys.argv[1])) as file:
    file.write(b"half")
    file.flush()
    print("writing", flush=True)
    time.sleep(60)
"""


def test_a_file_is_replaced_whole(tmp_path: Path) -> None:
    path = tmp_path / "a[1]*.csv"
    write_whole(path, "one\n")
    with pytest.raises(ZeroDivisionError), written_whole(path) as file:
        file.write(b"two")
        raise ZeroDivisionError
    assert path.read_text(encoding="utf-8") == "one\n"
    path.chmod(0o600)
    write_whole(path, b"three")
    assert path.read_bytes() == b"three" and path.stat().st_mode & 0o777 == 0o600, "what was private stays so"
    path.unlink()
    write_whole(path, b"three")
    assert [found.name for found in tmp_path.iterdir()] == [path.name]
    assert path.stat().st_mode & 0o777 == 0o666 & ~_umask()


def test_what_a_killed_process_left_goes_and_what_is_being_written_stays(tmp_path: Path) -> None:
    path = tmp_path / "a[1]*.csv"
    process = subprocess.Popen([sys.executable, "-c", KILLED, str(path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "writing\n"
    write_whole(path, "whole")
    assert len(list(tmp_path.iterdir())) == 2
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    write_whole(tmp_path / "a1x.csv", "another")
    assert len(list(tmp_path.iterdir())) == 3
    remove_unfinished(path)
    assert sorted(found.name for found in tmp_path.iterdir()) == ["a1x.csv", path.name]
    assert path.read_text(encoding="utf-8") == "whole"


@pytest.mark.parametrize("has_exchange", [True, False])
def test_a_folder_is_replaced_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, has_exchange: bool) -> None:
    if not has_exchange:
        monkeypatch.setattr("ctypes.CDLL", lambda *_, **__: None)
    path = tmp_path / "run"
    for content in ("one", "two"):
        with folder_written_whole(path) as folder:
            (folder / content).write_text(content, encoding="utf-8")
        with pytest.raises(ZeroDivisionError), folder_written_whole(path) as folder:
            (folder / "three").touch()
            raise ZeroDivisionError
        assert [found.name for found in path.iterdir()] == [content]
    assert list(tmp_path.iterdir()) == [path]
    assert path.stat().st_mode & 0o777 == 0o777 & ~_umask()


def test_a_folder_comes_back_if_its_writer_dies_between_two_renames(tmp_path: Path) -> None:
    path, old = tmp_path / "run", tmp_path / ".run.xyz.old.unfinished"
    old.mkdir()
    (old / "record").touch()
    (tmp_path / ".run.xyz.unfinished").mkdir()
    remove_unfinished(path)
    assert (path / "record").exists()
    assert list(tmp_path.iterdir()) == [path]


def test_an_empty_file_of_a_killed_process_goes_at_once(tmp_path: Path) -> None:
    left = tmp_path / ".a.csv.xyz.unfinished"
    left.touch()
    remove_unfinished(tmp_path / "a.csv")
    assert not left.exists()


def _write(path: Path, kind: str) -> None:
    if kind == "file":
        write_whole(path, "x")
    else:
        with folder_written_whole(path) as folder:
            (folder / "x").touch()
    assert path.is_file() if kind == "file" else (path / "x").is_file()


@pytest.mark.parametrize("moment", ["before it is opened", "before it is held", "while another holds it"])
@pytest.mark.parametrize("kind", ["file", "folder"])
def test_what_another_removes_before_it_is_held_is_made_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str, moment: str
) -> None:
    fcntl = pytest.importorskip("fcntl")
    lock, opened, path = fcntl.flock, os.open, tmp_path / "a"
    calls: list[str] = []

    def lose(function: Callable[..., Any], *arguments: Any) -> Any:
        """Do as the other process does, the first time."""
        calls.append("")
        if len(calls) == 1:
            if moment == "while another holds it":
                raise BlockingIOError
            for left in tmp_path.glob(".a.*"):
                shutil.rmtree(left) if left.is_dir() else left.unlink()
        return function(*arguments)

    def lose_opened(name: Any, *arguments: Any, **words: Any) -> int:
        mine = str(name).endswith(".unfinished") and not arguments[0] & os.O_CREAT
        return int(lose(opened, name, *arguments)) if mine else opened(name, *arguments, **words)

    if moment == "before it is opened":
        monkeypatch.setattr(os, "open", lose_opened)
    else:
        monkeypatch.setattr(fcntl, "flock", lambda *arguments: lose(lock, *arguments))
    _write(path, kind)
    assert len(calls) >= 2


@pytest.mark.parametrize("kind", ["file", "folder"])
def test_all_is_written_and_nothing_removed_where_there_are_no_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    def no_locks(*_: int) -> None:
        raise OSError(errno.ENOLCK, "no locks")

    fcntl = pytest.importorskip("fcntl")
    monkeypatch.setattr(fcntl, "flock", no_locks)
    left = tmp_path / ".a.xyz.unfinished"
    left.touch()
    _write(tmp_path / "a", kind)
    assert left.exists()
    assert len(list(tmp_path.iterdir())) == 2


def test_paths_that_lead_nowhere_are_refused() -> None:
    with pytest.raises(ConfigError, match="no user"):
        expanded("~nobody-of-this-name/x")
    with pytest.raises(ConfigError, match="NUL"):
        expanded("a\0b")
    assert expanded("~") == Path.home()


@pytest.mark.parametrize(
    ("place", "reason"),
    [
        ("there", None),
        ("not/there/yet", None),
        ("file/x", "cannot be made: {}/file is no folder"),
        ("pipe/x/y", "cannot be made: {}/pipe is no folder"),
        ("/dev/null/x", "cannot be made: /dev/null is no folder"),
        ("round/x", "cannot be made: {}/round is no folder"),
        ("n" * 300, "cannot be made: File name too long"),
        ("there/" + "n/" * 5000, "cannot be made: File name too long"),
    ],
    ids=lambda value: str(value)[:12],
)
def test_what_keeps_a_folder_from_being_made(place: str, reason: str | None, tmp_path: Path) -> None:
    (tmp_path / "there").mkdir()
    (tmp_path / "file").touch()
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "round").symlink_to("round")
    before = sorted(tmp_path.rglob("*"))
    assert why_no_folder(tmp_path / place) == (reason and reason.replace("{}", str(tmp_path)))
    assert sorted(tmp_path.rglob("*")) == before, "nothing is made"


def test_a_folder_that_one_may_not_write_into(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "access", lambda path, mode: Path(path) != tmp_path)
    assert why_no_folder(tmp_path / "a" / "b") == f"cannot be made: you may not write into {tmp_path}"


def test_the_digest_is_of_all_files_in_a_row(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"ab")
    (tmp_path / "b").write_bytes(b"c")
    assert file_sha256(tmp_path / "a", tmp_path / "b") == (
        "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
    )
    with pytest.raises(FileNotFoundError):
        file_sha256(tmp_path / "c")


def _umask() -> int:
    mask = os.umask(0)
    os.umask(mask)
    return mask


@pytest.mark.skipif(os.name == "nt", reason="has no pipes")
def test_only_regular_files_of_a_bounded_size_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    (tmp_path / "file").write_bytes(b"12345")
    assert read_bytes(tmp_path / "file", 5) == b"12345"
    with pytest.raises(OSError, match="it has 5 bytes, at most 4 are accepted"):
        read_bytes(tmp_path / "file", 4)
    for path in (tmp_path / "pipe", Path("/dev/zero"), Path("/dev/tty"), tmp_path):
        with pytest.raises(OSError):
            read_bytes(path, 5)
    for name in ("a\0", "\ud800", "x" * 5000):
        with pytest.raises(OSError):
            read_bytes(tmp_path / name, 5)
    with pytest.raises(OSError):
        file_sha256(tmp_path / "file", tmp_path / "pipe")


@pytest.mark.slow
@pytest.mark.skipif(os.name == "nt", reason="has no pipes")
def test_a_pipe_without_a_reader_is_no_end(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pipe = tmp_path / "pipe"
    os.mkfifo(pipe)
    monkeypatch.setattr("clipfit_cli.files._WAIT_S", 0.1)
    with pytest.raises(OSError, match="nobody reads"):
        write_through(pipe, b"x")
    monkeypatch.setattr("clipfit_cli.files._WAIT_S", 60)
    content, readers = b"x" * 1_000_000, list[subprocess.Popen[bytes]]()

    def sleep(seconds: float) -> None:
        if not readers:
            readers.append(subprocess.Popen(["sh", "-c", 'cat "$0" > "$0.read"', str(pipe)]))
        time.sleep(seconds)

    monkeypatch.setattr("clipfit_cli.files.time", SimpleNamespace(monotonic=time.monotonic, sleep=sleep))
    write_through(pipe, content)
    assert readers[0].wait() == 0 and (tmp_path / "pipe.read").read_bytes() == content
    write_through(tmp_path / "new", b"x")
    assert (tmp_path / "new").read_bytes() == b"x"
    with pytest.raises(OSError):
        write_through(tmp_path, b"x")


def test_text_is_utf8(tmp_path: Path) -> None:
    (tmp_path / "text").write_bytes(b"\xef\xbb\xbfB\xc3\xa4r\r\n")
    assert read_text(tmp_path / "text") == "Bär\r\n"
    (tmp_path / "text").write_bytes(b"B\xe4r")
    with pytest.raises(OSError, match="it is not UTF-8 text"):
        read_text(tmp_path / "text")


@pytest.mark.parametrize("letter", ["a", "\u00fc", "\u4e2d", "\U0001f600"])
def test_names_may_be_as_long_as_the_system_allows(tmp_path: Path, letter: str) -> None:
    name = letter * (255 // len(letter.encode()))
    write_whole(tmp_path / name, "whole")
    with folder_written_whole(tmp_path / "folder" / name):
        pass
    assert (tmp_path / name).is_file() and (tmp_path / "folder" / name).is_dir()
