"""What trainings changed, as tables: a row a part of a tower, a tensor or a class, with its spread over seeds."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial

from clipfit_cli.errors import counted
from clipfit_cli.reports.tables import AVERAGE_ROW, NUM_SEEDS, Column, Row, Table
from clipfit_cli.results.changes import MEASURES, Change, Inspection, pooled, spread_of
from clipfit_cli.results.summary import mean

LEVELS: dict[str, Callable[[Sequence[Change]], Sequence[Change]]] = {
    "tensor": list,
    "part": partial(pooled, by_block=True, by_kind=True),
    "block": partial(pooled, by_block=True),
    "tower": pooled,
}
"""What a row of distances is of: a tensor; all biases, gains, shifts, weights or statistics of a block; a block; a
tower."""

_HEADS = {"l2": "L2", "relative_pct": "relative %", "rms": "RMS", "largest": "largest"}
_DISTANCES = tuple(
    column
    for name, head in _HEADS.items()
    for column in (
        Column(name, head, "short", spread=f"{name}_std"),
        Column(f"{name}_std", "", "short", terminal=False),
    )
)
COLUMNS = (
    Column("level", "level"),
    Column("method", "method"),
    Column("dataset", "data set"),
    Column("subset", "subset"),
    Column("shots", "shots", "value"),
    Column("seeds", "seeds", "value"),
    Column(NUM_SEEDS, "n", "int"),
    Column("tower", "tower"),
    Column("block", "block", "value"),
    Column("kind", "kind"),
    Column("name", "name"),
    Column("num_values", "numbers", "int"),
    *_DISTANCES,
    Column("cosine", "cosine", "decimal"),
    Column("cosine_std", "", "decimal"),
    Column("num_images", "images", "int"),
    Column("images_of", "images of"),
    Column("precision", "precision"),
)
_OF_PARTS = (
    Column("tower", "tower"),
    Column("block", "block", "value"),
    Column("kind", "kind"),
    *_DISTANCES,
)
_OF_TENSORS = (
    Column("block", "block", "value"),
    Column("name", "tensor", "prose"),
    *(replace(column, narrow=column.key != "largest") for column in _DISTANCES),
)
_OF_FEATURES = (
    Column("method", "run", "prose"),
    Column("level", "features"),
    Column("num_classes", "classes", "int"),
    Column("num_images", "images", "int"),
    Column("cosine", "cosine", "decimal"),
    Column("drift", "drift", "short", spread="cosine_std"),
    Column("cosine_std", "", "short", terminal=False),
    Column("lowest", "lowest", "decimal"),
    Column("lowest_class", "class", "prose"),
)


@dataclass(frozen=True)
class Inspected:
    """The trainings of one configuration.

    Attributes:
        label: The method, with what tells it from other configurations of the same table.
        model: In words.
        dataset, subset, shots: What was trained on; None = all images.
        inspections: One a seed.
    """

    label: str
    model: str
    dataset: str
    subset: str
    shots: int | None
    inspections: tuple[Inspection, ...]

    @property
    def title(self) -> str:
        """In words."""
        shots = "all images" if self.shots is None else counted(self.shots, "shot")
        seeds = ",".join(str(one.seed) for one in self.inspections)
        group = "" if self.subset == "all" else f", {self.subset} classes"
        plural = "s" if len(self.inspections) > 1 else ""
        return f"{self.model} · {self.label} on {self.dataset}{group}, {shots} · seed{plural} {seeds}"


def table_of_inspections(found: Sequence[Inspected]) -> Table:
    """Return a row a tensor, part, block and tower, then a row a class for class and image features, and their means.

    Args:
        found: At least one.
    """
    rows = [row for one in found for row in (*_distance_rows(one), *_feature_rows(one))]
    return Table(
        " · ".join(["Change by training", *[one.title for one in found if len(found) == 1]]), COLUMNS, tuple(rows)
    )


def tables_for_people(found: Sequence[Inspected], table: Table, *, per_tensor: bool, per_class: bool) -> list[Table]:
    """Return a table of distances a configuration, and one of the features of all.

    Args:
        found: What was inspected.
        table: Of the same.
        per_tensor: Whether people see each tensor.
        per_class: Whether they see each class.
    """
    shown: list[Table] = []
    for one in found:
        level = "tensor" if per_tensor else "part"
        rows = [row for row in _distance_rows(one) if row["level"] == level]
        totals = [
            {**row, "block": "all", "name": f"{row['tower']} tower", AVERAGE_ROW: True}
            for row in _distance_rows(one)
            if row["level"] == "tower"
        ]
        columns = _OF_TENSORS if per_tensor else _OF_PARTS
        known = {AVERAGE_ROW, NUM_SEEDS, *(column.key for column in columns)}
        kept = tuple({key: row[key] for key in row if key in known} for row in (*rows, *totals))
        shown.append(Table(f"Change by training · {one.title}", columns, kept, _captions(one)))
    shown.append(_table_of_features(found, table, per_class=per_class))
    return shown


def _captions(one: Inspected) -> tuple[str, ...]:
    kinds = {change.kind for inspection in one.inspections for change in inspection.changes}
    norms = "gain and shift: weight and bias of LayerNorms. " if kinds & {"gain", "shift"} else ""
    statistics = "statistic: what BatchNorm counts. " if "statistic" in kinds else ""
    spread = " ±: standard deviation over seeds." if len(one.inspections) > 1 else ""
    return (
        f"{norms}{statistics}L2: length of the change; relative: to the length at the start; RMS: root mean square, "
        f"per number; largest: of one number.{spread}",
    )


def _distance_rows(one: Inspected) -> list[Row]:
    """Return the distances of a configuration, level by level."""
    rows: list[Row] = []
    for level, distances in LEVELS.items():
        per_seed = [{change.place: change for change in distances(found.changes)} for found in one.inspections]
        places = {place: change for changes in per_seed for place, change in changes.items()}
        for place in sorted(places, key=lambda place: places[place].depth):
            own = [changes[place] for changes in per_seed if place in changes]
            tower, block, kind, name = place
            row: dict[str, object] = {
                **_about(one, level),
                "tower": tower or None,
                "block": None if block == "" else block,
                "kind": kind or None,
                "name": name or None,
                "num_values": own[0].num_values,
            }
            for measure in MEASURES:
                spread = spread_of([change.measures[measure] for change in own])
                row |= {measure: spread.mean, f"{measure}_std": spread.std}
            rows.append(row)
    return rows


def _feature_rows(one: Inspected) -> list[Row]:
    """Return the cosines of a configuration's classes, and of their test images, each kind with its mean first."""
    rows: list[Row] = []
    of_classes: list[dict[str, list[float]]] = [
        {name: [value] for name, value in found.class_cosines.items()} for found in one.inspections
    ]
    of_images = [{name: [*values] for name, values in found.image_cosines.items()} for found in one.inspections]
    for level, per_seed in (("class features", of_classes), ("image features", of_images)):
        if not all(per_seed):
            continue
        whole = [[value for values in found.values() for value in values] for found in per_seed]
        groups = {"": whole, **{name: [found[name] for found in per_seed] for name in per_seed[0]}}
        for name, values in groups.items():
            spread = spread_of([found if math.isfinite(found := mean(own)) else None for own in values])
            images = len(values[0]) if level == "image features" else None
            row = {"name": name or None, "cosine": spread.mean, "cosine_std": spread.std, "num_images": images}
            if images:
                row |= {"images_of": one.inspections[0].images_of, "precision": one.inspections[0].precision}
            rows.append({**_about(one, level), **row})
    return rows


