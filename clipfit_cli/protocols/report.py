"""Finished runs -> the report on them: a section a protocol and model, with tables, leads, figures and commands."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from clipfit_cli.config import ProtocolName, TestSet
from clipfit_cli.errors import ResultsError, UnknownNameError, counted
from clipfit_cli.protocols import class_tables, compare, image_tables, plot_tables
from clipfit_cli.protocols.extra_metrics import ExtraMetrics
from clipfit_cli.protocols.marked_rows import with_marks
from clipfit_cli.protocols.method_cards import cards_of
from clipfit_cli.protocols.plots import Readers
from clipfit_cli.protocols.series import Entry, Series, fewest_seeds, series_of, templates_text
from clipfit_cli.reports.published import Library
from clipfit_cli.reports.published_table import agreeing, tables_of
from clipfit_cli.reports.report import Figure, Report, Section
from clipfit_cli.reports.tables import Table
from clipfit_cli.results.compare import trains_nothing
from clipfit_cli.results.record import Finished
from clipfit_cli.results.signatures import MEANINGS
from clipfit_cli.results.summary import mean

NAMES: dict[ProtocolName, str] = {
    "base2new": "Base-to-new generalisation",
    "few-shot": "Few-shot classification",
    "xdataset": "Transfer across data sets",
}
"""Protocol -> what it is called, in the order of sections."""

_MOST_TESTED_BY_IMAGES = 60
"""Of runs with a single seed, so many leads in a section are tested by images, which takes their predictions."""


@dataclass(frozen=True)
class Wanted:
    """What a report is asked for.

    Attributes:
        leader: Method, or label of it, whose leads are shown; one that is not there is none.
        named: Methods, or labels, that are shown where not all can be, after the leader.
    """

    leader: str = ""
    named: tuple[str, ...] = ()


def make_report(
    runs: Mapping[ProtocolName, Sequence[Finished]],
    *,
    wanted: Wanted,
    readers: Readers,
    library: Library,
    about: Sequence[str] = (),
    notes: Sequence[str] = (),
) -> Report:
    """Return the report on runs.

    Args:
        runs: By protocol, as `gather` returns them.
        wanted: What was asked for.
        readers: What finds files of runs.
        library: Published numbers.
        about: What stands below the title.
        notes: Go before the notes of the runs.

    Raises:
        ResultsError: There are no runs, or a table cannot be made.
    """
    parts = [(name, part) for name in NAMES for part in _parts(runs.get(name, ()))]
    if not parts:
        raise ResultsError(
            "there is nothing to report: none of these runs has a test that a table is made of. `clipfit base2new` "
            "makes some on the built-in data set in minutes"
        )
    sections = [_section(name, part, wanted, readers, library) for name, part in parts]
    everything = [record for _, part in parts for record in part]
    return Report(
        title=_title(everything),
        about=tuple(about),
        sections=_told_apart(sections),
        methods=cards_of(everything),
        notes=(*(f"{text[:1].upper()}{text[1:]}." for text in notes), *_notes(everything)),
    )


def _parts(records: Sequence[Finished]) -> list[list[Finished]]:
    """Return the runs of a protocol in parts that one table may hold, what trains nothing in all that it fits."""
    trained: dict[tuple[object, ...], list[Finished]] = {}
    plain: dict[tuple[object, ...], list[Finished]] = {}
    for record in records:
        bn = record.config.model.bn
        if trains_nothing(record):
            plain.setdefault(_conditions(record), []).append(record)
        else:
            trained.setdefault((*_conditions(record), bn), []).append(record)
    found = [[*plain.get(key[:-1], ()), *part] for key, part in trained.items()]
    alone = [part for key, part in plain.items() if key not in {key[:-1] for key in trained}]
    return [*found, *alone]


def _conditions(record: Finished) -> tuple[object, ...]:
    config, run = record.config, record.run
    tests: Any = config.tests if config.protocol == "xdataset" else config.tests[0].subset
    return (
        config.model.backbone,
        config.model.pretrained,
        run.weights_sha256,
        run.activation,
        config.precision,
        config.templates,
        run.numbers_version,
        tests if config.protocol != "base2new" else None,
    )


def _section(
    name: ProtocolName, records: Sequence[Finished], wanted: Wanted, readers: Readers, library: Library
) -> Section:
    rules = compare.protocol(name)
    options: dict[str, Any] = {"shifts": _shifts(records, readers)} if name == "xdataset" else {}
    entries: list[Entry] = rules.entries(records, **options)
    leader = _leader(entries, rules.METRICS[-1], wanted.leader)
    remarks: list[str] = []
    try:
        compare.check_comparable(records)
        is_single = all(len(series.records) == 1 for entry in entries for series, _ in entry.runs)
        read = (
            (lambda run, test: readers.test(run, test)[0])
            if (is_single and len(entries) <= _MOST_TESTED_BY_IMAGES)
            else None
        )
        table = compare.table_of_leads(name, records, entries, {leader} - {""}, leader, ExtraMetrics(read=read))
    except ResultsError as error:
        table, leader = compare.summarise(name, records, **options), ""
        remarks.append(f"No leads: {error}")
    table = with_marks(table, entries, rules.METRICS, leader)
    figures, lacking = figures_of(name, records, readers, leader=leader, named=wanted.named)
    rows, reason = agreeing(library.rows, records)
    if not rows:
        remarks.append(f"Published numbers: {reason}.")
    signs = tuple(f"{what}: " for what, _ in MEANINGS.values())
    return Section(
        heading=f"{NAMES[name]}: {_model(records[0])}",
        protocol=name,
        facts=tuple(_facts(records, leader)),
        table=replace(table, captions=tuple(text for text in table.captions if not text.startswith(signs))),
        figures=tuple(figures),
        signs=tuple(text for text in table.captions if text.startswith(signs)),
        published=tuple(tables_of(rows, title="Published")) if rows else (),
        remarks=(*remarks, *lacking),
    )


def _shifts(records: Sequence[Finished], readers: Readers) -> set[str]:
    """Return the data sets that have the very classes of the source: that they were called shifts stands in no record.

    The names of classes stand beside predictions; where these cannot be read, nobody knows.
    """
    known: dict[tuple[str, str], bool] = {}
    for record in records:
        source = next((test for test in record.tests if test.dataset == record.config.dataset), None)
        for test in record.tests if source else ():
            if source and test is not source and (source.dataset, test.dataset) not in known:
                with suppress(ResultsError):
                    own, there = (readers.test(record.run, one)[1].class_names for one in (source, test))
                    known[source.dataset, test.dataset] = bool(own) and sorted(own) == sorted(there)
    return {name for (_, name), is_shift in known.items() if is_shift}


def _leader(entries: Sequence[Entry], metric: str, wanted: str) -> str:
    """Return the label of the method whose leads are shown: the wanted one, else the best of those with most rows."""
    trained = [entry for entry in entries if entry.shots != 0]
    labels = list(dict.fromkeys(entry.label for entry in trained))
    meant = [label for label in labels if wanted and wanted in (label, label.split(" (", 1)[0])]
    rows = {label: [entry.row.get(f"{metric}_pct") for entry in trained if entry.label == label] for label in labels}
    scores = {label: [value for value in found if isinstance(value, float)] for label, found in rows.items()}
    seeds = {label: min(fewest_seeds(entry) for entry in trained if entry.label == label) for label in labels}
    return max(
        meant or labels,
        key=lambda label: (
            *(label == wanted, len(scores[label]), seeds[label]),
            mean(scores[label]) if scores[label] else 0.0,
        ),
        default="",
    )


def _facts(records: Sequence[Finished], leader: str) -> Iterable[tuple[str, str]]:
    config, run = records[0].config, records[0].run
    trained = [record for record in records if not trains_nothing(record)]
    datasets = list(dict.fromkeys(test.dataset for record in records for test in record.config.tests))
    seeds = sorted({record.config.seed for record in trained})
    shots = dict.fromkeys(record.config.shots for record in trained)
    yield "model", _model(records[0])
    yield "activation", run.activation
    yield "precision", config.precision
    yield "prompts", templates_text(config.templates) or "each data set's own"
    yield "data sets", ", ".join(datasets)
    if trained:
        yield "shots", ", ".join("all images" if count is None else str(count) for count in shots)
        some = "" if len({tuple(one.seeds) for one in series_of(trained)}) == 1 else "; not all in every row"
        yield "seeds", ", ".join(map(str, seeds)) + some
        yield "runs", f"{len(trained):,}"
    if any(record.config.model.bn != "eval" for record in trained):
        yield "BatchNorm", "statistics drift while training, as in the official code"
    if leader:
        yield "leads of", leader
    yield "devices", ", ".join(dict.fromkeys(record.run.device for record in records))
    yield "weights", run.weights_sha256[:12]


def _model(record: Finished) -> str:
    model = record.config.model
    return model.pretrained if model.backbone == model.pretrained else f"{model.backbone} / {model.pretrained}"


def _told_apart(sections: Sequence[Section]) -> tuple[Section, ...]:
    """Return the sections with headings that differ: by what they are under other conditions, else by a number."""
    found: list[Section] = []
    for section in sections:
        alike = [one for one in sections if one.heading == section.heading]
        words = [
            value
            for name, value in section.facts
            if name in ("activation", "precision", "prompts", "BatchNorm", "data sets", "weights")
            and len({dict(one.facts).get(name) for one in alike}) > 1
        ]
        heading = " · ".join([section.heading, *words])
        taken = sum(one.heading.startswith(heading) for one in found)
        found.append(replace(section, heading=f"{heading} ({taken + 1})" if taken else heading))
    return tuple(found)


def _title(records: Sequence[Finished]) -> str:
    labels = dict.fromkeys(record.config.method for record in records)
    datasets = dict.fromkeys(record.config.dataset for record in records)
    models = dict.fromkeys(_model(record) for record in records)
    return " · ".join(
        next(iter(names)) if len(names) == 1 else counted(len(names), noun)
        for names, noun in ((labels, "method"), (datasets, "data set"), (models, "model"))
    )


def _notes(records: Sequence[Finished]) -> tuple[str, ...]:
    """Return the notes of runs and their tests, each once."""
    found = (note for record in records for note in (*record.run.notes, *_of_tests(record)))
    return tuple(dict.fromkeys(found))


def _of_tests(record: Finished) -> Iterable[str]:
    return (note for test in record.tests for note in test.notes)


_MOST_LINES = 6
"""Methods in a figure that has a row for each of many points: the leader, those that are named, and others."""

_Make = tuple[str, str, Callable[[], Table]]


def figures_of(
    name: ProtocolName, records: Sequence[Finished], readers: Readers, *, leader: str, named: Sequence[str]
) -> tuple[list[Figure], list[str]]:
    """Return the figures of runs, and which there cannot be, and why.

    Args:
        name: Of the protocol.
        records: That one table may hold.
        readers: What finds files.
        leader: Label of the method that goes first.
        named: Methods or labels that go next.
    """
    if not leader or name == "xdataset":
        return [], []
    found: list[Figure] = []
    lacking: list[str] = []
    for plot, heading, make in _wanted(name, records, readers, leader, named):
        try:
            table = make()
            if table.rows:
                found.append(Figure(plot, heading, table))
        except (ResultsError, UnknownNameError) as error:
            lacking.append(f"No figure “{heading}”: {error}")
    return found, list(dict.fromkeys(lacking))


def _wanted(
    name: ProtocolName, records: Sequence[Finished], readers: Readers, leader: str, named: Sequence[str]
) -> list[_Make]:
    series = series_of(records)
    datasets = list(dict.fromkeys(one.config.dataset for one in series))
    is_halved, is_many = name == "base2new", len(datasets) > 1
    few = _few(series, leader, named)
    score = "H" if is_halved else "Accuracy"
    found: list[_Make] = []
    if not is_halved:
        found.append(("shots", "Accuracy against shots", partial(plot_tables.shots, records)))
    found.append(("tradeoff", f"{score} against trained parameters", partial(plot_tables.tradeoff, records)))
    if is_halved:
        found.append(("base-new", "Base against new accuracy", partial(plot_tables.base_new, records)))
    if is_many:
        found.append(("ranks", "Ranks over data sets", partial(plot_tables.ranks, records)))
    found.append(("calibration", "Calibration", partial(image_tables.calibration, few, readers.test)))
    for dataset in datasets:
        of_one = [record for record in records if record.config.dataset == dataset]
        where = f" on {dataset}" if is_many else ""
        if any(one.label == leader and one.config.dataset == dataset for one in series):
            test = TestSet(dataset, "new" if is_halved else of_one[-1].config.tests[0].subset)
            found += [
                (
                    "classes",
                    f"Classes that gained and lost{where}",
                    partial(class_tables.classes, of_one, readers.test, method=leader),
                ),
                (
                    "confusion",
                    f"Confusion{where}",
                    partial(class_tables.confusion, of_one, readers.test, method=leader, test=test),
                ),
            ]
    for dataset in datasets:
        of_one = [record for record in few if record.config.dataset == dataset and not trains_nothing(record)]
        if of_one:
            where = f" on {dataset}" if is_many else ""
            found.append(("loss", f"Training loss{where}", partial(image_tables.loss, of_one, readers.losses)))
    return found


def _few(series: Sequence[Series], leader: str, named: Sequence[str], most: int = _MOST_LINES) -> list[Finished]:
    """Return the runs of a few methods and of what trains nothing, the leader first."""
    trained = list(dict.fromkeys(one.label for one in series if not one.trains_nothing))
    asked = [label for word in named for label in trained if word in (label, label.split(" (", 1)[0])]
    chosen = list(dict.fromkeys([leader, *asked, *trained]))[:most]
    plain = [record for one in series if one.trains_nothing for record in one.records]
    return plain + [record for label in chosen for one in series if one.label == label for record in one.records]
