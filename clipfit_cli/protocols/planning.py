"""From a request to the configuration of every run; shared by all protocols."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from clipfit_cli import methods
from clipfit_cli.config import Conditions, MethodChoice, ProtocolName, Request, RunConfig, Subset, TestSet
from clipfit_cli.data import catalog
from clipfit_cli.errors import ClipfitError
from clipfit_cli.methods.base import Trained

if TYPE_CHECKING:
    from torch import nn


def plan_of_trainings(
    request: Request,
    *,
    protocol: ProtocolName,
    subset: Subset,
    tests: Callable[[str], tuple[TestSet, ...]],
) -> list[RunConfig]:
    """Return the runs: data sets x methods x shots x seeds, without those that are the same by another name.

    A method that does not train has one run a data set: no image is drawn, so neither seed nor shots enter.

    Args:
        request: What was asked for.
        protocol: Which table the runs belong to.
        subset: What is trained on.
        tests: Data set that is trained on -> where the result is tested.

    Raises:
        UnknownNameError: No such method or setting.
        ConfigError: A setting's value is not possible.
    """
    found = [
        run
        for dataset in request.datasets
        for choice in request.methods
        for run in _runs_of(request, choice, protocol, dataset, subset, tests(dataset))
    ]
    return [run for place, run in enumerate(found) if run not in found[:place]]


def plan_of_tests(
    request: Request,
    *,
    adapter: str | None = None,
    settings: Mapping[str, Any] | None = None,
    alphas: Sequence[float] = (),
    reference_templates: bool = False,
) -> list[RunConfig]:
    """Return one run a data set, which scores what exists: a saved adapter, or the model as it is.

    Args:
        request: Data sets, subset, model, one method; of an adapter also one shot count and seed, those of its
            training.
        adapter: Path of the adapter; None = the method has nothing to load.
        settings: Resolved settings of the adapter's method.
        alphas: Shares of what was learnt, a test each; nothing = one test, of all of it.
        reference_templates: Where the request names none, each data set's prompts are those of the method's reference.
    """
    (choice,) = request.methods
    return [
        RunConfig(
            protocol="eval",
            dataset=dataset,
            subset=request.subset,
            shots=0 if adapter is None else request.shots[0],
            seed=0 if adapter is None else request.seeds[0],
            method=choice.name,
            settings=methods.resolve(methods.get(choice.name), choice.overrides).settings
            if settings is None
            else {**settings},
            model=request.model,
            stages=(),
            precision=request.precision,
            tests=tuple(TestSet(dataset, request.subset, alpha) for alpha in alphas or (None,)),
            adapter=adapter,
            templates=_templates_of(request, [dataset]),
            reference_templates=reference_templates and not request.templates,
        )
        for dataset in request.datasets
    ]


def conditions_of(protocol: ProtocolName, dataset: str, subset: Subset, shots: int | None = 16) -> Conditions:
    """Return what presets depend on.

    Who trains on half of the classes has the settings of base-to-new runs, whatever the table is: it is one training.
    """
    return Conditions(protocol if subset == "all" else "base2new", dataset, shots)


def ignored(request: Request) -> tuple[str, ...]:
    """Return, in sentences, what was typed for all methods and says nothing to one of them."""
    found = []
    for choice in request.methods:
        info = methods.get(choice.name)
        resolved = methods.resolve(info, choice.overrides, common=common_of(request))
        if resolved.ignored:
            options = " and ".join(f"--{name.replace('_', '-')}" for name in resolved.ignored)
            say = "says" if len(resolved.ignored) == 1 else "say"
            found.append(f"{info.name} makes no steps, so {options} {say} nothing to it")
        if request.tune and info.trains and info.selects == "never":
            found.append(f"{info.name} has no grid, so --tune says nothing to it")
    return tuple(found)


def trained_by(choice: MethodChoice, model: nn.Module) -> list[Trained]:
    """Return what a method with its settings would train of a model, with two classes; see `MethodInfo.describe`.

    Raises:
        ConfigError: The settings are none.
        ModelError: The method cannot serve the model.
    """
    info = methods.get(choice.name)
    settings = info.settings(**methods.resolve(info, choice.overrides).settings)
    return list(info.describe(model, settings, 2, 2))


def own_settings(config: RunConfig) -> dict[str, Any]:
    """Return the settings in which a training is not that of the method by itself: name -> value.

    Nothing of a saved adapter, nor of a method that is not here any more.
    """
    try:
        info = methods.get(config.method)
        conditions = conditions_of(config.protocol, config.dataset, config.subset, config.shots)
        usual, own = (
            info.all_settings(one) for one in (methods.resolve(info, {}, conditions).settings, config.settings)
        )
    except (ClipfitError, TypeError):
        return {}
    return {} if config.adapter else {name: value for name, value in own.items() if value != usual[name]}


def common_of(request: Request) -> dict[str, Any]:
    """Return the fields of a recipe that were given for all methods."""
    given = {"epochs": request.epochs, "batch_size": request.batch_size, "lr": request.lr}
    return {name: value for name, value in given.items() if value is not None}


def _runs_of(
    request: Request,
    choice: MethodChoice,
    protocol: ProtocolName,
    dataset: str,
    subset: Subset,
    tests: tuple[TestSet, ...],
) -> Iterator[RunConfig]:
    """Yield the runs of one method on one data set: every shot count with every seed."""
    info = methods.get(choice.name)
    tune = request.tune and info.selects == "tune"
    draws: list[tuple[int | None, int]] = [(shots, seed) for shots in request.shots for seed in request.seeds]
    for shots, seed in draws if info.trains else [(0, 0)]:
        conditions = conditions_of(protocol, dataset, subset, shots)
        resolved = methods.resolve(info, choice.overrides, conditions, common=common_of(request))
        yield RunConfig(
            protocol=protocol,
            dataset=dataset,
            subset=subset,
            shots=shots,
            seed=seed,
            method=info.name,
            settings=resolved.settings,
            model=request.model,
            stages=resolved.stages,
            precision=request.precision,
            tests=tests,
            templates=_templates_of(request, [dataset, *(test.dataset for test in tests)]),
            reference_templates=resolved.reference_templates,
            val_shots=request.val_shots if tune or info.selects == "always" else None,
            tune=tune,
            origin=info.origin,
            typed={**{name: str(value) for name, value in common_of(request).items()}, **choice.overrides},
        )


def _templates_of(request: Request, datasets: Iterable[str]) -> tuple[str, ...]:
    """Return the prompt templates that a run has to name: none where those of the request are the data sets' own."""
    if all(request.templates == (catalog.prompt_template(name),) for name in datasets):
        return ()
    return request.templates
