"""What published experiments take on this machine, and what is missing for them, as tables."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from clipfit_cli.data import catalog, sources
from clipfit_cli.data.disk import readable_size
from clipfit_cli.errors import counted
from clipfit_cli.reports.tables import AVERAGE_ROW, Column, Row, Table

if TYPE_CHECKING:
    from clipfit_cli.config import RunConfig
    from clipfit_cli.reports.recipes import Experiment
    from clipfit_cli.runs.estimate import Estimate

COST_COLUMNS = (
    Column("num_runs", "runs", "int"),
    Column("num_finished", "finished", "int", terminal=False),
    Column("num_train_images", "training images", "int", terminal=False),
    Column("num_test_images", "test images", "int", terminal=False),
    Column("time", "time", csv=False),
    Column("time_s", "", "number", terminal=False),
    Column("least_time_s", "", "number", terminal=False),
    Column("disk_mib", "disk", "mib"),
)
LIST_COLUMNS = (
    Column("name", "name"),
    Column("title", "what it makes again", "prose"),
    Column("protocol", "protocol", terminal=False),
    Column("datasets", "data sets", "value", terminal=False),
    Column("targets", "targets", "value", terminal=False),
    Column("methods", "methods", "value", terminal=False),
    Column("shots", "shots", "value", terminal=False),
    Column("seeds", "seeds", "value", terminal=False),
    Column("backbone", "backbone", terminal=False),
    Column("pretrained", "pretrained", terminal=False),
    *COST_COLUMNS,
    Column("missing", "missing", "prose", csv=False),
    Column("missing_datasets", "", "value", terminal=False),
    Column("missing_weights", "", "value", terminal=False),
    Column("download_mb", "", "number", terminal=False),
)
DATA_COLUMNS = (
    Column("dataset", "data set"),
    Column("role", "for"),
    Column("state", "state"),
    Column("archive", "archive", csv=False),
    Column("download_mb", "", "number", terminal=False),
    *COST_COLUMNS,
)


@dataclass(frozen=True)
class Costs:
    """Of the runs of an experiment.

    Attributes:
        configs: The plan.
        found: What each run takes.
        rate: FLOP a second of this machine.
        missing: Data sets that are not whole here.
        weights: Those that are not here; empty where they are.
    """

    configs: Sequence[RunConfig]
    found: Sequence[Estimate]
    rate: float
    missing: tuple[str, ...]
    weights: str

    def of(self, dataset: str) -> Costs:
        """Return the costs of the runs that train on a data set."""
        mine = [place for place, config in enumerate(self.configs) if config.dataset == dataset]
        return Costs([self.configs[one] for one in mine], [self.found[one] for one in mine], self.rate, (), "")

    def cells(self) -> dict[str, object]:
        """Return the cells of `COST_COLUMNS`."""
        told = [one.forecast for one in self.found]
        times = [one.time_s for one in told]
        known = [time_s for time_s in times if time_s is not None]
        least = sum(one.arithmetic_flop / self.rate for one in self.found if one.forecast.time_s is None)
        whole = len(known) == len(times)
        return {
            "num_runs": len(told),
            "num_finished": sum(one.is_finished for one in told),
            "num_train_images": sum(one.num_train_images for one in told),
            "num_test_images": sum(one.num_test_images for one in told),
            "time": ("" if whole else "≥ ") + _duration(sum(known) + least),
            "time_s": sum(known) if whole else None,
            "least_time_s": sum(known) + least,
            "disk_mib": sum(one.disk_mib for one in told),
        }


def list_table(experiments: Iterable[tuple[Experiment, Costs]]) -> Table:
    """Return a row an experiment."""
    rows: list[Row] = []
    weights: set[str] = set()
    rate = 0.0
    for one, costs in experiments:
        rate = max(rate, costs.rate)
        weights |= {costs.weights} - {""}
        rows.append(
            {
                "name": one.name,
                "title": one.title,
                "protocol": one.protocol,
                "datasets": list(one.trained_on),
                "targets": list(one.targets) or None,
                "methods": list(one.methods),
                "shots": list(one.shots),
                "seeds": list(one.seeds),
                "backbone": one.backbone,
                "pretrained": one.pretrained,
                **costs.cells(),
                "missing": _missing(costs) or "nothing",
                "missing_datasets": list(costs.missing) or None,
                "missing_weights": costs.weights or None,
                "download_mb": sum(filter(None, map(_megabytes, costs.missing))) or None,
            }
        )
    captions = (
        *about_time(rows, rate),
        "disk: of records, predictions and adapters; runs that two experiments share are made once.",
        *([f"weights: {', '.join(sorted(weights))}, fetched by the first run."] if weights else []),
        "`clipfit reproduce NAME --dry-run` says it of each data set, `clipfit reproduce NAME` runs it.",
    )
    return Table("Published experiments that can be run again", LIST_COLUMNS, tuple(rows), captions)


def data_table(one: Experiment, costs: Costs, states: Mapping[str, str], published: str) -> Table:
    """Return a row a data set of an experiment, and what all of it takes.

    Args:
        one: The experiment, cut to what was asked for.
        costs: Of it.
        states: Data set -> what is here of it.
        published: Which numbers it is compared with, in words.
    """
    rows: list[Row] = []
    for name, state in states.items():
        is_trained = name in one.trained_on
        rows.append(
            {
                "dataset": name,
                "role": "training" if is_trained else "test",
                "state": state,
                "archive": "" if state == "built-in" else _size(name),
                "download_mb": _megabytes(name),
                **(costs.of(name).cells() if is_trained else {}),
            }
        )
    total = costs.cells()
    rows.append({"dataset": "all", **total, AVERAGE_ROW: True})
    draws = f"shots {','.join(map(str, one.shots))}; seeds {','.join(map(str, one.seeds))}"
    captions = [
        f"{counted(len(costs.configs), 'run')}, {total['num_finished']} of them finished: {' and '.join(one.methods)}; "
        f"{draws}; {one.backbone} / {one.pretrained}.",
        *about_time(rows, costs.rate),
        published,
    ]
    if costs.missing:
        captions.append(f"Missing: {_missing(replace(costs, weights=''))}; {how_to_get(costs.missing)}.")
    if costs.weights:
        captions.append(f"The weights {costs.weights} are not here; the first run fetches them.")
    return Table(f"{one.name}: {one.title}", DATA_COLUMNS, tuple(rows), tuple(captions))


def about_time(rows: Sequence[Row], rate: float) -> tuple[str, ...]:
    """Return how times are to be read, where some are not told by finished runs."""
    if all(row.get("time_s") is not None or row.get("least_time_s") is None for row in rows):
        return ()
    return (
        f"≥: arithmetic of the image tower alone, at the rate of a matrix product here, {rate / 1e12:.2g} TFLOP/s; "
        "time is not known better before a run of each kind is finished in --runs-dir.",
    )


def how_to_get(missing: Sequence[str]) -> str:
    """Return the command that fetches data sets."""
    own = " --imagenet-root DIR" if "imagenet" in missing else ""
    hint = ", where DIR is your copy of ImageNet" if own else ""
    return f"`clipfit data get {' '.join(missing)}{own}` fetches them{hint}"


def _missing(costs: Costs) -> str:
    """Return what is missing in a few words."""
    words = []
    if costs.missing:
        sizes = [size for size in map(_megabytes, costs.missing) if size]
        parts = [readable_size(sum(sizes) * 1e6)] if sizes else []
        parts += [name for name in costs.missing if not _megabytes(name)]
        words.append(f"{counted(len(costs.missing), 'data set')} ({' + '.join(parts)})")
    return ", ".join([*words, *(["weights"] if costs.weights else [])])


def _size(name: str) -> str:
    megabytes = _megabytes(name)
    return readable_size(megabytes * 1e6) if megabytes else "size not stated"


def _megabytes(name: str) -> float | None:
    """Return the size of the first archive whose size is known."""
    return next((one.megabytes for one in sources.sources(catalog.row(name).name) if one.megabytes), None)


def _duration(seconds: float) -> str:
    hours = seconds / 3600
    if hours >= 1.5:
        return f"{hours:,.0f} h" if hours >= 100 else f"{hours:.1f} h"
    return f"{seconds / 60:.0f} min" if seconds >= 90 else f"{seconds:.0f} s"


def states_of(names: Iterable[str], data_root: Path) -> dict[str, str]:
    """Return what is here of each data set."""
    from clipfit_cli.data.check.status import dataset_status

    return {name: dataset_status(name, data_root).state for name in dict.fromkeys(names)}
