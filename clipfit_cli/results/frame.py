"""Finished tests as a DataFrame: a row each, with all conditions."""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from datetime import date, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

from clipfit_cli.errors import ConfigError, ResultsError, counted
from clipfit_cli.files import expanded
from clipfit_cli.results.filters import Filters, parse_filters
from clipfit_cli.results.record import Test
from clipfit_cli.results.select import Stored, select, without_copies
from clipfit_cli.results.store import RunStore

if TYPE_CHECKING:
    import pandas

_TYPES: dict[str, Any] = {
    "key": "str",
    "test_key": "str",
    "protocols": "object",
    "dataset": "str",
    "subset": "str",
    "shots": "Int64",
    "seed": "int64",
    "method": "str",
    "settings": "object",
    "recipe": "object",
    "backbone": "str",
    "pretrained": "str",
    "precision": "str",
    "templates": "object",
    "test_dataset": "str",
    "test_subset": "str",
    "transform": "str",
    "interpolation": "float64",
    "difference_from_plan": "str",
    "num_classes": "int64",
    "num_images": "int64",
    "accuracy_pct": "float64",
    "macro_f1_pct": "float64",
    "mean_per_class_accuracy_pct": "float64",
    "num_train_images": "int64",
    "steps": "int64",
    "final_loss": "float64",
    "trainable_parameters": "int64",
    "train_time_s": "float64",
    "eval_time_s": "float64",
    "peak_memory_mib": "float64",
    "device": "str",
    "clipfit_version": "str",
    "torch_version": "str",
    "numbers_version": "int64",
    "created_at": "datetime64[ns, UTC]",
    "tested_at": "datetime64[ns, UTC]",
    "notes": "object",
    "folder": "str",
}


def results(runs_dir: str | os.PathLike[str] = "runs", **filters: Any) -> pandas.DataFrame:
    """Return the tests of finished runs as a DataFrame, a row each; a run that lies in two folders counts once.

    Args:
        runs_dir: Folder of finished runs.
        filters: ``dataset``, ``method``, ``protocol``, ``shots`` (None = all images, 0 = nothing is trained), ``seed``
            and ``key`` take a value or a list of values of which one will do; ``since`` and ``until`` a day or time;
            any other name is a setting, a field of the recipe or a condition such as ``precision``, with its value.

    Returns:
        Conditions of the training (``dataset``, ``subset``, ``shots``, ...), of the test (``test_dataset``,
        ``test_subset``, ...) and what came out (``accuracy_pct``, ...). ``shots`` is missing where all images
        were used. ``difference_from_plan`` says of a test that no protocol planned in what it is another than the one
        that was planned under its name, such as ``another list: names2.json``; empty of planned tests.

    Raises:
        ConfigError: A filter has a value that is not possible.
        ResultsError: There is no such folder.

    Warns:
        UserWarning: Records are of runs made before 0.3.0, or cannot be read, and are left out.
    """
    import pandas

    folder, damaged = expanded(Path(runs_dir)), list[ResultsError]()
    if not folder.is_dir():
        raise ResultsError(f"there is no folder {folder} of runs")
    found = without_copies(select(folder, _filters(filters), on_damage=damaged.append))
    rows = [_row(one, test) for one in found for test in one.tests]
    for text in RunStore(folder).made_before():
        warnings.warn(text, stacklevel=2)
    if damaged:
        warnings.warn(
            f"left out {counted(len(damaged), 'record')} that cannot be read, the first: {damaged[0]}", stacklevel=2
        )
    frame: pandas.DataFrame = pandas.DataFrame(rows, columns=list(_TYPES), dtype=object)
    for name, kind in _TYPES.items():
        if kind.startswith("datetime"):
            frame[name] = pandas.to_datetime(frame[name], utc=True, errors="coerce", format="ISO8601").astype(kind)
        elif kind != "object":
            frame[name] = frame[name].astype(kind)
    return frame


def _row(one: Stored, test: Test) -> dict[str, Any]:
    run, config = one.run, one.run.config
    return {
        **{name: value for name, value in vars(run).items() if name in _TYPES},
        **{name: value for name, value in vars(config).items() if name in _TYPES},
        **{name: value for name, value in vars(config.model).items() if name in _TYPES},
        **{name: value for name, value in vars(test).items() if name in _TYPES},
        "key": run.key,
        "test_key": test.key,
        "protocols": one.protocols,
        "difference_from_plan": str(one.difference_from_plan(test)),
        "dataset": config.dataset,
        "subset": config.subset,
        "recipe": [vars(stage) for stage in config.stages],
        "test_dataset": test.dataset,
        "test_subset": test.subset,
        "clipfit_version": test.versions.get("clipfit", ""),
        "torch_version": test.versions.get("torch", ""),
        "created_at": run.created_at,
        "tested_at": test.created_at,
        "notes": [*run.notes, *test.notes],
        "folder": str(one.folder),
    }


def _filters(given: dict[str, Any]) -> Filters:
    parts = []
    for name, value in given.items():
        several = isinstance(value, Iterable) and not isinstance(value, str | bytes | dict)
        if several and name not in ("crop_scale", "betas"):
            parts.append((name, [_text(name, one) for one in value]))
        else:
            parts.append((name, [_text(name, value)]))
    return parse_filters(parts)


def _text(name: str, value: Any) -> str:
    """Return a value as it would be typed."""
    if value is None:
        return "all" if name == "shots" else "none"
    if isinstance(value, date | datetime):
        return value.isoformat()
    if isinstance(value, list | tuple):
        return "-".join(map(str, value))
    if isinstance(value, str | bool | int | float) or hasattr(value, "item"):
        return str(value).lower() if isinstance(value, bool) else str(value)
    raise ConfigError(f"{name} cannot be {value!r}; expected a text, a number or a list of them")
