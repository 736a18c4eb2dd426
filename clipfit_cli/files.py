"""Files that have to be whole: written beside their place, renamed into it; what a killed command left is removed."""

from __future__ import annotations

import ctypes
import errno
import glob
import hashlib
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, suppress
from pathlib import Path
from typing import IO

from clipfit_cli.errors import ConfigError

_UNFINISHED, _OLD = ".unfinished", ".old.unfinished"
_HERE, _RENAME_EXCHANGE = -100, 2  # Linux's fcntl.h and fs.h
_MOST_TEXT = 200_000_000
_WAIT_S, _POLL_S = 5.0, 0.05


def expanded(text: str | Path) -> Path:
    """Return a path with a leading ``~`` or ``~user`` replaced.

    Raises:
        ConfigError: There is no such user, or a NUL in it.
    """
    try:
        if "\0" in str(text):
            raise ConfigError(f"{str(text)!r} is no path: there is a NUL in it")
        return Path(text).expanduser()
    except RuntimeError:
        raise ConfigError(f"{text}: there is no user of that name here; give the whole path") from None


def open_regular(path: Path) -> IO[bytes]:
    """Return a file that is open for reading; a pipe, a device or a folder is refused, not waited for.

    Raises:
        OSError: It cannot be opened, is no regular file, or no file can have this name.
    """
    try:
        file = open(  # noqa: SIM115
            path, "rb", opener=lambda name, flags: os.open(name, flags | getattr(os, "O_NONBLOCK", 0))
        )
    except ValueError as error:  # a NUL, or half a character
        raise OSError(errno.EINVAL, f"no file has such a name ({error})") from error
    if not stat.S_ISREG(os.fstat(file.fileno()).st_mode):
        file.close()
        raise OSError(errno.EINVAL, "it is no regular file")
    return file


def read_bytes(path: Path, limit: int) -> bytes:
    """Return what is in a regular file.

    Args:
        path: The file.
        limit: The most bytes it may have.

    Raises:
        OSError: As `open_regular`; or it cannot be read, or is larger.
    """
    with open_regular(path) as file:
        size = os.fstat(file.fileno()).st_size
        if size > limit:
            raise OSError(errno.EFBIG, f"it has {size:,} bytes, at most {limit:,} are accepted")
        return file.read()


def read_text(path: Path) -> str:
    """Return the text of a regular file of at most 200 MB, UTF-8, without the mark that some programs put first.

    Raises:
        OSError: As `read_bytes`; or it is not UTF-8.
    """
    try:
        return read_bytes(path, _MOST_TEXT).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise OSError(errno.EILSEQ, f"it is not UTF-8 text ({error}); save it as UTF-8") from error


def file_sha256(*paths: Path, kind: str = "sha256") -> str:
    """Return the sha256 (hex), or another digest, of the bytes of files, one after another.

    Raises:
        OSError: One cannot be read.
    """
    digest = hashlib.new(kind, usedforsecurity=False)
    for path in paths:
        with open_regular(path) as stream:
            while block := stream.read(1 << 20):
                digest.update(block)
    return digest.hexdigest()


def why_unreadable(path: Path) -> str | None:
    """Return what keeps a file from being read, as the end of a sentence about it; None where nothing does.

    Pipes and devices, which may never end, are not opened.
    """
    try:
        open_regular(path).close()
    except (FileNotFoundError, NotADirectoryError):
        return "does not exist"
    except OSError as error:
        return f"cannot be read: {error.strerror or error}"
    return None


def why_no_folder(path: Path) -> str | None:
    """Return what keeps a folder from being made, as the end of a sentence about it; None where nothing does.

    As far as one can tell beforehand: nothing is made.

    Args:
        path: What is there of it, or nothing; the folders above it need not be there.
    """
    above = next((one for one in path.parents if os.path.lexists(one)), path)
    if not os.path.isdir(above):  # noqa: PTH112 (Path's raises on a loop of links)
        return f"cannot be made: {above} is no folder"
    try:
        os.lstat(path)
    except FileNotFoundError:
        return None if os.access(above, os.W_OK | os.X_OK) else f"cannot be made: you may not write into {above}"
    except OSError as error:
        return f"cannot be made: {error.strerror}"
    return None


@contextmanager
def written_whole(path: Path) -> Iterator[IO[bytes]]:
    """Yield a file to write in; at the end of the block, and not before, it takes the place of `path`, on the disk.

    If anything goes wrong, what was there stays. What killed processes left of the same file is removed.

    Args:
        path: Its folder is made if it is not there.

    Raises:
        OSError: It cannot be written.
    """
    with _unfinished(path, is_folder=False) as unfinished:
        with unfinished.open("wb") as file:
            yield file
            file.flush()
            unfinished.chmod(stat.S_IMODE(path.stat().st_mode) if path.is_file() else 0o666 & ~_umask())
            os.fsync(file.fileno())
        unfinished.replace(path)


def write_whole(path: Path, content: str | bytes) -> None:
    """Put a file in its place with this content; see `written_whole`.

    Raises:
        OSError: It cannot be written.
    """
    with written_whole(path) as file:
        file.write(content.encode() if isinstance(content, str) else content)


