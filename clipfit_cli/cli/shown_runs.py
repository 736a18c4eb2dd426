"""The finished runs that a figure or a report shows: those that are asked for, and what trains nothing beside them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipfit_cli.cli.console import note
from clipfit_cli.cli.run_filters import RunFilters, chosen_once
from clipfit_cli.cli.words import split_names
from clipfit_cli.files import expanded

if TYPE_CHECKING:
    from clipfit_cli.config import ProtocolName
    from clipfit_cli.protocols.plots import Readers
    from clipfit_cli.results.predictions import Predictions, TestList
    from clipfit_cli.results.record import Finished, Run, Test
    from clipfit_cli.results.select import Stored


def shown_runs(
    words: Sequence[str] | None, filters: RunFilters, runs_dir: Path, *, quiet: bool
) -> tuple[dict[ProtocolName, list[Finished]], Readers, tuple[str, ...]]:
    """Return runs by the protocols that were asked for, what finds their files, and what is said of other tests.

    Args:
        words, filters: As typed.
        runs_dir: Where they are.
        quiet: Do not say what was left out.

    Raises:
        ConfigError: A word or an option is not possible.
        ResultsError: A word names no run, or one whose record cannot be read.
    """
    stored = _with_what_trains_nothing(words, filters, expanded(runs_dir), quiet=quiet)
    from clipfit_cli.protocols.gather import gather
    from clipfit_cli.protocols.plots import Readers
    from clipfit_cli.results.predictions import predictions_of
    from clipfit_cli.results.steps import read_steps

    folders = {one.run.key: one.folder for one in stored}
    asked = split_names(filters.protocol)
    gathered = gather(stored)
    notes = gathered.notes()
    for text in notes:
        note(text, quiet=quiet)
    found = {protocol: runs for protocol, runs in gathered.runs.items() if not asked or protocol in asked}
    kept: dict[str, tuple[Predictions, TestList]] = {}

    def read(trained: Run, test: Test) -> tuple[Predictions, TestList]:
        if test.key not in kept:
            kept[test.key] = predictions_of(folders[trained.key], test)
        return kept[test.key]

    readers = Readers(
        test=read,
        losses=lambda trained: [step.loss for step in read_steps(folders[trained.key], trained)],
    )
    return found, readers, notes


def _with_what_trains_nothing(
    words: Sequence[str] | None, filters: RunFilters, runs_dir: Path, *, quiet: bool
) -> list[Stored]:
    """Return the runs that are meant, and beside them what trains nothing of the same models and data sets."""
    found = chosen_once(words, filters, runs_dir, quiet=quiet)
    models = {(one.run.config.model.backbone, one.run.config.model.pretrained) for one in found}
    wider = replace(filters, method=None, set_=None, shots=None, seeds=None, since=None, until=None)
    if not found or (wider == filters and not words):
        return found
    known = {one.folder for one in found}
    return found + [
        one
        for one in chosen_once(None, wider, runs_dir, quiet=True)
        if one.folder not in known
        and not one.run.config.stages
        and not one.run.scored_adapter
        and (one.run.config.model.backbone, one.run.config.model.pretrained) in models
    ]
