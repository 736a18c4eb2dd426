"""Tables about finished trainings: a list of them, one of them whole, and two side by side."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from clipfit_cli.config import Recipe
from clipfit_cli.errors import counted
from clipfit_cli.reports.tables import Column, Table
from clipfit_cli.results.difference import RIGHT, Difference, Effect
from clipfit_cli.results.prune import size_of
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.select import Stored

_DIGITS = 12
_RUN_COLUMNS = (
    Column("key", "key"),
    Column("dataset", "data set"),
    Column("subset", "subset"),
    Column("method", "method"),
    Column("shots", "shots", "value"),
    Column("seed", "seed", "int"),
    Column("created_at", "", terminal=False),
    Column("date", "date", csv=False),
    Column("scores", "accuracy", "prose", csv=False),
    Column("accuracy_pct", "", "pct", terminal=False),
    Column("num_tests", "tests", "int", terminal=False),
    Column("protocols", "protocols", "value", terminal=False),
    Column("settings", "settings", "value", terminal=False),
    Column("backbone", "backbone", terminal=False),
    Column("pretrained", "pretrained", terminal=False),
    Column("precision", "precision", terminal=False),
    Column("train_time_s", "training", "seconds", terminal=False),
    Column("size_mib", "size", "mib", terminal=False),
    Column("device", "device", terminal=False),
    Column("clipfit_version", "version", terminal=False),
    Column("numbers_version", "", "int", terminal=False),
    Column("notes", "notes", "value", terminal=False),
    Column("folder", "folder", terminal=False),
)
_EFFECTS: dict[Effect, str] = {
    "another run": "part of the key, which makes them two runs",
    "another test": "part of a test's key, which makes them two tests",
    "last bits": "part of no key; moves the last bits at most",
    "nothing": "moves no number",
    "result": "what came out",
}


def table_of_runs(found: Sequence[Stored]) -> Table:
    """Return a row a training, the oldest first.

    ``accuracy_pct`` is that of the test of what was trained on; people see that of each test of the same data set.
    """
    rows = [
        {
            "key": one.run.key[:_DIGITS],
            "dataset": one.run.config.dataset,
            "subset": one.run.config.subset,
            "method": one.run.config.method,
            "shots": "all" if one.run.config.shots is None else one.run.config.shots,
            "seed": one.run.config.seed,
            "created_at": one.run.created_at,
            "date": one.run.created_at[:10],
            "scores": _scores(one),
            "accuracy_pct": own.accuracy_pct if (own := one.tests_of_its_data.get(one.run.config.subset)) else None,
            "num_tests": len(one.tests),
            "protocols": one.protocols,
            "settings": one.run.config.settings or None,
            "backbone": one.run.config.model.backbone,
            "pretrained": one.run.config.model.pretrained,
            "precision": one.run.config.precision,
            "train_time_s": one.run.train_time_s,
            "size_mib": size_of(one.folder) / 2**20,
            "device": one.run.device,
            "clipfit_version": one.run.versions.get("clipfit"),
            "numbers_version": one.run.numbers_version,
            "notes": list(one.run.notes) or None,
            "folder": str(one.folder),
        }
        for one in sorted(found, key=lambda one: (one.run.created_at, str(one.folder)))
    ]
    title = f"{counted(len(rows), 'finished run')} with {counted(sum(len(one.tests) for one in found), 'test')}"
    return Table(title, _RUN_COLUMNS, tuple(rows))


def table_of_run(one: Stored, command: str, signatures: Sequence[str] = ()) -> Table:
    """Return everything that a reader asks of a training, a row a fact, and its tests.

    Args:
        one: The training.
        command: That makes it again; empty where none can.
        signatures: Of `results.signatures.signatures_of`.
    """
    run, config = one.run, one.run.config
    shots = "all images" if config.shots is None else f"{config.shots} shots"
    facts: dict[str, object] = {
        "folder": str(one.folder),
        "trained on": f"{config.dataset}, {config.subset} classes, {shots}, seed {config.seed}",
        "images": f"{run.num_train_images:,} of {run.num_train_classes} classes" if run.num_train_images else "",
        "settings": _pairs(config.settings),
        **{
            f"stage {place}" if len(config.stages) > 1 else "recipe": _recipe(stage)
            for place, stage in enumerate(config.stages, 1)
        },
        "model": f"{config.model.backbone} / {config.model.pretrained}, {config.precision}, {run.activation}",
        "weights": run.weights_sha256[:_DIGITS],
        "prompts": " | ".join(config.templates[:3]) + (" | ..." if len(config.templates) > 3 else ""),
        "chosen": _pairs(run.chosen),
        "took": _took(run),
        "made": f"{run.created_at} on {run.device}",
        "versions": _pairs(run.versions),
        "numbers": f"version {run.numbers_version}",
        "notes": "\n".join((*run.notes, *signatures)),
        "files": _files(one.folder),
        "again": command,
    }
    facts_of_tests = [(" ".join(_place(test)), _test(test, str(one.difference_from_plan(test)))) for test in one.tests]
    rows = tuple(
        {"what": what, "shown": _folded(what), "value": str(value)}
        for what, value in [*facts.items(), *facts_of_tests]
        if value
    )
    columns = (Column("what", "", terminal=False), Column("shown", config.method, csv=False))
    return Table("", (*columns, Column("value", run.key, "prose")), rows)


def table_of_differences(first: Stored, second: Stored, found: Sequence[Difference]) -> Table:
    """Return a row a difference, in the order of what they come to."""
    order = list(_EFFECTS)
    rows = tuple(
        {"effect": one.effect, "name": one.name, "first": _told(one.first), "second": _told(one.second)}
        for one in sorted(found, key=lambda one: order.index(one.effect))
    )
    columns = (
        Column("effect", "comes to"),
        Column("name", "what", "prose"),
        Column("first", first.run.key[:_DIGITS], "prose"),
        Column("second", second.run.key[:_DIGITS], "prose"),
    )
    effects = {one.effect for one in found}
    captions = [f"{effect}: {_EFFECTS[effect]}" for effect in order if effect in effects]
    if any(one.name.endswith(f".{RIGHT}") for one in found):
        captions.append(f"{RIGHT}: how many each has right of the images that the two predict otherwise")
    if first.run.key == second.run.key:
        captions.append("they have one key: they are the same run, made twice")
    elif not effects & {"another run"}:
        captions.append("they have two keys, and no record says why")
    return Table("Differences of two runs", columns, rows, tuple(captions))


def _scores(one: Stored) -> str:
    own = one.tests_of_its_data
    told = [f"{subset} {test.accuracy_pct:.2f}" for subset, test in own.items()]
    more = len(one.tests) - len(own)
    return ", ".join([*told, *([f"{more} more" if told else counted(more, "test")] if more else [])])


def _took(run: Run) -> str:
    parts = [counted(run.trainable_parameters, "trained number")] if run.trainable_parameters else []
    if run.steps:
        parts += [counted(run.steps, "step"), f"{run.train_time_s:,.1f} s"]
    if run.final_loss is not None:
        parts.append(f"final loss {run.final_loss:.4f}")
    if run.peak_memory_mib is not None:
        parts.append(f"{run.peak_memory_mib:,.0f} MiB")
    return ", ".join(parts)


def _recipe(stage: Recipe) -> str:
    """What of a stage is not as usual, and its length and rate."""
    shown = {field.name: getattr(stage, field.name) for field in fields(Recipe)}
    usual = vars(Recipe())
    always = ("optimiser", "lr", "epochs" if stage.steps is None else "steps", "batch_size")
    return _pairs({name: value for name, value in shown.items() if name in always or value != usual[name]})


def _folded(what: str) -> str:
    """Return a head of two lines where one would leave a key too little of 80 columns."""
    return what if len(what) <= 14 else what.replace(" ", "\n", 1)


def _place(test: Test) -> list[str]:
    """Return what tells a test from others of its training."""
    found = [test.dataset, test.subset, test.transform, f"alpha {test.interpolation:g}"]
    return [word for word, usual in zip(found, (None, None, "identity", "alpha 1"), strict=True) if word != usual]


def _test(test: Test, difference: str) -> str:
    return (f"{difference}: " if difference else "") + (
        f"accuracy {test.accuracy_pct:.2f}, macro-F1 {test.macro_f1_pct:.2f}: {test.num_images:,} images of "
        f"{test.num_classes} classes, {test.created_at}" + "".join(f"\n{note}" for note in test.notes)
    )


def _files(folder: Path) -> str:
    found = sorted(path for path in folder.glob("*") if not path.name.startswith("."))
    return ", ".join(f"{path.name} ({size_of(path) / 1024:,.0f} KiB)" for path in found)


def _pairs(values: dict[str, Any]) -> str:
    return " ".join(f"{name}={_plain(value)}" for name, value in values.items())


def _plain(value: Any) -> str:
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _told(value: Any) -> str | None:
    """Return a value as a cell: digests by their first digits, numbers as they are read."""
    if value is None or value == "":
        return None
    if isinstance(value, str):
        is_digest = len(value) == 64 and not set(value) - set("0123456789abcdef")
        return value[:_DIGITS] if is_digest else value
    return f"{value:.6g}" if isinstance(value, float) else json.dumps(value, ensure_ascii=False)
