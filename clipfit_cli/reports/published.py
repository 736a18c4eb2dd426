"""Numbers that others have published: read from the package and checked before any of them is shown."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from clipfit_cli.data.catalog import FEW_SHOT_DATASETS
from clipfit_cli.errors import ResultsError
from clipfit_cli.reports.published_number import ACCURACIES, AVERAGES, Published, h_convention, zero_shot_row
from clipfit_cli.results.summary import harmonic_mean, mean

FOLDER = Path(__file__).parent / "published_numbers"
_SERIES = ("source_name", "protocol", "backbone", "method", "shots")
"""What rows of one average agree in."""


@dataclass(frozen=True)
class Library:
    """All published numbers.

    Attributes:
        rows: Those that may be shown.
        refused: What is not shown, and why: a sentence a source and backbone.
    """

    rows: tuple[Published, ...]
    refused: tuple[str, ...]


@cache
def library(folder: Path = FOLDER) -> Library:
    """Read, check and return all published numbers.

    Args:
        folder: Has ``numbers.csv``, ``methods.csv`` (as printed -> the name here), ``sources.csv`` and
            ``zero_shot.csv`` (CLIP's own numbers, which a source's zero-shot row is checked by).

    Raises:
        ResultsError: A file is not there, or a row lacks its source, or holds what its column cannot.
    """
    try:
        names = {row["method"]: row["clipfit_method"] for row in _read(folder / "methods.csv")}
        sources = {row["name"]: row for row in _read(folder / "sources.csv")}
        rows = [_parsed(row, names, sources) for row in _read(folder / "numbers.csv")]
        own = [_own(row) for row in _read(folder / "zero_shot.csv")]
    except (OSError, KeyError, TypeError, ValueError, csv.Error) as error:
        raise ResultsError(
            f"the published numbers in {folder} cannot be read: {error}; install clipfit again"
        ) from error
    kept: list[Published] = []
    refused = []
    for group in _groups(rows, "source_name", "protocol", "backbone"):
        word, problem = zero_shot_row(group, own)
        if problem:
            refused.append(f"{group[0].source} ({group[0].protocol}, {group[0].backbone}): {problem}")
        else:
            kept += [replace(row, zero_shot_row=word, h_convention=h_convention(row)) for row in group]
    return Library((*kept, *_derived(kept)), tuple(refused))


def _derived(rows: Sequence[Published]) -> list[Published]:
    """Return means over seeds, and then averages over data sets, that a source has all rows of but does not print."""
    of_seeds = [row for row in rows if row.seed is not None]
    found = [_mean_row(group, group[0].dataset) for group in _groups(of_seeds, *_SERIES, "dataset")]
    whole = [row for row in (*rows, *found) if row.seed is None]
    printed = {_place(row) for row in whole if row.dataset in AVERAGES}
    for group in _groups(whole, *_SERIES):
        datasets = {row.dataset for row in group}
        names = [name for name, over in AVERAGES.items() if over == datasets]
        if names and _place(group[0]) not in printed:
            found.append(_mean_row(group, names[0]))
    return found


def _place(row: Published) -> tuple[object, ...]:
    """Return what a row is about, and the document it is from, without what its source says in brackets."""
    return row.protocol, row.backbone, row.method, row.shots, row.source.split(" (")[0]


def _mean_row(rows: Sequence[Published], dataset: str) -> Published:
    values = {name: [getattr(row, name) for row in rows] for name in ACCURACIES}
    means: dict[str, Any] = {name: None if None in found else mean(found) for name, found in values.items()}
    base, new = means["base_accuracy_pct"], means["new_accuracy_pct"]
    means["harmonic_mean_pct"] = None if base is None or new is None else harmonic_mean(base, new)
    made = replace(rows[0], dataset=dataset, seed=None, derived=True, **means)
    return replace(made, h_convention=h_convention(made))


def _groups(rows: Iterable[Published], *names: str) -> list[list[Published]]:
    found: dict[tuple[object, ...], list[Published]] = {}
    for row in rows:
        found.setdefault(tuple(getattr(row, name) for name in names), []).append(row)
    return list(found.values())


def _read(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file, strict=True))


def _parsed(row: dict[str, str], names: Mapping[str, str], sources: Mapping[str, Mapping[str, str]]) -> Published:
    source = sources.get(row["source"], {})
    checks = {
        "source": bool(source.get("source", "").strip()),
        "protocol": row["protocol"] in ("base2new", "few-shot", "xdataset"),
        "dataset": row["dataset"] in (*FEW_SHOT_DATASETS, *AVERAGES),
        "reported_by": row["reported_by"] in ("authors", "third party"),
        **{name: row[name] in ("yes", "no") for name in ("transductive", "derived")},
    }
    for name, is_known in checks.items():
        if not is_known:
            raise ValueError(f"{row['method']} on {row['dataset']} has the unknown {name} {row[name]!r}")
    return _made(
        row,
        method=row["method"],
        clipfit_method=names.get(row["method"], ""),
        shots=int(row["shots"]),
        seed=int(row["seed"]) if row["seed"] else None,
        reported_by=row["reported_by"],
        transductive=row["transductive"] == "yes",
        derived=row["derived"] == "yes",
        source=source["source"],
        source_name=row["source"],
        note=source["note"],
    )


def _own(row: Mapping[str, str]) -> Published:
    """Return a row of CLIP's own numbers."""
    return _made(row, method="CLIP", clipfit_method="", shots=0)


def _made(row: Mapping[str, str], **others: Any) -> Published:
    where = {name: row[name] for name in ("protocol", "backbone", "dataset")}
    values = {name: _percent(row.get(name, "")) for name in ACCURACIES}
    everything: dict[str, Any] = {**where, **values, **others}
    return Published(**everything)


def _percent(text: str) -> float | None:
    if not text:
        return None
    value = float(text)
    if not 0 <= value <= 100:
        raise ValueError(f"{text} is no percentage")
    return value
