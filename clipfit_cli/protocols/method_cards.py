"""What is to be known of each method of a report: what trains, what it takes, and how it was trained."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from clipfit_cli import methods
from clipfit_cli.config import Recipe
from clipfit_cli.errors import ClipfitError
from clipfit_cli.protocols.series import Series, series_of
from clipfit_cli.reports.report import MethodCard
from clipfit_cli.reports.tables import Column, Kind, cell_text
from clipfit_cli.results.record import Finished, Run
from clipfit_cli.results.summary import mean

_MOST_RECIPES = 3


def cards_of(records: Sequence[Finished]) -> tuple[MethodCard, ...]:
    """Return a card a method: one that was trained in several ways has one each.

    Args:
        records: Of any protocols and models; labels are those of `series_of` on each.
    """
    found: dict[str, list[Series]] = {}
    for one in _series(records):
        found.setdefault(one.label, []).append(one)
    return tuple(_card(label, group) for label, group in found.items())


def _series(records: Sequence[Finished]) -> list[Series]:
    protocols = dict.fromkeys(record.config.protocol for record in records)
    return [one for name in protocols for one in series_of([r for r in records if r.config.protocol == name])]


def _card(label: str, group: Sequence[Series]) -> MethodCard:
    config = group[0].config
    runs = list({record.run.key: record.run for one in group for record in one.records}.values())
    facts: list[tuple[str, str]] = []
    summary = "not installed here: what trains is not known"
    try:
        info = methods.get(config.method)
    except ClipfitError:
        info = None
    if info:
        summary = info.summary
        facts += [("family", info.family), ("source", info.source)]
        if info.trains and not info.knows_new_classes(info.settings(**_known(config.settings, info.settings))):
            facts.append(("new classes", "no answer for classes that it was not trained on"))
        if info.transductive:
            facts.append(("transductive", "learns from test images, without their labels"))
    if config.origin:
        facts.append(("package", config.origin))
    trained = [run for run in runs if run.config.stages]
    if trained:
        facts += [
            ("trained parameters", _range([run.trainable_parameters for run in trained], "int")),
            ("of the model", f"{100 * max(_share(run) for run in trained):.3g} %"),
            ("training", f"{_range([run.train_time_s for run in trained], 'seconds')}; {_mean(trained)}"),
            ("memory", _range([run.peak_memory_mib for run in trained if run.peak_memory_mib is not None], "mib")),
            ("settings", _settings([one.config.settings for one in group]) or "none"),
        ]
        recipes = dict.fromkeys(one.config.stages for one in group)
        facts += [("recipe", _recipe(stages)) for stages in list(recipes)[:_MOST_RECIPES]]
        if len(recipes) > _MOST_RECIPES:
            facts.append(("further recipes", str(len(recipes) - _MOST_RECIPES)))
        if chosen := {run.selected_on for run in trained} - {"none"}:
            facts.append(("selected on", ", ".join(sorted(chosen))))
    facts.append(("runs", f"{len(runs):,}"))
    return MethodCard(label, summary, tuple((name, text) for name, text in facts if text))


def _known(settings: dict[str, object], kind: type) -> dict[str, object]:
    """Return the settings that a method of now still has."""
    names = getattr(kind, "__dataclass_fields__", {})
    return {name: value for name, value in settings.items() if name in names}


def _share(run: Run) -> float:
    return run.trainable_parameters / run.total_parameters if run.total_parameters else 0.0


def _range(values: Iterable[float], kind: Kind) -> str:
    """Return least and most, as a table shows them; nothing of no value."""
    found = sorted(values)
    ends = dict.fromkeys(cell_text({"x": value}, Column("x", "", kind))[0] for value in (found[:1] + found[-1:]))
    return " to ".join(ends)


def _mean(runs: Sequence[Run]) -> str:
    text, _ = cell_text({"x": mean([run.train_time_s for run in runs])}, Column("x", "", "seconds"))
    return f"{text} on average"


def _settings(found: Sequence[dict[str, object]]) -> str:
    """Return every setting with the values that it has, of those that a method fixes by data set more than one."""
    values: dict[str, dict[str, None]] = {}
    for settings in found:
        for name, value in settings.items():
            values.setdefault(name, {})["none" if value is None else str(value)] = None
    return ", ".join(f"{name}={' / '.join(texts)}" for name, texts in values.items())


def _recipe(stages: Sequence[Recipe]) -> str:
    """Return how it is trained in words, stage by stage."""
    return "; then ".join(map(_stage, stages))


def _stage(stage: Recipe) -> str:
    if not stage.makes_steps:
        return "no steps: in closed form, or by itself"
    length = f"{stage.steps:,} steps" if stage.steps is not None else f"{stage.epochs:,} epochs"
    batch = "all images" if stage.batch_size is None else f"batches of {stage.batch_size}"
    decay = {"epoch": "cosine by epoch", "step": "cosine by step", "none": "constant rate"}[stage.decay]
    warmup = f", {stage.warmup_epochs} of them warm-up" if stage.warmup_epochs and stage.steps is None else ""
    views = f", {stage.views} stored views" if stage.views else ""
    crop = ", random crops" if stage.crop_scale else ", no augmentation"
    return f"{stage.optimiser}, rate {stage.lr:g}, {decay}, {length}{warmup}, {batch}{crop}{views}"
