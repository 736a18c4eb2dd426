"""Loss and rate of every step come back as they were, whichever version wrote them."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from clipfit_cli.errors import ResultsError
from clipfit_cli.results.predictions import to_bytes
from clipfit_cli.results.steps import STEPS_FILE, StepRow, read_steps, to_csv
from tests.results.result_examples import make_run

RUN = make_run(steps_file=STEPS_FILE)
STEPS = [StepRow(1, 1, 1, 0.1 + 0.2, 1e-5), StepRow(1, 2, 2, 1 / 3, 5e-324), StepRow(2, 1, 3, 1e300, 0.002)]


def test_they_come_back_bit_for_bit(tmp_path: Path) -> None:
    content = to_csv(STEPS)
    assert content.splitlines()[:2] == [b"stage,epoch,step,loss,learning_rate", b"1,1,1,0.30000000000000004,1e-05"]
    (tmp_path / STEPS_FILE).write_bytes(content)
    assert read_steps(tmp_path, RUN) == STEPS
    (tmp_path / STEPS_FILE).write_bytes(to_csv([]))
    assert read_steps(tmp_path, RUN) == []


def test_what_trained_nothing_has_none(tmp_path: Path) -> None:
    assert read_steps(tmp_path, replace(RUN, steps_file=None)) == []


def test_those_of_earlier_versions_are_read(tmp_path: Path) -> None:
    old = {"loss": np.array([0.1 + 0.2, 0.25]), "rate": np.array([1e-5, 0.002])}
    (tmp_path / "steps.safetensors").write_bytes(to_bytes(old))
    found = read_steps(tmp_path, replace(RUN, steps_file="steps.safetensors"))
    assert found == [StepRow(1, 1, 1, 0.1 + 0.2, 1e-5), StepRow(1, 1, 2, 0.25, 0.002)]


HEAD = b"stage,epoch,step,loss,learning_rate\n"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"loss\n1\n",
        HEAD + b"1,1,1,x,1\n",
        HEAD + b"1,1,1,nan,1\n",
        HEAD + b"1,1,1,1,inf\n",
        HEAD + b"1,1\n",
        b"\xff",
    ],
)
def test_damage_is_named(tmp_path: Path, content: bytes) -> None:
    for name in (STEPS_FILE, "steps.safetensors"):
        (tmp_path / name).write_bytes(content)
        with pytest.raises(ResultsError, match=f"{name} cannot be read as the steps .*--force"):
            read_steps(tmp_path, replace(RUN, steps_file=name))


def test_a_missing_file_is_named_and_one_outside_is_never_read(tmp_path: Path) -> None:
    with pytest.raises(ResultsError, match=r"steps\.csv is missing; train again with --force"):
        read_steps(tmp_path, RUN)
    (tmp_path / STEPS_FILE).write_bytes(to_csv(STEPS))
    (tmp_path / "run").mkdir()
    with pytest.raises(ResultsError, match="is missing"):
        read_steps(tmp_path / "run", replace(RUN, steps_file=f"../{STEPS_FILE}"))
    (tmp_path / "run" / STEPS_FILE).mkdir()
    with pytest.raises(ResultsError, match="cannot be read"):
        read_steps(tmp_path / "run", RUN)
