"""Published numbers as tables: those that are asked for, and those that agree with measured ones."""

from __future__ import annotations

import difflib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import fields

from clipfit_cli.data import catalog
from clipfit_cli.errors import ConfigError, UnknownNameError, shortened
from clipfit_cli.reports.published_number import AVERAGES, MEAN_OF, NEITHER, PRETRAINED, Published
from clipfit_cli.reports.tables import AVERAGE_ROW, Column, Table
from clipfit_cli.results.record import Finished

COLUMNS = (
    Column("protocol", "protocol", terminal=False),
    Column("dataset", "data set"),
    Column("method", "method", terminal=False),
    Column("shown", "method", "prose", csv=False),
    Column("clipfit_method", "method here", terminal=False),
    Column("backbone", "backbone", terminal=False),
    Column("pretrained", "pretrained", terminal=False),
    Column("shots", "shots", "int"),
    Column("seed", "seed", "int", terminal=False),
    Column("base_accuracy_pct", "base", "pct"),
    Column("new_accuracy_pct", "new", "pct"),
    Column("harmonic_mean_pct", "H", "pct"),
    Column("accuracy_pct", "accuracy", "pct"),
    Column("h_convention", "H is", terminal=False),
    Column("reported_by", "by"),
    Column("zero_shot_row", "zero-shot"),
    Column("transductive", "transductive", "value", terminal=False),
    Column("derived", "derived", "value", terminal=False),
    Column("source", "source", terminal=False),
    Column("source_name", "source"),
    Column("note", "note", terminal=False),
)
_OVER = {"average of 10": "the data sets without ImageNet", "average of 4": "ImageNet-V2, -Sketch, -A and -R"}
_EVERY = catalog.FEW_SHOT_DATASETS
_ORDER = {name: place for place, name in enumerate((*catalog.FEW_SHOT_DATASETS, *AVERAGES))}


def select(
    rows: Sequence[Published], wanted: Mapping[str, Collection[str]], shots: Collection[int | None]
) -> list[Published]:
    """Return the rows that are asked for, by protocol, backbone, data set and shots.

    Args:
        rows: All there are.
        wanted: ``protocol``, ``backbone``, ``dataset``, ``method`` (as here or as printed), ``source`` -> names; no
            names say nothing.
        shots: Training images per class; none say nothing. What trains nothing is beside any.

    Raises:
        ConfigError: A name is not among those of the rows, or no row is all that is asked for.
    """
    known = {kind: set().union(*(_names(row, kind) for row in rows)) for kind in wanted}
    found = list(rows)
    for kind, texts in wanted.items():
        every = [name for text in texts for name in (_EVERY if (kind, text) == ("dataset", "all") else (text,))]
        names = {_checked(kind, name, known[kind]) for name in every}
        found = [row for row in found if not names or names & _names(row, kind)]
    found = [row for row in found if not shots or row.shots in (0, *shots)]
    if not found:
        asked = [f"{kind} {', '.join(map(shortened, texts))}" for kind, texts in wanted.items() if texts]
        asked += [f"shots {', '.join(map(str, shots))}"] if shots else []
        raise ConfigError(f"no published number is of {' and '.join(asked)}; leave one of them out")
    return sorted(found, key=lambda row: (row.protocol, row.backbone, _ORDER[row.dataset], row.shots))


def agreeing(rows: Sequence[Published], records: Sequence[Finished]) -> tuple[list[Published], str]:
    """Return the rows about what was measured, the methods that were first; and why, where there are none.

    Agreeing: backbone and weights, protocol, shots, and data set, or all the data sets of an average.

    Args:
        rows: All there are.
        records: Of one comparison.
    """
    configs = [record.config for record in records]
    model, protocol = configs[0].model, configs[0].protocol
    backbone = model.backbone.removesuffix("-quickgelu")
    of_model = [row for row in rows if row.backbone == backbone and row.seed is None]
    is_same = model.pretrained == PRETRAINED and records[0].run.activation == "quickgelu"
    if not of_model or not is_same:
        have = " and ".join(sorted({row.backbone for row in rows}))
        these = f"{model.backbone} / {model.pretrained}"
        return [], f"published numbers are of {have} with OpenAI's weights, these runs of {these}"
    tests = dict.fromkeys(test for config in configs for test in config.tests)
    sources = list(dict.fromkeys(config.dataset for config in configs))
    if protocol == "xdataset" and sources != ["imagenet"]:
        return [], f"published {protocol} numbers are from imagenet, these runs from {', '.join(sources)}"
    if protocol != "base2new" and any(test.subset != "all" for test in tests):
        return [], f"published {protocol} numbers are of all classes, these runs of one group"
    datasets = _with_averages(list(dict.fromkeys(test.dataset for test in tests)), apart=protocol == "xdataset")
    methods = list(dict.fromkeys(config.method for config in configs))
    shots = {config.shots for config in configs} | {0}
    found = [row for row in of_model if row.protocol == protocol and row.dataset in datasets and row.shots in shots]
    if not found:
        counts = ", ".join("all" if count is None else str(count) for count in sorted(shots - {0}, key=str))
        return [], f"no published number is of {protocol} on {', '.join(sources)} at {counts or 'no'} shots"
    places = {name: place for place, name in enumerate(methods)}

    def place(row: Published) -> tuple[int, int, int]:
        return datasets.index(row.dataset), places.get(row.clipfit_method, len(places)), row.shots

    return sorted(found, key=place), ""


