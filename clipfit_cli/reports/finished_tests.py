"""Tables of finished tests, made from their predictions: metrics, scores of each class, confusions."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from typing import Any

from clipfit_cli.reports.tables import Column, Row, Table
from clipfit_cli.results.metrics import DEFAULT_BINS, Metric, captions, confusions, per_class
from clipfit_cli.results.predictions import Predictions, TestList, predictions_of
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.select import Stored

CONDITION_COLUMNS = (
    Column("dataset", "data set"),
    Column("subset", "subset"),
    Column("source", "trained on"),
    Column("method", "method"),
    Column("shots", "shots", "value"),
    Column("seed", "seed", "value"),
    Column("transform", "transform"),
    Column("interpolation", "alpha", "number"),
    Column("templates", "prompts", "prose"),
    Column("precision", "precision"),
    Column("difference_from_plan", "not as planned", "prose"),
    Column("run", "run"),
    Column("test", "test", csv=False),
)
"""What tells tests apart. People see those in which the rows differ; what is the same in all is in the title.

The run is seen where the others do not tell all tests apart, and the test where these do not, either.
"""

RECORD_COLUMNS = (
    Column("num_bins", "bins", "int", terminal=False),
    Column("num_classes", "classes", "int", terminal=False),
    Column("settings", "settings", "value", terminal=False),
    Column("backbone", "backbone", terminal=False),
    Column("pretrained", "pretrained", terminal=False),
    Column("clipfit_version", "version", terminal=False),
    Column("training_key", "training", terminal=False),
    Column("test_key", "test", terminal=False),
)
CLASS_COLUMNS = (
    Column("label", "label", "value", terminal=False),
    Column("class_name", "class", "prose"),
    Column("num_images", "images", "int", narrow=False),
    Column("num_predicted", "predicted", "int", narrow=False),
    Column("accuracy_pct", "accuracy", "pct"),
    Column("precision_pct", "precision", "pct"),
    Column("f1_pct", "F1", "pct"),
    Column("mean_confidence_pct", "confidence", "pct", narrow=False),
)
CONFUSION_COLUMNS = (
    Column("label", "label", "value", terminal=False),
    Column("class_name", "class", "prose"),
    Column("predicted", "predicted", "value", terminal=False),
    Column("predicted_class_name", "taken for", "prose"),
    Column("num_images", "images", "int"),
    Column("share_pct", "% of the class", "pct"),
)
SHOWN = ("accuracy", "macro-f1", "nll", "brier", "ece")
"""The metrics that people see where they ask for none."""

MOST_CONFUSIONS = 20
"""That people see."""

_USUAL = {"source": None, "shots": 0, "seed": None, "transform": "identity", "interpolation": 1.0}
_NOT_IN_TITLE = ("templates", "precision", "difference_from_plan")

_Measure = Callable[[Predictions, TestList], Iterable[Row]]


def table_of_tests(
    found: Sequence[Stored], metrics: Sequence[Metric], *, bins: int = DEFAULT_BINS, shown: Sequence[str] | None = None
) -> Table:
    """Return a row a test with its metrics.

    Args:
        found: Runs.
        metrics: What is measured.
        bins: Of both calibration errors.
        shown: Names of the metrics that people see; None = all of them.

    Raises:
        ResultsError: Predictions cannot be read, or are not those that were recorded.
    """

    def measure(predictions: Predictions, _: TestList) -> Iterator[Row]:
        yield {"num_bins": bins, **{metric.key: metric.of(predictions, bins) for metric in metrics}}

    columns = [
        Column("num_images", "images", "int", terminal=False),
        *(Column(one.key, one.head, one.kind, terminal=shown is None or one.name in shown) for one in metrics),
        *RECORD_COLUMNS,
    ]
    seen = [one for one in metrics if shown is None or one.name in shown]
    return replace(_table("Finished tests", found, columns, measure), captions=captions(seen, bins))


def table_of_classes(found: Sequence[Stored]) -> Table:
    """Return a row a class of every test.

    Raises:
        ResultsError: As `table_of_tests`.
    """
    return _table("Scores of each class", found, CLASS_COLUMNS, _of_classes)


def table_of_confusions(found: Sequence[Stored]) -> Table:
    """Return the confusion matrix of every test, a row a cell that is not 0.

    Raises:
        ResultsError: As `table_of_tests`.
    """
    return _table("Images by class and predicted class", found, CONFUSION_COLUMNS, _of_confusions)


def largest_confusions(table: Table, most: int = MOST_CONFUSIONS) -> Table:
    """Return, for people, the largest cells of a table of confusions beside the diagonal."""
    wrong = [row for row in table.rows if row["label"] != row["predicted"]]
    wrong.sort(key=lambda row: row["num_images"], reverse=True)  # type: ignore[arg-type, return-value]
    caption = f"The {most} most frequent of {len(wrong):,} confusions; --csv and --json have all of the matrix."
    return replace(table, rows=tuple(wrong[:most]), captions=(caption,) if len(wrong) > most else ())


def _table(title: str, found: Sequence[Stored], columns: Sequence[Column], measure: _Measure) -> Table:
    """Return the rows of every test."""
    known = {column.key for column in (*CONDITION_COLUMNS, *columns)}
    rows: list[Row] = []
    for one in found:
        for test in one.tests:
            conditions = {
                **_conditions(one.run, test),
                "difference_from_plan": str(one.difference_from_plan(test)) or None,
            }
            about = {key: value for key, value in conditions.items() if key in known}
            rows += [{**about, **row} for row in measure(*predictions_of(one.folder, test))]
    *others, run, test_column = CONDITION_COLUMNS
    tests = {tuple(row[column.key] for column in CONDITION_COLUMNS) for row in rows}
    prompts = {(row["dataset"], row["templates"]) for row in rows}
    is_seen = {
        "source": any(row["source"] not in (None, row["dataset"]) for row in rows),
        "templates": len(prompts) > len({dataset for dataset, _ in prompts}),
    }
    parts, told = [title], []
    for column in others:
        values = {row[column.key] for row in rows} if is_seen.get(column.key, True) else set()
        told.append(replace(column, terminal=len(values) > 1))
        if len(values) == 1 and column.key not in _NOT_IN_TITLE and (value := values.pop()) != _USUAL.get(column.key):
            parts.append(_in_title(column, value))
    told.append(replace(run, terminal=len({one[:-2] for one in tests}) < len(tests)))
    told.append(replace(test_column, terminal=len({one[:-1] for one in tests}) < len(tests)))
    return Table(title=" · ".join(parts), columns=(*told, *columns), rows=tuple(rows))


def _in_title(column: Column, value: object) -> str:
    """Return a condition that all rows share."""
    texts = {
        "subset": f"{value} classes",
        "source": f"trained on {value}",
        "shots": "all images" if value == "all" else f"{value} shot{'' if value == 1 else 's'}",
        "seed": f"seed {value}",
        "interpolation": f"alpha {value}",
    }
    return texts.get(column.key, str(value))


def _conditions(run: Run, test: Test) -> dict[str, Any]:
    """Return all that is told of a test beside what is measured."""
    config, trains = run.config, run.config.shots != 0
    return {
        "dataset": test.dataset,
        "subset": test.subset,
        "source": config.dataset if trains else None,
        "method": config.method,
        "shots": "all" if config.shots is None else config.shots,
        "seed": config.seed if trains else None,
        "transform": test.transform,
        "interpolation": test.interpolation,
        "templates": " | ".join(test.templates),
        "run": run.key[:12],
        "test": test.key[:12],
        "num_classes": test.num_classes,
        "num_images": test.num_images,
        "settings": dict(config.settings),
        "precision": test.precision,
        "backbone": config.model.backbone,
        "pretrained": config.model.pretrained,
        "clipfit_version": test.versions.get("clipfit"),
        "training_key": run.key,
        "test_key": test.key,
    }


def _of_classes(predictions: Predictions, about: TestList) -> Iterator[Row]:
    highest = int(max(predictions.label.max(), predictions.predicted.max()))
    scores = vars(per_class(predictions, len(about.class_names) or highest + 1))
    columns = [values.tolist() for values in scores.values()]
    for label, values in enumerate(zip(*columns, strict=True)):
        cells = dict(zip(scores, values, strict=True))
        missing = {name: None for name, value in cells.items() if isinstance(value, float) and math.isnan(value)}
        yield {"label": label, "class_name": about.name_of(label), **cells, **missing}


def _of_confusions(predictions: Predictions, about: TestList) -> Iterator[Row]:
    cells = vars(confusions(predictions))
    for values in zip(*(column.tolist() for column in cells.values()), strict=True):
        row = dict(zip(cells, values, strict=True))
        names = {
            "class_name": about.name_of(row["label"]),
            "predicted_class_name": about.name_of(row["predicted"]),
        }
        yield {**row, **names}
