"""Records of one method under one condition, seed by seed: what every row of every table is made of."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field, replace
from typing import Any

from clipfit_cli import methods
from clipfit_cli.config import Recipe, RunConfig, TestSet
from clipfit_cli.errors import ClipfitError, counted
from clipfit_cli.protocols.planning import conditions_of
from clipfit_cli.protocols.signatures import lines_of, signs_of
from clipfit_cli.reports.tables import NUM_SEEDS, Column, Row, Table
from clipfit_cli.results.compare import trains_nothing
from clipfit_cli.results.record import Finished, Test
from clipfit_cli.results.signatures import is_as_it_is
from clipfit_cli.results.summary import mean, population_std

ROW = "row"
"""Column that tells what a row is: of one data set (over all seeds, or a single one), or an average over data sets."""

SIGNATURES = "signatures"
"""Column with the codes of `results.signatures` that the runs of a row show."""

CONDITION_COLUMNS = (
    Column(ROW, "row", terminal=False),
    Column("protocol", "protocol", terminal=False),
    Column("dataset", "data set"),
    Column("method", "method"),
    Column("backbone", "backbone", terminal=False),
    Column("pretrained", "pretrained", terminal=False),
    Column("shots", "shots", "value"),
    Column("seeds", "seeds", "value", terminal=False),
)
RUN_COLUMNS = (
    Column(NUM_SEEDS, "n", "int", terminal=False),
    Column("settings", "settings", "value", terminal=False),
    Column("templates", "templates", terminal=False),
    Column("epochs", "epochs", "int", terminal=False),
    Column("steps", "steps", "int", terminal=False),
    Column("lr", "lr", "number", terminal=False),
    Column("selected_on", "selected on", terminal=False),
    Column("num_val_images", "validation images", "int", terminal=False),
    Column("chosen", "chosen", "value", terminal=False),
    Column("precision", "precision", terminal=False),
    Column("trainable_parameters", "parameters", "int"),
    Column("train_time_s", "training", "seconds"),
    Column("peak_memory_mib", "memory", "mib", terminal=False),
    Column("device", "device", terminal=False),
    Column("clipfit_version", "version", terminal=False),
    Column("split_sha256", "split file", terminal=False),
    Column("record_keys", "records", "value", terminal=False),
    Column(SIGNATURES, "signatures", "value", terminal=False),
)


@dataclass(frozen=True)
class Series:
    """The runs of one method on one data set with one number of shots, ordered by seed.

    Attributes:
        label: The method, with how it deviates from the protocol, and that in which it differs from others of that
            name in the same table.
        records: At least one.
    """

    label: str
    records: tuple[Finished, ...]

    @property
    def config(self) -> RunConfig:
        """What was asked for, the same for every seed but for the seed."""
        return self.records[0].config

    @property
    def trains_nothing(self) -> bool:
        """Whether one value holds for every seed."""
        return trains_nothing(self.records[0])

    @property
    def seeds(self) -> list[int]:
        """The seeds, rising; none where one value holds for all."""
        return [] if self.trains_nothing else [record.config.seed for record in self.records]

    def values(self, test: TestSet, metric: str = "accuracy_pct") -> list[float]:
        """Return a metric on one test set, in percent, one value a seed; nothing where the test is not defined."""
        found = [metrics_of(record, test) for record in self.records]
        return [] if None in found else [getattr(metrics, metric) for metrics in found]

    def num_images(self, *tests: TestSet) -> int:
        """Return how many images were tested."""
        found = (metrics_of(self.records[0], test) for test in tests)
        return sum(metrics.num_images for metrics in found if metrics)

    def by_seed(self, values: Sequence[float]) -> dict[int, float] | float:
        """Return seed -> value; a bare value where nothing was trained."""
        if self.trains_nothing and values:
            return values[0]
        return {record.config.seed: value for record, value in zip(self.records, values, strict=bool(values))}


@dataclass(frozen=True)
class Entry:
    """One row of a table with the values behind it.

    Attributes:
        row: The cells.
        place: What the row is about apart from the method: rows of one place can be compared.
        label: The method.
        shots: Training images per class; None = all, 0 = nothing is trained.
        seed_values: Name of a cell without its ``_pct`` -> seed -> value; empty in an average row.
        runs: Of each data set, and the tests that the last metric is made of: one, or the two halves of H.
    """

    row: Row
    place: tuple[str, ...]
    label: str
    shots: int | None
    seed_values: dict[str, dict[int, float] | float] = field(default_factory=dict)
    runs: tuple[tuple[Series, tuple[TestSet, ...]], ...] = ()


def metrics_of(record: Finished, test: TestSet) -> Test | None:
    """Return the metrics of one test set of a run; None where it was not, or cannot be, tested there."""
    wanted = (test.dataset, test.subset, test.shift, test.interpolation)
    made = ((one, (one.dataset, one.subset, one.transform, one.interpolation)) for one in record.tests)
    return next((one for one, what in made if what == wanted), None)


def seeds_cell(seeds: Sequence[Sequence[int]]) -> list[int] | str | None:
    """Return seeds as a cell: those of every data set, or of each where they are not the same: ``1;2;3|1;2``."""
    if not any(seeds):
        return None
    if len({tuple(found) for found in seeds}) == 1:
        return list(seeds[0])
    return "|".join(";".join(map(str, found)) for found in seeds)


def fewest_seeds(entry: Entry) -> int:
    """Return how many seeds stand behind a row, on the data set that has the fewest; 0 where nothing is trained."""
    return min((len(series.seeds) for series, _ in entry.runs), default=0)


def entries_of(series: Sequence[Series], make: Callable[[Series], Entry], *, per_seed: bool) -> list[Entry]:
    """Return an entry a series and, if asked, one for each of its seeds behind it."""
    found: list[Entry] = []
    for one in series:
        found.append(make(one))
        for record in one.records if per_seed and not one.trains_nothing else ():
            entry = make(Series(one.label, (record,)))
            place = (*entry.place, f"seed {record.config.seed}")
            found.append(replace(entry, row={**entry.row, ROW: "seed"}, place=place))
    return found


def series_of(records: Sequence[Finished]) -> list[Series]:
    """Return the records grouped by data set, shots and method with settings, in order of first appearance."""
    return [
        Series(label, tuple(sorted((records[place] for place in places), key=lambda record: record.config.seed)))
        for label, places in grouped([record.config for record in records])
    ]


def grouped(configs: Sequence[RunConfig]) -> list[tuple[str, list[int]]]:
    """Return the label of each method under one condition, and the places of its runs, in order of first appearance."""
    groups: dict[tuple[Any, ...], list[int]] = {}
    variants: dict[tuple[Any, ...], dict[str, dict[str, Any]]] = {}
    for place, config in enumerate(configs):
        variant = _variant(config)
        where, text = (config.dataset, config.subset, config.shots, config.method), repr(variant)
        groups.setdefault((*where, text), []).append(place)
        variants.setdefault(where, {})[text] = variant
    return [(_label(configs[places[0]], variants[key[:-1]].values()), places) for key, places in groups.items()]


def average_groups(series: Sequence[Series]) -> list[list[Series]]:
    """Return the groups that averages over data sets are made of: one method and shot count on every data set.

    Empty where there is one data set.
    """
    datasets = {one.config.dataset for one in series}
    groups: dict[tuple[str, int | None], list[Series]] = {}
    for one in series:
        groups.setdefault((one.label, one.config.shots), []).append(one)
    return [group for group in groups.values() if len(group) == len(datasets) > 1]


def condition_cells(series: Series, *others: Series, dataset: str | None = None) -> Row:
    """Return the cells of `CONDITION_COLUMNS`.

    Args:
        series: The runs.
        others: Those of further data sets that an average is over.
        dataset: What stands in that column, if not what was trained on.
    """
    config = series.config
    return {
        ROW: "data set",
        "protocol": config.protocol,
        "dataset": dataset or config.dataset,
        "method": series.label,
        "backbone": config.model.backbone,
        "pretrained": config.model.pretrained,
        "shots": "all" if config.shots is None else config.shots,
        "seeds": seeds_cell([one.seeds for one in (series, *others)]),
    }


def run_cells(series: Series, *tests: TestSet) -> Row:
    """Return the cells of `RUN_COLUMNS`; times and memory are means over the runs.

    Args:
        series: The runs.
        tests: What the row is about.
    """
    first = series.records[0]
    config, run = first.config, first.run
    tested = [metrics for test in tests if (metrics := metrics_of(first, test))]
    measured = [[one.peak_memory_mib for one in (record.run, *record.tests)] for record in series.records]
    peaks = [[peak for peak in found if peak is not None] for found in measured]
    memory = [max(found) for found in peaks if found]
    making = [stage for stage in config.stages if stage.makes_steps]
    stage = making[0] if making else None
    return {
        NUM_SEEDS: len(series.records),
        "settings": dict(config.settings),
        "templates": templates_text(config.templates),
        "epochs": stage.epochs if stage and stage.steps is None else None,
        "steps": run.steps if config.stages else None,
        "lr": stage.lr if stage else None,
        "selected_on": run.selected_on if config.stages else None,
        "num_val_images": run.num_val_images if config.stages else None,
        "chosen": _chosen(series) or None,
        "precision": config.precision,
        "trainable_parameters": run.trainable_parameters,
        "train_time_s": mean([record.run.train_time_s for record in series.records]) if config.stages else None,
        "peak_memory_mib": mean(memory) if memory else None,
        "device": tested[0].device if tested else run.device,
        "clipfit_version": (tested[0] if tested else run).versions.get("clipfit"),
        "split_sha256": tested[0].split_file_sha256 or None if tested else None,
        "record_keys": [record.run.key for record in series.records],
    }


def spread_cells(name: str, values: Sequence[float]) -> Row:
    """Return mean and population standard deviation of values in percent, as ``{name}_pct`` and ``_std_pct``.

    Nothing of no value, no spread of one.
    """
    spread = population_std(values) if len(values) > 1 else None
    return {f"{name}_pct": mean(values) if values else None, f"{name}_std_pct": spread}


def table_of(
    title: str,
    columns: Sequence[Column],
    entries: Sequence[Entry],
    records: Sequence[Finished],
    captions: tuple[str, ...] = (),
) -> Table:
    """Return the table of the entries; what is the same in every row moves from the columns into the title.

    That is for people only: CSV and JSON keep all columns. Signs that runs went wrong stand in a column for programs
    and below the table for people.
    """
    shots = {entry.shots for entry in entries} - {0}
    prompts = {templates_text(record.config.templates) for record in records}
    models = {record.config.model for record in records}
    names = {m.pretrained if m.backbone == m.pretrained else f"{m.backbone} / {m.pretrained}" for m in models}
    parts = [title, *sorted(names), *sorted(text for text in prompts if text)]
    if len(shots) == 1:
        (only,) = shots
        parts.append("all images" if only is None else f"{only} shot{'s' if only > 1 else ''}")
    per_seed = any(entry.row.get(ROW) == "seed" for entry in entries)
    seeds = {str(found): found for entry in entries if (found := entry.row.get("seeds"))}
    shown = {"shots": len(shots) != 1, "seeds": per_seed or len(seeds) > 1}
    columns = [replace(c, terminal=shown.get(c.key, c.terminal)) for c in columns]
    if not shown["seeds"] and isinstance(found := next(iter(seeds.values()), None), list):
        parts.append(f"seed{'s' if len(found) > 1 else ''} {','.join(map(str, found))}")
    as_it_is = [record for record in records if is_as_it_is(record.run)]
    return Table(
        title=" · ".join(parts),
        columns=tuple(columns),
        rows=tuple({**entry.row, SIGNATURES: _codes(entry, as_it_is)} for entry in entries),
        captions=(*captions, *_signature_lines(entries, as_it_is)),
    )


def _codes(entry: Entry, as_it_is: Sequence[Finished]) -> list[str] | None:
    """Return the signs of a row's runs; none of an average, since each data set has its own."""
    if entry.row.get(ROW) == "average":
        return None
    signs = (sign for one, tests in entry.runs for sign in signs_of(one.records, tests, as_it_is))
    return list(dict.fromkeys(sign.code for sign in signs))