def _with_averages(datasets: Sequence[str], *, apart: bool) -> list[str]:
    """Return data sets, and behind them the averages that are over all of them.

    Args:
        datasets: What was tested.
        apart: ImageNet is the source, and targets and its variants have averages of their own.
    """
    variants = {name for name in datasets if name in catalog.IMAGENET_VARIANTS}
    parts = [set(datasets) - variants - {"imagenet"}, variants] if apart else [set(datasets)]
    return [*datasets, *(average for average, over in AVERAGES.items() if over in parts)]


def table_of(rows: Sequence[Published], *, title: str = "Published numbers", captions: Sequence[str] = ()) -> Table:
    """Return the table of rows; what is the same in all of them, or in none, stands in the title, or is left out.

    Args:
        rows: At least one.
        title: How the title begins.
        captions: Lines below those about the rows.
    """
    cells = [_cells(row) for row in rows]
    datasets, shots = {row.dataset for row in rows}, {row.shots for row in rows} - {0}
    whole = (("protocol",), ("backbone", "pretrained"), ("dataset",))
    same = [{" / ".join(str(one[key]) for key in keys) for one in cells} for keys in whole]
    parts = [title, *(text for texts in same if len(texts) == 1 for text in texts)]
    if len(shots) == 1:
        parts.append(f"{min(shots)} shot{'s' if shots != {1} else ''}")
    shown = {"dataset": len(datasets) > 1, "shots": len(shots) > 1}
    shown |= {key: any(one[key] is not None for one in cells) for key in _PERCENTS}
    columns = tuple(Column(c.key, c.head, c.kind, terminal=shown.get(c.key, c.terminal), csv=c.csv) for c in COLUMNS)
    return Table(" · ".join(parts), columns, tuple(cells), (*_about(rows), *captions))


def tables_of(rows: Sequence[Published], *, captions: Sequence[str] = (), **options: str) -> list[Table]:
    """Return tables for people: one each of a protocol and backbone, and another of its averages.

    Args:
        rows: At least one.
        captions: Lines below the last.
        options: See `table_of`.
    """
    groups: dict[tuple[object, ...], list[Published]] = {}
    for row in rows:
        groups.setdefault((row.protocol, row.backbone, row.dataset in AVERAGES), []).append(row)
    *first, last = groups.values()
    return [*(table_of(group, **options) for group in first), table_of(last, captions=captions, **options)]


_PERCENTS = tuple(column.key for column in COLUMNS if column.kind == "pct")


def _cells(row: Published) -> dict[str, object]:
    values = {field.name: getattr(row, field.name) for field in fields(row)}
    values |= {name: None for name, value in values.items() if value == ""}
    marks = [
        row.method.removesuffix(" (transductive)"),
        *([f"seed {row.seed}"] if row.seed is not None else []),
        *(["transductive"] if row.transductive else []),
        *(["derived"] if row.derived else []),
    ]
    return {**values, "pretrained": PRETRAINED, "shown": ", ".join(marks), AVERAGE_ROW: row.dataset in AVERAGES}


def _about(rows: Sequence[Published]) -> list[str]:
    """Return what is to be known of rows: odd H, what is derived, and the sources in full."""
    odd = {
        MEAN_OF: "H as printed is lower than that of base and new, as a mean of the data sets' H is",
        NEITHER: "H as printed is neither that of base and new nor a mean of H",
    }
    found = []
    for convention, text in odd.items():
        if names := [f"{row.method} on {row.dataset}" for row in rows if row.h_convention == convention]:
            found.append(f"{text}: {'; '.join(names)}.")
    for average, text in _OVER.items():
        if any(row.dataset == average for row in rows):
            found.append(f"{average}: over {text}.")
    if any(row.derived for row in rows):
        found.append("derived: computed from what the source prints.")
    if any(row.transductive for row in rows):
        found.append("transductive: the method learns from unlabelled images of the new classes; the others do not.")
    found.append("zero-shot: whether the source's zero-shot row is CLIP's own; unchecked where it has none.")
    sources = {row.source_name: row for row in rows}
    return found + [f"{name}: {row.source}{f' ({row.note})' if row.note else ''}" for name, row in sources.items()]


def _names(row: Published, kind: str) -> set[str]:
    """Return by what names a row can be asked for."""
    names = {"method": (row.clipfit_method, row.method, row.method.split(" (")[0]), "source": (row.source_name,)}
    return {name for name in names.get(kind, (str(getattr(row, kind)),)) if name}


def _checked(kind: str, text: str, known: Collection[str]) -> str:
    """Return a name as the rows have it, in whatever case it was typed."""
    name = catalog.row(text).name if kind == "dataset" and catalog.is_known(text) else text
    same = [one for one in known if one.casefold() == name.casefold()]
    if name in known or same:
        return name if name in known else min(same)
    what = f"{'data set' if kind == 'dataset' else kind} of published numbers"
    if len(known) <= 40 or difflib.get_close_matches(name, known, n=1, cutoff=0.5):
        raise UnknownNameError(what, text, sorted(known))
    raise ConfigError(f"unknown {what} {shortened(text)!r}. Known: {', '.join(sorted(known))}.")
