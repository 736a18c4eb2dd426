"""The curves and test metrics of a finished run as TensorBoard reads them."""

from __future__ import annotations

import hashlib
import tempfile
from collections import Counter
from collections.abc import Sequence
from datetime import datetime
from importlib.util import find_spec
from pathlib import Path

from clipfit_cli.data.shifts import CLEAN
from clipfit_cli.errors import ConfigError, ResultsError
from clipfit_cli.results.record import Run, Test
from clipfit_cli.results.steps import StepRow, read_steps
from clipfit_cli.results.store import all_tests, find_run, save_folder

LOG_FOLDER = "tensorboard"
_METRICS = ("accuracy_pct", "macro_f1_pct", "mean_per_class_accuracy_pct")


def check_tensorboard() -> None:
    """Look whether TensorBoard can be written for.

    Raises:
        ConfigError: It is not installed.
    """
    if find_spec("tensorboard") is None:
        raise ConfigError(
            "--log tensorboard needs the package tensorboard, which is not installed; "
            "pip install 'clipfit-cli[tensorboard]'"
        )


def is_logged(folder: Path) -> bool:
    """Whether the log of a finished run is there, with all its tests.

    Raises:
        ResultsError: A record is damaged.
    """
    run = find_run(folder)
    return run is None or (folder / LOG_FOLDER / _name(run, all_tests(folder))).is_file()


def log_run(folder: Path) -> None:
    """Write the log of a finished run beside its record; one that is there is replaced as a whole.

    Scalars are ``loss`` and ``learning_rate`` of every step, counted over all stages, and each metric of each test,
    such as ``accuracy_pct/dtd-new``, at the last step. Times are those at which training and tests were finished.

    Args:
        folder: Of the training.

    Raises:
        ResultsError: A record or the file of steps is missing or damaged, or the log cannot be written.
    """
    run, tests = find_run(folder), all_tests(folder)
    if run is None:
        raise ResultsError(f"{folder} holds no finished run")
    try:
        content = _events(run, tests, read_steps(folder, run))
    except OSError as error:
        raise ResultsError(
            f"the log of {folder} cannot be written for TensorBoard: {error.strerror or error}. Free some space in "
            f"{tempfile.gettempdir()}, or leave --log out; the run itself is finished"
        ) from error
    save_folder(folder / LOG_FOLDER, {_name(run, tests): content})


def _events(run: Run, tests: Sequence[Test], steps: Sequence[StepRow]) -> bytes:
    """Return the content of an event file."""
    from torch.utils.tensorboard import SummaryWriter

    with tempfile.TemporaryDirectory() as folder:
        with SummaryWriter(folder) as writer:
            for row in steps:
                for name in ("loss", "learning_rate"):
                    writer.add_scalar(name, getattr(row, name), row.step, walltime=_time_of(run))
            names = Counter((test.dataset, test.subset, test.transform) for test in tests)
            for test in tests:
                name = f"{test.dataset}-{test.subset}" + ("" if test.transform == CLEAN else f"-{test.transform}")
                if names[test.dataset, test.subset, test.transform] > 1:  # other prompts, say
                    name += f"-{test.key[:12]}"
                for metric in _METRICS:
                    writer.add_scalar(f"{metric}/{name}", getattr(test, metric), run.steps, walltime=_time_of(test))
        (made,) = Path(folder).iterdir()
        return made.read_bytes()


def _name(run: Run, tests: Sequence[Test]) -> str:
    """Return the name of an event file: that of another run, or of other tests, differs."""
    told = [(test.key, test.created_at, *(getattr(test, metric) for metric in _METRICS)) for test in tests]
    digest = hashlib.sha256(repr([run.key, run.created_at, run.final_loss, told]).encode()).hexdigest()
    return f"events.out.tfevents.{int(_time_of(run))}.clipfit.{digest[:12]}"


def _time_of(record: Run | Test) -> float:
    try:
        return datetime.fromisoformat(record.created_at).timestamp()
    except (ValueError, OverflowError):
        return 0.0
