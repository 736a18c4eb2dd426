"""One folder a training: its record, its files and its tests, each complete or not there at all."""

from __future__ import annotations

import errno
import json
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path

from filelock import FileLock, Timeout

from clipfit_cli.config import TrainingConfig
from clipfit_cli.errors import ResultsError, counted
from clipfit_cli.files import folder_written_whole, has_locks, read_bytes, remove_unfinished, write_whole
from clipfit_cli.results.record import SCHEMA_VERSION, AnyRecord, Finished, Run, Test, from_json, to_json
from clipfit_cli.results.request import CLASS_NAMES_END, RunRequest

RECORD_FILE = "record.json"
TESTS_FOLDER = "tests"
REQUESTS_FOLDER = "requests"
CHECKPOINT_FILE = "checkpoint.safetensors"
"""A training on its way; it goes when the training is in its place."""
_KEY_DIGITS = 12
_POLL_S = 0.1
_MOST_BYTES = 100_000_000
_HEAD = re.compile(rb'\{\s*"schema_version": (\d{1,4})\b')

_ADVICE = {
    **dict.fromkeys(
        (errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC)),
        "Free some space, or choose another folder with --runs-dir",
    ),
    **dict.fromkeys((errno.EACCES, errno.EPERM, errno.EROFS), "Choose a folder that you may write to with --runs-dir"),
}
"""What helps where the system says why a file cannot be written."""

Files = Mapping[str, bytes]
"""Name of a file beside a record -> its content."""


class RunStore:
    """The runs folder: `<data set>/<method>/<subset>-<shots>shot-seed<seed>-<key>/record.json`, and `tests/*.json`.

    A record is the only mark of what is finished. Names are for people; keys alone decide, so that a data set that is
    called otherwise finds its runs.
    """

    def __init__(self, runs_dir: Path) -> None:
        """Keep the folder; nothing is created or read before it is needed.

        Args:
            runs_dir: Need not exist.
        """
        self.runs_dir = runs_dir
        self._locks: dict[str, FileLock] = {}
        self._has_locks: bool | None = None

    def folder(self, key: str, config: TrainingConfig, *, is_adapter: bool = False) -> Path:
        """Where a training lives: where it is, or else where it would be.

        Args:
            key: Of the training.
            config: What was trained.
            is_adapter: It is the use of an adapter from elsewhere.
        """
        shots = "all" if config.shots is None else str(config.shots)
        what = "adapter" if is_adapter else f"{config.subset}-{shots}shot-seed{config.seed}"
        name = f"{what}-{key[:_KEY_DIGITS]}"
        own = self.runs_dir / _safe(config.dataset) / _safe(config.method) / name
        if own.exists():
            return own
        found = _visible(self.runs_dir, f"*/{_safe(config.method)}/*-{key[:_KEY_DIGITS]}/{RECORD_FILE}")
        return found[0].parent if found else own

    def all_folders(self) -> list[Path]:
        """The folder of every finished training, sorted."""
        return [path.parent for path in _visible(self.runs_dir, f"*/*/*/{RECORD_FILE}")]

    def made_before(self) -> tuple[str, ...]:
        """A sentence on the runs that were made before 0.3.0, which no command reads; nothing where there are none."""
        count = sum(map(_is_made_before, self.all_folders()))
        is_one = count == 1
        text = (
            f"{self.runs_dir} holds {counted(count, 'run')} made before 0.3.0: run {'it' if is_one else 'them'} again; "
            f"the trained adapter{' still loads' if is_one else 's still load'}"
        )
        return (text,) if count else ()

    def tests_as_it_is(self, run: Run) -> tuple[Test, ...]:
        """Every finished test of the model of a run as it is, on any data set; what cannot be read is left out."""
        found: list[Test] = []
        for path in _visible(self.runs_dir, f"*/*/*-0shot-*/{RECORD_FILE}"):
            with suppress(ResultsError):
                one = _read(path, Run)
                if one and (one.weights_sha256, one.activation) == (run.weights_sha256, run.activation):
                    found += all_tests(path.parent)
        return tuple(found)

    def with_zero_shot(self, records: Iterable[Finished]) -> list[Finished]:
        """Return records with the tests of their models as they are; see `tests_as_it_is`."""
        known: dict[tuple[str, str], tuple[Test, ...]] = {}
        found = []
        for record in records:
            model = record.run.weights_sha256, record.run.activation
            if model not in known:
                known[model] = self.tests_as_it_is(record.run)
            found.append(replace(record, zero_shot=known[model]))
        return found

    @contextmanager
    def lock(self, key: str, *, on_wait: Callable[[], None] | None = None, blocking: bool = True) -> Iterator[bool]:
        """Hold the run of this key against every other process, and say whether it is held.

        Look with `find` before and again inside: who had to wait usually finds the run finished. Free again when a
        holder dies. Lock files are left in place, because deleting one that another process has open would let two in.
        On a file system without locks every run is taken for held: one that two make is made twice, with one result.

        Args:
            key: Of the run.
            on_wait: Called once if another process holds the lock.
            blocking: Whether to wait for it.

        Raises:
            ResultsError: The lock file cannot be created.
        """
        path = self.runs_dir / ".locks" / f"{key}.lock"
        with _explained(path):
            path.parent.mkdir(parents=True, exist_ok=True)
            if self._has_locks is None:
                self._has_locks = has_locks(path.parent)
        if not self._has_locks:
            yield True
            return
        with _explained(path):
            held = self._locks.setdefault(key, FileLock(path))
            with suppress(Timeout):
                held.acquire(blocking=False)
            if blocking and not held.is_locked:
                if on_wait is not None:
                    on_wait()
                held.acquire(poll_interval=_POLL_S)
        try:
            yield held.is_locked
        finally:
            held.release()

    def is_held(self, key: str) -> bool:
        """Whether another process is at the run of a key, or at one whose key begins so; nothing is created."""
        for path in (self.runs_dir / ".locks").glob(f"{key}*.lock") if key else ():
            try:
                with FileLock(path, blocking=False):
                    pass
            except Timeout:
                return True
            except OSError:  # not to be opened here, so nobody can tell
                continue
        return False


