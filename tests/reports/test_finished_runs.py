"""Rows of `clipfit runs list`: what stands for a training among its tests."""

from __future__ import annotations

from pathlib import Path

import pytest

from clipfit_cli.reports.finished_runs import table_of_runs
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
