"""Keys stay: a field that comes later leaves them as they are while it has its default."""

from __future__ import annotations

from dataclasses import dataclass, field, fields, make_dataclass
from pathlib import Path
from typing import Any

import pytest

from clipfit_cli.config import ModelConfig, Recipe, TrainingConfig
from clipfit_cli.results import keys
from clipfit_cli.results.keys import ALWAYS_HASHED, TestIdentity, key_of_test, training_key
from clipfit_cli.results.record import Run, Test, from_json, to_json
from clipfit_cli.results.store import RunStore, find_run, find_test, save_run
from tests.results.finished_runs import made_test
from tests.results.result_examples import make_config, make_run, training_of

HASHES: dict[str, Any] = {"split_sha256": "s", "images_sha256": "i", "weights_sha256": "w"}
CONFIG = training_of(make_config())


def later(kind: type, name: str, default: object) -> Any:
    """Return a dataclass with a field more, which has a default."""
    return make_dataclass(
        kind.__name__, [(name, Any, field(default=default))], bases=(kind,), frozen=True, kw_only=True
    )


def with_later_fields(monkeypatch: pytest.MonkeyPatch, **values: object) -> TrainingConfig:
    """Return the configuration as of a clipfit that has a field more in trainings, models and recipes."""
    kinds = {kind: later(kind, "came_later", 0) for kind in (TrainingConfig, ModelConfig, Recipe)}
    for old, new in kinds.items():
        monkeypatch.setitem(ALWAYS_HASHED, new, ALWAYS_HASHED[old])
        monkeypatch.setattr(keys, old.__name__, new)
    plain = {name: value for name, value in vars(CONFIG).items() if name not in ("model", "stages")}
    model = kinds[ModelConfig](**vars(CONFIG.model), came_later=values.get("model", 0))
    stages = tuple(kinds[Recipe](**vars(stage), came_later=values.get("recipe", 0)) for stage in CONFIG.stages)
    made: TrainingConfig = kinds[TrainingConfig](
        **plain, model=model, stages=stages, came_later=values.get("training", 0)
    )
    return made


def test_a_later_field_at_its_default_moves_no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    before = training_key(CONFIG, **HASHES)
    assert before == "cf62301383387d74253826369219e5a5dcb64557eacc8794b36ba75a6b137b5e", "of clipfit 0.3.0"
    assert training_key(with_later_fields(monkeypatch), **HASHES) == before


@pytest.mark.parametrize("where", ["training", "model", "recipe"])
def test_a_later_field_at_another_value_does(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    before = training_key(CONFIG, **HASHES)
    assert training_key(with_later_fields(monkeypatch, **{where: 1}), **HASHES) != before


def test_every_field_of_now_is_hashed_whatever_its_value() -> None:
    for kind, names in ALWAYS_HASHED.items():
        assert set(names) == {one.name for one in fields(kind)} - {"dataset"}, kind


def test_a_later_field_of_tests_moves_a_key_only_where_it_is_not_at_its_default(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    known: dict[str, Any] = {"subset": "base", "templates": ("a {}.",), "precision": "fp32", "split_sha256": "s"}
    before = key_of_test("t", TestIdentity(**known))
    longer = later(TestIdentity, "class_names", ())
    monkeypatch.setattr(keys, "TestIdentity", longer)
    assert key_of_test("t", longer(**known)) == before
    assert key_of_test("t", longer(**known, class_names=("cat", "dog"))) != before


def test_a_run_of_before_is_found_by_code_that_has_more_fields(tmp_path: Path) -> None:
    """A record that lacks a field of now, as one written before the field came, is read, found and has its key."""
    run = make_run(config=CONFIG)
    test, files = made_test(run, 1)
    folder = RunStore(tmp_path).folder(run.key, run.config)
    save_run(folder, run, {}, [(test, files)])

    @dataclass(frozen=True, kw_only=True)
    class LaterRun(Run):
        came_later: int = 7

    @dataclass(frozen=True, kw_only=True)
    class LaterTest(Test):
        __test__ = False
        came_later: tuple[str, ...] = ()

    found = from_json((folder / "record.json").read_bytes(), folder / "record.json", LaterRun)
    assert (found.key, found.came_later) == (run.key, 7)
    record = next((folder / "tests").glob("*.json"))
    assert from_json(record.read_bytes(), record, LaterTest).identity == test.identity
    assert find_run(folder, run.key) == run and find_test(folder, test.key) == test
    assert from_json(to_json(found).encode(), folder, LaterRun) == found
