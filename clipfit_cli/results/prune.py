"""What a runs folder can do without: runs that are not wanted any more, and what killed processes left."""

from __future__ import annotations

import os
import secrets
import shutil
import stat
from collections.abc import Iterable, Iterator
from contextlib import AbstractContextManager, ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path

from clipfit_cli.config import NUMBERS_VERSION
from clipfit_cli.errors import ConfigError, ResultsError
from clipfit_cli.files import left_unfinished, remove_unfinished
from clipfit_cli.results.record import OldRecordError, Run
from clipfit_cli.results.store import RECORD_FILE, RunStore, key_digits, read_run
from clipfit_cli.results.verify import on_the_way, unrecorded


@dataclass(frozen=True)
class Surplus:
    """Something that can go.

    Attributes:
        path: A folder of a run, a checkpoint in one, or a file or folder that was never finished.
        why: ``chosen``, ``damaged``, ``old``, ``checkpoint`` or ``unfinished``.
        num_bytes: That its files hold.
    """

    path: Path
    why: str
    num_bytes: int


def unfinished(runs_dir: Path) -> list[Surplus]:
    """What killed processes left, where nobody is writing it."""
    found: list[Path] = []
    for top, folders, names in os.walk(runs_dir):
        left = [name for name in (*folders, *names) if left_unfinished(Path(top) / name)]
        found += [Path(top) / name for name in left]
        folders[:] = [name for name in folders if name not in left]
    return [_surplus(path, "unfinished") for path in sorted(found)]


def damaged(runs_dir: Path) -> list[Surplus]:
    """The runs whose own record is missing or cannot be read; those of an older schema are not among them."""
    found = [*unrecorded(runs_dir)]
    for folder in RunStore(runs_dir).all_folders():
        try:
            read_run(folder / RECORD_FILE)
        except OldRecordError:
            continue
        except ResultsError:
            found.append(folder)
    return [_surplus(folder, "damaged") for folder in sorted(found)]


def old(runs_dir: Path) -> list[Surplus]:
    """The runs of earlier numbers or an older schema, which are not taken for runs of now."""
    found = []
    for folder in RunStore(runs_dir).all_folders():
        try:
            run = read_run(folder / RECORD_FILE)
        except OldRecordError:
            found.append(folder)
        except ResultsError:
            continue
        else:
            if run and is_old(run):
                found.append(folder)
    return [_surplus(folder, "old") for folder in found]


def checkpoints(runs_dir: Path) -> list[Surplus]:
    """The checkpoints of trainings that are on their way, or were given up."""
    return [_surplus(path, "checkpoint") for path in on_the_way(runs_dir)]


def chosen(folders: Iterable[Path], runs_dir: Path) -> list[Surplus]:
    """Folders of runs that were chosen by hand.

    Raises:
        ConfigError: One does not lie in the runs folder, where runs lie.
    """
    return [_surplus(_checked(folder, runs_dir), "chosen") for folder in folders]


def is_old(run: Run) -> bool:
    """Whether a training is of earlier numbers than those of now."""
    return run.numbers_version != NUMBERS_VERSION


def remove(surplus: Surplus, runs_dir: Path) -> bool:
    """Remove something that can go, and say whether it is gone; what another process is at stays.

    A run vanishes in one step, and what a crash leaves of it is a killed process's.

    Args:
        surplus: Of this runs folder.
        runs_dir: Nothing outside of it is removed, nor what a link in it leads to.

    Raises:
        ConfigError: It does not lie in the runs folder.
        ResultsError: It cannot be removed.
    """
    path = surplus.path
    if surplus.why == "unfinished":
        parts = 3 if path.name.endswith(".old.unfinished") else 2
        remove_unfinished(path.with_name(path.name[1:].rsplit(".", parts)[0]))
        return not os.path.lexists(path)
    folder = _checked(path.parent if surplus.why == "checkpoint" else path, runs_dir)
    with ExitStack() as stack:
        if not all(stack.enter_context(held) for held in _locks(folder, runs_dir)):
            return False
        if surplus.why == "checkpoint":
            _remove_checkpoint(path)
            return True
        aside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.unfinished")
        try:
            path.rename(aside)
        except FileNotFoundError:
            return True
        except OSError as error:
            raise ResultsError(f"{path} cannot be removed: {error.strerror or error}; it is untouched") from error
        shutil.rmtree(aside, ignore_errors=True)
    if os.path.lexists(aside):
        raise ResultsError(f"{aside} cannot be removed; check who may write to what is in it")
    return True


def _remove_checkpoint(path: Path) -> None:
    """Remove a checkpoint, and its folder where nothing else is in it.

    Raises:
        ResultsError: It cannot be removed.
    """
    try:
        path.unlink(missing_ok=True)
    except OSError as error:
        raise ResultsError(f"{path} cannot be removed: {error.strerror or error}; it is untouched") from error
    with suppress(OSError):
        path.parent.rmdir()


def _locks(path: Path, runs_dir: Path) -> list[AbstractContextManager[bool]]:
    """Return the locks of a run, as far as its name and its record tell which."""
    store = RunStore(runs_dir)
    digits = key_digits(path)
    keys = {file.stem for file in (runs_dir / ".locks").glob(f"{digits}*.lock")} if digits else set[str]()
    with suppress(ResultsError):
        if run := read_run(path / RECORD_FILE):
            keys.add(run.key)
    return [store.lock(key, blocking=False) for key in sorted(keys)]


def _checked(folder: Path, runs_dir: Path) -> Path:
    """Return a folder of a run as it lies below the runs folder."""
    inside = Path(os.path.realpath(runs_dir))
    own = Path(os.path.realpath(folder.parent)) / folder.name
    parts = own.relative_to(inside).parts if own.is_relative_to(inside) else ()
    if len(parts) != 3 or any(part.startswith(".") for part in parts) or folder.is_symlink():
        raise ConfigError(
            f"{folder} is no folder of a run in {runs_dir}, so it is not removed; --runs-dir names another"
        )
    return folder


def _surplus(path: Path, why: str) -> Surplus:
    return Surplus(path, why, size_of(path))


def size_of(path: Path) -> int:
    """How many bytes a file, or the files in and below a folder, hold; links are not followed."""
    files: Iterator[Path] = (Path(top) / name for top, _, names in os.walk(path) for name in names)
    total = 0
    for file in [path] if not path.is_dir() else files:
        with suppress(OSError):
            status = file.lstat()
            total += status.st_size if stat.S_ISREG(status.st_mode) else 0
    return total
