"""A record -> the command line that makes the run again."""

from __future__ import annotations

import shlex
from collections.abc import Sequence
from dataclasses import fields
from typing import TYPE_CHECKING, Any

from clipfit_cli import methods
from clipfit_cli.config import TINY_BACKBONE, TINY_PRETRAINED, ModelConfig, Recipe
from clipfit_cli.data import catalog
from clipfit_cli.data.shifts import Shift, kinds_of, parse_shift
from clipfit_cli.errors import ClipfitError
from clipfit_cli.protocols.planning import conditions_of

if TYPE_CHECKING:
    from clipfit_cli.results.record import Run, Test

_MOST_TEMPLATES = 8


def again(run: Run, tests: Sequence[Test]) -> str:
    """Return the command that makes a training with its tests again, as a shell takes it.

    What a command line cannot hold stands in capitals: an adapter from elsewhere, or a file of many templates.
    """
    config = run.config
    own = [test for test in tests if test.dataset == config.dataset]
    groups, targets = {test.subset for test in own}, dict.fromkeys(t.dataset for t in tests if t not in own)
    data = ["--dataset", _named(config.dataset, run.location)]
    trains = bool(config.stages) and not run.scored_adapter
    if run.scored_adapter:
        words = ["eval", "--adapter", "ADAPTER", *data]
    elif shifts := [shift for test in own if (shift := _shift_of(test))]:
        words = ["robustness", *data, *_shifted(shifts, config.dataset, [t for t in tests if t not in own])]
        words += [*_unless(["--subset", config.subset], config.subset == "all"), "--baseline", "zero-shot"]
    elif targets and config.subset == "all":
        words = ["xdataset", "--source", data[1], "--target", ",".join(targets)]
    elif "new" in groups and config.subset != "new":
        words = ["base2new", *data]
    else:
        subset = config.subset if trains else next(iter(sorted(groups)), "all")
        words = ["train" if trains else "eval", *data, *_unless(["--subset", subset], subset == "all")]
    if words[0] != "eval":
        words += ["--method", config.method]
    if trains:
        words += ["--shots", "all" if config.shots is None else str(config.shots), "--seeds", str(config.seed)]
        words += _settings(run)
        words += [*_unless(["--tune"], not config.tune)]
        words += _unless(["--val-shots", str(config.val_shots)], config.val_shots is None)
    words += [*_model(config.model, config.dataset), "--precision", config.precision]
    return shlex.join(["clipfit", *words, *_templates(config.templates, config.dataset)])


def _shifted(shifts: Sequence[Shift], dataset: str, others: Sequence[Test]) -> list[str]:
    """Return what says which shifts and domains were tested."""
    known = [test.dataset for test in others if test.dataset in catalog.domains_of(dataset)]
    names = [*kinds_of(shift.name for shift in shifts), *(["domain"] if known else [])]
    severities = ",".join(map(str, sorted({shift.severity for shift in shifts})))
    own = {_named(test.dataset, test.location): None for test in others if test.dataset not in known}
    return ["--shifts", ",".join(names), "--severity", severities, *(word for one in own for word in ("--shift", one))]


def _shift_of(test: Test) -> Shift | None:
    try:
        return parse_shift(test.transform)
    except ClipfitError:  # of another version
        return None


def _settings(run: Run) -> list[str]:
    """Return what deviates from the method's own settings and recipe under the conditions of the training."""
    config = run.config
    conditions = conditions_of("few-shot", config.dataset, config.subset, config.shots)
    try:
        made = methods.resolve(methods.get(config.method), {}, conditions)
        given = {name: value for name, value in config.settings.items() if value != made.settings.get(name)}
        if given:
            typed = {name: _typed(value) for name, value in given.items()}
            made = methods.resolve(methods.get(config.method), typed, conditions)
    except ClipfitError:  # the method, or its setting, is not there any more
        return [word for name, value in config.settings.items() for word in ("--set", f"{name}={_typed(value)}")]
    if config.reference_templates:
        given["templates"] = "reference"
    for mine, theirs in zip(config.stages, made.stages, strict=False):
        if mine.makes_steps:
            given |= {
                field.name: getattr(mine, field.name)
                for field in fields(Recipe)
                if getattr(mine, field.name) != getattr(theirs, field.name) and field.name not in config.settings
            }
    return [word for name, value in given.items() for word in ("--set", f"{name}={_typed(value)}")]


def _typed(value: Any) -> str:
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "-".join(map(str, value)) if isinstance(value, list | tuple) else str(value)


def _named(dataset: str, location: str) -> str:
    """Return a data set as it is typed: by its name, one of the user's own with where it lay."""
    if catalog.is_known(dataset) or not location:
        return dataset
    if location.startswith("/") and ".tar" not in location:
        return f"{dataset}={location}"
    return f"{dataset}={'wds' if '.tar' in location else 'hf'}:{location}"


def _model(model: ModelConfig, dataset: str) -> list[str]:
    usual = (
        (TINY_BACKBONE, TINY_PRETRAINED)
        if dataset in catalog.BUILTIN_DATASETS
        else (ModelConfig.backbone, ModelConfig.pretrained)
    )
    names = [] if (model.backbone, model.pretrained) == usual else ["--backbone", model.backbone]
    if names and model.pretrained != model.backbone:
        names += ["--pretrained", model.pretrained]
    return [*names, *_unless(["--bn", model.bn], model.bn == ModelConfig.bn)]


def _templates(templates: Sequence[str], dataset: str) -> list[str]:
    if tuple(templates) in ((), (catalog.prompt_template(dataset),)):
        return []
    return ["--template", templates[0]] if len(templates) == 1 else ["--templates", "FILE"]


def _unless(words: list[str], is_usual: bool) -> list[str]:
    return [] if is_usual else words
