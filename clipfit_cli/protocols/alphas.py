"""Accuracy along alpha, the share of what was learnt that is in the weights: rows for programs, a grid for people."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

from clipfit_cli.errors import counted
from clipfit_cli.reports.tables import Column, Row, Table
from clipfit_cli.results.record import Finished, Test
from clipfit_cli.results.summary import harmonic_mean

COLUMNS = (
    Column("dataset", "data set"),
    Column("subset", "subset"),
    Column("method", "method"),
    Column("backbone", "backbone"),
    Column("pretrained", "pretrained"),
    Column("source", "source"),
    Column("shots", "shots", "value"),
    Column("seed", "seed", "int"),
    Column("alpha", "alpha", "number"),
    Column("num_images", "images", "int"),
    Column("accuracy_pct", "accuracy", "pct"),
    Column("macro_f1_pct", "macro-F1", "pct"),
    Column("harmonic_mean_pct", "H", "pct"),
    Column("val_accuracy_pct", "validation", "pct"),
    Column("num_val_images", "validation images", "int"),
    Column("best_on_val", "best", "value"),
    Column("precision", "precision"),
    Column("training_key", "training"),
    Column("test_key", "test"),
)

Place = tuple[str, str]
"""Data set and class group of a test."""


@dataclass(frozen=True)
class Selection:
    """What the validation images of the training say of each point.

    Attributes:
        accuracies_pct: Alpha -> accuracy; nothing where there are no such images.
        num_images: How many they are.
        why_none: Why there are none.
    """

    accuracies_pct: Mapping[float, float] = field(default_factory=dict)
    num_images: int = 0
    why_none: str = ""

    @property
    def best(self) -> float | None:
        """The alpha that is best there; of equals the smallest, which is nearest to zero-shot."""
        if not self.accuracies_pct:
            return None
        most = max(self.accuracies_pct.values())
        return min(alpha for alpha, accuracy in self.accuracies_pct.items() if accuracy == most)


def table_along_alpha(records: Sequence[Finished], selection: Selection) -> Table:
    """Return a row a test: data set by data set, rising in alpha.

    Args:
        records: Of one training: a run a data set and class group.
        selection: On its validation images.
    """
    tests = _tests(records)
    first = records[0]
    config = first.run.config
    rows: list[Row] = [
        {
            "dataset": dataset,
            "subset": subset,
            "method": config.method,
            "backbone": config.model.backbone,
            "pretrained": config.model.pretrained,
            "source": config.dataset,
            "shots": "all" if config.shots is None else config.shots,
            "seed": config.seed,
            "alpha": alpha,
            "num_images": test.num_images,
            "accuracy_pct": test.accuracy_pct,
            "macro_f1_pct": test.macro_f1_pct,
            "harmonic_mean_pct": _h(tests, dataset, alpha),
            "val_accuracy_pct": selection.accuracies_pct.get(alpha),
            "num_val_images": selection.num_images,
            "best_on_val": None if selection.best is None else alpha == selection.best,
            "precision": test.precision,
            "training_key": first.run.key,
            "test_key": test.key,
        }
        for (dataset, subset), points in tests.items()
        for alpha, test in points.items()
    ]
    return Table(_title(first), COLUMNS, tuple(rows), _captions(selection))


def grids_along_alpha(table: Table) -> list[Table]:
    """Return the same for people, a table a data set: a row an alpha, a column a class group."""
    datasets = dict.fromkeys(str(row["dataset"]) for row in table.rows)
    grids = [_grid([row for row in table.rows if row["dataset"] == name]) for name in datasets]
    if not grids:  # a method that has no answer for these classes
        return [table]
    first, last = replace(grids[0], title=table.title), replace(grids[-1], captions=table.captions)
    return [replace(first, captions=last.captions)] if len(grids) == 1 else [first, *grids[1:-1], last]


def _grid(rows: Sequence[Row]) -> Table:
    subsets = list(dict.fromkeys(str(row["subset"]) for row in rows))
    has_h = any(row["harmonic_mean_pct"] is not None for row in rows)
    has_val = any(row["val_accuracy_pct"] is not None for row in rows)
    columns = (
        Column("dataset", "data set"),
        Column("alpha", "alpha", "number"),
        *(Column(subset, f"{subset} classes", "pct") for subset in subsets),
        Column("harmonic_mean_pct", "H", "pct", terminal=has_h),
        Column("val_accuracy_pct", "validation", "pct", terminal=has_val),
        Column("mark", "", terminal=has_val),
    )
    lines: dict[object, dict[str, object]] = {}
    for row in sorted(rows, key=lambda row: float(str(row["alpha"]))):
        shared = {name: row[name] for name in ("dataset", "alpha", "harmonic_mean_pct", "val_accuracy_pct")}
        line = lines.setdefault(row["alpha"], {**shared, "mark": "best" if row["best_on_val"] else ""})
        line[str(row["subset"])] = row["accuracy_pct"]
    return Table("", columns, tuple(lines.values()))


def _tests(records: Sequence[Finished]) -> dict[Place, dict[float, Test]]:
    found: dict[Place, dict[float, Test]] = {}
    for record in records:
        for test in sorted(record.tests, key=lambda test: test.interpolation):
            found.setdefault((test.dataset, test.subset), {})[test.interpolation] = test
    return found


def _h(tests: Mapping[Place, Mapping[float, Test]], dataset: str, alpha: float) -> float | None:
    """Return the harmonic mean of base and new accuracy; None where one of them is missing."""
    base, new = (tests.get((dataset, subset), {}).get(alpha) for subset in ("base", "new"))
    return harmonic_mean(base.accuracy_pct, new.accuracy_pct) if base and new else None


def _title(record: Finished) -> str:
    config = record.run.config
    shots = "all images" if config.shots is None else counted(config.shots, "shot")
    group = "" if config.subset == "all" else f", {config.subset} classes"
    model = config.model
    name = model.pretrained if model.backbone == model.pretrained else f"{model.backbone} / {model.pretrained}"
    return (
        f"Accuracy (%) along alpha · {name} · {config.method} on {config.dataset}{group}, {shots}, seed {config.seed}"
    )


def _captions(selection: Selection) -> tuple[str, ...]:
    meaning = "weights: (1 - alpha) of zero-shot CLIP's + alpha of those that were learnt."
    if selection.best is None:
        return (
            meaning,
            f"no point is marked as best, for want of validation images: {selection.why_none.rstrip('.')}.",
        )
    images = counted(selection.num_images, "validation image")
    return (
        meaning,
        f"best: on the {images} of the draw, whose accuracy stands under validation, and of equals the nearest to "
        "zero-shot; test images have no say in it.",
    )