def _signature_lines(entries: Sequence[Entry], as_it_is: Sequence[Finished]) -> tuple[str, ...]:
    """Return a line a sign, each run named by what tells it from others in the table."""
    shown = [entry for entry in entries if entry.row.get(ROW) == "data set"]
    many_sets = len({entry.row["dataset"] for entry in shown}) > 1
    many_shots = len({entry.shots for entry in shown} - {0}) > 1
    found = []
    for entry in shown:
        words = [str(entry.row["dataset"])] if many_sets else []
        if many_shots and entry.shots != 0:
            words.append("all images" if entry.shots is None else counted(entry.shots, "shot"))
        for one, tests in entry.runs:
            found += [(entry.label, ", ".join(words), sign) for sign in signs_of(one.records, tests, as_it_is)]
    return lines_of(found)


def templates_text(templates: Sequence[str]) -> str | None:
    """Return which prompts were used, in short; None where each data set has its own.

    The record of a run has all of them.
    """
    if not templates:
        return None
    return templates[0] if len(templates) == 1 else f"{len(templates)} templates"


def _chosen(series: Series) -> dict[str, str]:
    """Return what was chosen by validation images: name -> value of each run, in the order of seeds."""
    found = [record.run.chosen for record in series.records]
    return {name: "/".join(_short(one[name]) for one in found if name in one) for name in (found[0] if found else ())}


