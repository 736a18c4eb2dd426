"""Rows of `clipfit runs list`: what stands for a training among its tests."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
from rich.console import Console

from clipfit_cli.reports.finished_runs import table_of_run, table_of_runs
from clipfit_cli.reports.tables import to_csv
from clipfit_cli.reports.terminal import to_terminal
from clipfit_cli.results.select import Stored
from tests.results.result_examples import make_config, make_run, make_test, training_of


@pytest.mark.parametrize("otherwise", [{"transform": "blur:3"}, {"interpolation": 0.5}], ids=["shifted", "along alpha"])
def test_a_training_is_told_by_its_tests_as_trained_on_images_as_they_are(
    tmp_path: Path, otherwise: dict[str, object]
) -> None:
    run = make_run(training_of(make_config()))
    plain = make_test(run, subset=run.config.subset, accuracy_pct=80.0)
    other = make_test(run, subset=run.config.subset, accuracy_pct=20.0, **otherwise)
    for tests in ((plain, other), (other, plain)):
        one = Stored(tmp_path, run)
        one.__dict__["tests"] = tests
        (row,) = table_of_runs([one]).rows
        assert (row["accuracy_pct"], row["num_tests"]) == (80.0, 2)
        assert row["scores"] == f"{run.config.subset} 80.00, 1 more"


def test_a_run_that_was_tested_along_alpha_fits_80_columns(tmp_path: Path) -> None:
    run = make_run(training_of(make_config()))
    one = Stored(tmp_path, run)
    one.__dict__["tests"] = (make_test(run, subset="new", dataset="textures-dim", interpolation=0.25),)
    table = table_of_run(one, "clipfit train")
    console = Console(file=io.StringIO(), width=80)
    console.print(to_terminal(table))
    shown = console.file.getvalue()  # type: ignore[attr-defined]
    assert "\ntextures-dim " in shown and "\nnew alpha 0.25 " in shown and " / accuracy" not in shown
    assert "textures-dim new alpha 0.25,accuracy" in to_csv(table).replace('"', "")
