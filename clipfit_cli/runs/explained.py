"""What the work on a run stands in: the seed of its random numbers, and words for what a device cannot do."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from clipfit_cli.engine.micro_batches import is_out_of_memory
from clipfit_cli.engine.train import seeded
from clipfit_cli.errors import ConfigError, OutOfMemoryError, TrainingError, first_line
from clipfit_cli.runs.prepare import Prepared
from clipfit_cli.runs.workspace import Workspace


@contextmanager
def seeded_and_explained(prepared: Prepared, workspace: Workspace) -> Iterator[None]:
    """Start torch's generator from the seed of a run, for to build a model draws numbers, too; say what memory lacks.

    Raises:
        ConfigError: The device has no deterministic way, and that is asked for.
        OutOfMemoryError: The device ran out of memory.
        TrainingError: An error of torch's, or of Python's arithmetic, ends the run.
    """
    try:
        with seeded(prepared.config.seed, workspace.device):
            yield
    except (RuntimeError, ArithmeticError, ValueError, IndexError, MemoryError) as error:
        if workspace.execution.deterministic and "deterministic" in str(error):
            raise ConfigError(
                f"{prepared.config.method} has no deterministic way on {workspace.device} ({first_line(error)}); "
                "leave --deterministic out"
            ) from error
        if not is_out_of_memory(error):
            config, kind = prepared.config, type(error).__name__
            raise TrainingError(
                f"{config.method} on {config.dataset}, seed {config.seed}, broke down: {kind}: {first_line(error)}"
            ) from error
        raise OutOfMemoryError(
            f"{workspace.device} ran out of memory; try --precision bf16, --recompute or a smaller backbone"
        ) from error