def _about(one: Inspected, level: str) -> dict[str, object]:
    return {
        "level": level,
        "method": one.label,
        "dataset": one.dataset,
        "subset": one.subset,
        "shots": "all" if one.shots is None else one.shots,
        "seeds": [found.seed for found in one.inspections],
        NUM_SEEDS: len(one.inspections),
    }


def _table_of_features(found: Sequence[Inspected], table: Table, *, per_class: bool) -> Table:
    """Return the mean cosines of each configuration and which class is lowest, or the cosines of every class."""
    rows: list[Row] = []
    for one in found:
        for level in ("class features", "image features"):
            about = _about(one, level)
            own = [row for row in table.rows if all(row[key] == about[key] for key in about)]
            classes = [row for row in own if row["name"] is not None]
            for row in classes if per_class else own[:1]:
                rows.append(_people_row(row, classes))
    columns = tuple(
        Column("lowest_class", "class", "prose") if per_class and column.key == "lowest_class" else column
        for column in _OF_FEATURES
        if not (per_class and column.key in ("lowest", "num_classes"))
    )
    known = {NUM_SEEDS, *(column.key for column in columns)}
    title = "Cosine of features before and after training"
    kept = tuple({key: row[key] for key in row if key in known} for row in rows)
    lists = dict.fromkeys((row["images_of"], row["precision"]) for row in rows if row.get("images_of"))
    images = [f"images: of the test list of {name}, in {precision}." for name, precision in lists]
    broken = any(row["cosine"] is None for row in rows)
    undefined = ["No cosine: the features after training are not finite; it broke down."] if broken else []
    return Table(title, columns, kept, (" ".join(["drift: 1 - cosine, of the means.", *images, *undefined]),))


def _people_row(row: Row, classes: Sequence[Row]) -> Mapping[str, object]:
    """Return a row of features as people see it: of a class with its name, of all with the lowest class."""
    cosine = row["cosine"]
    row = {**row, "drift": 1 - cosine if isinstance(cosine, float) else None}
    if row["name"] is not None:
        return {**row, "lowest_class": row["name"]}
    row = {**row, "num_classes": len(classes)}
    known = {float(str(one["cosine"])): one["name"] for one in reversed(classes) if one["cosine"] is not None}
    if not known or (len(known) == 1 and len(classes) > 1):  # none is lower than others
        return {**row, "lowest": min(known, default=None), "lowest_class": None}
    return {**row, "lowest": min(known), "lowest_class": known[min(known)]}
