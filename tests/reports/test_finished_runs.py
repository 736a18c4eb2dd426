"""Tables of `clipfit runs`: what stands for a training among its tests, and what fits 80 columns."""

from __future__ import annotations

import io
import re
from pathlib import Path

import pytest
from rich.console import Console

from clipfit_cli.reports.finished_runs import table_of_differences, table_of_run, table_of_runs
from clipfit_cli.reports.tables import Table, to_csv
from clipfit_cli.reports.terminal import to_terminal
from clipfit_cli.results.difference import Difference
from clipfit_cli.results.select import Stored
from tests.results.result_examples import make_config, make_request, make_run, make_test, training_of


def printed(table: Table) -> list[str]:
    """Return the lines of a table at 80 columns."""
    out = io.StringIO()
    Console(file=out, width=80).print(to_terminal(table))
    return out.getvalue().splitlines()


@pytest.mark.parametrize("otherwise", [{"transform": "blur:3"}, {"interpolation": 0.5}], ids=["shifted", "along alpha"])
def test_a_training_is_told_by_its_tests_as_trained_on_images_as_they_are(
    tmp_path: Path, otherwise: dict[str, object]
) -> None:
    run = make_run(training_of(make_config()))
    plain = make_test(run, subset=run.config.subset, accuracy_pct=80.0)
    other = make_test(run, subset=run.config.subset, accuracy_pct=20.0, **otherwise)
    for tests in ((plain, other), (other, plain)):
        one = Stored(tmp_path, run)
        vars(one).update(tests=tests, requests=(make_request(make_config(), run, tests),))
        (row,) = table_of_runs([one]).rows
        assert (row["accuracy_pct"], row["num_tests"]) == (80.0, 2)
        assert row["scores"] == f"{run.config.subset} 80.00, 1 more"


def test_a_run_that_was_tested_along_alpha_fits_80_columns(tmp_path: Path) -> None:
    run = make_run(training_of(make_config()))
    one = Stored(tmp_path, run)
    one.__dict__["tests"] = (make_test(run, subset="new", dataset="textures-dim", interpolation=0.25),)
    table = table_of_run(one, "clipfit train")
    shown = "\n".join(printed(table))
    assert "\ntextures-dim " in shown and "\nnew alpha 0.25 " in shown and " / accuracy" not in shown
    assert "textures-dim new alpha 0.25,accuracy" in to_csv(table).replace('"', "")


def test_two_runs_side_by_side_in_80_columns() -> None:
    runs = (make_run(training_of(make_config(seed=seed))) for seed in (1, 2))
    first, second = (Stored(Path("runs"), run) for run in runs)
    place = "/data/pictures of birds/in a folder with a long name/by photographer"
    found = [
        Difference("dtd/base.right_where_they_differ", "78 of 159", "27 of 159", "result"),
        Difference("location", place, f"{place} and year", "nothing"),
        Difference("seed", 1, 2, "another run"),
    ]
    lines = printed(table_of_differences(first, second, found))
    assert max(map(len, lines)) <= 80
    text = "\n".join(line.rstrip() for line in lines)
    assert re.search(r"^another run  seed +1 +2$", text, flags=re.M)
    assert re.search(r"78 of 159 +27 of 159", text)
    words = " ".join(text.split())
    assert "another run: part of the key, which makes them two runs nothing: moves no number" in words
    assert "right_where_they_differ: how many each has right of the images that the two predict otherwise" in words
    assert "right_where" not in "\n".join(printed(table_of_differences(first, second, found[1:])))
