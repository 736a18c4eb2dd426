"""Runs that are tested on shifted images: nothing is trained twice, and clean and shifted are never mixed."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from clipfit_cli.config import MethodChoice, RunConfig, TestSet
from clipfit_cli.data.pixels.disk_cache import cache_usage
from clipfit_cli.data.shifts import KINDS, Shift
from clipfit_cli.errors import ConfigError
from clipfit_cli.protocols import few_shot, robustness
from clipfit_cli.results.keys import TestIdentity, key_of_test
from clipfit_cli.results.predictions import StoredPredictions
from clipfit_cli.results.reader import protocols_of
from clipfit_cli.results.record import Finished, Test
from clipfit_cli.results.signatures import beside_zero_shot
from clipfit_cli.results.store import RunStore
from clipfit_cli.results.verify import verify_run
from clipfit_cli.runs.prepare import prepare
from clipfit_cli.runs.sweep import sweep
from clipfit_cli.runs.workspace import Workspace
from tests.conftest import SmallWorld
from tests.results.result_examples import make_config, make_run, make_test, training_of, zero_shot_run
from tests.runs.test_frozen_features import ByContent, open_store
from tests.runs.test_sweep import CPU, Log, execute, request_of

SHIFTS = (Shift("brightness", 3), Shift("noise", 5), Shift("noise", 2))


def plan_of(world: SmallWorld, *names: str, shifts: Sequence[Shift] = SHIFTS) -> list[RunConfig]:
    request = request_of(world, methods=tuple(map(MethodChoice, names)), epochs=1)
    return robustness.plan(request, shifts=shifts, domains={"dtd": ["eurosat"]})


def by_shift(record: Finished) -> dict[str, Test]:
    return {test.transform: test for test in record.tests if test.dataset == "dtd"}


@pytest.mark.slow
def test_a_training_of_before_is_tested_on_and_the_clean_test_is_its_own(small_world: SmallWorld) -> None:
    before, _, _ = execute(small_world, few_shot.plan(request_of(small_world, epochs=1)))
    found, log, _ = execute(small_world, plan_of(small_world, "zero-shot", "clipfit"))
    assert log.steps == [] and not found.failures
    for old, new in zip(before.records, found.records, strict=True):
        assert new.run == old.run and new.tests[0] == old.tests[0]
        assert list(by_shift(new)) == ["identity", "brightness:3", "noise:5", "noise:2"]
        assert len({test.key for test in new.tests}) == 5
        assert new.tests[-1].dataset == "eurosat" and new.tests[-1].transform == "identity"
    again, log, workspace = execute(small_world, plan_of(small_world, "zero-shot", "clipfit"))
    assert again.num_reused == 2 and again.records == found.records
    assert workspace.images.decoded_images == 0
    store = RunStore(small_world.runs_dir)
    assert [verify_run(store.folder(one.run.key, one.run.config), store) for one in found.records] == [[], []]


@pytest.mark.slow
def test_each_test_is_of_its_own_images(small_world: SmallWorld) -> None:
    """By both ways to the images: pixels for a tuned image tower, features for a frozen one."""
    found, _, workspace = execute(small_world, plan_of(small_world, "zero-shot", "clipfit"))
    alone, _, _ = execute(small_world, plan_of(small_world, "zero-shot", shifts=SHIFTS[::-1]), force=True)
    read = StoredPredictions(RunStore(small_world.runs_dir))
    for record in found.records:
        shares = [read(record.run, test).label_log_probability for test in by_shift(record).values()]
        assert len({one.tobytes() for one in shares}) == 4
    tests = (by_shift(found.records[0]), by_shift(alone.records[0]))
    for name in tests[0]:
        assert tests[0][name].predictions_sha256 == tests[1][name].predictions_sha256, "whatever came before"
    inputs, dataset = workspace.inputs(found.records[0].config.model, "fp32"), workspace.lists("dtd", "all")
    for shift in (None, *SHIFTS):
        ((pixels, _),) = inputs.test_batches(dataset, dataset.test, "image", shift)
        made = inputs.features.everything(dataset, dataset.test, "projected", shift)
        torch.testing.assert_close(made, inputs.features.of_images(pixels, "projected"), atol=1e-5, rtol=1e-5)


def test_severity_0_is_the_clean_test(small_world: SmallWorld) -> None:
    (config,) = plan_of(small_world, "zero-shot", shifts=[Shift("blur", 0)])
    assert config.tests[:2] == (TestSet("dtd"), TestSet("dtd"))
    store, workspace = RunStore(small_world.runs_dir), Workspace(data_root=small_world.data_root, device=CPU)
    (typed,) = plan_of(small_world, "zero-shot", shifts=[])
    odd = RunConfig(**{**vars(typed), "tests": (TestSet("dtd"), TestSet("dtd", shift="blur:0"))})
    one, other = prepare(odd, workspace, store).tests
    assert one.key == other.key and other.shift is None
    for wrong in ("fog:3", "blur", "blur:9"):
        with pytest.raises(ConfigError):
            prepare(RunConfig(**{**vars(typed), "tests": (TestSet("dtd", shift=wrong),)}), workspace, store)


def test_the_key_of_a_clean_test_is_what_it_was() -> None:
    known: dict[str, Any] = {
        "subset": "all",
        "templates": ("a {}.",),
        "precision": "fp32",
        "split_sha256": "s" * 64,
        "images_sha256": "i" * 64,
        "numbers_version": 3,
    }
    clean = key_of_test("t" * 64, TestIdentity(**known))
    assert clean == "d8bf3d352ef8be1d4fd71cacef003f28643f2753b66d54e38c66ccd329bd5f22", "of a finished run"
    shifted = [TestIdentity(transform=str(Shift(name, s)), **known) for name in KINDS for s in range(6)]
    keys = {key_of_test("t" * 64, identity) for identity in shifted}
    assert len(keys) == 1 + 5 * len(KINDS) and clean in keys


@pytest.mark.slow
def test_features_on_disk_are_of_one_shift(small_world: SmallWorld, tmp_path: Path) -> None:
    counts: list[tuple[int, int]] = []
    for _ in range(2):
        images = open_store(tmp_path / "cache")
        workspace = ByContent(data_root=small_world.data_root, device=CPU, images=images)
        store = RunStore(tmp_path / f"runs{len(counts)}")
        result = sweep(plan_of(small_world, "zero-shot"), workspace=workspace, store=store, progress=Log())
        (record,) = result.records
        counts.append((cache_usage(tmp_path / "cache").num_lists, images.decoded_images))
        features = [test.predictions_sha256 for test in record.tests]
        assert len(set(features)) == 5
        if len(counts) == 1:
            first = features
    assert counts[0][0] == counts[1][0] == 5 and counts[1][1] == 0
    assert features == first


def test_shifted_tests_are_of_no_protocol_and_no_sign() -> None:
    run = make_run(training_of(make_config(subset="all")))
    clean, shifted = (make_test(run, subset="all", transform=one, accuracy_pct=20.0) for one in ("identity", "blur:3"))
    plain = zero_shot_run()
    assert protocols_of(plain, [shifted, replace(shifted, dataset="other")], ()) == {"eval"}
    assert protocols_of(plain, [clean], ()) == {"few-shot", "eval"}
    other = make_test(run, subset="all", transform="blur:3", accuracy_pct=40.0)
    assert beside_zero_shot(run, clean, 20.0, other) == "no_gain"
    assert beside_zero_shot(run, shifted, 20.0, other) is None
