"""The runs of a runs folder that are meant, read as far as it takes to tell."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from clipfit_cli.config import OwnDataSet
from clipfit_cli.errors import ConfigError, ResultsError, check_known, counted, shortened
from clipfit_cli.files import file_sha256
from clipfit_cli.results.filters import Filters, conditions_of, differing
from clipfit_cli.results.reader import (
    PlanDifference,
    difference_from_plan,
    protocols_of,
    tests_of_its_data,
)
from clipfit_cli.results.record import AnyRecord, OldRecordError, Run, Test
from clipfit_cli.results.request import RunRequest
from clipfit_cli.results.store import (
    RECORD_FILE,
    RunStore,
    class_names_kept,
    read_request,
    read_run,
    read_test,
    request_files,
    test_files,
)

OnDamage = Callable[[ResultsError], None]
"""Told of a record that cannot be read, once each."""

_NAMED = 5


@dataclass(frozen=True)
class Stored:
    """A finished training as it lies in a folder.

    Attributes:
        folder: Where.
        run: Its record.
        on_damage: Told of tests and requests that cannot be read; they are left out.
    """

    folder: Path
    run: Run
    on_damage: OnDamage | None = field(default=None, compare=False, repr=False)

    @cached_property
    def tests(self) -> tuple[Test, ...]:
        """Its finished tests, those on what was trained on first, rising in alpha; read when first asked for."""
        found = (_read(read_test, path, self.on_damage) for path in test_files(self.folder))
        return tuple(sorted(filter(None, found), key=self._order))

    @cached_property
    def requests(self) -> tuple[RunRequest, ...]:
        """What was asked of it, the oldest first; read when first asked for."""
        found = (_read(read_request, path, self.on_damage) for path in request_files(self.folder))
        mine = (self._as_it_lies(request) for request in found if request and request.training_key == self.run.key)
        return tuple(sorted(mine, key=lambda request: (request.created_at, request.key)))

    def _as_it_lies(self, request: RunRequest) -> RunRequest:
        """Return a request with places of now: the folder of what is scored, and the class names that were kept."""
        adapter, own = request.config.adapter, request.own
        if adapter and not self.run.scored_adapter:
            adapter = str(self.folder.absolute())
        if gone := [name for name, data in own.items() if data.class_names is not None and not _is_unchanged(data)]:
            kept = str(class_names_kept(self.folder, request).absolute())
            own = {name: replace(data, class_names_file=kept) if name in gone else data for name, data in own.items()}
        return replace(request, own=own, config=replace(request.config, adapter=adapter))

    @property
    def protocols(self) -> list[str]:
        """The protocols whose tables it can stand in, sorted."""
        return sorted(protocols_of(self.run, self.tests, self.requests))

    @property
    def tests_of_its_data(self) -> dict[str, Test]:
        """Class group -> the test of what was trained on; see `reader.tests_of_its_data`."""
        return tests_of_its_data(self.run, self.tests, self.requests)

    def difference_from_plan(self, test: Test) -> PlanDifference:
        """In what one of its tests is not what a protocol planned; see `reader.difference_from_plan`."""
        return difference_from_plan(self.run, test, self.requests)

    def _order(self, test: Test) -> tuple[Any, ...]:
        is_elsewhere, is_shifted = test.dataset != self.run.config.dataset, test.transform != "identity"
        return is_elsewhere, test.dataset, test.subset, is_shifted, test.transform, test.interpolation, test.key

    def is_meant(self, filters: Filters) -> bool:
        """Whether filters hold, but for that by folder; tests are read only where a protocol is asked for."""
        return filters.hold(self.run) and (not filters.protocol or not {*filters.protocol}.isdisjoint(self.protocols))


def stored_runs(runs_dir: Path, *, on_damage: OnDamage | None = None) -> Iterator[Stored]:
    """Every finished training of a runs folder, in the order of the folders' names; damaged records are left out.

    Args:
        runs_dir: Need not exist.
        on_damage: Told of what is left out.
    """
    return _stored(RunStore(runs_dir).all_folders(), on_damage)


def unreadable(runs_dir: Path) -> list[Path]:
    """The folders of a runs folder whose record is there and cannot be read, sorted."""
    found: list[Path] = []
    for folder in RunStore(runs_dir).all_folders():
        _read(read_run, folder / RECORD_FILE, lambda _, folder=folder: found.append(folder))  # type: ignore[misc]
    return found


def select(runs_dir: Path, filters: Filters, *, on_damage: OnDamage | None = None) -> list[Stored]:
    """The finished trainings that are meant.

    Args:
        runs_dir: Where they are, but for those that filters name by folder.
        filters: See `Stored.is_meant`.
        on_damage: Told of records that cannot be read: whether they were meant nobody knows.

    Raises:
        ResultsError: A folder that is named holds no run, or its record cannot be read.
        UnknownNameError: None of the trainings has a setting of that name.
    """
    found: Iterable[Stored]
    if filters.folder:
        found = [_in_folder(folder, on_damage) for folder in filters.folder]
    else:
        found = stored_runs(runs_dir, on_damage=on_damage)
    return meant(found, filters)


def without_copies(stored: Iterable[Stored]) -> list[Stored]:
    """Return runs, each once: of copies of one run in several folders the one with the most tests."""
    found: dict[str, Stored] = {}
    for one in stored:
        other = found.setdefault(one.run.key, one)
        if len(one.tests) > len(other.tests):
            found[one.run.key] = one
    return list(found.values())


def meant(stored: Iterable[Stored], filters: Filters) -> list[Stored]:
    """Those of some trainings that filters hold for.

    Raises:
        UnknownNameError: None of the trainings has a setting of that name.
    """
    every = list(stored)
    if filters.settings and every:
        known = {name for one in every for name in conditions_of(one.run)}
        for name, _ in filters.settings:
            check_known("setting of these runs", name, sorted(known))
    return [one for one in every if one.is_meant(filters)]


def find_one(runs_dir: Path, filters: Filters, text: str) -> Stored:
    """The one training that is meant.

    Args:
        runs_dir, filters: See `select`; damaged records are left out.
        text: What named it, for the message.

    Raises:
        ConfigError: There are several: up to five are shown, with what tells them apart.
        ResultsError: There is none, or its record cannot be read.
    """
    damaged: list[ResultsError] = []
    found = select(runs_dir, filters, on_damage=damaged.append)
    if not found:
        more = f", and clipfit runs verify for {counted(len(damaged), 'record')} that cannot be read" if damaged else ""
        raise ResultsError(f"no run in {runs_dir} is {shortened(text)!r}; see clipfit runs list{more}")
    if len(found) > 1:
        raise ConfigError(
            f"{len(found)} runs in {runs_dir} are {shortened(text)!r}, expected one: {_candidates(found)}"
        )
    return found[0]


def _is_unchanged(data: OwnDataSet) -> bool:
    """Whether the file that class names were read from is what it was."""
    try:
        return file_sha256(Path(data.class_names_file)) == data.class_names_sha256
    except OSError:
        return False


def _candidates(found: Sequence[Stored]) -> str:
    """Up to five runs, each by its key and by what is enough to tell it from the others."""
    shown = found[:_NAMED]
    telling: dict[str, list[str]] = {}
    for name, values in differing([one.run for one in shown]).items():
        if len({*zip(*telling.values(), values, strict=True)}) > len({*zip(*telling.values(), strict=True)} or {()}):
            telling[name] = values
    named = []
    for place, one in enumerate(shown):
        told = ",".join(f"{name}={values[place]}" for name, values in telling.items())
        named.append(f"{one.run.key[:12]} ({shortened(told or one.run.created_at)})")
    more = f" and {len(found) - _NAMED} more" if len(found) > _NAMED else ""
    return f"{'; '.join(named)}{more}. Add what tells the one you mean, or give its key"


def _stored(folders: Sequence[Path], on_damage: OnDamage | None) -> Iterator[Stored]:
    for folder in folders:
        if run := _read(read_run, folder / RECORD_FILE, on_damage):
            yield Stored(folder, run, on_damage)


def _in_folder(folder: Path, on_damage: OnDamage | None) -> Stored:
    run = read_run(folder / RECORD_FILE)
    if run is None:
        raise ResultsError(f"{folder} holds no run: there is no {RECORD_FILE} in it")
    return Stored(folder, run, on_damage)


def _read(read: Callable[[Path], AnyRecord | None], path: Path, on_damage: OnDamage | None) -> AnyRecord | None:
    """What is in a file; None where it is gone, of an older version, or cannot be read, of which the last is told."""
    try:
        return read(path)
    except OldRecordError:
        return None
    except ResultsError as error:
        if on_damage:
            on_damage(error)
        return None
