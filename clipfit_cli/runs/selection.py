"""Which runs of a plan have nothing to select on: a comparison goes on without them."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from clipfit_cli.config import RunConfig
from clipfit_cli.errors import DataError, SelectionError
from clipfit_cli.runs.prepare import selects_on_val, training_set_of
from clipfit_cli.runs.workspace import Workspace


def without_selection(
    configs: Sequence[RunConfig], workspace: Workspace, is_needed: Callable[[RunConfig], bool]
) -> tuple[list[RunConfig], dict[str, list[RunConfig]]]:
    """Return the runs that can be made, and, for each reason, those that have nothing to select on.

    Args:
        configs: The plan.
        workspace: What its runs share.
        is_needed: Whether the table is about a run; it says nothing where none of these can be made.

    Raises:
        SelectionError: None of the runs that are needed can be made.
    """
    kept: list[RunConfig] = []
    reasons: dict[str, list[RunConfig]] = {}
    for config in configs:
        try:
            if selects_on_val(config) and workspace.dataset(config.dataset).train_is_sampled:
                training_set_of(config, workspace)
        except SelectionError as error:
            reasons.setdefault(str(error), []).append(config)
            continue
        except DataError:  # told of all data sets together, before the first run begins
            pass
        kept.append(config)
    for reason, left_out in reasons.items():
        needed = next(filter(is_needed, left_out), None)
        if needed and not any(map(is_needed, kept)):
            untuned = "leave --tune out, " if needed.tune else ""
            raise SelectionError(
                f"{needed.method} cannot select: {reason}; {untuned}take fewer --shots, add validation images, or "
                "choose a method that selects nothing"
            )
    return kept, reasons
