"""Which frozen features a run takes, told beforehand: those that it then asks for, and no others."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfit_cli.config import Keep, MethodChoice, RunConfig
from clipfit_cli.data.pixels.disk_cache import DiskCache, cache_usage
from clipfit_cli.errors import DataError
from clipfit_cli.protocols import base2new
from clipfit_cli.results.store import RunStore
from clipfit_cli.runs.frozen_features import FrozenFeatures
from clipfit_cli.runs.frozen_lists import lists_of, make_ready
from clipfit_cli.runs.prepare import Prepared, prepare
from clipfit_cli.runs.sweep import sweep
from tests.conftest import SmallWorld
from tests.runs.test_frozen_features import ByContent, open_store, request_of
from tests.runs.test_sweep import Log

CPU = torch.device("cpu")


class Open:
    """A small world with a cache of features on disk."""

    def __init__(self, world: SmallWorld, folder: Path) -> None:
        self.world, self.folder = world, folder
        self.store = RunStore(world.runs_dir)
        self.workspace = self.anew()

    def anew(self) -> ByContent:
        return ByContent(data_root=self.world.data_root, device=CPU, images=open_store(self.folder))

    def plan(self, *methods: str, **changes: Any) -> list[RunConfig]:
        choices = [MethodChoice(name) for name in methods]
        return base2new.plan(request_of(self.world, *choices, seeds=(1,), **changes))

    def prepared(self, method: str) -> Prepared:
        return prepare(self.plan(method)[0], self.workspace, self.store)


@pytest.fixture
def opened(small_world: SmallWorld, tmp_path: Path) -> Open:
    return Open(small_world, tmp_path / "cache")


@pytest.mark.parametrize(
    ("method", "of_training", "of_tests"),
    [
        ("zero-shot", 0, ["base", "new"]),
        ("clipfit", 0, []),
        ("kgcoop", 0, ["base", "new"]),
        ("clip-adapter", 20, ["base", "new"]),
        ("tip-adapter-f", 20, ["base"]),
    ],
)
def test_the_lists_of_a_run(method: str, of_training: int, of_tests: list[str], opened: Open) -> None:
    prepared = opened.prepared(method)
    found = lists_of(prepared, opened.workspace, Keep())
    assert [one.view is not None for one in found] == [True] * of_training + [False] * len(of_tests)
    assert len({one.view for one in found[:of_training]}) == of_training
    assert all(one.items == prepared.training_set.train for one in found[:of_training])
    assert [one.subset for one in found[of_training:]] == of_tests


@pytest.mark.slow
@pytest.mark.parametrize("method", ["zero-shot", "kgcoop", "clip-adapter", "tip-adapter-f", "linear-probe"])
def test_all_that_a_run_takes_is_made_beforehand(method: str, opened: Open, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[tuple[str, int]] = []
    prepared = opened.prepared(method)
    lists = lists_of(prepared, opened.workspace, Keep())
    assert make_ready(
        prepared, opened.workspace, Keep(), waits=False, on_progress=lambda one, done: told.append((one.subset, done))
    )
    assert told == [(one.subset, len(one.items)) for one in lists] and told
    assert cache_usage(opened.folder).num_lists == len(lists)
    again, asked = opened.anew(), list[int]()
    encode = FrozenFeatures._encode

    def noted(*given: Any) -> Any:
        asked.append(len(given[2]))
        return encode(*given)

    monkeypatch.setattr(FrozenFeatures, "_encode", noted)
    result = sweep(opened.plan(method), workspace=again, store=opened.store, progress=Log())
    assert len(result.records) == 1 and sum(asked) == 0
    if method in ("zero-shot", "tip-adapter-f", "linear-probe"):  # the others take fresh crops
        assert again.images.decoded_images == 0


def test_what_is_finished_needs_nothing(opened: Open) -> None:
    (config,) = opened.plan("zero-shot")
    sweep([config], workspace=opened.workspace, store=opened.store, progress=Log())
    prepared = prepare(config, opened.workspace, opened.store)
    assert not lists_of(prepared, opened.workspace, Keep())
    assert len(lists_of(prepared, opened.workspace, Keep(nothing_before=True))) == 2
    with_logits = Keep(logits=True)
    assert len(lists_of(prepared, opened.workspace, with_logits)) == 2, "they are to be tested again"


def test_a_list_that_another_process_makes_is_left_to_it(opened: Open) -> None:
    prepared = opened.prepared("zero-shot")
    features = opened.workspace.inputs(prepared.config.model, prepared.config.precision).features
    dataset = prepared.tests[1].dataset
    key = features._key(dataset, dataset.test, None)
    assert key
    other = DiskCache(opened.folder, limit_bytes=10**7, on_note=print)
    with other.making(key, waits=False) as is_mine:
        assert is_mine
        assert not make_ready(prepared, opened.workspace, Keep(), waits=False, on_progress=lambda one, done: None)
        assert cache_usage(opened.folder).num_lists == 1, "the first of the two"
    assert make_ready(prepared, opened.workspace, Keep(), waits=False, on_progress=lambda one, done: None)
    assert cache_usage(opened.folder).num_lists == 2
    assert not list(opened.folder.rglob("*.clipfit-lock"))


def test_images_that_were_decoded_before_go_to_the_disk_all_the_same(opened: Open) -> None:
    prepared = opened.prepared("zero-shot")
    dataset = prepared.tests[0].dataset
    inputs = opened.workspace.inputs(prepared.config.model, prepared.config.precision)
    for _ in inputs.test_batches(dataset, dataset.test, "image"):
        pass
    assert inputs.features.make_ready(dataset, dataset.test, None, waits=False)
    assert cache_usage(opened.folder).num_lists == 1


def test_a_missing_image_is_an_error(opened: Open) -> None:
    prepared = opened.prepared("zero-shot")
    dataset = prepared.tests[0].dataset
    gone = replace(dataset, identify=lambda _: "x", test=(replace(dataset.test[0], path="gone.jpg"),))
    features = opened.workspace.inputs(prepared.config.model, prepared.config.precision).features
    with pytest.raises(DataError, match="gone"):
        features.make_ready(gone, gone.test, None, waits=True)
    assert not list(opened.folder.rglob("*.clipfit-lock"))


def test_without_a_cache_nothing_is_made(opened: Open, small_world: SmallWorld) -> None:
    bare = ByContent(data_root=small_world.data_root, device=CPU, images=open_store(None))
    assert make_ready(opened.prepared("zero-shot"), bare, Keep(), waits=False, on_progress=lambda *_: None)
    assert bare.images.decoded_images == 0
