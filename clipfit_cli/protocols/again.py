"""The command that makes runs again, from what their records say."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from dataclasses import fields, replace
from typing import Any

from clipfit_cli import methods
from clipfit_cli.config import ModelConfig, ProtocolName, Recipe, RunConfig, TestSet, TrainingConfig
from clipfit_cli.data import catalog
from clipfit_cli.data.shifts import Shift, kinds_of, parse_shift
from clipfit_cli.errors import ClipfitError
from clipfit_cli.protocols.base2new import halves_of
from clipfit_cli.protocols.planning import conditions_of
from clipfit_cli.protocols.series import Series
from clipfit_cli.results.record import Finished, Run, Test

_COMMANDS = {"few-shot": "train", "base2new": "base2new", "xdataset": "xdataset", "eval": "eval"}
_SHELL = "templates.txt"
_ADAPTER = "ADAPTER"
"""In a command, where only the user knows which."""


def commands_of_runs(runs: Sequence[tuple[Run, Sequence[Test]]]) -> list[str]:
    """Return the commands that make runs again with their tests: one for all seeds of a training.

    A training is asked for with the tests that its own command makes; what is tested otherwise, in another precision or
    with other prompts, has no command. An adapter from elsewhere is called ``ADAPTER``.

    Args:
        runs: Each with its tests.
    """
    alike: dict[str, list[Finished]] = {}
    shifted: dict[tuple[str, tuple[str, ...]], list[Finished]] = {}
    for run, tests in runs:
        for one in _as_asked(run, tests):
            if words := _shifted(one, tests):
                config = replace(
                    one.config, protocol="few-shot", tests=(TestSet(run.config.dataset, run.config.subset),)
                )
                same = repr(replace(config, seed=0)), tuple(words)
                shifted.setdefault(same, []).append(replace(one, config=config, tests=tuple(tests)))
            if not words or one.config.protocol == "base2new":  # else it makes these tests, too
                alike.setdefault(repr(replace(one.config, seed=0)), []).append(one)
    lines = [line for records in alike.values() for line in commands_of([Series("", tuple(records))])]
    for (_, asked), records in shifted.items():
        series = Series("", tuple(records))
        if (options := _options(series)) is not None:
            lines.append(_command([series], [*asked, "--baseline", "zero-shot", *options], command="robustness"))
    return lines


def _shifted(asked: Finished, tests: Sequence[Test]) -> list[str]:
    """Return what says which shifts and domains of a training were tested; nothing where none was."""
    config = asked.config
    if not config.stages or config.adapter:
        return []
    own = [test for test in tests if (test.dataset, test.subset) == (config.dataset, config.subset)]
    shifts = [shift for test in own if (shift := _shift_of(test))]
    if not shifts:
        return []
    others = [test for test in tests if test.dataset != config.dataset and test.is_plain]
    known = [test for test in others if test.dataset in catalog.domains_of(config.dataset)]
    names = [*kinds_of(shift.name for shift in shifts), *(["domain"] if known else [])]
    severities = ",".join(map(str, sorted({shift.severity for shift in shifts})))
    places = {
        test.dataset: _source(test.dataset, [replace(asked, tests=(test,))]) for test in others if test not in known
    }
    words = ["--shifts", ",".join(names), "--severity", severities]
    return [*words, *(word for place in places.values() for word in ("--shift", place))]


def _shift_of(test: Test) -> Shift | None:
    try:
        return parse_shift(test.transform) if test.interpolation == 1 else None
    except ClipfitError:  # of another version
        return None


def _as_asked(run: Run, tests: Sequence[Test]) -> list[Finished]:
    """Return a run as it would be asked for; what trains nothing, once for each way in which it was tested."""
    config, known = run.config, {name: getattr(run.config, name) for name in TrainingConfig.__dataclass_fields__}
    plain = [test for test in tests if test.is_plain]
    if run.scored_adapter or not config.stages:
        adapter, found = _ADAPTER if run.scored_adapter else None, []
        brings_own = bool(
            adapter and _given(config.templates, config.dataset)
        )  # which `eval` takes where none are named
        for test in plain:
            asked = {name: getattr(test, name) for name in ("dataset", "subset", "precision")}
            templates = test.templates if brings_own else _given(test.templates, test.dataset)
            asked |= {"templates": templates, "adapter": adapter}
            tested = (TestSet(test.dataset, test.subset),)
            found.append(Finished(RunConfig(**{**known, **asked}, protocol="eval", tests=tested), run, (test,)))
        return found
    given = () if config.reference_templates else _given(config.templates, config.dataset)
    own = [
        test
        for test in plain
        if test.precision == config.precision
        and (config.reference_templates or _given(test.templates, test.dataset) == given)
    ]
    protocol: ProtocolName = "few-shot"
    wanted: tuple[TestSet, ...] = (TestSet(config.dataset, config.subset),)
    others = dict.fromkeys(test.dataset for test in own if test.dataset != config.dataset and test.subset == "all")
    if config.subset == "all" and others:
        protocol, wanted = "xdataset", (*wanted, *map(TestSet, others))
    elif config.subset == "base" and any((test.dataset, test.subset) == (config.dataset, "new") for test in own):
        protocol, wanted = "base2new", halves_of(config.dataset)
    return [Finished(RunConfig(**{**known, "templates": given}, protocol=protocol, tests=wanted), run, tuple(own))]


def _given(templates: Sequence[str], dataset: str) -> tuple[str, ...]:
    """Return the templates that have to be named: none where they are the data set's own."""
    return () if tuple(templates) == (catalog.prompt_template(dataset),) else tuple(templates)