def find_run(folder: Path, key: str | None = None) -> Run | None:
    """The training that is finished in a folder, or None.

    Args:
        folder: Need not exist.
        key: That it must have; None = any.

    Raises:
        ResultsError: The record is damaged, unreadable or of another key.
    """
    remove_unfinished(folder)
    return _read(folder / RECORD_FILE, Run, key)


def find_test(folder: Path, key: str) -> Test | None:
    """The finished test of this key in the folder of its training, or None.

    Raises:
        ResultsError: The record is damaged, unreadable or of another key.
    """
    found = _visible(folder, f"{TESTS_FOLDER}/*-{key[:_KEY_DIGITS]}.json")
    return _read(found[0], Test, key) if found else None


def read_run(path: Path) -> Run | None:
    """The training that a file records; None where there is no such file.

    Raises:
        ResultsError: The record is damaged or unreadable.
    """
    return _read(path, Run)


def read_test(path: Path) -> Test | None:
    """The test that a file records; None where there is no such file.

    Raises:
        ResultsError: The record is damaged or unreadable.
    """
    return _read(path, Test)


def test_files(folder: Path) -> list[Path]:
    """The records of the tests in the folder of a training, in the order of their names."""
    return _visible(folder, f"{TESTS_FOLDER}/*.json")


def request_files(folder: Path) -> list[Path]:
    """The requests that are kept beside a training, in the order of their names."""
    return [path for path in _visible(folder, f"{REQUESTS_FOLDER}/*.json") if not path.name.endswith(CLASS_NAMES_END)]


def read_request(path: Path) -> RunRequest | None:
    """The request that a file keeps; None where there is no such file.

    Raises:
        ResultsError: It is damaged or unreadable.
    """
    return _read(path, RunRequest)


def keep_request(folder: Path, request: RunRequest) -> None:
    """Put a request beside its training, which must be held; nothing where it is there.

    Raises:
        ResultsError: The disk is full, a permission is missing, or the request is not fit to be read back.
    """
    files = files_of_request(request)
    with _explained(folder / REQUESTS_FOLDER):
        for name, content in files.items():
            if not (folder / name).exists():
                write_whole(folder / name, content)


def is_kept(folder: Path, request: RunRequest) -> bool:
    """Whether a request lies beside its training."""
    return (folder / _name_of_request(request)).exists()


def class_names_kept(folder: Path, request: RunRequest) -> Path:
    """Where the class names of a request are kept, as ``--class-names`` reads them."""
    return (folder / _name_of_request(request)).with_suffix(CLASS_NAMES_END)


def files_of_request(request: RunRequest) -> dict[str, bytes]:
    """Return what is kept of a request: name below the folder of its training -> content, the request last.

    Raises:
        ResultsError: It is not fit to be read back.
    """
    name = _name_of_request(request)
    named = next((own.class_names for own in request.own.values() if own.class_names is not None), None)
    copies = {} if named is None else {f"{name.removesuffix('.json')}{CLASS_NAMES_END}": named}
    return {
        **{path: (json.dumps(names, ensure_ascii=False, indent=1) + "\n").encode() for path, names in copies.items()},
        name: to_json(request).encode(),
    }


