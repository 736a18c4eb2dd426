"""From a request to the configuration of one run; shared by all protocols."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from clipfit_cli import methods
from clipfit_cli.config import (
    MethodChoice,
    ProtocolName,
    Request,
    RunConfig,
    ScheduleConfig,
    Subset,
    TestSet,
)
from clipfit_cli.data import catalog
from clipfit_cli.methods.base import resolve_settings
from clipfit_cli.protocols.presets import preset_of


def runs_of(
    request: Request,
    choice: MethodChoice,
    *,
    protocol: ProtocolName,
    dataset: str,
    subset: Subset,
    tests: tuple[TestSet, ...],
) -> Iterator[RunConfig]:
    """Yield the runs of one method on one data set: every shot count with every seed.

    A method that does not train has one run: no image is drawn, so neither seed nor shots enter.

    Raises:
        UnknownNameError: No such method or setting.
        ConfigError: A setting's value is not possible.
    """
    info = methods.get(choice.name)
    settings = settings_of(choice, protocol=protocol, dataset=dataset, subset=subset)
    draws: list[tuple[int | None, int]] = [(shots, seed) for shots in request.shots for seed in request.seeds]
    for shots, seed in draws if info.trains else [(0, 0)]:
        yield RunConfig(
            protocol=protocol,
            dataset=dataset,
            subset=subset,
            shots=shots,
            seed=seed,
            method=info.name,
            settings=settings,
            model=request.model,
            stages=(_schedule(request, dataset),) if info.trains else (),
            precision=request.precision,
            tests=tests,
            templates=templates_of(request, [dataset, *(test.dataset for test in tests)]),
        )


def once(configs: Iterable[RunConfig]) -> list[RunConfig]:
    """Return the runs without those that are the same by another name, such as a default that was typed."""
    found: list[RunConfig] = []
    for config in configs:
        if config not in found:
            found.append(config)
    return found


def settings_of(
    choice: MethodChoice, *, protocol: ProtocolName, dataset: str, subset: Subset = "all"
) -> dict[str, Any]:
    """Return all settings of a method: its defaults, then the paper's for the data set, then the user's.

    Who trains on half of the classes has the settings of base-to-new runs, whatever the table is: it is one training.

    Raises:
        UnknownNameError: No such method or setting.
        ConfigError: A setting's value is not possible.
    """
    info = methods.get(choice.name)
    presets = info.presets(protocol if subset == "all" else "base2new", dataset)
    return resolve_settings(info, choice.overrides, presets)


def templates_of(request: Request, datasets: Iterable[str]) -> tuple[str, ...]:
    """Return the prompt templates that a run has to name: none where those of the request are the data sets' own."""
    if all(request.templates == (catalog.prompt_template(name),) for name in datasets):
        return ()
    return request.templates


def _schedule(request: Request, dataset: str) -> ScheduleConfig:
    preset = preset_of(dataset)
    return ScheduleConfig(
        epochs=preset.epochs if request.epochs is None else request.epochs,
        lr=preset.lr if request.lr is None else request.lr,
        batch_size=ScheduleConfig.batch_size if request.batch_size is None else request.batch_size,
    )
