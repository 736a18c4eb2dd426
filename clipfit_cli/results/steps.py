"""Loss and learning rate of every step of a training, as a table that any program reads."""

from __future__ import annotations

import csv
import io
import math
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from clipfit_cli.errors import ResultsError
from clipfit_cli.files import read_bytes
from clipfit_cli.results.record import Run

STEPS_FILE = "steps.csv"
_MOST_BYTES = 2_000_000_000


class StepRow(NamedTuple):
    """One optimiser update, or one that fp16 skipped.

    Attributes:
        stage: Of the training, counted from 1.
        epoch: Of the stage, counted from 1.
        step: Of all stages together, counted from 1.
        loss: Mean over the batch.
        learning_rate: Of the step.
    """

    stage: int
    epoch: int
    step: int
    loss: float
    learning_rate: float


def to_csv(steps: Iterable[StepRow]) -> bytes:
    """Return a head line and a line a step; numbers read back the same, lines end in ``\\n``."""
    text = io.StringIO()
    rows = csv.writer(text, lineterminator="\n")
    rows.writerow(StepRow._fields)
    rows.writerows(steps)
    return text.getvalue().encode()


def read_steps(folder: Path, run: Run) -> list[StepRow]:
    """Return the steps of a finished training; none where nothing was trained.

    Records of earlier versions name a file that holds neither stages nor epochs: all is stage 1, epoch 1 there.

    Args:
        folder: Of the training.
        run: Its record.

    Raises:
        ResultsError: The file is missing or damaged.
    """
    if run.steps_file is None:
        return []
    path = folder / Path(run.steps_file).name
    try:
        content = read_bytes(path, _MOST_BYTES)
        return _of_earlier_versions(content) if path.suffix == ".safetensors" else _from_csv(content)
    except FileNotFoundError:
        raise ResultsError(f"{path} is missing; train again with --force") from None
    except (OSError, ValueError, KeyError, csv.Error) as error:
        raise ResultsError(
            f"{path} cannot be read as the steps of a training ({str(error)[:200]}); train again with --force"
        ) from error


def _from_csv(content: bytes) -> list[StepRow]:
    head, *rows = csv.reader(io.StringIO(content.decode(), newline=""))
    if tuple(head) != StepRow._fields:
        raise ValueError(f"its head line is not {','.join(StepRow._fields)}")
    found = []
    for stage, epoch, step, loss, rate in rows:
        found.append(StepRow(int(stage), int(epoch), int(step), float(loss), float(rate)))
        if not (math.isfinite(found[-1].loss) and math.isfinite(found[-1].learning_rate)):
            raise ValueError(f"step {found[-1].step} is not finite")
    return found


def _of_earlier_versions(content: bytes) -> list[StepRow]:
    from safetensors import SafetensorError
    from safetensors.numpy import load

    try:
        tensors = load(content)
    except SafetensorError as error:
        raise ValueError(str(error)) from error
    pairs = zip(tensors["loss"].tolist(), tensors["rate"].tolist(), strict=True)
    return [StepRow(1, 1, place, loss, rate) for place, (loss, rate) in enumerate(pairs, start=1)]