def _name_of_request(request: RunRequest) -> str:
    return f"{REQUESTS_FOLDER}/{request.config.protocol}-{request.key[:_KEY_DIGITS]}.json"


def all_tests(folder: Path) -> list[Test]:
    """Every finished test in the folder of a training, in the order of the files' names.

    Raises:
        ResultsError: A record is damaged or unreadable.
    """
    return list(filter(None, map(read_test, test_files(folder))))


def save_run(folder: Path, run: Run, files: Files, tests: Sequence[tuple[Test, Files]] = ()) -> None:
    """Put a training in its place: record, files and tests in one step, the earlier ones of that name going with it.

    What was asked of it before stays beside it. Whatever fails, what was there stays as it was. What killed processes
    left unfinished is removed.

    Args:
        folder: Its place.
        run: The record.
        files: Beside it; names of `Run.adapter_file` and so on.
        tests: Of it, with the files of each.

    Raises:
        ResultsError: The disk is full, a permission is missing, or a record is not fit to be read back.
    """
    text = to_json(run)
    with _explained(folder), folder_written_whole(folder) as unfinished:
        for path in sorted((folder / REQUESTS_FOLDER).glob("[!.]*")):
            write_whole(unfinished / REQUESTS_FOLDER / path.name, path.read_bytes())
        for name, content in files.items():
            write_whole(unfinished / name, content)
        for test, own in tests:
            save_test(unfinished, test, own)
        write_whole(unfinished / RECORD_FILE, text)


def save_test(folder: Path, test: Test, files: Files) -> None:
    """Put a test beside its training: its files first, then the record.

    Raises:
        ResultsError: The disk is full, a permission is missing, or the record is not fit to be read back.
    """
    text = to_json(test)
    below = folder / TESTS_FOLDER
    with _explained(below):
        for name, content in files.items():
            write_whole(below / name, content)
        write_whole(below / f"{name_of_test(test.dataset, test.subset, test.key)}.json", text)


def save_folder(folder: Path, files: Files) -> None:
    """Put a folder of files in its place in one step, the earlier one of that name going with it.

    Raises:
        ResultsError: The disk is full, or a permission is missing.
    """
    with _explained(folder), folder_written_whole(folder) as unfinished:
        for name, content in files.items():
            write_whole(unfinished / name, content)


def key_digits(folder: Path) -> str:
    """The first digits of a key that the name of a training's folder ends in; nothing where it has another name."""
    found = re.search(rf"-([0-9a-f]{{{_KEY_DIGITS}}})$", folder.name)
    return found[1] if found else ""


def name_of_test(dataset: str, subset: str, key: str) -> str:
    """What the files of a test begin with."""
    return f"{_safe(dataset)}-{subset}-{key[:_KEY_DIGITS]}"


def _is_made_before(folder: Path) -> bool:
    """Whether the record in a folder is of an older schema, by its first bytes."""
    with suppress(OSError), (folder / RECORD_FILE).open("rb") as file:
        head = _HEAD.match(file.read(64))
        return head is not None and int(head[1]) < SCHEMA_VERSION
    return False


def _visible(folder: Path, pattern: str) -> list[Path]:
    """Return what is there by a pattern and is not on its way, sorted."""
    found = sorted(folder.glob(pattern))
    return [path for path in found if not any(part.startswith(".") for part in path.relative_to(folder).parts)]


def _read(path: Path, kind: type[AnyRecord], key: str | None = None) -> AnyRecord | None:
    try:
        content = read_bytes(path, _MOST_BYTES)
    except (FileNotFoundError, NotADirectoryError):
        return None
    except OSError as error:
        raise ResultsError(f"{path} cannot be read: {error.strerror or error}.") from error
    record = from_json(content, path, kind)
    if key is not None and record.key != key:
        raise ResultsError(
            f"{path} belongs to another run ({record.key}, not {key}). Delete the file, or run again with --force."
        )
    return record


def _safe(name: str) -> str:
    """The name as one visible folder name on every system."""
    return re.sub(r"[^A-Za-z0-9._-]", "_", name).lstrip(".")[:60] or "_"


@contextmanager
def _explained(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0, "Check the folder, or choose another one with --runs-dir")
        raise ResultsError(
            f"{path} cannot be written: {error.strerror or error}. {advice}; earlier runs are untouched."
        ) from error