def commands_of(series: Sequence[Series]) -> list[str]:
    """Return the commands that make the runs of one method again: one for all data sets that are asked for alike.

    Nothing of a run whose settings cannot be typed, or whose method is not installed.

    Args:
        series: One a data set.
    """
    alike: dict[tuple[str, ...], list[Series]] = {}
    for one in series:
        if (options := _options(one)) is None:
            return []
        alike.setdefault(tuple(options), []).append(one)
    return [_command(group, options) for options, group in alike.items()]


def _command(group: Sequence[Series], options: Sequence[str], command: str | None = None) -> str:
    """Return the command of data sets that are asked for alike."""
    config = group[0].config
    words = ["clipfit", command or _COMMANDS[config.protocol]]
    if config.protocol == "xdataset":
        records = group[0].records
        words += ["--source", _source(config.dataset, records)]
        targets = [test.dataset for test in config.tests if test.dataset != config.dataset]
        words += _datasets("--target", {name: _source(name, records) for name in targets})
    else:
        words += _datasets("--dataset", {one.config.dataset: _source(one.config.dataset, one.records) for one in group})
    line = shlex.join([*words, *options])
    if _template_options(config.templates) == ["--templates", _SHELL]:
        lines = shlex.join(["printf", r"%s\n", *config.templates])
        return f"{lines} > {_SHELL} && {line}"
    return line


def _options(series: Series) -> list[str] | None:
    """Return the options but for data sets; None where they cannot be typed on a line."""
    config = series.config
    typed = _typed(config)
    if typed is None:
        return None
    is_plan = config.protocol != "eval"
    words = ["--method", config.method] if is_plan else ["--adapter", config.adapter] if config.adapter else []
    for name, value in typed.items():
        words += ["--set", f"{name}={value}"]
    if config.protocol in ("few-shot", "eval") and config.subset != "all":
        words += ["--subset", config.subset]
    if is_plan and not series.trains_nothing:
        seeds = sorted({record.config.seed for record in series.records})
        shots = "all" if config.shots is None else str(config.shots)
        words += ["--shots", shots, "--seeds", ",".join(map(str, seeds))]
    words += ["--tune"] if config.tune else []
    words += ["--val-shots", str(config.val_shots)] if config.val_shots is not None else []
    words += _model_options(config.model) if config.adapter is None else []
    words += ["--precision", config.precision]
    words += _template_options(config.templates)
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
    return ["--template", templates[0]] if len(templates) == 1 else ["--templates", _SHELL]


def _datasets(option: str, sources: Mapping[str, str]) -> list[str]:
    """Return known names as one comma list, and each of the user's own by itself."""
    known = [name for name, source in sources.items() if source == name]
    words = [option, ",".join(known)] if known else []
    for name, source in sources.items():
        words += [] if name in known else [option, source]
    return words


def _source(name: str, records: Sequence[Finished]) -> str:
    """Return a data set as it is typed: its name or, of the user's own, also where it is."""
    if catalog.is_known(name):
        return name
    record = records[0]
    places = [test.location for test in record.tests if test.dataset == name]
    places += [record.run.location] if record.config.dataset == name else []
    place = next(filter(None, places), "FOLDER")
    on_disk = place.startswith(("/", "~", ".")) or place[1:3] == ":\\" or "://" in place or place == "FOLDER"
    shards = place.removesuffix("}").endswith(".tar")
    return f"{name}={'wds:' if shards else '' if on_disk else 'hf:'}{place}"
