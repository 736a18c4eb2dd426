from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest

from clipfit_cli.errors import ConfigError, ResultsError, UnknownNameError
from clipfit_cli.results import store
from clipfit_cli.results.filters import Filters, parse_run
from clipfit_cli.results.record import Run, to_json
from clipfit_cli.results.select import Stored, find_one, meant, select, stored_runs, unreadable
from tests.results.finished_runs import add_run, add_zero_shot
from tests.results.result_examples import make_run, make_test


@pytest.fixture(scope="module")
def runs_dir(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("runs")
    for seed in range(1, 8):
        add_run(folder, seed=seed, subsets=("base", "new"))
    add_run(folder, seed=1, method="bitfit", settings={}, subsets=("base", "new"))
    add_zero_shot(folder, "all")
    return folder


def test_runs_are_found_by_filters(runs_dir: Path) -> None:
    assert len(list(stored_runs(runs_dir))) == 9
    assert {one.run.config.seed for one in select(runs_dir, parse_run("method=clipfit,seed=2,4"))} == {2, 4}
    (found,) = select(runs_dir, Filters(protocol=("few-shot",)))
    assert found.run.config.method == "zero-shot"
    (by_folder,) = select(Path("elsewhere"), Filters(folder=(found.folder,)))
    assert by_folder == found
    assert select(runs_dir / "nothing", Filters()) == []


def test_tests_are_read_only_where_they_are_asked_for(runs_dir: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kinds: list[type] = []
    read = store._read

    def spy(path: Path, kind: Any, key: str | None = None) -> Any:
        kinds.append(kind)
        return read(path, kind, key)

    monkeypatch.setattr(store, "_read", spy)
    found = select(runs_dir, parse_run("dataset=dtd,beta=8,since=2000-01-01"))
    assert kinds == [Run] * 9
    assert [test.subset for test in found[0].tests] == ["base", "new"]
    assert len(kinds) == 11


def test_one_run_is_found_or_what_tells_candidates_apart(runs_dir: Path) -> None:
    assert find_one(runs_dir, parse_run("seed=7"), "seed=7").run.config.seed == 7
    with pytest.raises(ConfigError) as error:
        find_one(runs_dir, Filters(), "all")
    text = str(error.value)
    assert "9 runs" in text and " and 4 more." in text
    assert len(re.findall(r"[0-9a-f]{12} \(", text)) == 5
    with pytest.raises(ConfigError) as error:
        find_one(runs_dir, parse_run("seed=1,2,method=clipfit"), "two")
    assert "(seed=1)" in str(error.value) and "(seed=2)" in str(error.value)
    with pytest.raises(ConfigError) as error:
        find_one(runs_dir, parse_run("seed=1"), "two")
    assert "(method=bitfit)" in str(error.value) and "(method=clipfit)" in str(error.value)
    with pytest.raises(ResultsError, match="no run in .* is 'seed=9'"):
        find_one(runs_dir, parse_run("seed=9"), "seed=9")


def test_a_setting_that_no_run_has_is_refused(runs_dir: Path) -> None:
    with pytest.raises(UnknownNameError, match="Did you mean 'beta'"):
        select(runs_dir, parse_run("betta=8"))
    with pytest.raises(UnknownNameError):
        meant(stored_runs(runs_dir), parse_run("betta=8"))


def test_what_cannot_be_read_is_told_and_left_out(tmp_path: Path) -> None:
    one, _ = add_run(tmp_path, seed=1)
    other, _ = add_run(tmp_path, seed=2)
    (one / "record.json").write_bytes(b"{}")
    next((other / "tests").glob("*-new-*.json")).write_bytes(b"\xff")
    told: list[ResultsError] = []
    (found,) = select(tmp_path, Filters(), on_damage=told.append)
    assert (found.folder, len(told)) == (other, 1)
    assert [test.subset for test in found.tests] == ["base"]
    assert len(told) == 2
    assert unreadable(tmp_path) == [one]
    with pytest.raises(ResultsError, match=r"1 record that cannot be read"):
        find_one(tmp_path, parse_run("seed=1"), "seed=1")


def test_a_folder_that_is_named_has_to_hold_a_run(tmp_path: Path) -> None:
    folder, _ = add_run(tmp_path)
    with pytest.raises(ResultsError, match="holds no run"):
        select(tmp_path, Filters(folder=(tmp_path,)))
    (folder / "record.json").write_bytes(b"{}")
    with pytest.raises(ResultsError):
        select(tmp_path, Filters(folder=(folder,)))


def test_tests_come_in_an_order_that_can_be_read(tmp_path: Path) -> None:
    """The files' names end in a key, which is as good as a lot."""
    run = make_run()
    (tmp_path / "tests").mkdir()
    asked: list[dict[str, Any]] = [
        {"subset": "all"},
        *({"interpolation": alpha} for alpha in (0.0, 0.25, 0.5, 1.0)),
        {"transform": "blur:1"},
        {"transform": "blur:2"},
        {"subset": "new"},
        {"dataset": "caltech101"},
    ]
    tests = tuple(make_test(run, **one) for one in asked)
    for test in tests:
        (tmp_path / "tests" / f"{test.dataset}-{test.subset}-{test.key}.json").write_text(to_json(test))
    assert Stored(tmp_path, run).tests == tests
