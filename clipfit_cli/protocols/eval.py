"""Scoring what exists: a saved adapter, or the model as it is, on any data sets."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from clipfit_cli import methods
from clipfit_cli.config import Request, RunConfig, TestSet
from clipfit_cli.methods.base import resolve_settings
from clipfit_cli.protocols.few_shot import CAPTIONS, COLUMNS, METRICS, entries
from clipfit_cli.protocols.planning import templates_of

__all__ = ["CAPTIONS", "COLUMNS", "METRICS", "TITLE", "entries", "plan"]

TITLE = "Accuracy (%)"


def plan(request: Request, *, adapter: str | None = None, settings: Mapping[str, Any] | None = None) -> list[RunConfig]:
    """Return one run a data set, which tests and does not train.

    Args:
        request: Data sets, subset, model, one method; of an adapter also one shot count and seed, those of its
            training.
        adapter: Path of the adapter; None = the method has nothing to load.
        settings: Resolved settings of the adapter's method.
    """
    (choice,) = request.methods
    trained = adapter is not None
    resolved = resolve_settings(methods.get(choice.name), choice.overrides) if settings is None else dict(settings)
    return [
        RunConfig(
            protocol="eval",
            dataset=dataset,
            subset=request.subset,
            shots=request.shots[0] if trained else 0,
            seed=request.seeds[0] if trained else 0,
            method=choice.name,
            settings=resolved,
            model=request.model,
            stages=(),
            precision=request.precision,
            tests=(TestSet(dataset, request.subset),),
            adapter=adapter,
            templates=templates_of(request, [dataset]),
        )
        for dataset in request.datasets
    ]