def _short(value: Any) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


def _variant(config: RunConfig) -> dict[str, Any]:
    """Return all by which runs of one method and one condition may differ, but for the seed: name -> value."""
    stages = {
        f"{name}{number or ''}": value
        for number, stage in enumerate(config.stages)
        for name, value in vars(stage).items()
    }
    return {**stages, **_settings(config), **_deviations(config)}


def _settings(config: RunConfig) -> dict[str, Any]:
    """Return all settings, those that records leave out too; of a method that is not here any more, the recorded."""
    try:
        return methods.get(config.method).all_settings(config.settings)
    except (ClipfitError, TypeError):
        return config.settings


def _deviations(config: RunConfig) -> dict[str, Any]:
    """Return how a run deviates from the protocol, by the names of what asked for it."""
    views = [stage.views for stage in config.stages if stage.makes_steps]
    usual = [stage.views for stage in _usual(config) if stage.makes_steps]
    found = {
        "templates": "reference" if config.reference_templates else None,
        "val_shots": config.val_shots,
        "tune": config.tune or None,
        "views": views[0] if views != usual and views else None,
    }
    return {name: value for name, value in found.items() if value is not None}


def _usual(config: RunConfig) -> tuple[Recipe, ...]:
    """Return the recipes that a method has by itself; of one that is not here any more, those of the run."""
    try:
        info = methods.get(config.method)
        conditions = conditions_of(config.protocol, config.dataset, config.subset, config.shots)
        return info.recipe(conditions, info.settings(**config.settings))
    except (ClipfitError, TypeError):
        return config.stages


def _label(config: RunConfig, rivals: Collection[dict[str, Any]]) -> str:
    """Return the method, with how a run deviates from the protocol, and in what it differs from the other variants."""
    own, always = _variant(config), _deviations(config)
    told = {
        name: value
        for name, value in own.items()
        if name in always or any(name in other and other[name] != value for other in rivals)
    }
    words = [name if value is True else f"{name}={value}" for name, value in told.items()]
    return f"{config.method} ({', '.join(words)})" if words else config.method
