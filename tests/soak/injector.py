"""Faults in what a process does to files: an error, an interrupt or a sudden end at the k-th deed, and at no other."""

from __future__ import annotations

import builtins
import errno
import fcntl
import io
import os
import signal
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

ERRORS = {"no space": errno.ENOSPC, "I/O error": errno.EIO, "no permission": errno.EACCES}
KINDS = (*ERRORS, "interrupt before", "interrupt after", "kill before", "kill after")
KILLED = 137
_WRITES = os.O_WRONLY | os.O_RDWR | os.O_CREAT | os.O_TRUNC
_BY_PATH = ("mkdir", "rmdir", "unlink", "remove", "rename", "replace", "link", "symlink", "chmod", "truncate", "utime")
_BY_DESCRIPTOR = ("fsync", "fdatasync", "fchmod", "ftruncate")


class Injector:
    """Counts the deeds on files below a folder, and lets one of them go wrong."""

    def __init__(self, world: Path, *, at: int | None = None, kind: str = "", log: Path | None = None) -> None:
        """Say what goes wrong.

        Args:
            world: Deeds elsewhere are not counted.
            at: Number of the deed that goes wrong, from 0; None = none does.
            kind: Of `KINDS`.
            log: Each deed is written here, one a line.
        """
        self._world = os.path.realpath(world)
        self._at, self._kind = at, kind
        self._log = log
        self._noted: int | None = None
        self._count = 0

    def install(self) -> None:
        """Watch this process from now on."""
        if self._log:
            self._noted = os.open(self._log, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
        for name in _BY_PATH:
            setattr(os, name, self._by_path(name, getattr(os, name)))
        for name in _BY_DESCRIPTOR:
            setattr(os, name, self._by_descriptor(name, getattr(os, name)))
        fcntl.flock = self._by_descriptor("flock", fcntl.flock)
        self._write = os.write
        os.write = self._os_write
        self._os_open, os.open = os.open, self._open_descriptor
        self._io_open = io.open
        builtins.open = io.open = self._open
        setattr(os, "fdopen", self._open_existing)  # noqa: B010

    def deed(self, what: str, path: str, do: Callable[[], Any], half: Callable[[], Any] | None = None) -> Any:
        """Do it, or have it go wrong; where it can be done by half, an error comes after one half."""
        number, self._count = self._count, self._count + 1
        if self._noted is not None:
            self._write(self._noted, f"{what} {os.path.relpath(path, self._world)}\n".encode(errors="replace"))
        if number != self._at:
            return do()
        if self._kind in ERRORS:
            if half:
                half()
            raise OSError(ERRORS[self._kind], os.strerror(ERRORS[self._kind]), path)
        if self._kind.endswith("after"):
            do()
        elif half:
            half()
        if self._kind.startswith("kill"):
            os._exit(KILLED)
        if threading.current_thread() is threading.main_thread():
            raise KeyboardInterrupt
        os.kill(os.getpid(), signal.SIGINT)
        return None

    def _inside(self, path: Any, folder: int | None = None) -> str | None:
        """Return the real path of what is changed, if it is watched."""
        if isinstance(path, int):
            path = self._path_of(path)
        if not isinstance(path, str | bytes | os.PathLike):
            return None
        text = os.fsdecode(path)
        text = os.path.join(self._path_of(folder), text) if folder is not None else os.path.abspath(text)
        place = os.path.realpath(os.path.dirname(text))
        watched = place == self._world or place.startswith(f"{self._world}/")
        return os.path.join(place, os.path.basename(text)) if watched else None

    def _path_of(self, descriptor: int) -> str:
        try:
            return os.readlink(f"/proc/self/fd/{descriptor}")
        except OSError:
            return "/"

    def _by_path(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            found = self._inside(arguments[0], options.get("dir_fd", options.get("src_dir_fd")))
            if found is None:
                return original(*arguments, **options)
            return self.deed(name, found, lambda: original(*arguments, **options))

        return call

    def _by_descriptor(self, name: str, original: Callable[..., Any]) -> Callable[..., Any]:
        def call(file: Any, *arguments: Any) -> Any:
            found = self._inside(file if isinstance(file, int) else file.fileno())
            if found is None:
                return original(file, *arguments)
            return self.deed(name, found, lambda: original(file, *arguments))

        return call

    def _os_write(self, descriptor: int, content: Any) -> int:
        found = self._inside(descriptor)
        if found is None:
            return self._write(descriptor, content)
        half = memoryview(content)[: len(content) // 2]
        written: int = self.deed(
            "write", found, lambda: self._write(descriptor, content), lambda: self._write(descriptor, half)
        )
        return written

    def _open_descriptor(self, path: Any, flags: int, *arguments: Any, **options: Any) -> int:
        found = self._inside(path, options.get("dir_fd")) if flags & _WRITES else None
        if found is None:
            return self._os_open(path, flags, *arguments, **options)
        opened: int = self.deed("open", found, lambda: self._os_open(path, flags, *arguments, **options))
        return opened

    def _open(self, file: Any, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        writes = any(letter in mode for letter in "wax+")
        found = self._inside(file) if writes else None
        if found is None:
            return self._io_open(file, mode, *arguments, **options)
        opened = self.deed("open", found, lambda: self._io_open(file, mode, *arguments, **options))
        return _File(opened, self, found)

    def _open_existing(self, descriptor: int, mode: str = "r", *arguments: Any, **options: Any) -> Any:
        found = self._inside(descriptor)
        opened = self._io_open(descriptor, mode, *arguments, **options)
        return _File(opened, self, found) if found and any(letter in mode for letter in "wax+") else opened


class _File:
    """A file that is written to, its deeds counted."""

    def __init__(self, file: Any, injector: Injector, path: str) -> None:
        self._file, self._injector, self._path = file, injector, path

    def write(self, content: Any) -> Any:
        def half() -> None:
            self._file.write(content[: len(content) // 2])
            self._file.flush()

        return self._injector.deed("write", self._path, lambda: self._file.write(content), half)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def flush(self) -> None:
        self._injector.deed("flush", self._path, self._file.flush)

    def close(self) -> None:
        if not self._file.closed:
            self._injector.deed("close", self._path, self._file.close, self._file.close)

    def __enter__(self) -> _File:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def __iter__(self) -> Any:
        return iter(self._file)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)