def write_through(path: Path, content: bytes) -> None:
    """Write into what is there, such as a device, or a pipe, whose reader is waited for a few seconds.

    Raises:
        OSError: It cannot be written, or nobody reads.
    """
    until = time.monotonic() + _WAIT_S
    while True:
        try:
            flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | getattr(os, "O_NONBLOCK", 0)
            descriptor = os.open(path, flags, 0o666)
            break
        except OSError as error:
            if error.errno != errno.ENXIO:
                raise
            if time.monotonic() > until:
                raise OSError(errno.ENXIO, "nobody reads from this pipe") from error
            time.sleep(_POLL_S)
    with os.fdopen(descriptor, "wb") as file:
        if hasattr(os, "set_blocking"):
            os.set_blocking(descriptor, True)
        file.write(content)


def remove_unfinished(path: Path) -> None:
    """Remove what killed processes left of a file or folder; what another process is writing stays."""
    with suppress(OSError):
        for left in path.parent.glob(f".{glob.escape(_beginning(path))}.*{_UNFINISHED}"):
            with suppress(OSError), _held(left):
                if left.name.endswith(_OLD) and not path.exists():
                    left.rename(path)
                elif left.is_dir():
                    shutil.rmtree(left)
                else:
                    left.unlink()


def left_unfinished(path: Path) -> bool:
    """Return whether a file or folder is what a killed process left; what another process is writing is not."""
    if not (path.name.startswith(".") and path.name.endswith(_UNFINISHED)):
        return False
    with suppress(OSError), _held(path):
        return True
    return False


@contextmanager
def folder_written_whole(path: Path) -> Iterator[Path]:
    """Yield an empty folder to fill; at the end of the block, and not before, it takes the place of `path` in one step.

    If anything goes wrong, what was there stays. What killed processes left of the same folder is removed, and where
    one died while it replaced the folder in two steps (no Linux), the earlier folder is put back.

    Args:
        path: Anything that is there is replaced; the folder above it is made if it is not there.

    Raises:
        OSError: It cannot be written.
    """
    with _unfinished(path, is_folder=True) as unfinished:
        yield unfinished
        unfinished.chmod(0o777 & ~_umask())
        flush_folder(unfinished)
        if path.is_dir():
            _exchange(unfinished, path)
        else:
            unfinished.rename(path)


def temporary_folder(path: Path) -> AbstractContextManager[Path]:
    """Return the context of an empty folder beside a path, which is gone after the block.

    What killed processes left of such folders is removed.

    Raises:
        OSError: It cannot be made.
    """
    return _unfinished(path, is_folder=True)


def flush_folder(path: Path) -> None:
    """Wait until the folder's list of names is on the disk, where the system can do that."""
    with suppress(OSError):  # Windows opens no folder, some network file systems flush none
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def has_locks(folder: Path) -> bool:
    """Return whether a lock on a file in a folder keeps other processes off; some network file systems have none.

    Raises:
        OSError: No file can be made there.
    """
    with tempfile.TemporaryFile(dir=folder) as file:
        try:
            _lock(file.fileno())
        except OSError:
            return False
    return True


def _beginning(path: Path) -> str:
    """Return what the names of unfinished files begin with: no name has more than 255 bytes."""
    return os.fsencode(path.name)[:150].decode(errors="ignore")


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def _exchange(new: Path, path: Path) -> None:
    """Put a new folder in the place of another, which is then within or in the place of the new one."""
    with suppress(AttributeError, TypeError):  # no Linux, or an old one
        libc = ctypes.CDLL(None, use_errno=True)
        if libc.renameat2(_HERE, os.fsencode(new), _HERE, os.fsencode(path), _RENAME_EXCHANGE) == 0:
            return
    old = new.with_name(new.name.replace(_UNFINISHED, _OLD))
    path.rename(old)
    try:
        new.rename(path)
    except OSError:
        old.rename(path)
        raise
    shutil.rmtree(old, ignore_errors=True)


@contextmanager
def _unfinished(path: Path, *, is_folder: bool) -> Iterator[Path]:
    """Yield a new, empty file or folder beside a path, held; it is gone after the block, and renames are on the disk.

    Another process may take it for a killed one's and remove it before it is held; it is made again then.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    remove_unfinished(path)
    while True:
        words = (_UNFINISHED, f".{_beginning(path)}.", path.parent)
        made = Path(tempfile.mkdtemp(*words)) if is_folder else _empty_file(*words)
        with ExitStack() as stack:
            try:
                stack.enter_context(_held(made))
            except (BlockingIOError, FileNotFoundError):
                continue
            except OSError:  # a file system without locks, where nothing is ever removed as a killed process's
                pass
            if not os.path.lexists(made):
                continue
            try:
                yield made
            finally:
                if is_folder:
                    shutil.rmtree(made, ignore_errors=True)
                else:
                    with suppress(OSError):  # it is not there any more where all went well
                        made.unlink()
            flush_folder(path.parent)
            return


def _empty_file(suffix: str, prefix: str, folder: Path) -> Path:
    descriptor, name = tempfile.mkstemp(suffix, prefix, folder)
    os.close(descriptor)
    return Path(name)


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold a file or folder against every other process.

    Raises:
        OSError: Another holds it.
    """
    if os.name == "nt":  # which opens no folder, and removes nothing that is open
        yield
        return
    descriptor = os.open(path, os.O_RDONLY)
    try:
        _lock(descriptor)
        yield
    finally:
        os.close(descriptor)


def _lock(descriptor: int) -> None:
    """Hold an open file until it is closed, or its process dies.

    Raises:
        OSError: Another process holds it.
    """
    if os.name != "nt":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
