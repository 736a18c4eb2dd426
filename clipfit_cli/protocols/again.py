"""The command that makes runs again, from what was asked of them."""

from __future__ import annotations

import shlex
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from clipfit_cli import methods
from clipfit_cli.config import ModelConfig, OwnDataSet, Recipe, RunConfig, TestSet
from clipfit_cli.data import catalog
from clipfit_cli.data.shifts import Shift, kinds_of, parse_shift
from clipfit_cli.errors import ClipfitError
from clipfit_cli.protocols.planning import conditions_of
from clipfit_cli.protocols.series import Series
from clipfit_cli.results.request import RunRequest
from clipfit_cli.results.select import Stored

_COMMANDS = {"few-shot": "train", "base2new": "base2new", "xdataset": "xdataset", "eval": "eval"}
_TEMPLATES, _CLASS_NAMES = "templates.txt", "class-names.txt"
"""Files that a command writes first, where what was asked names none."""


def requests_of_runs(runs: Iterable[Stored], *, with_eval: bool = True) -> list[RunRequest]:
    """Return what was asked of runs: of each what protocols asked first.

    Args:
        runs: In any order.
        with_eval: What scores a training was asked, too.
    """
    found: list[RunRequest] = []
    for one in runs:
        found += [request for request in one.requests if request.is_of_a_protocol]
        if with_eval or not one.run.config.stages:
            found += [request for request in one.requests if not request.is_of_a_protocol]
    return found


def commands_of_runs(runs: Iterable[Stored]) -> list[str]:
    """Return the commands that make runs again with their tests: one for all seeds of a training."""
    return commands_of_requests(requests_of_runs(runs))


def commands_of(series: Sequence[Series]) -> list[str]:
    """Return the commands that make the runs of one method again: one for all data sets that are asked for alike.

    Nothing of a run whose settings cannot be typed, or whose method is not installed.

    Args:
        series: One a data set.
    """
    return commands_of_requests(record.request for one in series for record in one.records if record.request)


def commands_of_requests(requests: Iterable[RunRequest]) -> list[str]:
    """Return the commands that ask for the same: one for all seeds, and for data sets that are asked for alike."""
    alike: dict[str, list[RunRequest]] = {}
    for request in requests:
        for part in _parts(request):
            config = replace(part.config, seed=0, typed={})
            said = (config, part.own, part.data_root, part.skip_damaged)
            alike.setdefault(repr(said), []).append(part)
    lines: dict[tuple[object, ...], list[RunRequest]] = {}
    for number, group in enumerate(alike.values()):
        first = group[0]
        seeds = sorted({request.config.seed for request in group})
        if (options := _options(first, seeds)) is None:
            continue
        is_alone = first.config.protocol == "xdataset" or any(own.class_names is not None for own in first.own.values())
        lines.setdefault((_command(first), *options, number if is_alone else None), []).append(first)
    return list(dict.fromkeys(_line(group, options) for (_, *options, _), group in lines.items()))


def _parts(request: RunRequest) -> list[RunRequest]:
    """Return a request as commands ask for it: base-to-new tests by one, their shifted images by another; of a model as
    it is that was not tested on all, each test by ``eval``.
    """
    config = request.config
    if not config.stages and 0 < len(request.planned) < len(config.tests):
        eval_of = (replace(config, protocol="eval", dataset=t.asked.dataset, tests=(t.asked,)) for t in request.planned)
        return [replace(request, config=one) for one in eval_of]
    plain = tuple(test for test in config.tests if test.shift == TestSet.shift)
    if config.protocol != "base2new" or plain == config.tests:
        return [request]
    own = TestSet(config.dataset, config.subset)
    shifted = tuple(test for test in config.tests if replace(test, shift=own.shift) == own)
    return [
        replace(request, config=replace(config, tests=plain)),
        replace(request, config=replace(config, protocol="few-shot", tests=shifted)),
    ]


def _command(request: RunRequest) -> str:
    """Return the name of the command: that of the protocol, or ``robustness`` where other images were tested, too."""
    config = request.config
    is_clean = config.protocol != "few-shot" or config.tests == (TestSet(config.dataset, config.tests[0].subset),)
    return _COMMANDS[config.protocol] if is_clean else "robustness"


def _shifts(request: RunRequest) -> list[str]:
    """Return the options that say which shifts and domains were tested."""
    config = request.config
    shifts = [shift for test in config.tests if (shift := _shift_of(test))]
    others = [test.dataset for test in config.tests if test.dataset != config.dataset]
    domains = [name for name in others if name in catalog.domains_of(config.dataset)]
    names = [*kinds_of(shift.name for shift in shifts), *(["domain"] if domains else [])] if shifts or domains else []
    severities = ",".join(map(str, sorted({shift.severity for shift in shifts})))
    words = ["--shifts", ",".join(names or ["domain"]), *(["--severity", severities] if severities else [])]
    own = (_source(name, request) for name in others if name not in domains)
    return [*words, *(word for source in own for word in ("--shift", source)), "--baseline", "zero-shot"]


def _shift_of(test: TestSet) -> Shift | None:
    try:
        return parse_shift(test.shift)
    except ClipfitError:  # of another version
        return None


def _line(group: Sequence[RunRequest], options: Sequence[object]) -> str:
    """Return the command of data sets that are asked for alike."""
    request = group[0]
    config = request.config
    words = ["clipfit", _command(request)]
    if config.protocol == "xdataset":
        targets = [test.dataset for test in config.tests if test.dataset != config.dataset]
        words += ["--source", _source(config.dataset, request)]
        words += _datasets("--target", {name: _source(name, request) for name in targets})
    else:
        words += _datasets("--dataset", {one.config.dataset: _source(one.config.dataset, one) for one in group})
    lines = []
    if _template_options(config.templates) == ["--templates", _TEMPLATES]:
        lines.append(f"{shlex.join(['printf', '%s' + chr(92) + 'n', *config.templates])} > {_TEMPLATES}")
    if (named := _named(request)) and not named.class_names_file:
        names = named.class_names.values() if isinstance(named.class_names, dict) else named.class_names or ()
        lines.append(f"{shlex.join(['printf', '%s' + chr(92) + 'n', *names])} > {_CLASS_NAMES}")
    return " && ".join([*lines, shlex.join([*words, *map(str, options)])])


def _named(request: RunRequest) -> OwnDataSet | None:
    """Return the data set whose class names were given."""
    return next((own for own in request.own.values() if own.class_names is not None), None)


def _options(request: RunRequest, seeds: Sequence[int]) -> list[str] | None:
    """Return the options but for data sets; None where they cannot be typed on a line."""
    config = request.config
    typed = _typed(config)
    if typed is None:
        return None
    is_plan = config.protocol != "eval"
    words = _shifts(request) if _command(request) == "robustness" else []
    words += ["--method", config.method] if is_plan else ["--adapter", config.adapter] if config.adapter else []
    for name, value in typed.items():
        words += ["--set", f"{name}={value}"]
    if config.protocol in ("few-shot", "eval") and config.tests[0].subset != "all":
        words += ["--subset", config.tests[0].subset]
    if alphas := [f"{test.alpha:g}" for test in config.tests if test.alpha is not None]:
        words += ["--alpha", ",".join(alphas)]
    if is_plan and config.shots != 0:
        shots = "all" if config.shots is None else str(config.shots)
        words += ["--shots", shots, "--seeds", ",".join(map(str, seeds))]
    words += ["--tune"] if config.tune else []
    words += ["--val-shots", str(config.val_shots)] if config.val_shots is not None else []
    words += _model_options(config.model) if config.adapter is None else []
    words += ["--precision", config.precision]
    words += _template_options(config.templates)
    if named := _named(request):
        words += ["--class-names", named.class_names_file or _CLASS_NAMES]
    words += ["--data-root", request.data_root] if request.data_root else []
    words += ["--skip-damaged"] if request.skip_damaged else []
    names = (config.dataset, *(test.dataset for test in config.tests))
    return None if any("\n" in word for word in (*words, *names, *config.templates)) else words


def _model_options(model: ModelConfig) -> list[str]:
    words = [] if model.backbone == model.pretrained else ["--backbone", model.backbone]
    return [*words, "--pretrained", model.pretrained, *(["--bn", model.bn] if model.bn != "eval" else [])]


def _typed(config: RunConfig) -> dict[str, str] | None:
    """Return what was typed for a method: all in which a run differs from the method by itself, as texts.

    None where no text says it, or the method is not here.
    """
    if not config.stages:
        return {}
    conditions = conditions_of(config.protocol, config.dataset, config.subset, config.shots)
    try:
        info = methods.get(config.method)
        typed: dict[str, str] = {"templates": "reference"} if config.reference_templates else {}
        usual = methods.resolve(info, typed, conditions)
        typed |= {name: _text(value) for name, value in config.settings.items() if value != usual.settings.get(name)}
        usual = methods.resolve(info, typed, conditions)
        typed |= _of_recipe(config.stages, usual.stages)
        made = methods.resolve(info, typed, conditions)
    except (ClipfitError, TypeError):
        return None
    is_same = (made.settings, made.stages, made.reference_templates) == (
        dict(config.settings),
        config.stages,
        config.reference_templates,
    )
    return typed if is_same else None


def _of_recipe(stages: Sequence[Recipe], usual: Sequence[Recipe]) -> dict[str, str]:
    """Return the fields in which the stages of a recipe differ from the usual ones, as texts."""
    found: dict[str, str] = {}
    for own, other in zip(stages, usual, strict=False):
        for name in (field.name for field in fields(Recipe)):
            if getattr(own, name) != getattr(other, name):
                found[name] = _text(getattr(own, name))
    if "epochs" in found and found.get("steps") == "none":
        del found["steps"]  # epochs take the place of steps
    return found


def _text(value: Any) -> str:
    """Return a value as ``--set`` takes it."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return str(value).lower()
    return "-".join(map(str, value)) if isinstance(value, tuple | list) else str(value)


def _template_options(templates: Sequence[str]) -> list[str]:
    if not templates:
        return []
    return ["--template", templates[0]] if len(templates) == 1 else ["--templates", _TEMPLATES]


def _datasets(option: str, sources: Mapping[str, str]) -> list[str]:
    """Return known names as one comma list, and each of the user's own by itself."""
    known = [name for name, source in sources.items() if source == name]
    words = [option, ",".join(known)] if known else []
    for name, source in sources.items():
        words += [] if name in known else [option, source]
    return words


def _source(name: str, request: RunRequest) -> str:
    """Return a data set as it is typed: its name or, of the user's own, also where it is."""
    own = request.own.get(name)
    if own is None:
        return name
    return f"{name}={'' if own.kind in ('folder', 'table') else f'{own.kind}:'}{own.location}"
